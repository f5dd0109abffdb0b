//! Every target for as long as `PODBOX_FUZZ_SECONDS` says, all at once; a moment where it says nothing. What makes a target panic is shrunk
//! and printed.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::{Duration, Instant};

/// Of a target, where nothing else is said.
const SECONDS_DEFAULT: u64 = 2;
/// Between looks at the clock.
const CASES: u32 = 64;
const BYTES_MAX: usize = 1024;

#[allow(clippy::print_stdout)]
fn fuzz(name: &str, target: fn(&[u8])) {
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

#[test]
fn layers_are_unpacked_or_refused_and_stay_where_they_belong() {
    fuzz("layer", podbox_fuzz::layer);
}

#[test]
fn requests_are_possible_values_or_errors() {
    fuzz("request", podbox_fuzz::request);
}

#[test]
fn packets_are_messages_or_errors() {
    fuzz("protocol", podbox_fuzz::protocol);
}
