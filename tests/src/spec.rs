//! Requests with sane defaults, and short ways to what tests vary. Everything else is there for the taking in `config`.

use crate::image::DEFAULT_NAME;
use podbox_proto::v1;
use podbox_proto::v1::NamespaceMode;
use std::sync::atomic::{AtomicU64, Ordering};

/// A pod to be: own network, IPC and UTS namespaces, containers with PID namespaces of their own, the hostname is the name.
#[derive(Debug, Clone, PartialEq)]
pub struct PodSpec {
    /// The request. `log_directory` is filled in if it is empty.
    pub config: v1::PodSandboxConfig,
}

impl PodSpec {
    /// In namespace `default`, with a uid of its own.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static UID: AtomicU64 = AtomicU64::new(0);
        let uid = format!("uid-{name}-{}", UID.fetch_add(1, Ordering::Relaxed));
        let metadata = v1::PodSandboxMetadata { name: name.to_owned(), uid, namespace: "default".to_owned(), attempt: 0 };
        let config = v1::PodSandboxConfig { metadata: Some(metadata), hostname: name.to_owned(), ..Default::default() };
        Self { config }.pid(NamespaceMode::Container)
    }

    /// With changes made by hand.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// With changes of the Linux part.
    #[must_use]
    pub fn linux(self, change: impl FnOnce(&mut v1::LinuxPodSandboxConfig)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default()))
    }

    /// With changes of the security context.
    #[must_use]
    pub fn security(self, change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext)) -> Self {
        self.linux(|linux| change(linux.security_context.get_or_insert_default()))
    }

    fn namespaces(self, change: impl FnOnce(&mut v1::NamespaceOption)) -> Self {
        self.security(|security| change(security.namespace_options.get_or_insert_default()))
    }

    /// With a network mode. In the node's network there is no hostname of the pod's.
    #[must_use]
    pub fn network(self, mode: NamespaceMode) -> Self {
        let node = mode == NamespaceMode::Node;
        let spec = self.namespaces(|options| options.set_network(mode));
        if node { spec.with(|config| config.hostname.clear()) } else { spec }
    }

    /// With a PID mode.
    #[must_use]
    pub fn pid(self, mode: NamespaceMode) -> Self {
        self.namespaces(|options| options.set_pid(mode))
    }

    /// With an IPC mode.
    #[must_use]
    pub fn ipc(self, mode: NamespaceMode) -> Self {
        self.namespaces(|options| options.set_ipc(mode))
    }

    /// With users of its own, or the node's; `None` says nothing of them.
    #[must_use]
    pub fn users(self, users: Option<v1::UserNamespace>) -> Self {
        self.namespaces(|options| options.userns_options = users)
    }

    /// With a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(|config| drop(config.labels.insert(key.to_owned(), value.to_owned())))
    }

    /// With a sysctl.
    #[must_use]
    pub fn sysctl(self, key: &str, value: &str) -> Self {
        self.linux(|linux| drop(linux.sysctls.insert(key.to_owned(), value.to_owned())))
    }

    /// With a cgroup that is the pod's.
    #[must_use]
    pub fn cgroup_parent(self, path: &str) -> Self {
        self.linux(|linux| path.clone_into(&mut linux.cgroup_parent))
    }

    /// Its containers may be privileged.
    #[must_use]
    pub fn privileged(self) -> Self {
        self.security(|security| security.privileged = true)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |metadata| &metadata.name)
    }
}

/// A container to be, of the default test image, with a PID namespace of its own and a log.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// The request.
    pub config: v1::ContainerConfig,
}

impl ContainerSpec {
    /// One that runs what its image says.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: DEFAULT_NAME.to_owned(), ..Default::default() }),
            log_path: format!("{name}.log"),
            ..Default::default()
        };
        Self { config }.pid(NamespaceMode::Container)
    }

    /// One that runs a command.
    #[must_use]
    pub fn command(name: &str, command: &[&str]) -> Self {
        Self::new(name).with(|config| config.command = words(command))
    }

    /// One that runs a script.
    #[must_use]
    pub fn shell(name: &str, script: &str) -> Self {
        Self::command(name, &["/bin/sh", "-c", script])
    }

    /// One that sleeps until it is killed.
    #[must_use]
    pub fn sleeper(name: &str) -> Self {
        Self::command(name, &["/bin/sleep", "1000000"])
    }

    /// With changes made by hand.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut v1::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// With changes of the security context.
    #[must_use]
    pub fn security(self, change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default().security_context.get_or_insert_default()))
    }

    /// With changes of the resources.
    #[must_use]
    pub fn resources(self, change: impl FnOnce(&mut v1::LinuxContainerResources)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default().resources.get_or_insert_default()))
    }

    /// With a memory limit and without swap beyond it.
    #[must_use]
    pub fn memory_limit(self, bytes: i64) -> Self {
        self.resources(|resources| resources.memory_limit_in_bytes = bytes)
    }

    /// With a PID mode.
    #[must_use]
    pub fn pid(self, mode: NamespaceMode) -> Self {
        self.security(|security| security.namespace_options.get_or_insert_default().set_pid(mode))
    }

    /// With users, which must be the pod's; `None` says nothing of them.
    #[must_use]
    pub fn users(self, users: Option<v1::UserNamespace>) -> Self {
        self.security(|security| security.namespace_options.get_or_insert_default().userns_options = users)
    }

    /// With another image.
    #[must_use]
    pub fn image(self, name: &str) -> Self {
        self.with(|config| name.clone_into(&mut config.image.get_or_insert_default().image))
    }

    /// With a variable.
    #[must_use]
    pub fn env(self, key: &str, value: &[u8]) -> Self {
        self.with(|config| config.envs.push(v1::KeyValue { key: key.to_owned(), value: value.to_owned() }))
    }

    /// With a mount, private and writable.
    #[must_use]
    pub fn mount(self, host_path: &std::path::Path, container_path: &str) -> Self {
        self.mount_with(host_path, container_path, |_| ())
    }

    /// With a mount and changes of it.
    #[must_use]
    pub fn mount_with(self, host_path: &std::path::Path, container_path: &str, change: impl FnOnce(&mut v1::Mount)) -> Self {
        let host_path = host_path.to_string_lossy().into_owned();
        let mut mount = v1::Mount { host_path, container_path: container_path.to_owned(), ..Default::default() };
        change(&mut mount);
        self.with(|config| config.mounts.push(mount))
    }

    /// With a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(|config| drop(config.labels.insert(key.to_owned(), value.to_owned())))
    }

    /// Privileged; its pod must be, too.
    #[must_use]
    pub fn privileged(self) -> Self {
        self.security(|security| security.privileged = true)
    }
}

/// What 0 of a pod with users of its own is for the node.
pub const FIRST_HOST_ID: u32 = 100_000;

/// Users of a pod's own, as the kubelet asks for them.
#[must_use]
pub fn own_users() -> v1::UserNamespace {
    let mapping = v1::IdMapping { host_id: FIRST_HOST_ID, container_id: 0, length: 65536 };
    v1::UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![mapping], gids: vec![mapping] }
}

/// Words of a command.
#[must_use]
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
