//! A census: everything a daemon and its pods can leave behind, taken from the kernel and compared exactly.
//!
//! It counts what belongs to one daemon, so that tests run side by side: the daemon and its children, its pods' monitors, and what is
//! below its cgroup or in its network namespace; mounts and files that name its directory; cgroups below its parent in every hierarchy; links and nftables of its network
//! namespace; its own descriptors by kind. Threads of the daemon are left out: its pool of blocking threads breathes.
//!
//! Namespaces end and links go a little after the last process: [`Census::settle`] waits for that.

use crate::daemon::Daemon;
use crate::host;
use crate::network::links_of;
use crate::wait::{DEADLINE, scaled};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Between two looks.
const STEP: Duration = Duration::from_millis(50);
/// So long without a change is rest.
const REST: Duration = Duration::from_millis(400);

/// What there is, by kind of resource. Empty sets stay in, so that two censuses have the same kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    found: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Census {
    /// Counts what belongs to a daemon.
    ///
    /// # Errors
    /// `/proc` or the daemon's network namespace cannot be read.
    pub fn take(daemon: &Daemon) -> Result<Self> {
        let footprint = daemon.footprint();
        let processes: Vec<i32> = host::all_processes().into_iter().filter(|pid| footprint.holds(*pid)).collect();
        let found = BTreeMap::from([
            ("process", processes.iter().filter_map(|pid| describe(daemon, *pid)).collect()),
            ("namespace", namespaces(&processes)),
            ("mount", mounts(daemon.directory())?),
            ("named netns", named_namespaces(daemon)),
            ("link", links(daemon)?),
            ("nftables", nftables(daemon)?),
            ("cgroup", cgroups(daemon)),
            ("file", files(daemon)),
            ("descriptor", daemon.pid().map_or_else(|_| BTreeSet::new(), descriptors)),
        ]);
        Ok(Self { found })
    }

    /// Counts what belongs to a daemon once nothing changes any more: what its last work left half-closed is then gone.
    ///
    /// # Errors
    /// As [`Census::take`], or it never comes to rest.
    pub async fn at_rest(daemon: &Daemon) -> Result<Self> {
        let end = Instant::now() + scaled(DEADLINE);
        let (mut last, mut since) = (Self::take(daemon)?, Instant::now());
        while since.elapsed() < REST {
            tokio::time::sleep(STEP).await;
            let now = Self::take(daemon)?;
            if now != last {
                anyhow::ensure!(Instant::now() < end, "never at rest:\n{}", now.diff(&last).join("\n"));
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    /// The same without a kind of resource.
    #[must_use]
    pub fn without(mut self, kind: &str) -> Self {
        self.found.remove(kind);
        self
    }

    /// What is new since another census (`+`), and what is gone (`-`), a line each; kinds that either lacks are left out.
    #[must_use]
    pub fn diff(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, now) in &self.found {
            let Some(then) = before.found.get(kind) else { continue };
            lines.extend(now.difference(then).map(|what| format!("+ {kind}: {what}")));
            lines.extend(then.difference(now).map(|what| format!("- {kind}: {what}")));
        }
        lines
    }

    /// How many there are of a kind: `process`, `namespace`, `mount`, `named netns`, `link`, `nftables`, `cgroup`, `file`,
    /// `descriptor`.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.found.get(kind).map_or(0, BTreeSet::len)
    }

    /// The kinds of resources, with what was found of each.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &BTreeSet<String>)> {
        self.found.iter().map(|(kind, found)| (*kind, found))
    }

    /// Waits until a daemon has exactly what it had; the patience is scaled.
    ///
    /// # Errors
    /// The differences that are left when the time is over.
    pub async fn settle(daemon: &Daemon, before: &Self, patience: Duration) -> Result<()> {
        let patience = scaled(patience);
        let end = Instant::now() + patience;
        loop {
            let differences = Self::take(daemon)?.diff(before);
            if differences.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("after {} s this differs from before:\n{}", patience.as_secs(), differences.join("\n"));
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

fn describe(daemon: &Daemon, pid: i32) -> Option<String> {
    // One daemon is as good as the next.
    if daemon.pid().is_ok_and(|own| own == pid) {
        return Some("the daemon".to_owned());
    }
    let state = host::status_field(pid, "State").ok()?;
    let name = host::arguments(pid).map_or_else(|| host::status_field(pid, "Name").unwrap_or_default(), |words| words.join(" "));
    // Running or sleeping is no difference; a zombie is.
    let zombie = if state.starts_with('Z') { " (zombie)" } else { "" };
    Some(format!("{pid} {}{zombie}", name.chars().take(100).collect::<String>()))
}

/// Inodes of the namespaces that the processes' threads are in.
fn namespaces(processes: &[i32]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for pid in processes {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let Ok(links) = std::fs::read_dir(task.path().join("ns")) else { continue };
            found.extend(links.flatten().filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.to_string_lossy().into_owned())));
        }
    }
    found
}

/// Lines of the host's mount table that name the daemon's directory, as mount point or as source.
fn mounts(directory: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string("/proc/1/mountinfo").or_else(|_| std::fs::read_to_string("/proc/self/mountinfo"));
    let directory = directory.to_string_lossy();
    Ok(text.context("read the mount table")?.lines().filter(|line| line.contains(&*directory)).map(str::to_owned).collect())
}

/// Links in `/run/netns` to pods that this daemon has or ever had: all of those stand in its log.
fn named_namespaces(daemon: &Daemon) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return BTreeSet::new() };
    let (pods, log) = (daemon.recorded_pods(), daemon.log());
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.strip_prefix("podbox-").is_some_and(|id| log.contains(id) || pods.iter().any(|pod| pod.starts_with(id))))
        .collect()
}

fn links(daemon: &Daemon) -> Result<BTreeSet<String>> {
    let own = daemon.network().links()?.into_iter().map(|name| format!("{name} in the daemon's network"));
    let host = links_of("/proc/self/net/dev")?.into_iter().map(|name| format!("{name} on the host"));
    Ok(own.chain(host).collect())
}

fn nftables(daemon: &Daemon) -> Result<BTreeSet<String>> {
    let output = daemon.network().run(|| Command::new("nft").args(["list", "ruleset"]).output().context("run nft"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

fn cgroups(daemon: &Daemon) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, root) in host::cgroup_hierarchies() {
        let top = root.join(daemon.cgroup_parent().trim_start_matches('/'));
        let described = |path: &Path| format!("{name}: /{}", path.strip_prefix(&root).unwrap_or(path).display());
        if top.exists() {
            found.insert(described(&top));
        }
        found.extend(host::directories_below(&top).iter().map(|path| described(path)));
    }
    found
}

/// Files of the state and root directories with their modes; unpacked layers are one entry each.
fn files(daemon: &Daemon) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for top in [daemon.state_dir(), daemon.root_dir()] {
        for path in host::entries_below(&top) {
            let relative = path.strip_prefix(daemon.directory()).unwrap_or(&path);
            // An empty trash is a place, not a thing.
            let is_place = path.ends_with("run/trash") && std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            if is_place || relative.components().any(|part| part.as_os_str() == "fs") {
                continue;
            }
            let mode = path.symlink_metadata().map_or(0, |metadata| metadata.mode());
            found.insert(format!("{} {mode:o}", relative.display()));
        }
    }
    found
}

/// A process's descriptors: how many of each kind, an entry each.
fn descriptors(pid: i32) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    for entry in entries.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        // "socket:[4711]", "pipe:[4712]", "net:[4026531833]", "anon_inode:[pidfd]", "/memfd:pause (deleted)", a path
        let kind = match target.split_once(":[") {
            Some(("anon_inode", kind)) => kind.trim_end_matches(']').to_owned(),
            Some((kind, _)) => kind.to_owned(),
            None => target.into_owned(),
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts.into_iter().map(|(kind, count)| format!("{kind} × {count}")).collect()
}
