//! Limits of containers: asked for, changed, and read back from the kernel, on either version of cgroups and below either driver.

use crate::host::{cgroup_hierarchies, lacks};
use crate::{Container, ContainerSpec, Daemon, Pod, PodSpec, assert_refused};
use anyhow::{Context, Result};
use podbox_proto::v1;
use std::path::PathBuf;
use tonic::{Code, Status};

/// Bytes.
pub const MIB: i64 = 1 << 20;

/// As the CRI has them.
pub type Limits = v1::LinuxContainerResources;

/// A script that asks for more memory than there is until it is ended.
pub const GREEDY: &str = "exec dd if=/dev/zero of=/dev/null bs=200M";

/// A daemon with a pod.
///
/// # Errors
/// As they say.
pub async fn prepared(name: &str) -> Result<(Daemon, Pod)> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new(name)).await?;
    Ok((daemon, pod))
}

/// A container's cgroup in every hierarchy that has it.
///
/// # Errors
/// As the daemon says.
pub async fn directories(container: &Container) -> Result<Vec<PathBuf>> {
    let cgroup = container.cgroup().await?;
    let path = |(_, root): (String, PathBuf)| root.join(cgroup.trim_start_matches('/'));
    Ok(cgroup_hierarchies().into_iter().map(path).filter(|path| path.exists()).collect())
}

/// A container's file in whichever hierarchy has it.
///
/// # Errors
/// As the daemon says.
pub async fn file(container: &Container, name: &str) -> Result<Option<PathBuf>> {
    Ok(directories(container).await?.into_iter().map(|directory| directory.join(name)).find(|path| path.exists()))
}

/// Those of these files that the cgroup of a container in this pod has: what this machine's kernel can limit, since podbox gives
/// a container every controller that there is. Runs a container that asks for nothing.
///
/// # Errors
/// As the daemon says.
pub async fn kept_by_kernel<'a>(pod: &Pod, names: &[&'a str]) -> Result<Vec<&'a str>> {
    let probe = pod.run(&ContainerSpec::sleeper("probe")).await?;
    let mut kept = Vec::new();
    for name in names {
        if file(&probe, name).await?.is_some() {
            kept.push(*name);
        }
    }
    probe.remove().await?;
    Ok(kept)
}

/// Runs a container with a raw setting. On a kernel that has no such file there is none: podbox was held to its refusal, and the test
/// is said to lack the setting.
///
/// # Errors
/// The kernel has the file, and the container cannot be run.
///
/// # Panics
/// The kernel has no such file, and the setting is not refused by its name.
pub async fn run_with_setting(pod: &Pod, spec: ContainerSpec, name: &str, value: &str) -> Result<Option<Container>> {
    let is_kept = !kept_by_kernel(pod, &[name]).await?.is_empty();
    let outcome = pod.run(&spec.resources(setting(name, value))).await;
    if is_kept {
        return Ok(Some(outcome?));
    }
    assert_refused(outcome, Code::FailedPrecondition, &["unified", name]);
    lacks(&format!("{name} in its cgroups"));
    Ok(None)
}

/// The content of the first of these files that is there: they are named for v2 and for v1.
///
/// # Errors
/// None is.
pub async fn content(container: &Container, names: &[&str]) -> Result<String> {
    for name in names {
        if let Some(path) = file(container, name).await? {
            return Ok(std::fs::read_to_string(path)?.trim().to_owned());
        }
    }
    anyhow::bail!("no hierarchy has any of {names:?}")
}

/// The number after a key, in whichever hierarchy's file of that name has it.
///
/// # Errors
/// None has.
pub async fn counter(container: &Container, name: &str, key: &str) -> Result<u64> {
    for directory in directories(container).await? {
        let text = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        if let Some(number) = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')) {
            return Ok(number.trim().parse()?);
        }
    }
    anyhow::bail!("no {key} in any {name}")
}

/// Asks for a change of a container's limits.
///
/// # Errors
/// As the daemon says.
pub async fn update(daemon: &Daemon, container: &Container, change: impl FnOnce(&mut Limits)) -> Result<(), Status> {
    let mut linux = Limits::default();
    change(&mut linux);
    let request = v1::UpdateContainerResourcesRequest { container_id: container.id.clone(), linux: Some(linux), ..Default::default() };
    daemon.runtime().update_container_resources(request).await.map(drop)
}

/// The limits in a container's status.
///
/// # Errors
/// There are none.
pub async fn reported(container: &Container) -> Result<Limits> {
    container.status().await?.resources.and_then(|resources| resources.linux).context("resources in the status")
}

/// A raw setting, by the name of its file.
pub fn setting(name: &str, value: &str) -> impl FnOnce(&mut Limits) {
    let (name, value) = (name.to_owned(), value.to_owned());
    move |limits| drop(limits.unified.insert(name, value))
}
