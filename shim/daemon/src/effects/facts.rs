//! Finding out what the node is like.

use crate::plan::NodeFacts;
use podbox_cgroup::{Driver, Hierarchies, Version};
use podbox_plan::LimitKind;
use rustix::process::getrlimit;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A fact cannot be found out.
#[derive(Debug, thiserror::Error)]
#[error("read {}", path.display())]
pub struct FactsError {
    /// Where it stands.
    pub path: PathBuf,
    /// Why it cannot be read.
    #[source]
    pub source: io::Error,
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

fn read(path: &str) -> Result<String, FactsError> {
    let text = std::fs::read_to_string(path).map_err(|source| FactsError { path: path.into(), source })?;
    Ok(text.trim().to_owned())
}

/// The first two numbers of a kernel's release; `None` where it does not begin with two.
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(|text| text.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// This boot of the machine.
///
/// # Errors
/// `/proc` is not there.
pub fn boot_id() -> Result<String, FactsError> {
    read("/proc/sys/kernel/random/boot_id")
}

/// Everything the planner needs to know.
///
/// # Errors
/// `/proc` is not there.
pub fn discover_facts(
    hierarchies: &Hierarchies,
    cgroup_driver: Driver,
    no_user_namespaces: Option<String>,
) -> Result<NodeFacts, FactsError> {
    let uname = rustix::system::uname();
    let capabilities = capabilities()?;
    Ok(NodeFacts {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        oom_score_adj_min: oom_score_adj_min()?,
        limits_max: limits_max(capabilities)?,
        capabilities,
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        apparmor: super::apparmor::is_enabled(),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        cgroup_v2: hierarchies.version() == Version::V2,
        cgroup_driver,
        boot_id: boot_id()?,
        kernel: uname.release().to_string_lossy().into_owned(),
        no_user_namespaces,
    })
}

/// Number of `CAP_SYS_RESOURCE` (`capabilities(7)`).
const SYS_RESOURCE: u32 = 24;
/// What no process can have more open files than.
const OPEN_FILES_MAX: &str = "/proc/sys/fs/nr_open";

/// What processes of ours cannot be given more of.
fn limits_max(capabilities: u64) -> Result<BTreeMap<LimitKind, Option<u64>>, FactsError> {
    let malformed = |error| FactsError { path: OPEN_FILES_MAX.into(), source: io::Error::new(io::ErrorKind::InvalidData, error) };
    let open_files: u64 = read(OPEN_FILES_MAX)?.parse().map_err(malformed)?;
    let mut limits = BTreeMap::from([(LimitKind::OpenFiles, Some(open_files))]);
    if capabilities & 1 << SYS_RESOURCE == 0 {
        for kind in LimitKind::ALL {
            let own = getrlimit(kind.resource()).maximum;
            let most = limits.get(&kind).copied().flatten();
            limits.insert(kind, [own, most].into_iter().flatten().min());
        }
    }
    Ok(limits)
}

/// The permitted set, which is also within the bounding one where no capability came from a file.
fn capabilities() -> Result<u64, FactsError> {
    const STATUS: &str = "/proc/self/status";
    let status = read(STATUS)?;
    let mask_of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let malformed = || FactsError { path: STATUS.into(), source: io::ErrorKind::InvalidData.into() };
    Ok(mask_of("CapPrm:").ok_or_else(malformed)? & mask_of("CapBnd:").ok_or_else(malformed)?)
}

/// Tries what the launches will do: lowering the score below its present value needs `CAP_SYS_RESOURCE`. The daemon's own
/// score is put back at once.
fn oom_score_adj_min() -> Result<i32, FactsError> {
    let failed = |source| FactsError { path: OOM_SCORE_ADJ.into(), source };
    let own = read(OOM_SCORE_ADJ)?;
    let value: i32 = own.parse().map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    if value == -1000 {
        return Ok(-1000);
    }
    match std::fs::write(OOM_SCORE_ADJ, "-1000") {
        Ok(()) => {
            std::fs::write(OOM_SCORE_ADJ, own).map_err(failed)?;
            Ok(-1000)
        }
        Err(_) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::kernel_version;

    #[test]
    fn a_release_begins_with_two_numbers() {
        for (release, version) in [
            ("6.1.0-38-cloud-amd64", Some((6, 1))),
            ("6.18", Some((6, 18))),
            ("4.18.0-553.el8", Some((4, 18))),
            ("10.0", Some((10, 0))),
            ("x", None),
            ("6", None),
            ("6.x", None),
            ("", None),
        ] {
            assert_eq!(kernel_version(release), version, "{release:?}");
        }
    }
}
