//! What podbox-cgroup promises of devices, on this host's kernel: by the v1 controller and by the program of v2. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod host;

use host::lacks;
use podbox_cgroup::{Cgroup, CgroupPath, DeviceAccess, DeviceKind, DeviceRule, Error, Hierarchies};
use std::process::{Command, Output};
use std::time::Duration;

/// A test's own cgroup.
struct Own(Cgroup);

impl Own {
    fn new(host: &Hierarchies, name: &str) -> Self {
        let path = CgroupPath::new(format!("/podbox-test-{}-{name}", std::process::id())).unwrap();
        Self(Cgroup::create(host, &path).unwrap().0)
    }

    /// Runs a shell script inside of the cgroup.
    fn run(&self, script: &str) -> Output {
        let entry = self.0.entry();
        let join = r#"for d in "$@"; do echo $$ > "$d/cgroup.procs" || exit 99; done; "#;
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{join}{script}")).arg("sh").args(entry.unified).args(entry.v1).output().unwrap()
    }

    /// What a script that opens a device comes to.
    fn opens(&self, redirection: &str) -> bool {
        let output = self.run(&format!("exec 3{redirection}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("not permitted"), "{redirection}: {said}");
        output.status.success()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _best_effort = (self.0.kill(), self.0.wait_empty(Duration::from_secs(10)), self.0.remove());
    }
}

/// This host in parts: v1 with its devices controller, and the unified hierarchy alone, whichever it has.
fn hosts() -> Vec<(&'static str, Hierarchies)> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let part = |marker: &str| {
        let lines: Vec<&str> = table.lines().filter(|line| line.contains(marker)).collect();
        Hierarchies::from_mountinfo(&lines.join("\n")).ok()
    };
    let v1 = Hierarchies::discover().unwrap();
    let with_controller = v1.controllers().contains(&podbox_cgroup::Controller::Devices).then_some(v1);
    let hosts = [with_controller.map(|host| ("v1", host)), part(" - cgroup2 ").map(|host| ("v2", host))];
    let hosts: Vec<_> = hosts.into_iter().flatten().collect();
    if hosts.is_empty() {
        lacks("devices controller and no unified hierarchy");
    }
    hosts
}

fn rule(kind: DeviceKind, major: impl Into<Option<u32>>, minor: impl Into<Option<u32>>, access: &str) -> DeviceRule {
    DeviceRule { kind, major: major.into(), minor: minor.into(), access: access.parse().unwrap() }
}

#[test]
fn only_what_the_rules_allow_can_be_opened_and_exactly_so() {
    for (version, host) in hosts() {
        let own = Own::new(&host, &format!("exact-{version}"));
        assert!(own.opens("<>/dev/zero"), "{version}: without rules everything is as it was");
        let rules = [
            rule(DeviceKind::Char, 1, 3, "rwm"),
            rule(DeviceKind::Char, 1, 5, "r"),
            rule(DeviceKind::Char, 1, 7, "w"),
            // In two halves, which count together.
            rule(DeviceKind::Char, 1, 9, "r"),
            rule(DeviceKind::Char, 1, 9, "w"),
            rule(DeviceKind::Block, 1, 8, "rwm"),
            rule(DeviceKind::Char, None, None, "m"),
        ];
        own.0.restrict_devices(&rules).unwrap();
        for (redirection, allowed) in [
            ("<>/dev/null", true),
            ("</dev/zero", true),
            (">/dev/zero", false),
            ("<>/dev/zero", false),
            (">/dev/full", true),
            ("</dev/full", false),
            ("<>/dev/urandom", true),
            // The rule is for a block device of these numbers.
            ("</dev/random", false),
        ] {
            assert_eq!(own.opens(redirection), allowed, "{version}: {redirection}");
        }
    }
}

#[test]
fn a_file_for_a_device_can_be_made_where_its_use_is_denied() {
    let node = std::env::temp_dir().join(format!("podbox-test-node-{}", std::process::id()));
    let path = node.display();
    for (version, host) in hosts() {
        let own = Own::new(&host, &format!("mknod-{version}"));
        own.0.restrict_devices(&[rule(DeviceKind::Char, 1, 3, "rwm"), rule(DeviceKind::Block, None, None, "m")]).unwrap();
        let made = own.run(&format!("mknod {path} b 8 0 && chmod 600 {path}"));
        let opened = own.run(&format!("exec 3<{path}"));
        let of_other_kind = own.run(&format!("rm -f {path}; mknod {path} c 1 5"));
        let _best_effort = std::fs::remove_file(&node);
        assert!(made.status.success(), "{version}: {made:?}");
        assert!(String::from_utf8_lossy(&opened.stderr).contains("not permitted"), "{version}: {opened:?}");
        assert!(String::from_utf8_lossy(&of_other_kind.stderr).contains("not permitted"), "{version}: {of_other_kind:?}");
    }
}

#[test]
fn a_cgroup_below_has_no_more_than_the_one_above() {
    for (version, host) in hosts() {
        let own = Own::new(&host, &format!("nested-{version}"));
        own.0.restrict_devices(&[rule(DeviceKind::Char, 1, 3, "rwm"), rule(DeviceKind::Char, 1, 5, "rwm")]).unwrap();
        let below = Own(Cgroup::create(&host, &own.0.path().child("below").unwrap()).unwrap().0);
        assert!(below.opens("<>/dev/zero") && !below.opens("</dev/full"), "{version}");
        below.0.restrict_devices(&[rule(DeviceKind::Char, 1, 3, "rwm")]).unwrap();
        assert!(below.opens("<>/dev/null") && !below.opens("</dev/zero"), "{version}");
    }
}

#[test]
fn as_many_rules_as_there_may_be_are_verified_and_one_more_is_an_error() {
    for (version, host) in hosts() {
        let own = Own::new(&host, &format!("many-{version}"));
        let many: Vec<DeviceRule> = (0..512).map(|number| rule(DeviceKind::Char, number / 16, 1000 + number % 16, "r")).collect();
        own.0.restrict_devices(&many).unwrap();
        let over = [many.as_slice(), &[rule(DeviceKind::Char, 1, 3, "rwm")]].concat();
        assert!(matches!(own.0.restrict_devices(&over), Err(Error::TooManyDevices { count: 513, max: 512, .. })), "{version}");
        assert!(!own.opens("</dev/null"), "{version}");
    }
}

#[test]
fn an_access_of_nothing_allows_nothing() {
    for (version, host) in hosts() {
        let own = Own::new(&host, &format!("nothing-{version}"));
        let nothing = DeviceRule { access: DeviceAccess::default(), ..rule(DeviceKind::Char, 1, 3, "r") };
        own.0.restrict_devices(&[nothing]).unwrap();
        assert!(!own.opens("</dev/null"), "{version}");
    }
}
