//! Errors as gRPC statuses: the only place where the codes are chosen.

use crate::chain::Chain;
use crate::effects::{CgroupsError, DeviceError, ExecError, MonitorError, NetworkError, RootfsError};
use crate::plan::PlanError;
use crate::pod::PodError;
use crate::request::RequestError;
use crate::store::LookupError;
use podbox_image::Error as ImageError;
use podbox_netns::BridgeError;
use rustix::io::Errno;
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

/// No such object.
pub(super) fn of_lookup(error: LookupError) -> Status {
    Status::new(lookup_code(&error), error.to_string())
}

/// Images.
pub(super) fn of_image(error: ImageError) -> Status {
    Status::new(image_code(&error), Chain(&error).to_string())
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
        | PodError::WrongState { .. }
        | PodError::NoTarget { .. }
        | PodError::MountSource { .. }
        | PodError::Device(DeviceError::Look { .. })
        | PodError::LogFolder { .. }
        | PodError::SandboxNotStopped { .. } => Code::FailedPrecondition,
        PodError::Device(DeviceError::NoDevice { .. } | DeviceError::TooMany { .. }) => Code::InvalidArgument,
        PodError::Plan(error) => plan_code(error),
        PodError::Rootfs(RootfsError::NoImage { .. }) => Code::NotFound,
        PodError::Rootfs(RootfsError::Store { source, .. }) => image_code(source),
        PodError::Rootfs(RootfsError::User(_)) => Code::InvalidArgument,
        PodError::Cgroups(error) => cgroups_code(error),
        PodError::Network(error) => network_code(error),
        PodError::Monitor { source, .. }
        | PodError::Start { source, .. }
        | PodError::Signal { source, .. }
        | PodError::ReopenLog { source, .. } => monitor_code(source),
        PodError::Exec { source: ExecError::TimedOut { .. }, .. } | PodError::DidNotStop { .. } => Code::DeadlineExceeded,
        PodError::Exec { source: ExecError::Monitor(source), .. } => monitor_code(source),
        PodError::Exec { source: ExecError::Pipe(_), .. } => Code::ResourceExhausted,
        PodError::Joined(error) => pod_code(error),
        PodError::Stopping => Code::Unavailable,
        PodError::Snapshot { .. } | PodError::Record(_) | PodError::Files { .. } | PodError::CutOff => Code::Internal,
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
        PlanError::NoCommand | PlanError::Capability(_) | PlanError::PrivilegeNotGranted | PlanError::StopSignal { .. } => {
            Code::InvalidArgument
        }
        PlanError::Relabel { .. } => Code::Unimplemented,
        PlanError::Spec(_) => Code::Internal,
    }
}

fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::Reference(_) | ImageError::AmbiguousId { .. } => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

/// A value that the kernel refuses is the request's, whatever else is wrong is the node's.
fn cgroups_code(error: &CgroupsError) -> Code {
    match error {
        CgroupsError::Path { .. } => Code::InvalidArgument,
        CgroupsError::Cgroup { source, .. } => match source {
            podbox_cgroup::Error::Write { .. } | podbox_cgroup::Error::UnknownSetting { .. } | podbox_cgroup::Error::NameTaken { .. } => {
                Code::InvalidArgument
            }
            podbox_cgroup::Error::TooManyDevices { .. } => Code::InvalidArgument,
            podbox_cgroup::Error::NoController { .. }
            | podbox_cgroup::Error::NoSwapAccounting { .. }
            | podbox_cgroup::Error::DeviceFilter { .. } => Code::FailedPrecondition,
            _ => Code::Internal,
        },
        CgroupsError::Undying { .. } => Code::DeadlineExceeded,
    }
}

fn network_code(error: &NetworkError) -> Code {
    match error {
        NetworkError::Subnets(_) => Code::InvalidArgument,
        NetworkError::Reserve(_) | NetworkError::Attach { source: BridgeError::BridgeFull { .. }, .. } => Code::ResourceExhausted,
        NetworkError::Bridge(_) | NetworkError::Attach { .. } | NetworkError::Detach { .. } => Code::Internal,
    }
}

/// What is wrong in the image, or in what was asked for.
const REFUSED: [Errno; 8] =
    [Errno::NOENT, Errno::ACCESS, Errno::NOEXEC, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::INVAL, Errno::TOOBIG];
/// What the host has too little of.
const EXHAUSTED: [Errno; 5] = [Errno::AGAIN, Errno::NOMEM, Errno::NOSPC, Errno::MFILE, Errno::NFILE];

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

fn monitor_code(error: &MonitorError) -> Code {
    match error {
        MonitorError::Launch { source, .. } => launch_code(source.errno),
        MonitorError::NotRunning { .. } => Code::FailedPrecondition,
        MonitorError::Gone => Code::Unavailable,
        _ => Code::Internal,
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
}
