//! Errors as gRPC statuses: the only place where the codes are chosen.

use crate::chain::Chain;
use crate::effects::{
    AppArmorError, CgroupsError, ConfinementError, DeviceError, ExecError, MonitorError, NetworkError, RootfsError, SelinuxError,
    VolumeError,
};
use crate::plan::{CapabilityError, PlanError};
use crate::pod::PodError;
use crate::request::{RequestError, Subject};
use crate::store::{LookupError, RecordError};
use podbox_image::{Error as ImageError, PullError, RegistryError, UnpackError};
use podbox_netns::{BridgeError, HostPortError};
use podbox_seccomp::{CompileError, FilterError};
use rustix::io::Errno;
use std::io;
use tonic::{Code, Status};

/// A call that podbox does not serve yet.
pub(super) fn unimplemented(call: &'static str) -> Status {
    Status::unimplemented(format!("{call} is not served by podbox yet"))
}

/// A malformed request.
pub(super) fn of_request(error: RequestError) -> Status {
    let code = match error {
        RequestError::Invalid { .. } => Code::InvalidArgument,
        RequestError::Unsupported { .. } => Code::Unimplemented,
    };
    Status::new(code, error.to_string())
}

/// How the message about an image begins that cannot be mounted (cri-api, `ErrImageVolumeMountFailed`).
const VOLUME_FAILED: &str = "ImageVolumeMountFailed: ";

/// Says whom a failed request was about, where its object has no id yet.
pub(super) fn about(subject: &Subject, status: &Status) -> Status {
    // The kubelet looks at how the message begins.
    let (first, rest) = match status.message().strip_prefix(VOLUME_FAILED) {
        Some(rest) => (VOLUME_FAILED, rest),
        None => ("", status.message()),
    };
    Status::new(status.code(), format!("{first}{subject}: {rest}"))
}

/// No such object.
pub(super) fn of_lookup(error: LookupError) -> Status {
    Status::new(lookup_code(&error), error.to_string())
}

/// Images.
pub(super) fn of_image(error: ImageError) -> Status {
    Status::new(image_code(&error), Chain(&error).to_string())
}

/// A pull. The kubelet looks at how the message of `Unknown` begins: it tells its user that the registry is to blame, or that the
/// image is not what was vouched for.
pub(super) fn of_pull(image: &str, error: &PullError) -> Status {
    let chain = Chain(error);
    match error.cause() {
        PullError::Registry(error) if error.is_unavailable() => Status::unknown(format!("RegistryUnavailable: pull {image}: {chain}")),
        cause if is_forged(cause) => Status::unknown(format!("SignatureValidationFailed: pull {image}: {chain}")),
        cause => Status::new(pull_code(cause), format!("pull {image}: {chain}")),
    }
}

fn is_forged(error: &PullError) -> bool {
    use ImageError as E;
    match error {
        PullError::Registry(error) => error.is_forged(),
        PullError::Store(error) => matches!(error, E::SizeMismatch { .. } | E::DigestMismatch { .. } | E::DiffIdMismatch { .. }),
        PullError::Reference(_) | PullError::Layer(_) | PullError::Thread(_) | PullError::CutOff => false,
    }
}

fn pull_code(error: &PullError) -> Code {
    use RegistryError as E;
    match error {
        PullError::Reference(_) => Code::InvalidArgument,
        PullError::Registry(E::NotFound { .. }) => Code::NotFound,
        PullError::Registry(E::Denied { .. }) => Code::PermissionDenied,
        PullError::Registry(E::Hosts { .. } | E::AuthFile { .. } | E::NoEndpoint { .. } | E::Setup { .. }) => Code::FailedPrecondition,
        PullError::Registry(_) => Code::Unknown,
        PullError::Store(ImageError::Unpack { source, .. }) => unpack_code(source),
        PullError::Store(error) => image_code(error),
        PullError::Layer(error) => pull_code(error),
        PullError::Thread(_) => Code::ResourceExhausted,
        PullError::CutOff => Code::Unavailable,
    }
}

/// A full disk is the node's, whatever else a layer cannot be unpacked for is the image's.
fn unpack_code(error: &UnpackError) -> Code {
    match error {
        UnpackError::Entry { source, .. } => io_code(&(*source).into()),
        _ => Code::Internal,
    }
}

/// Pods.
pub(super) fn of_pod(error: PodError) -> Status {
    Status::new(pod_code(&error), Chain(&error).to_string())
}

fn pod_code(error: &PodError) -> Code {
    match error {
        PodError::Lookup(error) => lookup_code(error),
        PodError::NameTaken { .. } => Code::AlreadyExists,
        PodError::SandboxNotReady { .. }
        | PodError::HostPortTaken { .. }
        | PodError::WrongState { .. }
        | PodError::NoTarget { .. }
        | PodError::MountSource { .. }
        | PodError::Device(DeviceError::Look { .. })
        | PodError::LogFolder { .. }
        | PodError::SandboxNotStopped { .. } => Code::FailedPrecondition,
        PodError::Device(DeviceError::NoDevice { .. } | DeviceError::TooMany { .. }) => Code::InvalidArgument,
        PodError::Confinement(error) => confinement_code(error),
        PodError::Plan(error) => plan_code(error),
        PodError::Rootfs(error) => rootfs_code(error),
        PodError::Limit(_) => Code::InvalidArgument,
        PodError::Cgroups(error) => cgroups_code(error),
        PodError::Network(error) => network_code(error),
        PodError::Launch(source)
        | PodError::Monitor { source, .. }
        | PodError::Start { source, .. }
        | PodError::Signal { source, .. }
        | PodError::ReopenLog { source, .. } => monitor_code(source),
        PodError::DidNotStop { .. } => Code::DeadlineExceeded,
        PodError::Exec { source, .. } | PodError::Attach { source, .. } => exec_code(source),
        PodError::Joined(error) => pod_code(error),
        PodError::Stopping | PodError::OutOfReach { .. } => Code::Unavailable,
        PodError::Snapshot { source, .. } => image_code(source),
        PodError::Files { source, .. } => io_code(source),
        PodError::Record(RecordError::Read { source, .. } | RecordError::Write { source, .. }) => io_code(source),
        PodError::Record(RecordError::Content { .. } | RecordError::OtherVersion { .. }) | PodError::CutOff => Code::Internal,
    }
}

fn exec_code(error: &ExecError) -> Code {
    match error {
        ExecError::TimedOut { .. } => Code::DeadlineExceeded,
        ExecError::Monitor(source) => monitor_code(source),
        ExecError::Pipe(_) | ExecError::NoRoom(_) => Code::ResourceExhausted,
    }
}

/// A profile that is no good is the request's, one that is not loaded the node's.
fn confinement_code(error: &ConfinementError) -> Code {
    use ConfinementError as E;
    match error {
        E::Seccomp { source: FilterError::Compile(CompileError::Library { .. } | CompileError::Export(_)), .. } => Code::Internal,
        E::Read { .. } | E::NoFile { .. } | E::Seccomp { .. } => Code::InvalidArgument,
        E::NoSeccomp | E::NoAppArmor | E::NotLoaded { .. } | E::NoSelinux => Code::FailedPrecondition,
        E::AppArmor(error) => apparmor_code(error),
        E::DefaultProfile(error) => apparmor_code(error),
        E::Selinux(SelinuxError::NoContext { .. }) => Code::FailedPrecondition,
        E::Selinux(SelinuxError::Ask { source, .. }) => io_code(source),
        E::Write { source, .. } | E::Kept { source, .. } => io_code(source),
    }
}

fn apparmor_code(error: &AppArmorError) -> Code {
    match error {
        AppArmorError::NoParser | AppArmorError::Load { .. } | AppArmorError::NotThere { .. } => Code::FailedPrecondition,
        AppArmorError::List(_) => Code::Internal,
    }
}

fn rootfs_code(error: &RootfsError) -> Code {
    match error {
        RootfsError::NoImage { .. } => Code::NotFound,
        RootfsError::Store { source, .. } => image_code(source),
        RootfsError::User(_) | RootfsError::Volume { source: VolumeError::NoDirectory { .. } | VolumeError::Look(_), .. } => {
            Code::InvalidArgument
        }
        RootfsError::Volume { source: VolumeError::Image(error), .. } => rootfs_code(error),
    }
}

fn lookup_code(error: &LookupError) -> Code {
    match error {
        LookupError::NotFound { .. } => Code::NotFound,
        LookupError::Ambiguous { .. } => Code::InvalidArgument,
    }
}

fn plan_code(error: &PlanError) -> Code {
    match error {
        PlanError::NoCommand
        | PlanError::Capability(CapabilityError::Unknown { .. })
        | PlanError::PrivilegeNotGranted
        | PlanError::NotThePodsNamespace { .. }
        | PlanError::NotThePodsUsers
        | PlanError::NotThePodsMappings { .. }
        | PlanError::MountsForTheNode { .. }
        | PlanError::NotMapped { .. }
        | PlanError::StopSignal { .. }
        | PlanError::SliceWithCgroupfs { .. }
        | PlanError::NoSlice { .. }
        | PlanError::DeepSlice { .. } => Code::InvalidArgument,
        PlanError::Capability(CapabilityError::NotOurs { .. }) | PlanError::NoUserNamespaces { .. } => Code::FailedPrecondition,
        PlanError::Relabel { .. } => Code::Unimplemented,
        PlanError::Spec(_) => Code::Internal,
    }
}

/// A layer that is gone went with an image that was removed meanwhile: the answer is the one for an image that is not there.
fn image_code(error: &ImageError) -> Code {
    use ImageError as E;
    match error {
        E::Reference(_) | E::AmbiguousId { .. } => Code::InvalidArgument,
        E::MissingLayer { .. } => Code::NotFound,
        E::OpenStore { source, .. }
        | E::Lock { source, .. }
        | E::ReadRecords { source, .. }
        | E::WriteRecord { source, .. }
        | E::RemoveRecord { source, .. }
        | E::OpenSource { source, .. }
        | E::CopySource { source, .. }
        | E::ReadObject { source, .. }
        | E::StoreLayer { source, .. }
        | E::Folders { source, .. }
        | E::Sync { source }
        | E::CollectLayers { source }
        | E::Usage { source, .. }
        | E::CreateSnapshot { source, .. }
        | E::ReadSnapshot { source, .. }
        | E::RemoveSnapshot { source, .. }
        | E::ListSnapshots { source, .. } => io_code(source),
        E::ReadArchive { .. }
        | E::TooManyMembers { .. }
        | E::UnknownFormat { .. }
        | E::LayoutVersion { .. }
        | E::MissingObject { .. }
        | E::ObjectTooLarge { .. }
        | E::SizeMismatch { .. }
        | E::DigestMismatch { .. }
        | E::DiffIdMismatch { .. }
        | E::Json { .. }
        | E::AmbiguousDocument { .. }
        | E::MediaType { .. }
        | E::NestedIndex { .. }
        | E::NoPlatform { .. }
        | E::OtherPlatform { .. }
        | E::TooManyManifests { .. }
        | E::TooManyLayers { .. }
        | E::LayerCount { .. }
        | E::NameForSeveral { .. }
        | E::NameDigest { .. }
        | E::Unpack { .. }
        | E::ContainerId { .. }
        | E::SnapshotExists { .. } => Code::Internal,
    }
}

/// A value that the kernel refuses is the request's, a controller that is missing the host's; whatever else is wrong is podbox's.
fn cgroups_code(error: &CgroupsError) -> Code {
    use podbox_cgroup::Error as E;
    match error {
        CgroupsError::Path { .. } => Code::InvalidArgument,
        CgroupsError::Systemd(_) => Code::Unavailable,
        CgroupsError::Undying { .. } => Code::DeadlineExceeded,
        CgroupsError::Cgroup { source, .. } => match source {
            E::Write { source, .. } if is_one_of(source, &VALUE_REFUSED) => Code::InvalidArgument,
            E::NameTaken { .. } | E::SwapBelowMemory { .. } | E::NoDevice { .. } | E::NotBytes { .. } | E::TooManyDevices { .. } => {
                Code::InvalidArgument
            }
            E::NoHierarchy
            | E::NoController { .. }
            | E::NoSwapAccounting { .. }
            | E::NoHugepages { .. }
            | E::SettingNeedsV2 { .. }
            | E::UnknownSetting { .. }
            | E::BelowUsage { .. }
            | E::DeviceFilter { .. } => Code::FailedPrecondition,
            // A parent that holds processes itself.
            E::EnableControllers { source, .. } if is_one_of(source, &[Errno::BUSY]) => Code::FailedPrecondition,
            E::ReadMountTable { source, .. }
            | E::Make { source, .. }
            | E::Remove { source, .. }
            | E::EnableControllers { source, .. }
            | E::Read { source, .. }
            | E::Write { source, .. }
            | E::Kill { source, .. }
            | E::Signal { source, .. }
            | E::Wait { source, .. } => io_code(source),
            E::OutpacedKill { .. } => Code::DeadlineExceeded,
            E::Unreadable { .. } | E::PutBack { .. } | E::LimitStays { .. } => Code::Internal,
        },
    }
}

fn network_code(error: &NetworkError) -> Code {
    match error {
        NetworkError::Subnets(_) | NetworkError::HostPorts { source: HostPortError::Twice { .. }, .. } => Code::InvalidArgument,
        NetworkError::HostPorts { .. } => Code::FailedPrecondition,
        NetworkError::Reserve(_) | NetworkError::Attach { source: BridgeError::BridgeFull { .. }, .. } => Code::ResourceExhausted,
        NetworkError::Bridge(_) | NetworkError::Attach { .. } | NetworkError::Detach { .. } => Code::Internal,
    }
}

/// What is wrong in the image, or in what was asked for.
const REFUSED: [Errno; 8] =
    [Errno::NOENT, Errno::ACCESS, Errno::NOEXEC, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::INVAL, Errno::TOOBIG];
/// What the host has too little of.
const EXHAUSTED: [Errno; 6] = [Errno::AGAIN, Errno::NOMEM, Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE];
/// What a control file says to a value that it does not take: out of range, less than is in use, or more than the parent has.
const VALUE_REFUSED: [Errno; 7] = [Errno::INVAL, Errno::RANGE, Errno::TOOBIG, Errno::BUSY, Errno::ACCESS, Errno::PERM, Errno::OPNOTSUPP];

fn is_one_of(error: &io::Error, errnos: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|number| errnos.iter().any(|known| known.raw_os_error() == number))
}

/// What the kernel would not do for podbox itself.
fn io_code(error: &io::Error) -> Code {
    if is_one_of(error, &EXHAUSTED) { Code::ResourceExhausted } else { Code::Internal }
}

/// A launch's number comes over the wire, and is 0 where a newborn was killed: it is compared, and made nothing of.
fn launch_code(errno: i32) -> Code {
    let is_one_of = |errnos: &[Errno]| errnos.iter().any(|known| known.raw_os_error() == errno);
    match errno {
        0 => Code::Aborted,
        _ if is_one_of(&REFUSED) => Code::FailedPrecondition,
        _ if is_one_of(&EXHAUSTED) => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

/// A monitor that cannot be reached or does not answer is worth another try. It is not `DeadlineExceeded`, which says of an
/// ExecSync that the command took too long.
fn monitor_code(error: &MonitorError) -> Code {
    match error {
        MonitorError::Launch { source, .. } => launch_code(source.errno),
        MonitorError::NotRunning { .. } | MonitorError::TooOld { .. } | MonitorError::NoCommonVersion { .. } => Code::FailedPrecondition,
        MonitorError::Gone | MonitorError::Connect(_) | MonitorError::Silent { .. } => Code::Unavailable,
        MonitorError::Spawn { source, .. } => io_code(source),
        MonitorError::Send(_) | MonitorError::Refused { .. } | MonitorError::Unexpected => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor of another version, or one that was told nonsense, must not end the daemon.
    #[test]
    fn any_number_of_a_launch_has_a_code() {
        for errno in [0, -1, 1, 2, 12, 4095, 4096, i32::MIN, i32::MAX] {
            assert_ne!(launch_code(errno), Code::Ok);
        }
        assert_eq!(launch_code(2), Code::FailedPrecondition);
        assert_eq!(launch_code(0), Code::Aborted);
    }

    fn errno(errno: Errno) -> io::Error {
        errno.into()
    }

    /// A caller does not try `InvalidArgument` again: only what the request said may be called so.
    #[test]
    fn a_write_to_a_cgroup_is_the_requests_fault_only_where_the_kernel_refused_the_value() {
        let write = |number| {
            let source = podbox_cgroup::Error::Write { file: "/x".into(), value: "1".to_owned(), source: errno(number) };
            pod_code(&PodError::Cgroups(CgroupsError::Cgroup { path: "/x".to_owned(), source }))
        };
        for number in [Errno::INVAL, Errno::RANGE, Errno::BUSY] {
            assert_eq!(write(number), Code::InvalidArgument, "{number}");
        }
        assert_eq!(write(Errno::NOSPC), Code::ResourceExhausted);
        for number in [Errno::IO, Errno::NOENT, Errno::NODEV, Errno::ROFS] {
            assert_eq!(write(number), Code::Internal, "{number}");
        }
        let cgroup = podbox_cgroup::CgroupPath::new("/x").expect("a path");
        let swap = podbox_cgroup::Error::SwapBelowMemory { cgroup, memory: "2".to_owned(), memory_and_swap: 1 };
        let swap = CgroupsError::Cgroup { path: "/x".to_owned(), source: swap };
        assert_eq!(cgroups_code(&swap), Code::InvalidArgument);
    }

    #[test]
    fn what_the_host_lacks_is_no_malformed_request() {
        let name = || "SYS_TIME".to_owned();
        assert_eq!(plan_code(&PlanError::Capability(CapabilityError::NotOurs { name: name() })), Code::FailedPrecondition);
        assert_eq!(plan_code(&PlanError::Capability(CapabilityError::Unknown { name: name() })), Code::InvalidArgument);
    }

    #[test]
    fn an_image_that_is_removed_under_a_container_is_not_found() {
        let digest = || podbox_image::Digest::of(b"");
        let source = ImageError::MissingLayer { image: digest(), diff_id: digest() };
        let id = podbox_plan::ContainerId::from_random([7; 32]);
        assert_eq!(pod_code(&PodError::Snapshot { id, source }), Code::NotFound);
    }

    /// `DeadlineExceeded` would tell a caller of ExecSync that its command took too long.
    #[test]
    fn a_monitor_that_does_not_answer_is_worth_another_try() {
        for error in [MonitorError::Gone, MonitorError::Silent { seconds: 10 }, MonitorError::Connect(Errno::CONNREFUSED)] {
            assert_eq!(monitor_code(&error), Code::Unavailable, "{error}");
        }
        let full = MonitorError::Spawn { step: "execute it", source: errno(Errno::MFILE) };
        assert_eq!(monitor_code(&full), Code::ResourceExhausted);
    }
}
