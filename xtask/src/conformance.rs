//! `cargo xtask conformance`: the CRI's own validation suite, critest, against podbox, on this machine and on Debian's kernel with cgroup v2
//! and AppArmor, in a guest ([`guest`]).
//!
//! What each spec comes to is held against `tests/conformance/expected.toml`: what is not named there must pass, and what is named there must
//! do as it says ([`specs`]). What critest and podbox print here is kept below `target/conformance`.

mod guest;
mod images;
mod specs;
pub(crate) mod suite;

use crate::build::{self, Profile};
use crate::interrupt::Interrupted;
use crate::{setup, vm};
use anyhow::{Context, Result, ensure};
pub(crate) use guest::InGuestArgs;
use specs::{Expected, Report};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};
use suite::{Parts, Suite};

/// Several times what a run takes, in a guest too. A guest that is silent for longer is ended.
const RUN_MAX: Duration = Duration::from_secs(20 * 60);
const _: () = assert!(RUN_MAX.as_secs() < vm::SILENCE_MAX.as_secs());

/// What is expected of the specs, below the workspace's root.
const EXPECTED: &str = "tests/conformance/expected.toml";

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct ConformanceArgs {
    #[command(flatten)]
    specs: SpecArgs,
    /// Only here or only there.
    #[arg(long)]
    on: Option<Place>,
    /// How often on this machine.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Of the binary without optimisations, which is built faster.
    #[arg(long)]
    debug: bool,
}

/// Which specs, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SpecArgs {
    /// Only specs whose names match this regular expression; what is expected of others is not looked at.
    #[arg(long)]
    focus: Option<String>,
    /// Only over this kind of streams; by default all specs over each.
    #[arg(long)]
    streams: Option<Streams>,
}

/// Where podbox runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    /// On this machine.
    Machine,
    /// In a guest with cgroup v2 and AppArmor.
    Guest,
}

/// How critest executes, attaches and forwards ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Streams {
    /// SPDY/3.1.
    Spdy,
    /// WebSockets.
    Websocket,
}

impl Streams {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Spdy => &[],
            Self::Websocket => &["-websocket-exec", "-websocket-attach", "-websocket-portforward"],
        }
    }
}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spdy => "spdy",
            Self::Websocket => "websocket",
        })
    }
}

impl SpecArgs {
    fn streams(&self) -> impl Iterator<Item = Streams> {
        let only = self.streams;
        [Streams::Spdy, Streams::Websocket].into_iter().filter(move |streams| only.is_none_or(|only| only == *streams))
    }

    fn flags(&self, streams: Streams) -> Vec<String> {
        let focus = self.focus.iter().map(|focus| format!("-ginkgo.focus={focus}"));
        streams.flags().iter().map(|flag| (*flag).to_owned()).chain(focus).collect()
    }
}

/// Runs them.
///
/// # Errors
/// There is no Go to build critest with; a part cannot be made; a spec does not come to what is expected.
pub(crate) fn run(args: &ConformanceArgs) -> Result<()> {
    setup::ensure_ready()?;
    let profile = if args.debug { Profile::Dev } else { Profile::Release };
    let parts = Parts::make(profile)?
        .context("critest is a Go program, and this machine has no `go` (1.26 or newer) in its PATH to build it with")?;
    let in_guest = match args.on {
        Some(Place::Machine) => false,
        None if !vm::CAN_BOOT => {
            eprintln!("not run: the specs in a guest, which is made on x86_64 only");
            false
        }
        None | Some(Place::Guest) => true,
    };
    // Both wait more than they work.
    let there = in_guest.then(|| guest::begin(&parts, &args.specs)).transpose()?;
    let here = if args.on == Some(Place::Guest) { Ok(()) } else { on_this_machine(&parts, args) };
    // Who does not wait for a guest ends, and it with them.
    let here = match here {
        Err(error) if error.is::<Interrupted>() => return Err(error),
        here => here,
    };
    match (here, there.map_or(Ok(()), guest::Begun::end)) {
        (Err(here), Err(there)) => Err(there.context(format!("{here:#}; and in a guest"))),
        (here, there) => here.and(there),
    }
}

fn on_this_machine(parts: &Parts, args: &ConformanceArgs) -> Result<()> {
    let expected = Expected::read(&build::workspace().join(EXPECTED))?;
    let folder = suite::folder();
    let mut faults = Vec::new();
    for round in 1..=args.repeat {
        for streams in args.specs.streams() {
            eprintln!("run {round} of {}, over {streams}", args.repeat);
            let (said, found) = run_once(parts, &folder, &format!("{streams}-{round}"), &args.specs, streams, &expected)?;
            println!("{said}");
            faults.extend(found);
        }
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    ensure!(faults.is_empty(), "{} specs did not come to what {EXPECTED} says; logs are in {}", faults.len(), folder.display());
    Ok(())
}

/// One run of all specs that are asked for: what to say of it, and what is not as it is expected.
fn run_once(
    parts: &Parts,
    folder: &Path,
    name: &str,
    args: &SpecArgs,
    streams: Streams,
    expected: &Expected,
) -> Result<(String, Vec<String>)> {
    let started = Instant::now();
    let report = folder.join(format!("{name}.json"));
    let _ = std::fs::remove_file(&report);
    let mut flags = args.flags(streams);
    flags.extend(["-ginkgo.v".to_owned(), format!("-ginkgo.json-report={}", report.display())]);
    let suite = Suite::start(parts, folder, name)?;
    let status = suite.critest(&flags, RUN_MAX)?;
    // Whether all passed is for the report to tell.
    let report = Report::read(&report, args.focus.is_some())
        .with_context(|| format!("critest ended with {status}; its log is {}", suite.log().display()))?;
    let faults = expected.faults(&report).into_iter().map(|fault| format!("{name}: {fault}")).collect();
    Ok((format!("{name}: {report}; {} s", started.elapsed().as_secs()), faults))
}

/// The command that runs in the guest.
///
/// # Errors
/// A part is missing, or a spec does not come to what is expected.
pub(crate) fn run_in_guest(args: &InGuestArgs) -> Result<()> {
    guest::run_inside(args)
}
