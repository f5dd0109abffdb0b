//! What the planner has to know of the node.

use podbox_cgroup::Driver;
use podbox_plan::LimitKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Facts that are found out once, when the daemon starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The node's own name, for pods in its network.
    pub hostname: String,
    /// The lowest `oom_score_adj` that processes of ours can be given: the daemon's own where it may not lower it
    /// (no `CAP_SYS_RESOURCE`), -1000 otherwise.
    pub oom_score_adj_min: i32,
    /// The capabilities that the daemon has itself, a mask of `1 << number`: it can give no others.
    pub capabilities: u64,
    /// Limits of processes that cannot be raised beyond this: the daemon's own where it may not raise any (no `CAP_SYS_RESOURCE`), and
    /// the kernel's. What is absent can be had without a limit.
    pub limits_max: BTreeMap<LimitKind, Option<u64>>,
    /// System calls can be filtered.
    pub seccomp: bool,
    /// AppArmor confines processes here.
    pub apparmor: bool,
    /// SELinux labels files and processes here.
    pub selinux: bool,
    /// Controllers are on the unified hierarchy (cgroup v2).
    pub cgroup_v2: bool,
    /// Who makes cgroups.
    pub cgroup_driver: Driver,
    /// Names this boot of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// `uname -r`
    pub kernel: String,
    /// Why pods cannot have users of their own; `None`: they can.
    pub no_user_namespaces: Option<String>,
}

impl NodeFacts {
    /// The capabilities that cannot be given, by name; `None` if there is none.
    #[must_use]
    pub fn missing_capabilities(&self) -> Option<String> {
        let names = super::capability::missing(self.capabilities);
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The nearest `oom_score_adj` that can be set to what was asked for.
    #[must_use]
    pub fn clamp_oom_score_adj(&self, value: i32) -> i32 {
        value.max(self.oom_score_adj_min)
    }
}
