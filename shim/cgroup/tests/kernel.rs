//! What podbox-cgroup promises, on this host's kernel. Needs root. Every test has a cgroup of its own at the roots of the
//! hierarchies and takes it away however it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod host;

use host::lacks;
use podbox_cgroup::{Cgroup, CgroupPath, Controller, Error, Hierarchies, Limit, Made, Resources, Version};
use rustix::fs::inotify;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Also of an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A test's own cgroup, with everything below it.
struct Own {
    host: Hierarchies,
    path: CgroupPath,
    children: Vec<Child>,
}

impl Own {
    fn new(name: &str) -> Self {
        Self::on(Hierarchies::discover().unwrap(), name)
    }

    fn on(host: Hierarchies, name: &str) -> Self {
        let path = CgroupPath::new(format!("/podbox-test-{}-{name}", std::process::id())).unwrap();
        Self { host, path, children: Vec::new() }
    }

    fn create(&self) -> (Cgroup, Made) {
        Cgroup::create(&self.host, &self.path).unwrap()
    }

    fn create_child(&self, name: &str) -> (Cgroup, Made) {
        Cgroup::create(&self.host, &self.path.child(name).unwrap()).unwrap()
    }

    /// Runs a shell script inside of the cgroup. As no newborn of podbox's is at hand, the shell writes itself into each.
    fn spawn_in(&mut self, cgroup: &Cgroup, script: &str) {
        let entry = cgroup.entry();
        let join = r#"for d in "$@"; do echo $$ > "$d/cgroup.procs" || exit 99; done; "#;
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{join}{script}")).arg("sh").args(entry.unified).args(entry.v1);
        self.children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    fn wait_until_inside(&self, cgroup: &Cgroup) {
        eventually("a process is inside", || !cgroup.processes(true).unwrap().is_empty());
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let cgroup = Cgroup::at(&self.host, &self.path);
        let _best_effort = (cgroup.kill(), cgroup.wait_empty(PATIENCE), cgroup.remove());
        for child in &mut self.children {
            let _best_effort = (child.kill(), child.wait());
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// This host without its unified hierarchy; `None`, and said so, if that is all it has: for a test that has nothing to show there.
fn v1() -> Option<Hierarchies> {
    let host = v1_alone();
    if host.is_none() {
        lacks("hierarchy of cgroup v1");
    }
    host
}

/// This host without its unified hierarchy; `None` if that is all it has.
fn v1_alone() -> Option<Hierarchies> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let without: Vec<&str> = table.lines().filter(|line| !line.contains(" - cgroup2 ")).collect();
    Hierarchies::from_mountinfo(&without.join("\n")).ok()
}

/// The file of a controller, whichever kernel interface it is on.
fn content(cgroup: &Cgroup, v1: &str, v2: &str) -> String {
    let entry = cgroup.entry();
    let on_v1 = entry.v1.iter().map(|directory| directory.join(v1)).find(|file| file.exists());
    let file = on_v1.or(entry.unified.map(|unified| unified.join(v2))).unwrap();
    fs::read_to_string(&file).unwrap().trim().to_owned()
}

fn directories(cgroup: &Cgroup) -> Vec<PathBuf> {
    let entry = cgroup.entry();
    entry.v1.into_iter().chain(entry.unified).collect()
}

fn exists(cgroup: &Cgroup) -> bool {
    directories(cgroup).iter().any(|directory| directory.exists())
}

#[test]
fn limits_land_in_the_files() {
    let own = Own::new("limits");
    let (cgroup, _) = own.create();
    let v2 = own.host.version() == Version::V2;
    let resources = Resources {
        memory_limit_bytes: Some(Limit::At(64 << 20)),
        cpu_shares: Some(512),
        cpu_quota_us: Some(Limit::At(25_000)),
        cpu_period_us: Some(50_000),
        cpuset_cpus: Some("0".to_owned()),
        cpuset_mems: Some("0".to_owned()),
        pids_limit: Some(Limit::At(17)),
        ..Resources::default()
    };
    cgroup.apply(&resources).unwrap();
    assert_eq!(content(&cgroup, "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(content(&cgroup, "cpu.shares", "cpu.weight"), if v2 { "59" } else { "512" });
    assert_eq!(content(&cgroup, "cpu.cfs_quota_us", "cpu.max"), if v2 { "25000 50000" } else { "25000" });
    assert_eq!(content(&cgroup, "cpu.cfs_period_us", "cpu.max"), if v2 { "25000 50000" } else { "50000" });
    assert_eq!(content(&cgroup, "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(content(&cgroup, "pids.max", "pids.max"), "17");

    let lifted = Resources {
        memory_limit_bytes: Some(Limit::Unlimited),
        cpu_quota_us: Some(Limit::Unlimited),
        pids_limit: Some(Limit::Unlimited),
        ..Resources::default()
    };
    cgroup.apply(&lifted).unwrap();
    assert_eq!(content(&cgroup, "pids.max", "pids.max"), "max");
    assert_eq!(content(&cgroup, "cpu.cfs_quota_us", "cpu.max"), if v2 { "max 50000" } else { "-1" });
    assert_eq!(content(&cgroup, "cpuset.cpus", "cpuset.cpus"), "0", "what is not named stays");
}

#[test]
fn memory_and_swap_rise_and_fall_together() {
    let own = Own::new("swap");
    let (cgroup, _) = own.create();
    if !cgroup.accounts_swap() {
        let refused = cgroup.apply(&Resources { memory_and_swap_limit_bytes: Some(Limit::At(1 << 30)), ..Resources::default() });
        assert!(matches!(refused, Err(Error::NoSwapAccounting { .. } | Error::SwapBelowMemory { .. })), "{refused:?}");
        lacks("limit of swap in its cgroups");
        return;
    }
    for mebibytes in [64, 256, 32, 32, 128] {
        let bytes = mebibytes << 20;
        let limits = Resources {
            memory_limit_bytes: Some(Limit::At(bytes)),
            memory_and_swap_limit_bytes: Some(Limit::At(bytes)),
            ..Resources::default()
        };
        cgroup.apply(&limits).unwrap();
        assert_eq!(content(&cgroup, "memory.limit_in_bytes", "memory.max"), bytes.to_string());
        let v2 = own.host.version() == Version::V2;
        assert_eq!(content(&cgroup, "memory.memsw.limit_in_bytes", "memory.swap.max"), if v2 { "0".into() } else { bytes.to_string() });
    }
    let absurd = Resources {
        memory_limit_bytes: Some(Limit::At(2 << 20)),
        memory_and_swap_limit_bytes: Some(Limit::At(1 << 20)),
        ..Resources::default()
    };
    assert!(matches!(cgroup.apply(&absurd), Err(Error::SwapBelowMemory { .. })));
}

#[test]
fn a_refused_limit_names_file_and_value() {
    let own = Own::new("refused");
    let (cgroup, _) = own.create();
    let refused = cgroup.apply(&Resources { cpuset_cpus: Some("4096".to_owned()), ..Resources::default() }).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("4096") && text.contains("cpuset.cpus") && text.contains(own.path.as_str()), "{text}");
}

#[test]
fn a_death_for_memory_is_counted() {
    let mut own = Own::new("oom");
    assert!(own.host.controllers().contains(&Controller::Memory), "this test needs the memory controller");
    let (cgroup, _) = own.create();
    cgroup.apply(&Resources { memory_limit_bytes: Some(Limit::At(16 << 20)), ..Resources::default() }).unwrap();
    if cgroup.accounts_swap() {
        let no_swap = Resources {
            memory_limit_bytes: Some(Limit::At(16 << 20)),
            memory_and_swap_limit_bytes: Some(Limit::At(16 << 20)),
            ..Resources::default()
        };
        cgroup.apply(&no_swap).unwrap();
    }
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    own.spawn_in(&cgroup, "exec tail /dev/zero");
    eventually("the kernel kills and counts", || cgroup.oom_kills().unwrap() == 1);
    cgroup.remove().unwrap();
    assert_eq!(cgroup.oom_kills().unwrap(), 0, "a removed cgroup counts nothing");
}

/// Doubles until the pids limit stops it, and again whenever one dies. A shell would give up at the first fork that fails.
const FORK_BOMB: &str = "exec perl -e 'while (1) { fork }'";

fn fork_bomb_dies(mut own: Own) {
    let (pod, _) = own.create();
    let (cgroup, _) = own.create_child("container");
    pod.apply(&Resources { pids_limit: Some(Limit::At(40)), ..Resources::default() }).unwrap();
    own.spawn_in(&cgroup, FORK_BOMB);
    eventually("the bomb spreads", || cgroup.processes(false).unwrap().len() > 20);
    assert!(pod.processes(false).unwrap().is_empty());
    assert!(pod.processes(true).unwrap().len() > 1);
    pod.kill().unwrap();
    assert!(pod.wait_empty(PATIENCE).unwrap());
    assert!(pod.processes(true).unwrap().is_empty());
    pod.remove().unwrap();
    assert!(!exists(&pod));
}

#[test]
fn a_fork_bomb_dies_by_kill() {
    fork_bomb_dies(Own::new("bomb"));
}

#[test]
fn a_fork_bomb_dies_by_kill_without_a_unified_hierarchy() {
    if let Some(host) = v1() {
        fork_bomb_dies(Own::on(host, "bomb-v1"));
    }
}

#[test]
fn a_process_that_stands_in_v1_alone_is_killed_too() {
    let Some(v1) = v1() else { return };
    let mut own = Own::new("v1-alone");
    let (cgroup, _) = own.create();
    own.spawn_in(&Cgroup::at(&v1, &own.path.clone()), "exec sleep 1000");
    own.wait_until_inside(&cgroup);
    cgroup.kill().unwrap();
    assert!(cgroup.wait_empty(PATIENCE).unwrap());
}

/// Each is held by a descriptor while it is killed.
#[test]
fn more_processes_are_killed_than_descriptors_may_be_open() {
    const DESCRIPTORS: u64 = 600;
    let Some(host) = v1() else { return };
    let mut own = Own::on(host, "many");
    let (cgroup, _) = own.create();
    own.spawn_in(&cgroup, "exec perl -e 'for (1..700) { fork or sleep 1000 } sleep 1000'");
    eventually("all are there", || cgroup.processes(false).unwrap().len() > 700);
    let before = getrlimit(Resource::Nofile);
    // The other tests of this process need a few.
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..before }).unwrap();
    let killed = cgroup.kill();
    setrlimit(Resource::Nofile, before).unwrap();
    killed.unwrap();
    assert!(cgroup.wait_empty(PATIENCE).unwrap());
}

#[test]
fn the_wait_ends_with_the_last_process_or_with_the_time() {
    for host in [Some(Hierarchies::discover().unwrap()), v1_alone()].into_iter().flatten() {
        let name = format!("wait-{}", host.unified_mount_point().is_some());
        let mut own = Own::on(host, &name);
        let (cgroup, _) = own.create();
        assert!(cgroup.wait_empty(Duration::ZERO).unwrap(), "nothing ever ran");
        own.spawn_in(&cgroup, "sleep 1000 & exec sleep 1000");
        own.wait_until_inside(&cgroup);
        assert!(!cgroup.wait_empty(Duration::from_millis(50)).unwrap());
        let killer = thread::spawn({
            let cgroup = cgroup.clone();
            move || {
                thread::sleep(Duration::from_millis(50));
                cgroup.kill()
            }
        });
        assert!(cgroup.wait_empty(PATIENCE).unwrap());
        killer.join().unwrap().unwrap();
        cgroup.remove().unwrap();
        assert!(cgroup.wait_empty(Duration::MAX).unwrap(), "absent is empty");
    }
}

#[test]
fn made_removes_only_what_was_made() {
    let own = Own::new("made");
    let (parent, made_parent) = own.create();
    assert_eq!(made_parent.directories().len(), directories(&parent).len());
    let path = own.path.child("pod").unwrap().child("container").unwrap();
    let planned = Cgroup::at(&own.host, &path).absent();
    let (container, made) = Cgroup::create(&own.host, &path).unwrap();
    assert_eq!(planned, made, "what would be made is known before");
    assert_eq!(made.directories().len(), 2 * directories(&container).len());
    let made: Made = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();

    let (again, nothing) = Cgroup::create(&own.host, &path).unwrap();
    assert_eq!((again, nothing.directories().len()), (container.clone(), 0), "a repetition makes nothing");

    let (neighbour, _) = Cgroup::create(&own.host, &own.path.child("pod").unwrap().child("neighbour").unwrap()).unwrap();
    made.remove().unwrap();
    assert!(!exists(&container));
    assert!(exists(&neighbour), "an ancestor that someone else uses stays");
    neighbour.remove().unwrap();
    made.remove().unwrap();
    assert!(!exists(&Cgroup::at(&own.host, &own.path.child("pod").unwrap())));
    assert!(exists(&parent), "it was there before");
}

#[test]
fn a_creation_that_fails_half_way_leaves_nothing() {
    // A name that only one hierarchy has a control file of.
    let own = Own::new("half");
    let (parent, _) = own.create();
    let host = own.host.clone();
    let taken = own.path.child(if host.version() == Version::V2 { "cgroup.procs" } else { "cpu.shares" }).unwrap();
    let failed = Cgroup::create(&host, &taken.child("container").unwrap()).unwrap_err();
    assert!(matches!(failed, Error::Make { .. } | Error::NameTaken { .. }), "{failed:?}");
    let failed = Cgroup::create(&host, &taken).unwrap_err();
    assert!(matches!(&failed, Error::NameTaken { path } if path.ends_with(taken.as_str().trim_start_matches('/'))), "{failed:?}");
    for directory in directories(&parent) {
        let left: Vec<_> = fs::read_dir(&directory).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    // A hierarchy that is not there any more.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_hugetlb = |line: &&str| line.contains(" - cgroup ") && line.ends_with("hugetlb");
    let mut table: String = table.lines().filter(|line| !of_hugetlb(line)).flat_map(|line| [line, "\n"]).collect();
    table.push_str("99 1 0:99 / /sys/fs/cgroup-gone rw - cgroup cgroup rw,hugetlb\n");
    let host = Hierarchies::from_mountinfo(&table).unwrap();
    let path = own.path.child("a").unwrap().child("b").unwrap();
    assert!(matches!(Cgroup::create(&host, &path), Err(Error::Make { .. })));
    assert!(!exists(&Cgroup::at(&own.host, &own.path.child("a").unwrap())));
}

/// Another pod's last child may take what both have in common along, between any two looks.
#[test]
fn what_comes_and_goes_is_not_taken_for_a_control_file() {
    const ROUNDS: usize = 500;
    let own = Own::new("fleeting");
    let common = own.path.child("common").unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let mine = Cgroup::at(&own.host, &common.child(&number.to_string()).unwrap());
            let host = &own.host;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    mine.check_name().unwrap();
                    let (_, made) = Cgroup::create(host, mine.path()).unwrap();
                    made.remove().unwrap();
                }
            });
        }
    });
}

#[test]
fn removal_takes_the_cgroups_below_and_tolerates_absence() {
    let own = Own::new("remove");
    let (pod, _) = own.create();
    pod.remove().unwrap();
    pod.remove().unwrap();
    pod.kill().unwrap();
    assert!(pod.processes(true).unwrap().is_empty());
    for name in ["a", "b"] {
        own.create_child(name);
        Cgroup::create(&own.host, &own.path.child(name).unwrap().child("deeper").unwrap()).unwrap();
    }
    pod.remove().unwrap();
    assert!(!exists(&pod));
}

#[test]
fn removal_of_a_populated_cgroup_is_refused_and_spares_the_process() {
    let mut own = Own::new("populated");
    let (pod, _) = own.create();
    let (container, _) = own.create_child("container");
    own.spawn_in(&container, "exec sleep 1000");
    // In all of the hierarchies, so in the last.
    let last = directories(&container).into_iter().rfind(|directory| Some(directory) != container.entry().unified.as_ref());
    let last = last.or(container.entry().unified).unwrap();
    eventually("it is inside", || !fs::read_to_string(last.join("cgroup.procs")).unwrap().is_empty());
    assert!(matches!(pod.remove(), Err(Error::Remove { .. })));
    assert_eq!(container.processes(false).unwrap().len(), 1);
}

#[test]
fn cgroups_are_found_by_their_names_wherever_they_are() {
    for host in [Some(Hierarchies::discover().unwrap()), v1_alone()].into_iter().flatten() {
        let own = Own::on(host.clone(), &format!("find-{}", host.unified_mount_point().is_some()));
        let names = ["one", "other"].map(|name| format!("podbox-{}-{name}", std::process::id()));
        let deep = own.path.child("a").unwrap().child("b").unwrap().child(&names[0]).unwrap();
        let beside = own.path.child(&names[1]).unwrap();
        let below = deep.child(&names[1]).unwrap();
        for path in [&deep, &beside, &below] {
            Cgroup::create(&host, path).unwrap();
        }
        let mut found = host.find(&[&names[0], &names[1]]);
        found.sort_by_key(|path| path.as_str().len());
        assert_eq!(found, [beside, deep], "and none below another");
        assert!(host.find(&["podbox-test-absent"]).is_empty());
    }
}

#[test]
fn a_new_cgroup_can_be_joined_at_once() {
    let mut own = Own::new("join");
    let path = own.path.child("pod").unwrap().child("container").unwrap();
    let (container, _) = Cgroup::create(&own.host, &path).unwrap();
    own.spawn_in(&container, "exec sleep 1000");
    own.wait_until_inside(&container);
    eventually("it is in every hierarchy", || {
        let joined = |directory: &PathBuf| !fs::read_to_string(directory.join("cgroup.procs")).unwrap().is_empty();
        directories(&container).iter().all(joined)
    });
}

#[test]
fn the_host_is_described_as_it_is() {
    let host = Hierarchies::discover().unwrap();
    assert_eq!(host.version() == Version::V2, v1_alone().is_none());
    let entry = Cgroup::at(&host, &CgroupPath::new("/podbox-test-none").unwrap()).entry();
    assert_eq!(entry.unified.is_some(), host.unified_mount_point().is_some());
    assert_eq!(entry.v1.is_empty(), host.version() == Version::V2);
    assert_eq!(entry.oom_counter.is_some(), host.controllers().contains(&Controller::Memory));
    let systemd = Path::new("/sys/fs/cgroup/systemd");
    assert!(entry.v1.iter().all(|directory| !directory.starts_with(systemd)), "systemd's own hierarchy is left alone");
}

#[test]
fn what_is_frozen_stands_still_until_it_is_thawed() {
    for host in [Some(Hierarchies::discover().unwrap()), v1_alone()].into_iter().flatten() {
        let mut own = Own::on(host.clone(), &format!("freeze-{}", host.unified_mount_point().is_some()));
        let (cgroup, _) = own.create();
        let file = std::env::temp_dir().join(format!("podbox-test-freeze-{}", std::process::id()));
        own.spawn_in(&cgroup, &format!("while :; do echo x >> {}; sleep 0.01; done", file.display()));
        let length = || fs::metadata(&file).map_or(0, |metadata| metadata.len());
        eventually("it writes", || length() > 10);
        let frozen = cgroup.freeze(PATIENCE).unwrap();
        let before = length();
        thread::sleep(Duration::from_millis(200));
        let after = length();
        cgroup.thaw().unwrap();
        assert!(frozen);
        assert_eq!(before, after, "nothing runs in it");
        eventually("it writes again", || length() > after);
        cgroup.kill().unwrap();
        assert!(cgroup.wait_empty(PATIENCE).unwrap());
        let _best_effort = fs::remove_file(&file);
        cgroup.thaw().unwrap();
        cgroup.remove().unwrap();
        assert!(cgroup.freeze(PATIENCE).is_err(), "there is nothing to freeze by");
    }
}

/// Who killed before died with it frozen.
#[test]
fn what_was_left_frozen_is_killed_all_the_same() {
    for host in [Some(Hierarchies::discover().unwrap()), v1_alone()].into_iter().flatten() {
        let mut own = Own::on(host, "kill-frozen");
        let (cgroup, _) = own.create();
        own.spawn_in(&cgroup, "sleep 1000");
        eventually("it runs", || !cgroup.processes(false).unwrap().is_empty());
        assert!(cgroup.freeze(PATIENCE).unwrap());
        cgroup.kill().unwrap();
        assert!(cgroup.wait_empty(PATIENCE).unwrap());
    }
}

#[test]
fn a_kill_leaves_nothing_frozen_and_needs_no_more_than_the_directories() {
    let Some(host) = v1() else { return };
    let mut own = Own::on(host, "kill-thaws");
    let (cgroup, _) = own.create();
    cgroup.apply(&Resources { pids_limit: Some(Limit::At(200)), ..Resources::default() }).unwrap();
    own.spawn_in(&cgroup, FORK_BOMB);
    eventually("the bomb spreads", || cgroup.processes(false).unwrap().len() > 150);
    podbox_cgroup::kill_members(None, &cgroup.entry().v1).unwrap();
    assert!(cgroup.wait_empty(PATIENCE).unwrap());
    assert_eq!(content(&cgroup, "freezer.state", "none"), "THAWED");
}

#[test]
fn a_kill_of_what_is_absent_succeeds() {
    let absent = Path::new("/sys/fs/cgroup/podbox-test-absent");
    podbox_cgroup::kill_members(Some(absent), &[absent.to_owned()]).unwrap();
}

/// How often `kill` writes to a file. Opening and closing it are watched as well: of events that are the same and follow each other the
/// kernel tells but one.
fn writes_during(file: &Path, kill: impl FnOnce()) -> usize {
    use inotify::{CreateFlags, ReadFlags, WatchFlags};
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, file, WatchFlags::OPEN | WatchFlags::MODIFY | WatchFlags::CLOSE).unwrap();
    kill();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut writes = 0;
    while let Ok(event) = events.next() {
        assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW), "some were not told");
        writes += usize::from(event.events().contains(ReadFlags::MODIFY));
    }
    writes
}

/// Rounds of signals end most bombs, so some are set off until one has outpaced them.
#[test]
fn a_bomb_that_outpaces_signals_is_frozen_while_it_is_killed() {
    const BOMBS_MAX: usize = 50;
    const PROCESSES_MAX: u64 = 700;
    const MANY: usize = 600;
    let Some(host) = v1() else { return };
    if !host.controllers().contains(&Controller::Freezer) {
        return lacks("freezer of cgroup v1");
    }
    let mut own = Own::on(host, "outpaces");
    let (cgroup, _) = own.create();
    cgroup.apply(&Resources { pids_limit: Some(Limit::At(PROCESSES_MAX)), ..Resources::default() }).unwrap();
    let freezer = cgroup.entry().v1.into_iter().map(|directory| directory.join("freezer.state")).find(|file| file.exists()).unwrap();
    let killed = || cgroup.kill().unwrap();
    own.spawn_in(&cgroup, "exec sleep 1000");
    own.wait_until_inside(&cgroup);
    let without_freezing = writes_during(&freezer, killed);
    assert!(cgroup.wait_empty(PATIENCE).unwrap());
    let frozen = (0..BOMBS_MAX).any(|_| {
        own.spawn_in(&cgroup, FORK_BOMB);
        eventually("the bomb spreads", || cgroup.processes(false).unwrap().len() > MANY);
        let writes = writes_during(&freezer, killed);
        assert!(cgroup.wait_empty(PATIENCE).unwrap());
        assert_eq!(fs::read_to_string(&freezer).unwrap().trim(), "THAWED");
        writes > without_freezing
    });
    assert!(frozen, "none of {BOMBS_MAX} bombs was frozen");
}
