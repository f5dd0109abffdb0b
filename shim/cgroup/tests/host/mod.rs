//! What these tests cannot show on this machine, in the form in which all of podbox's tests say it (`tests/src/host.rs`).

use std::env;
use std::fs::OpenOptions;
use std::io::{Write, stderr};
use std::thread;

/// Says that the test that calls this cannot show here what it is to show, for want of something: past the capture of test output, and to
/// the file that `PODBOX_TEST_SKIPPED` names, for whoever reports on many test programs. The test then returns.
pub fn lacks(what: &str) {
    let thread = thread::current();
    let line = format!("skipped {}: this machine has no {what}\n", thread.name().unwrap_or("a test"));
    // Nobody listens: nothing to be done.
    let _ = stderr().write_all(line.as_bytes());
    if let Some(path) = env::var_os("PODBOX_TEST_SKIPPED") {
        // Short lines: appended whole, whatever other tests do. Who cannot write has said it above.
        let _ = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
