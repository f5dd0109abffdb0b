//! Every target for as long as `PODBOX_FUZZ_SECONDS` says, all at once; a moment where it says nothing. What makes a target panic is shrunk
//! and printed.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Of a target, where nothing else is said.
const SECONDS_DEFAULT: u64 = 2;
/// Between looks at the clock.
const CASES: u32 = 64;
const BYTES_MAX: usize = 1024;

type Target = fn(&[u8]);
const TARGETS: [(&str, Target); 5] = [
    ("layer", podbox_fuzz::layer),
    ("protocol", podbox_fuzz::protocol),
    ("request", podbox_fuzz::request),
    ("seccomp", podbox_fuzz::seccomp),
    ("spdy", podbox_fuzz::spdy),
];

/// The threads, started with the first that is asked for; each is waited for once.
static RUNNING: LazyLock<Mutex<BTreeMap<&str, JoinHandle<()>>>> = LazyLock::new(|| {
    Mutex::new(TARGETS.into_iter().map(|(name, target)| (name, std::thread::spawn(move || fuzz(name, target)))).collect())
});

fn finds_nothing(name: &str) {
    let running = RUNNING.lock().expect("no test panics with it").remove(name).expect("a target");
    assert!(running.join().is_ok(), "what it panicked with is told above");
}

#[allow(clippy::print_stdout)]
fn fuzz(name: &str, target: Target) {
    let seconds = std::env::var("PODBOX_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let (began, lasts) = (Instant::now(), Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT)));
    let mut cases = 0;
    while began.elapsed() < lasts {
        // One that has run its cases runs no more.
        let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&prop::collection::vec(any::<u8>(), 0..BYTES_MAX), |bytes| {
            target(&bytes);
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{name}: {error}");
        }
        cases += CASES;
    }
    println!("{name}: {cases} cases in {} s", began.elapsed().as_secs());
}

/// Seen to fail: with links followed as the kernel does by itself (no `RESOLVE_IN_ROOT`), within a second.
#[test]
fn layers_are_unpacked_or_refused_and_stay_where_they_belong() {
    finds_nothing("layer");
}

#[test]
fn requests_are_possible_values_or_errors() {
    finds_nothing("request");
}

#[test]
fn seccomp_profiles_are_filters_or_errors() {
    finds_nothing("seccomp");
}

#[test]
fn packets_are_messages_or_errors() {
    finds_nothing("protocol");
}

#[test]
fn sessions_of_spdy_end_with_their_client() {
    finds_nothing("spdy");
}
