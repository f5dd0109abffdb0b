//! Proof that nothing is left: of the pod, while the daemon still runs, and of the demo, when it has ended.

use super::report::{Leftover, Promise};
use anyhow::Result;
use podbox_tests::network::links_of;
use podbox_tests::{Census, Daemon, host};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The census's kinds, and how the demo names them.
const KINDS: [(&str, &str); 8] = [
    ("process", "processes"),
    ("namespace", "namespaces"),
    ("mount", "mounts on the host"),
    ("link", "links, the host's and the daemon's"),
    ("named netns", "names in /run/netns"),
    ("nftables", "lines of nftables"),
    ("cgroup", "cgroup directories"),
    ("file", "files and folders"),
];

const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// Compares until there is no difference, or the time is over.
pub(super) async fn settled(daemon: &Daemon, before: &Census, during: &Census, within: Duration) -> Result<Vec<Leftover>> {
    let end = Instant::now() + within;
    loop {
        let differences = Census::take(daemon)?.diff(before);
        let leftovers: Vec<Leftover> = KINDS.iter().map(|kind| leftover(*kind, before, during, &differences)).collect();
        if leftovers.iter().all(|leftover| leftover.left.is_empty()) || Instant::now() > end {
            return Ok(leftovers);
        }
        tokio::time::sleep(LOOKS_EVERY).await;
    }
}

fn leftover((kind, what): (&str, &str), before: &Census, during: &Census, differences: &[String]) -> Leftover {
    let of_kind = |lines: &[String]| -> Vec<String> {
        let strip = |line: &String| {
            let (sign, rest) = line.split_at_checked(2)?;
            let what = rest.strip_prefix(kind)?.strip_prefix(": ")?;
            Some(if sign == "- " { format!("gone: {what}") } else { what.to_owned() })
        };
        lines.iter().filter_map(strip).collect()
    };
    let added = of_kind(&during.diff(before)).iter().filter(|what| !what.starts_with("gone: ")).count();
    Leftover { what: what.to_owned(), before: before.count(kind), during: added, left: of_kind(differences) }
}

/// Where something of the demo could be when it has ended.
pub(super) struct Traces {
    directory: PathBuf,
    cgroup: String,
    network_namespace: u64,
    host_links: Vec<String>,
}

const HOST_LINKS: &str = "/proc/self/net/dev";

impl Traces {
    /// Of a daemon that was not started yet.
    pub(super) fn of(daemon: &Daemon) -> Result<Self> {
        Ok(Self {
            directory: daemon.directory().to_owned(),
            cgroup: daemon.cgroup_parent().to_owned(),
            network_namespace: daemon.network().inode(),
            host_links: links_of(HOST_LINKS)?,
        })
    }

    /// That nothing is there.
    pub(super) fn promise(&self) -> Promise {
        let found = self.found();
        Promise {
            promise: "nothing of the demo is left on the host".to_owned(),
            measured: if found.is_empty() { "no directory, cgroup, process, namespace or link".to_owned() } else { found.join(", ") },
            holds: found.is_empty(),
        }
    }

    fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.directory.exists() {
            found.push(self.directory.display().to_string());
        }
        let roots = host::cgroup_hierarchies().into_iter().map(|(_, root)| root.join(self.cgroup.trim_start_matches('/')));
        found.extend(roots.filter(|cgroup| cgroup.exists()).map(|cgroup| cgroup.display().to_string()));
        let in_namespace = |pid: &i32| host::namespace(*pid, "net").is_ok_and(|inode| inode == self.network_namespace);
        found.extend(host::all_processes().into_iter().filter(in_namespace).map(|pid| format!("process {pid}")));
        let links = links_of(HOST_LINKS).unwrap_or_default();
        found.extend(links.into_iter().filter(|link| !self.host_links.contains(link)).map(|link| format!("link {link}")));
        found
    }
}
