//! Requests of the CRI: whatever comes, it is a value that is possible, or an error that names what is wrong.

use crate::cursor::Cursor;
use crate::request::{ContainerConfig, RequestError, SandboxConfig};
use podbox_proto::v1;
use prost::Message;

/// An answer to a malformed request that is longer would be one of its own.
const ERROR_BYTES_MAX: usize = 4096;

/// Decodes what is nearly a request to run a pod and one to create a container, and takes what decodes for a value.
///
/// # Panics
/// A value has what no value of its type has, or an error says nothing, or too much.
pub fn request(bytes: &[u8]) {
    let mut cursor = Cursor::new(bytes);
    if cursor.byte().is_multiple_of(2) {
        let bytes = cursor.mutated(&sandbox().encode_to_vec());
        let Ok(request) = v1::RunPodSandboxRequest::decode(bytes.as_slice()) else { return };
        match SandboxConfig::try_from(request) {
            Ok(config) => {
                assert!(config.log_directory.as_ref().is_none_or(|path| path.is_absolute()));
                assert!(config.cgroup_parent.as_ref().is_none_or(|parent| !parent.split('/').any(|part| part == "..")));
                assert!(!config.hostname.contains(|c: char| c.is_control() || c.is_whitespace()));
                assert!(config.sysctls.keys().all(|key| !key.contains(['/', '\0', '\n'])));
            }
            Err(error) => is_an_answer(&error),
        }
    } else {
        let bytes = cursor.mutated(&container().encode_to_vec());
        let Ok(config) = v1::ContainerConfig::decode(bytes.as_slice()) else { return };
        match ContainerConfig::try_from(config) {
            Ok(config) => {
                let is_plain = |path: &std::path::Path| path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..");
                assert!(config.mounts.iter().all(|mount| is_plain(&mount.container_path)));
                assert!(config.log_path.as_ref().is_none_or(|path| path.is_relative()));
                assert!(config.envs.iter().all(|(name, value)| !name.is_empty() && !name.contains(['=', '\0']) && !value.0.contains(&0)));
                assert!(!config.security.supplemental_groups.contains(&u32::MAX));
            }
            Err(error) => is_an_answer(&error),
        }
    }
}

fn is_an_answer(error: &RequestError) {
    let said = error.to_string();
    assert!(!said.is_empty() && said.len() <= ERROR_BYTES_MAX, "{} bytes", said.len());
}

fn sandbox() -> v1::RunPodSandboxRequest {
    let mut config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "pod".to_owned(),
            uid: "uid".to_owned(),
            namespace: "default".to_owned(),
            attempt: 1,
        }),
        hostname: "host".to_owned(),
        log_directory: "/var/log/pods/pod".to_owned(),
        ..Default::default()
    };
    config.labels.insert("key".to_owned(), "value".to_owned());
    let dns = config.dns_config.get_or_insert_default();
    (dns.servers, dns.searches) = (vec!["10.0.0.1".to_owned()], vec!["cluster.local".to_owned()]);
    let linux = config.linux.get_or_insert_default();
    "/kubepods/pod1".clone_into(&mut linux.cgroup_parent);
    linux.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
    let security = linux.security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = v1::NamespaceMode::Container.into();
    v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

fn container() -> v1::ContainerConfig {
    let mut config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "busybox".to_owned(), ..Default::default() }),
        command: vec!["/bin/sh".to_owned(), "-c".to_owned()],
        args: vec!["true".to_owned()],
        working_dir: "/work".to_owned(),
        envs: vec![v1::KeyValue { key: "KEY".to_owned(), value: b"value".to_vec() }],
        mounts: vec![v1::Mount {
            container_path: "/volume".to_owned(),
            host_path: "/host".to_owned(),
            readonly: true,
            mount_options: vec!["noexec".to_owned()],
            ..Default::default()
        }],
        log_path: "c/0.log".to_owned(),
        ..Default::default()
    };
    let linux = config.linux.get_or_insert_default();
    let resources = linux.resources.get_or_insert_default();
    (resources.cpu_quota, resources.memory_limit_in_bytes) = (50_000, 1 << 26);
    "0-1".clone_into(&mut resources.cpuset_cpus);
    resources.unified.insert("pids.max".to_owned(), "17".to_owned());
    let security = linux.security_context.get_or_insert_default();
    security.run_as_user = Some(v1::Int64Value { value: 1000 });
    security.supplemental_groups = vec![1, 2];
    security.masked_paths = vec!["/proc/kcore".to_owned()];
    security.capabilities.get_or_insert_default().add_capabilities = vec!["NET_ADMIN".to_owned()];
    config
}
