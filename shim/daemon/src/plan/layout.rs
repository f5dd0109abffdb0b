//! Where things stand on disk.
//!
//! ```text
//! STATE/pods/SANDBOX/          0700, a folder a pod
//!   sandbox.json  pause.json   its record; how pause ended
//!   pause.bpf pause.bpf.json   pause's seccomp filter and its profile, if it has one
//!   monitor.sock               the monitor's socket
//!   resolv.conf hostname hosts bound into its containers
//!   containers/CONTAINER/      a folder a container
//!     container.json exit.json its record; how it ended
//!     seccomp.bpf …bpf.json    its seccomp filter and its profile, if it has one
//! ```

use podbox_plan::{ContainerId, SandboxId};
use std::path::{Path, PathBuf};

/// Paths below the configured directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state_dir: PathBuf,
}

impl Layout {
    /// Below `state_dir`, which is absolute.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir }
    }

    /// The folder of pods.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    /// Where damaged records go.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.state_dir.join("quarantine")
    }

    /// Where folders go on their way out.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.state_dir.join("trash")
    }

    /// The pod CIDRs that the kubelet set last.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.state_dir.join("network.json")
    }

    /// Cgroup directories that a pod made and others still use.
    #[must_use]
    pub fn shared_cgroups(&self) -> PathBuf {
        self.state_dir.join("shared-cgroups.json")
    }

    /// Held locked by the daemon that owns the directory.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state_dir.join("daemon.lock")
    }

    /// A pod's folder.
    #[must_use]
    pub fn pod(&self, id: &SandboxId) -> PathBuf {
        self.pods().join(id.as_str())
    }

    /// A sandbox's record.
    #[must_use]
    pub fn sandbox_record(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("sandbox.json")
    }

    /// How pause ended.
    #[must_use]
    pub fn pause_exit(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("pause.json")
    }

    /// A pod's containers.
    #[must_use]
    pub fn containers(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("containers")
    }

    /// A container's folder.
    #[must_use]
    pub fn container(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.containers(sandbox).join(id.as_str())
    }

    /// A container's record.
    #[must_use]
    pub fn container_record(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.container(sandbox, id).join("container.json")
    }

    /// The seccomp filter of pause.
    #[must_use]
    pub fn pause_filter(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("pause.bpf")
    }

    /// The seccomp filter of a container and of what is executed in it.
    #[must_use]
    pub fn container_filter(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.container(sandbox, id).join("seccomp.bpf")
    }

    /// The profile that a filter was compiled from, beside it.
    #[must_use]
    pub fn profile_of(filter: &Path) -> PathBuf {
        let mut path = filter.as_os_str().to_owned();
        path.push(".json");
        path.into()
    }

    /// Limits that a container is about to get.
    #[must_use]
    pub fn container_update(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.container(sandbox, id).join("update.json")
    }

    /// How a container's init ended.
    #[must_use]
    pub fn container_exit(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.container(sandbox, id).join("exit.json")
    }

    /// The name by which `ip netns` finds the pod's network namespace.
    #[must_use]
    pub fn named_netns(id: &SandboxId) -> PathBuf {
        Path::new("/run/netns").join(format!("podbox-{}", &id.as_str()[..16]))
    }
}

/// The monitor's socket within a pod's folder.
pub const MONITOR_SOCKET: &str = "monitor.sock";
