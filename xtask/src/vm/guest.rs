//! The kinds of guests, and what makes one differ from another.

use std::fmt;
use std::time::Duration;

/// A version of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cgroup {
    /// One hierarchy with all controllers.
    V2,
    /// A hierarchy a controller, and none of version 2 beside them.
    V1,
}

/// Who makes the pods' cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Driver {
    Systemd,
    Cgroupfs,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Systemd => "systemd",
            Self::Cgroupfs => "cgroupfs",
        })
    }
}

/// A guest to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// A script is its first process; the cgroupfs driver.
    Plain(Cgroup),
    /// systemd is its first process and started podbox from its unit; cgroups of version 2.
    Systemd(Driver),
    /// As that with cgroups of version 2, under SELinux instead of AppArmor.
    Selinux,
}

/// How much longer than on a machine of today everything may take: what is emulated runs 10 to 20 times slower, and others may be at work.
const SLOWNESS: u32 = 16;
impl Guest {
    /// For file names.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain(Cgroup::V2) => "cgroup-v2",
            Self::Plain(Cgroup::V1) => "cgroup-v1",
            Self::Systemd(_) => "systemd",
            Self::Selinux => "selinux",
        }
    }

    /// What the guest's scripts read: assignments of a shell.
    pub(super) fn settings(self, program_max: Duration) -> String {
        let (init, cgroup, driver) = match self {
            Self::Plain(Cgroup::V2) | Self::Selinux => ("/run/vm/boot", "v2", Driver::Cgroupfs),
            Self::Plain(Cgroup::V1) => ("/run/vm/boot", "v1", Driver::Cgroupfs),
            Self::Systemd(driver) => ("/lib/systemd/systemd", "v2", driver),
        };
        let (seconds, module) = (program_max.as_secs(), self.security_module());
        format!("INIT={init}\nCGROUP={cgroup}\nDRIVER={driver}\nSECURITY={module}\nSLOWNESS={SLOWNESS}\nPROGRAM_SECONDS_MAX={seconds}\n")
    }

    /// As the kernel calls it.
    fn security_module(self) -> &'static str {
        if self == Self::Selinux { "selinux" } else { "apparmor" }
    }

    /// Of the kernel. A panic ends the machine at once; one of the security modules is on; the timer is not held to be broken where the machine
    /// outside is too busy for it to tick in time.
    pub(super) fn kernel_arguments(self) -> String {
        let module = self.security_module();
        let common =
            format!("console=ttyS0 panic=-1 oops=panic {module}=1 security={module} random.trust_cpu=on mitigations=off no_timer_check");
        match self {
            Self::Plain(_) | Self::Selinux => format!("{common} loglevel=5"),
            Self::Systemd(_) => {
                format!("{common} loglevel=5 systemd.unit=multi-user.target systemd.show_status=false systemd.unified_cgroup_hierarchy=1")
            }
        }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(Cgroup::V2) => f.write_str("cgroup v2"),
            Self::Plain(Cgroup::V1) => f.write_str("cgroup v1"),
            Self::Systemd(driver) => write!(f, "systemd and the {driver} driver"),
            Self::Selinux => f.write_str("SELinux"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_assignments_that_a_shell_reads() {
        let settings = Guest::Plain(Cgroup::V1).settings(Duration::from_secs(60));
        let lines: Vec<&str> = settings.lines().collect();
        assert!(lines.contains(&"CGROUP=v1") && lines.contains(&"DRIVER=cgroupfs"), "{settings}");
        assert!(lines.contains(&"PROGRAM_SECONDS_MAX=60"), "{settings}");
        assert!(
            lines.iter().all(|line| line.split_once('=').is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_uppercase() || c == '_')))
        );
    }
}
