//! What podbox-cgroup promises of limits, on this host's kernel. Needs root. Every test has a cgroup of its own at the roots of the
//! hierarchies and takes it away however it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod host;

use host::lacks;
use podbox_cgroup::{Cgroup, CgroupPath, Controller, Error, Hierarchies, HugepageSize, Limit, Resources, SettingName};
use rustix::fs::inotify;
use rustix::io::Errno;
use std::fs;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// A test's own cgroup, and the processes in it.
struct Own {
    host: Hierarchies,
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Own {
    fn new(name: &str) -> Self {
        let host = Hierarchies::discover().unwrap();
        let path = CgroupPath::new(format!("/podbox-test-{}-limits-{name}", std::process::id())).unwrap();
        let (cgroup, _) = Cgroup::create(&host, &path).unwrap();
        Self { host, cgroup, children: Vec::new() }
    }

    fn directories(&self) -> Vec<PathBuf> {
        let entry = self.cgroup.entry();
        entry.v1.into_iter().chain(entry.unified).collect()
    }

    /// The directory that has the file, whichever kernel interface it is on.
    fn file(&self, name: &str) -> Option<PathBuf> {
        self.directories().into_iter().map(|directory| directory.join(name)).find(|file| file.exists())
    }

    /// The content of the first of these files that exists.
    fn content(&self, names: &[&str]) -> String {
        let file = names.iter().find_map(|name| self.file(name)).unwrap();
        fs::read_to_string(file).unwrap().trim().to_owned()
    }

    fn memory_is_v2(&self) -> bool {
        self.file("memory.max").is_some()
    }

    /// A process in the cgroup that holds `mebibytes` of memory, once this returns, and until its input is closed.
    fn hold_memory(&mut self, mebibytes: u64) {
        let joins = r#"for d in "$@"; do echo $$ > "$d/cgroup.procs" || exit 99; done; "#;
        let hold = format!("exec perl -e '$| = 1; $x = \"x\" x ({mebibytes} << 20); print \"held\\n\"; <STDIN>'");
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{joins}{hold}")).arg("sh").args(self.directories());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut told).unwrap();
        assert_eq!(&told, b"held\n");
        self.children.push(child);
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _best_effort = (self.cgroup.kill(), self.cgroup.wait_empty(PATIENCE), self.cgroup.remove());
        for child in &mut self.children {
            let _best_effort = (child.kill(), child.wait());
        }
    }
}

fn setting(name: &str, value: &str) -> Resources {
    Resources { unified: [(SettingName::new(name).unwrap(), value.to_owned())].into(), ..Resources::default() }
}

fn memory(mebibytes: u64) -> Resources {
    Resources { memory_limit_bytes: Some(Limit::At(mebibytes * MIB)), ..Resources::default() }
}

const MEMORY: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];
const WEIGHT: [&str; 2] = ["cpu.weight", "cpu.shares"];
const QUOTA: [&str; 2] = ["cpu.max", "cpu.cfs_quota_us"];

#[test]
fn a_refused_value_leaves_everything_as_it_was_and_is_named() {
    let own = Own::new("back");
    let first = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(Limit::At(20_000)),
        cpu_period_us: Some(100_000),
        cpuset_cpus: Some("0".to_owned()),
        ..memory(64)
    };
    own.cgroup.apply(&first).unwrap();
    let files = [&MEMORY[..], &WEIGHT, &QUOTA, &["cpuset.cpus"], &["pids.max"]];
    let held = || files.map(|names| own.content(names));
    let before = held();
    let second = Resources {
        cpu_shares: Some(2048),
        cpu_quota_us: Some(Limit::At(50_000)),
        cpu_period_us: Some(50_000),
        pids_limit: Some(Limit::At(9)),
        unified: [(SettingName::new("pids.max").unwrap(), "many".to_owned())].into(),
        ..memory(256)
    };
    let refusal = own.cgroup.update(&second).unwrap_err();
    assert!(matches!(&refusal, Error::Write { value, .. } if value == "many"), "{refusal:?}");
    assert!(refusal.to_string().contains("pids.max"), "{refusal}");
    assert_eq!(held(), before);

    let unknown_cpu = Resources { cpuset_cpus: Some("99999".to_owned()), ..second.clone() };
    let refusal = own.cgroup.update(&unknown_cpu).unwrap_err().to_string();
    assert!(refusal.contains("cpuset.cpus") && refusal.contains("99999"), "{refusal}");
    assert_eq!(held(), before);
}

#[test]
fn an_update_touches_only_what_it_names_and_can_be_undone() {
    let own = Own::new("undo");
    own.cgroup.apply(&Resources { cpu_shares: Some(512), cpu_quota_us: Some(Limit::At(20_000)), ..memory(64) }).unwrap();
    let quota = own.content(&QUOTA);
    let weight = own.content(&WEIGHT);
    let changes = own.cgroup.update(&Resources { cpu_shares: Some(2048), ..memory(128) }).unwrap();
    assert_eq!(own.content(&MEMORY), (128 * MIB).to_string());
    assert_eq!(own.content(&QUOTA), quota);
    assert_ne!(own.content(&WEIGHT), weight);
    assert!(own.cgroup.update(&memory(128)).unwrap().is_empty(), "what is so already is not written");
    changes.undo().unwrap();
    assert_eq!((own.content(&MEMORY), own.content(&WEIGHT)), ((64 * MIB).to_string(), weight));
}

#[test]
fn memory_and_swap_are_put_back_in_the_order_that_the_kernel_takes() {
    let own = Own::new("sum");
    if !own.cgroup.accounts_swap() {
        lacks("limit of swap in its cgroups");
        return;
    }
    let both = |mebibytes: u64| Resources { memory_and_swap_limit_bytes: Some(Limit::At(mebibytes * MIB)), ..memory(mebibytes) };
    own.cgroup.apply(&both(64)).unwrap();
    for mebibytes in [256, 32] {
        own.cgroup.update(&both(mebibytes)).unwrap().undo().unwrap();
        assert_eq!(own.content(&MEMORY), (64 * MIB).to_string(), "from {mebibytes} MiB");
    }
}

#[test]
fn memory_is_not_limited_below_what_is_used_and_nobody_dies_of_trying() {
    let mut own = Own::new("usage");
    own.cgroup.apply(&memory(256)).unwrap();
    own.hold_memory(64);
    let shares = own.content(&WEIGHT);
    let refusal = own.cgroup.update(&Resources { cpu_shares: Some(77), ..memory(32) }).unwrap_err();
    assert!(matches!(refusal, Error::BelowUsage { limit_bytes, .. } if limit_bytes == 32 * MIB), "{refusal:?}");
    assert_eq!((own.content(&MEMORY), own.content(&WEIGHT)), ((256 * MIB).to_string(), shares));
    if own.memory_is_v2() {
        let raw = own.cgroup.update(&setting("memory.max", "33554432")).unwrap_err();
        assert!(matches!(raw, Error::BelowUsage { .. }), "{raw:?}");
    }
    own.cgroup.update(&memory(192)).unwrap();
    assert_eq!(own.cgroup.oom_kills().unwrap(), 0);
    own.children[0].stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(own.children[0].wait().unwrap().success(), "it lived");
}

/// v2 would kill for it, v1 refuses it.
#[test]
fn a_raised_limit_is_not_taken_back_from_who_has_used_it() {
    let mut own = Own::new("used");
    own.cgroup.apply(&memory(32)).unwrap();
    let shares = own.content(&WEIGHT);
    let changes = own.cgroup.update(&Resources { cpu_shares: Some(77), ..memory(256) }).unwrap();
    own.hold_memory(64);
    let left = changes.undo().unwrap_err();
    assert!(matches!(left, Error::LimitStays { .. } | Error::Write { .. }), "{left:?}");
    assert_eq!((own.content(&MEMORY), own.content(&WEIGHT)), ((256 * MIB).to_string(), shares));
    assert_eq!(own.cgroup.oom_kills().unwrap(), 0);
    own.children[0].stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(own.children[0].wait().unwrap().success(), "it lived");
}

#[test]
fn a_refused_setting_comes_before_a_raised_limit_is_given() {
    let own = Own::new("order");
    own.cgroup.apply(&memory(64)).unwrap();
    let file = own.file("memory.max").or(own.file("memory.limit_in_bytes")).unwrap();
    let writes = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&writes, &file, inotify::WatchFlags::MODIFY).unwrap();
    let mut events = [MaybeUninit::uninit(); 512];
    let mut written = move || inotify::Reader::new(&writes, &mut events).next().map(|event| event.events());
    own.cgroup.update(&Resources { cpuset_cpus: Some("99999".to_owned()), ..memory(256) }).unwrap_err();
    own.cgroup.update(&Resources { unified: setting("pids.max", "many").unified, ..memory(256) }).unwrap_err();
    assert_eq!(written(), Err(Errno::AGAIN), "memory was never given");
    own.cgroup.update(&memory(256)).unwrap();
    assert!(written().is_ok(), "it would have been seen");
}

#[test]
fn huge_pages_are_limited_used_and_reserved_where_the_host_can() {
    let own = Own::new("huge");
    let size = HugepageSize::new("2MB").unwrap();
    let limit =
        |size: &HugepageSize, bytes: u64| Resources { hugepage_limits_bytes: [(size.clone(), bytes)].into(), ..Resources::default() };
    let odd = HugepageSize::new("3MB").unwrap();
    own.cgroup.apply(&limit(&odd, 0)).unwrap();
    let refusal = own.cgroup.apply(&limit(&odd, 1 << 30)).unwrap_err();
    if !own.host.controllers().contains(&Controller::Hugetlb) {
        assert!(matches!(refusal, Error::NoController { controller: Controller::Hugetlb, .. }), "{refusal:?}");
        lacks("limit of huge pages in its cgroups");
        return;
    }
    assert!(matches!(&refusal, Error::NoHugepages { size, .. } if *size == odd), "{refusal:?}");
    if own.file("hugetlb.2MB.max").or(own.file("hugetlb.2MB.limit_in_bytes")).is_none() {
        lacks("huge pages of 2 MB");
        return;
    }
    own.cgroup.apply(&limit(&size, 4 * MIB)).unwrap();
    let files = [["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"], ["hugetlb.2MB.rsvd.max", "hugetlb.2MB.rsvd.limit_in_bytes"]];
    for names in &files {
        assert_eq!(own.content(names), (4 * MIB).to_string());
    }
    let changes = own.cgroup.update(&limit(&size, 0)).unwrap();
    assert_eq!(own.content(&files[0]), "0");
    changes.undo().unwrap();
    assert_eq!(own.content(&files[0]), (4 * MIB).to_string());
}

#[test]
fn a_raw_setting_is_written_last_and_only_where_its_controller_is_on_v2() {
    let own = Own::new("raw");
    own.cgroup.apply(&Resources { pids_limit: Some(Limit::At(5)), ..setting("pids.max", "7") }).unwrap();
    assert_eq!(own.content(&["pids.max"]), "7", "the same file on v1");
    let high = own.cgroup.apply(&setting("memory.high", "67108864"));
    if own.memory_is_v2() {
        high.unwrap();
        assert_eq!(own.content(&["memory.high"]), "67108864");
        own.cgroup.apply(&setting("memory.oom.group", "1")).unwrap();
        assert_eq!(own.content(&["memory.oom.group"]), "1");
    } else {
        assert!(matches!(high, Err(Error::SettingNeedsV2 { .. })), "{high:?}");
    }
    let absent = own.cgroup.update(&setting("pids.nonsense", "1")).unwrap_err();
    assert!(absent.to_string().contains("pids.nonsense"), "{absent}");
}
