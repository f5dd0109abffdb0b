//! Everything that a container sees which asks for nothing, held against a page that was gone through line by line:
//! `tests/golden/default_container.txt`, where the reasons stand beside what differs from containerd.
//!
//! A line that begins with `v1:` or `v2:` is for hosts with that version of cgroups; one that begins with `masked` or `read-only` for
//! hosts whose kernel has the path.

use anyhow::{Context, Result, ensure};
use podbox_tests::host::{cgroup_hierarchies, namespace, status_field};
use podbox_tests::{Container, ContainerSpec, Daemon, Pod, PodSpec};
use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

const GOLDEN: &str = include_str!("../golden/default_container.txt");
const STATUS: [&str; 12] =
    ["Umask", "Uid", "Gid", "Groups", "NSpid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

#[tokio::test]
async fn a_container_that_asks_for_nothing_sees_exactly_what_is_on_the_page() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("golden")).await?;
    let container = pod.run(&ContainerSpec::sleeper("golden")).await?;
    let mut seen = process(&container).await?;
    seen.extend(namespaces(&pod, &container).await?);
    seen.extend(mounts(&container).await?);
    seen.extend(devices(container.pid().await?)?);
    let seen: BTreeSet<String> = seen.into_iter().collect();
    let wanted: BTreeSet<String> = GOLDEN.lines().filter_map(expected_here).collect();
    let missing: Vec<_> = wanted.difference(&seen).collect();
    let unexpected: Vec<_> = seen.difference(&wanted).collect();
    ensure!(missing.is_empty() && unexpected.is_empty(), "on the page only: {missing:#?}\nin the container only: {unexpected:#?}");
    Ok(())
}

/// A line of the page, if it holds on this host.
fn expected_here(line: &str) -> Option<String> {
    let (line, _) = line.split_once(" #").unwrap_or((line, ""));
    let line = line.trim();
    let is_v1 = cgroup_hierarchies().len() > 1;
    let line = match line.split_once(": ") {
        Some(("v1", rest)) => is_v1.then_some(rest)?,
        Some(("v2", rest)) => (!is_v1).then_some(rest)?,
        _ => line,
    };
    if let Some(limit) = line.strip_prefix("limit ") {
        return at_most_the_hosts(limit);
    }
    let path = line.strip_prefix("masked ").or(line.strip_prefix("read-only ")).and_then(|rest| rest.split(' ').next());
    let is_there = path.is_none_or(|path| Path::new(path).exists());
    (!line.is_empty() && !line.starts_with('#') && is_there).then(|| line.to_owned())
}

/// A line of the page about a limit. Where nobody may raise limits, a container gets no more than there is.
fn at_most_the_hosts(line: &str) -> Option<String> {
    const SYS_RESOURCE: u64 = 1 << 24;
    let mut words = line.rsplitn(3, ' ');
    let (hard, soft, name) = (words.next()?, words.next()?, words.next()?);
    let own = std::fs::read_to_string("/proc/self/limits").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("Max ")?.strip_prefix(name)?.split_whitespace().nth(1).map(str::to_owned))?;
    let may_raise = status_field(i32::try_from(std::process::id()).ok()?, "CapEff").ok()?;
    let may_raise = u64::from_str_radix(&may_raise, 16).ok()? & SYS_RESOURCE != 0;
    let most = if may_raise { "unlimited".to_owned() } else { own };
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    let lower = |limit: &str| if number(&most) < number(limit) { most.clone() } else { limit.to_owned() };
    Some(format!("limit {name} {} {}", lower(soft), lower(hard)))
}

async fn process(container: &Container) -> Result<Vec<String>> {
    let pid = container.pid().await?;
    let mut seen = Vec::new();
    for field in STATUS {
        let value = status_field(pid, field)?;
        let words: Vec<&str> = value.split_whitespace().collect();
        // Its number on the host is any.
        let words = if field == "NSpid" { &words[1..] } else { &words[..] };
        seen.push(format!("status {field} {}", words.join(" ")));
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    for line in limits.lines().skip(1) {
        let name = line.get(..26).context("a limit's name")?.trim().trim_start_matches("Max ");
        let values: Vec<&str> = line.get(26..).unwrap_or_default().split_whitespace().take(2).collect();
        seen.push(format!("limit {name} {}", values.join(" ")));
    }
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ"))?;
    seen.extend(environment.split('\0').filter(|variable| !variable.is_empty()).map(|variable| format!("environment {variable}")));
    for number in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number = number?.file_name();
        let target = std::fs::read_link(format!("/proc/{pid}/fd/{}", number.to_string_lossy()))?.to_string_lossy().into_owned();
        let kind = target.split_once(':').map_or(target.as_str(), |(kind, _)| kind);
        seen.push(format!("descriptor {} {kind}", number.to_string_lossy()));
    }
    for (name, value) in
        [("directory", container.sh("readlink /proc/1/cwd").await?), ("session", container.sh("cut -d' ' -f6 /proc/1/stat").await?)]
    {
        seen.push(format!("{name} {value}"));
    }
    Ok(seen)
}

/// Whose each one is: the node's, pause's, or its own.
async fn namespaces(pod: &Pod, container: &Container) -> Result<Vec<String>> {
    let (own, pause, node) = (container.pid().await?, pod.pause_pid().await?, i32::try_from(std::process::id())?);
    let whose = |kind: &str| -> Result<String> {
        let it = namespace(own, kind)?;
        let owner = match () {
            () if it == namespace(node, kind)? => "node's",
            () if it == namespace(pause, kind)? => "pod's",
            () => "own",
        };
        Ok(format!("namespace {kind} {owner}"))
    };
    NAMESPACES.into_iter().map(whose).collect()
}

/// `mount POINT TYPE OPTIONS [OPTIONS OF THE FILE SYSTEM]`; what lies over kernel files is `masked` or `read-only`.
async fn mounts(container: &Container) -> Result<Vec<String>> {
    let table = container.sh("cat /proc/1/mountinfo").await?;
    let mut seen = Vec::new();
    for line in table.lines() {
        let (before, after) = line.split_once(" - ").context("a line of mountinfo")?;
        let fields: Vec<&str> = before.split(' ').collect();
        let (root, point, options, marks) = (fields[3], fields[4], fields[5], &fields[6..]);
        let mut after = after.split(' ');
        let (kind, super_options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
        let is_kernels = ["/proc/", "/sys/"].iter().any(|above| point.starts_with(above)) && !point.starts_with("/sys/fs/cgroup");
        let passed_on = if marks.is_empty() { "" } else { " shared" };
        seen.push(match kind {
            "tmpfs" if is_kernels && root == "/null" => format!("masked {point} by /dev/null"),
            "tmpfs" if is_kernels => format!("masked {point} by an empty {options}"),
            "proc" | "sysfs" if is_kernels => format!("read-only {point} {options}"),
            // Layers and disks are the host's matter.
            "cgroup" => format!("cgroups {options}{passed_on}"),
            "overlay" => format!("mount {point} {kind} {options}{passed_on}"),
            _ if point.starts_with("/etc/") => format!("mount {point} bind {options}{passed_on}"),
            _ => format!("mount {point} {kind} {options} [{}]{passed_on}", file_systems_own(super_options)),
        });
    }
    Ok(seen)
}

/// Without what says how the kernel keeps it.
fn file_systems_own(options: &str) -> String {
    options.split(',').filter(|option| !matches!(*option, "seclabel" | "inode64")).collect::<Vec<_>>().join(",")
}

fn devices(pid: i32) -> Result<Vec<String>> {
    let dev = Path::new("/proc").join(pid.to_string()).join("root/dev");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(&dev)? {
        let entry = entry?;
        let (name, metadata) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
        let mode = metadata.mode() & 0o7777;
        let kind = metadata.file_type();
        let numbers = || format!("{}:{}", rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        seen.push(match () {
            () if kind.is_symlink() => format!("dev {name} -> {}", std::fs::read_link(entry.path())?.display()),
            () if kind.is_dir() => format!("dev {name}/ {mode:o}"),
            () if kind.is_char_device() => format!("dev {name} c {} {mode:o} {}:{}", numbers(), metadata.uid(), metadata.gid()),
            () if kind.is_block_device() => format!("dev {name} b {} {mode:o}", numbers()),
            () => format!("dev {name} file {mode:o}"),
        });
    }
    Ok(seen)
}
