//! Looking at a running pod, from outside through the kernel and from inside its containers.

use super::pod::{CPU_PERIOD_US, CPU_QUOTA_US, DemoPod, GREED, GREEDY_LIMIT, HOSTNAME, LISTENS_ON, MEMORY_LIMITS, RANDOM};
use super::report::{CONTAINERS, Namespace, Promise, Sharing};
use anyhow::{Context, Result};
use podbox_proto::v1::ContainerState;
use podbox_tests::{Container, host};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const KINDS: [(&str, Sharing); 6] = [
    ("net", Sharing::Shared),
    ("ipc", Sharing::Shared),
    ("uts", Sharing::Shared),
    ("mnt", Sharing::Own),
    ("pid", Sharing::Own),
    ("cgroup", Sharing::Own),
];
/// POSIX shared memory is a file there (`shm_overview(7)`).
const SEGMENT: &str = "/dev/shm/segment";
/// 128 and SIGKILL, as shells have it.
const KILLED: i32 = 137;

/// The pod's.
pub(super) async fn namespaces(pod: &DemoPod) -> Result<Vec<Namespace>> {
    let host = i32::try_from(std::process::id()).context("a process id")?;
    let pids = [host, pod.pod.pause_pid().await?, pod.containers[0].pid().await?, pod.containers[1].pid().await?];
    let judge = |(kind, promise)| {
        let mut inodes = [0; 4];
        for (inode, pid) in inodes.iter_mut().zip(pids) {
            *inode = host::namespace(pid, kind)?;
        }
        let [host, pause, server, client] = inodes;
        Ok(Namespace::judge(kind, promise, host, pause, [server, client]))
    };
    KINDS.into_iter().map(judge).collect()
}

/// Everything else.
pub(super) async fn promises(pod: &DemoPod) -> Result<Vec<Promise>> {
    let [server, client] = &pod.containers;
    let mut promises = Vec::new();
    for (container, name) in pod.containers.iter().zip(CONTAINERS) {
        promises.push(is_first_process(container, name).await?);
    }
    promises.push(reach_each_other(server, client).await?);
    promises.push(share_memory(server, client).await?);
    promises.push(have_one_hostname(server, client).await?);
    let pod_cgroup = memory_cgroup(pod.pod.pause_pid().await?)?;
    let pod_cgroup = Path::new(&pod_cgroup).parent().context("pause is in a cgroup below the pod's")?.to_owned();
    for ((container, name), limit) in pod.containers.iter().zip(CONTAINERS).zip(MEMORY_LIMITS) {
        promises.push(has_own_cgroup(container, name, &pod_cgroup, limit).await?);
    }
    promises.push(has_processor_limit(client).await?);
    promises.push(is_killed_beyond_its_memory(pod).await?);
    Ok(promises)
}

/// `NSpid` lists a process's ids, from the outermost PID namespace to its own.
async fn is_first_process(container: &Container, name: &str) -> Result<Promise> {
    let ids = host::status_field(container.pid().await?, "NSpid")?;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    Ok(Promise {
        promise: format!("{name} is PID 1 in its namespace"),
        measured: format!("NSpid: {}", ids.join(" ")),
        holds: ids.len() > 1 && ids.last() == Some(&"1"),
    })
}

async fn reach_each_other(server: &Container, client: &Container) -> Result<Promise> {
    let fetch = format!("for i in $(seq 100); do wget -q -O- http://{LISTENS_ON}/secret && exit; sleep 0.1; done; exit 1");
    let fetched = client.sh(&fetch).await?;
    let secret = server.sh("cat /www/secret").await?;
    Ok(Promise {
        promise: format!("client reaches server on {LISTENS_ON}"),
        measured: format!("served {secret}, fetched {fetched}"),
        holds: !secret.is_empty() && fetched == secret,
    })
}

async fn share_memory(server: &Container, client: &Container) -> Result<Promise> {
    let written = server.sh(&format!("{RANDOM} > {SEGMENT} && cat {SEGMENT}")).await?;
    let read = client.sh(&format!("cat {SEGMENT}")).await?;
    let [one, other] = [device_and_inode(server.pid().await?)?, device_and_inode(client.pid().await?)?];
    Ok(Promise {
        promise: "a POSIX shared memory segment is one for both".to_owned(),
        measured: format!("wrote {written}, read {read}; device:inode {one} and {other}"),
        holds: !written.is_empty() && read == written && one == other,
    })
}

/// Of the segment, as a process sees it.
fn device_and_inode(pid: i32) -> Result<String> {
    let path = format!("/proc/{pid}/root{SEGMENT}");
    let metadata = fs::metadata(&path).with_context(|| path)?;
    Ok(format!("{:x}:{}", metadata.dev(), metadata.ino()))
}

async fn have_one_hostname(server: &Container, client: &Container) -> Result<Promise> {
    let [one, other] = [server.sh("hostname").await?, client.sh("hostname").await?];
    Ok(Promise {
        promise: format!("the hostname is {HOSTNAME}"),
        measured: format!("{one} and {other}"),
        holds: one == HOSTNAME && other == HOSTNAME,
    })
}

async fn has_own_cgroup(container: &Container, name: &str, pod_cgroup: &Path, limit: i64) -> Result<Promise> {
    let cgroup = memory_cgroup(container.pid().await?)?;
    let found = host::cgroup_file(&cgroup, "memory.limit_in_bytes").or_else(|_| host::cgroup_file(&cgroup, "memory.max"))?;
    let below = Path::new(&cgroup).strip_prefix(pod_cgroup).ok();
    Ok(Promise {
        promise: format!("{name} has its own cgroup below the pod's, {} MiB", limit >> 20),
        measured: format!("POD/{}: {found} bytes", below.map_or_else(|| cgroup.as_str().into(), |below| short(&below.to_string_lossy()))),
        holds: below == Some(Path::new(&container.id)) && found == limit.to_string(),
    })
}

async fn has_processor_limit(client: &Container) -> Result<Promise> {
    let cgroup = cgroup_of(client.pid().await?, "cpu")?;
    let file = |name| host::cgroup_file(&cgroup, name);
    let found = match file("cpu.max") {
        Ok(both) => both,
        Err(_) => format!("{} {}", file("cpu.cfs_quota_us")?, file("cpu.cfs_period_us")?),
    };
    Ok(Promise {
        promise: format!("client has {} % of a processor", 100 * CPU_QUOTA_US / CPU_PERIOD_US),
        measured: format!("{found} µs of quota and period"),
        holds: found == format!("{CPU_QUOTA_US} {CPU_PERIOD_US}"),
    })
}

async fn is_killed_beyond_its_memory(pod: &DemoPod) -> Result<Promise> {
    let before = oom_kills()?;
    let greedy = pod.run_greedy().await?;
    let kills = oom_kills()? - before;
    let status = greedy.status().await?;
    let (state, reason, code) = (status.state(), status.reason, status.exit_code);
    let promise = format!("taking {GREED} with a limit of {} MiB is OOM-killed and reported", GREEDY_LIMIT >> 20);
    let measured = format!("oom_kill of /proc/vmstat +{kills}; reported {}, {reason}, exit code {code}", state.as_str_name());
    let holds = kills > 0 && state == ContainerState::ContainerExited && reason == "OOMKilled" && code == KILLED;
    greedy.remove().await?;
    Ok(Promise { promise, measured, holds })
}

/// How many processes the kernel killed for want of memory, on the whole host: the container's cgroup, which has a count of its own,
/// is gone with the container's last process.
fn oom_kills() -> Result<u64> {
    const COUNTERS: &str = "/proc/vmstat";
    let counters = fs::read_to_string(COUNTERS).context(COUNTERS)?;
    let count = counters.lines().find_map(|line| line.strip_prefix("oom_kill ")).context("the kernel counts no oom_kill")?;
    count.parse().with_context(|| format!("oom_kill {count}"))
}

/// The cgroup that limits a process's memory.
fn memory_cgroup(pid: i32) -> Result<String> {
    cgroup_of(pid, "memory")
}

/// Lines are `ID:CONTROLLERS:PATH` (`cgroups(7)`); that of v2 names no controllers and has them all.
fn cgroup_of(pid: i32, controller: &str) -> Result<String> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let of = |wanted: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines.find(|(controllers, _)| controllers.split(',').any(|controller| controller == wanted)).map(|(_, path)| path.to_owned())
    };
    of(controller).or_else(|| of("")).with_context(|| format!("{path} names no cgroup with the controller {controller}"))
}

/// Ids are long; their beginning tells them apart.
fn short(id: &str) -> String {
    if id.len() > 12 { format!("{}…", id.chars().take(12).collect::<String>()) } else { id.to_owned() }
}
