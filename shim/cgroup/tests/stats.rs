//! What a cgroup is said to use is what this host's kernel counts. Needs root. Every test has a cgroup of its own and takes it away
//! however it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use podbox_cgroup::{Cgroup, CgroupPath, Details, Hierarchies, Limit, Meter, Resources, Usage};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A test's own cgroup and what it runs in it.
struct Own {
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Own {
    fn new(name: &str) -> Self {
        let path = CgroupPath::new(format!("/podbox-stats-{}-{name}", std::process::id())).unwrap();
        let (cgroup, _) = Cgroup::create(&Hierarchies::discover().unwrap(), &path).unwrap();
        Self { cgroup, children: Vec::new() }
    }

    /// As no newborn of podbox's is at hand, the shell writes itself into each hierarchy.
    fn run(&mut self, script: &str) {
        let entry = self.cgroup.entry();
        let join = r#"for d in "$@"; do echo $$ > "$d/cgroup.procs" || exit 99; done; "#;
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{join}{script}")).arg("sh").args(entry.unified).args(entry.v1);
        self.children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    }

    /// The number in the file of whichever kernel interface.
    fn counted(&self, v1: &str, v2: &str) -> u64 {
        let entry = self.cgroup.entry();
        let on_v1 = entry.v1.iter().map(|directory| directory.join(v1)).find(|file| file.exists());
        let file = on_v1.or(entry.unified.map(|unified| unified.join(v2))).unwrap();
        fs::read_to_string(&file).unwrap().trim().parse().unwrap()
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

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn read(meter: &Meter) -> Usage {
    meter.read().unwrap().expect("it is there")
}

#[test]
fn a_meter_reads_what_is_used_now_each_time_it_is_asked() {
    let mut own = Own::new("now");
    let meter = Meter::open(&own.cgroup).unwrap();
    let first = read(&meter);
    assert_eq!((first.cpu_ns.unwrap(), first.tasks.unwrap()), (0, 0));
    // It takes memory by itself, then time: what another program took before it came here is not counted.
    own.run("x=x; while [ ${#x} -lt 2000000 ]; do x=$x$x; done; while :; do :; done");
    eventually("CPU time passes", || read(&meter).cpu_ns.unwrap() > 200_000_000);
    // The kernel brings memory.stat up to date when it has nothing better to do.
    eventually("page faults are counted", || read(&meter).memory.is_some_and(|memory| memory.page_faults > 0));
    assert_eq!(read(&meter).tasks, Some(1));
    // v1 tells by sampled ticks what was user's and what the kernel's: that becomes true with time.
    eventually("the parts make up the whole", || {
        let cpu = Details::read(&own.cgroup).unwrap().cpu;
        cpu.user_ns.unwrap() + cpu.system_ns.unwrap() >= read(&meter).cpu_ns.unwrap() / 2
    });
    // On a slow machine it still takes more between two looks.
    eventually("what is told is what the kernel counts", || {
        let told = read(&meter).memory.unwrap().usage_bytes;
        let counted = own.counted("memory.usage_in_bytes", "memory.current");
        told.abs_diff(counted) < 1 << 20 && counted > 0
    });
    let memory = read(&meter).memory.unwrap();
    assert!(memory.working_set_bytes() <= memory.usage_bytes && memory.page_faults > 0, "{memory:?}");
}

#[test]
fn throttling_limits_and_the_most_that_was_used_are_in_the_details() {
    let mut own = Own::new("details");
    let resources = Resources {
        memory_limit_bytes: Some(Limit::At(48 << 20)),
        cpu_quota_us: Some(Limit::At(10_000)),
        cpu_period_us: Some(100_000),
        pids_limit: Some(Limit::At(23)),
        ..Resources::default()
    };
    own.cgroup.apply(&resources).unwrap();
    own.run("dd if=/dev/zero of=/dev/null bs=6000000 count=1 2>/dev/null; while :; do :; done");
    eventually("it is throttled", || Details::read(&own.cgroup).unwrap().cpu.throttled_periods.is_some_and(|periods| periods > 2));
    let details = Details::read(&own.cgroup).unwrap();
    let cpu = details.cpu;
    assert!(cpu.periods.unwrap() >= cpu.throttled_periods.unwrap() && cpu.throttled_ns.unwrap() > 0, "{cpu:?}");
    assert_eq!((cpu.quota_us, cpu.period_us), (Some(10_000), Some(100_000)));
    assert!(cpu.shares.or(cpu.weight).is_some());
    assert_eq!(details.tasks_limit, Some(Some(23)));
    assert_eq!((details.memory.oom_kills, details.memory.reservation_bytes), (Some(0), None));
    // At a tenth of a processor it takes its time to get there.
    let most = || Details::read(&own.cgroup).unwrap().memory.max_usage_bytes;
    if most().is_some() {
        eventually("the most that was used is what it has", || most().is_some_and(|most| most >= 5_000_000));
    }
    let memory = read(&Meter::open(&own.cgroup).unwrap()).memory.unwrap();
    assert_eq!(memory.limit_bytes, Some(48 << 20));
    assert_eq!(memory.available_bytes(), Some((48 << 20) - memory.working_set_bytes()));
    own.cgroup.apply(&Resources { memory_limit_bytes: Some(Limit::Unlimited), ..Resources::default() }).unwrap();
    assert_eq!(read(&Meter::open(&own.cgroup).unwrap()).memory.unwrap().limit_bytes, None);
}

#[test]
fn pressure_is_read_where_the_unified_hierarchy_keeps_it() {
    let own = Own::new("pressure");
    let kept = own.cgroup.entry().unified.is_some_and(|directory| fs::read(directory.join("cpu.pressure")).is_ok());
    let pressures = read(&Meter::open(&own.cgroup).unwrap()).pressures;
    for pressure in [pressures.cpu, pressures.memory, pressures.io] {
        assert_eq!(pressure.is_some(), kept);
    }
}

#[test]
fn a_cgroup_that_is_gone_reads_nothing_and_an_absent_one_has_nothing_to_open() {
    let own = Own::new("gone");
    let meter = Meter::open(&own.cgroup).unwrap();
    assert!(meter.descriptors() >= 3);
    assert!(meter.read().unwrap().is_some());
    own.cgroup.remove().unwrap();
    assert_eq!(meter.read().unwrap(), None);
    let absent = Meter::open(&own.cgroup).unwrap();
    assert_eq!((absent.descriptors(), absent.read().unwrap()), (0, None));
    let details = Details::read(&own.cgroup).unwrap();
    assert_eq!(details, Details::default());
}
