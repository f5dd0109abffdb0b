//! Cgroups that a test makes for itself and takes away again.

use super::until;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A cgroup below a hierarchy's root.
pub struct TestCgroup(PathBuf);

impl TestCgroup {
    /// `hierarchy` is a directory of `/sys/fs/cgroup`.
    pub fn new(hierarchy: &str) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!("podbox-test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(name);
        std::fs::create_dir(&path).expect("make a cgroup");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn set(&self, file: &str, value: &str) {
        std::fs::write(self.0.join(file), value).expect("write to the cgroup");
    }

    pub fn members(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.0.join("cgroup.procs")).expect("cgroup.procs");
        text.lines().map(|line| line.parse().expect("a pid")).collect()
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        if std::thread::panicking() {
            let _ = std::fs::remove_dir(&self.0);
            return;
        }
        until("the test's cgroup is empty", || std::fs::remove_dir(&self.0).is_ok());
    }
}
