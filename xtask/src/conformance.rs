//! `cargo xtask conformance`: the CRI's own validation suite, critest, against podbox.
//!
//! ```text
//! a network namespace:  docker-registry with the specs' images ◄── podbox ◄── critest
//! ```
//!
//! What each spec comes to is held against `tests/conformance/expected.toml`: what is not named there must pass, and what is named there must
//! do as it says ([`specs`]). What critest and podbox print is kept below `target/conformance`.

mod images;
mod specs;

use crate::build::{self, Profile};
use crate::setup;
use anyhow::{Context, Result, bail, ensure};
use podbox_tests::{Daemon, DaemonOptions, Registry, RegistryOptions, host};
use specs::{Expected, Report};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PORT: u16 = 5000;
/// Where the specs' images would come from.
const REGISTRIES: [&str; 3] = ["registry.k8s.io", "gcr.io", "k8s.gcr.io"];
/// More than a run takes on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(30 * 60);
const PAUSE: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct ConformanceArgs {
    /// Only specs whose names match this regular expression; what is expected of others is not looked at.
    #[arg(long)]
    focus: Option<String>,
    /// Only over this kind of streams; by default all specs over SPDY, and those that stream over WebSockets as well.
    #[arg(long)]
    streams: Option<Streams>,
    /// How often.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Of the binary without optimisations, which is built faster.
    #[arg(long)]
    debug: bool,
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
    fn name(self) -> &'static str {
        match self {
            Self::Spdy => "spdy",
            Self::Websocket => "websocket",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Spdy => &[],
            Self::Websocket => &["-websocket-exec", "-websocket-attach", "-websocket-portforward"],
        }
    }
}

/// Runs them.
///
/// # Errors
/// There is no Go to build critest with; a part cannot be made; a spec does not come to what is expected.
pub(crate) fn run(args: &ConformanceArgs) -> Result<()> {
    setup::ensure_ready()?;
    let critest =
        host::critest()?.context("critest is a Go program, and this machine has no `go` (1.26 or newer) in its PATH to build it with")?;
    let profile = if args.debug { Profile::Dev } else { Profile::Release };
    let binary = build::program("podbox", "podbox", profile)?;
    let folder = build::workspace().join("target/conformance");
    let expected = Expected::read(&build::workspace().join("tests/conformance/expected.toml"))?;
    let runtime = tokio::runtime::Runtime::new().context("start the asynchronous runtime")?;
    let mut faults = Vec::new();
    for round in 1..=args.repeat {
        for streams in [Streams::Spdy, Streams::Websocket] {
            if args.streams.is_some_and(|only| only != streams) {
                continue;
            }
            let name = format!("{}-{round}", streams.name());
            eprintln!("run {round} of {}, over {}", args.repeat, streams.name());
            let started = Instant::now();
            let report = runtime.block_on(run_once(&critest, &binary, &folder, &name, args, streams))?;
            println!("{name}: {report}; {} s", started.elapsed().as_secs());
            faults.extend(expected.faults(&report, args.focus.is_some()).into_iter().map(|fault| format!("{name}: {fault}")));
        }
    }
    for fault in &faults {
        println!("{fault}");
    }
    ensure!(
        faults.is_empty(),
        "{} specs did not come to what tests/conformance/expected.toml says; logs are in {}",
        faults.len(),
        folder.display()
    );
    Ok(())
}

async fn run_once(critest: &Path, binary: &Path, folder: &Path, name: &str, args: &ConformanceArgs, streams: Streams) -> Result<Report> {
    let hosts = tempfile::tempdir().context("make a directory for hosts.toml")?;
    let mirror = format!("server = \"http://127.0.0.1:{PORT}\"\n[host.\"http://127.0.0.1:{PORT}\"]\n");
    for registry in REGISTRIES {
        let folder = hosts.path().join(registry);
        std::fs::create_dir(&folder).and_then(|()| std::fs::write(folder.join("hosts.toml"), &mirror)).context("write hosts.toml")?;
    }
    let options = DaemonOptions {
        binary: Some(binary.to_owned()),
        more_config: format!("[image]\nhosts_dir = {:?}\n", hosts.path()),
        ..DaemonOptions::default()
    };
    let content = images::all(folder)?;
    let daemon = Daemon::start(options).await?;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?.quiet();
    let outcome = critest_run(critest, folder, name, args, streams, &daemon);
    std::fs::write(folder.join(format!("{name}.podbox.log")), daemon.log()).context("keep podbox's log")?;
    std::fs::write(folder.join(format!("{name}.registry.log")), registry.log()).context("keep the registry's log")?;
    outcome
}

fn critest_run(critest: &Path, folder: &Path, name: &str, args: &ConformanceArgs, streams: Streams, daemon: &Daemon) -> Result<Report> {
    let report = folder.join(format!("{name}.json"));
    let log = folder.join(format!("{name}.log"));
    let _ = std::fs::remove_file(&report);
    let endpoint = format!("unix://{}", daemon.socket().display());
    let output = File::create(&log).context("make critest's log")?;
    let mut command = Command::new(critest);
    command.args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint, "-ginkgo.no-color", "-ginkgo.v"]);
    command.arg(format!("-ginkgo.json-report={}", report.display())).args(streams.flags());
    if let Some(focus) = &args.focus {
        command.arg(format!("-ginkgo.focus={focus}"));
    }
    command.stdin(Stdio::null()).stdout(output.try_clone().context("share critest's log")?).stderr(output);
    command.current_dir(folder);
    let mut child = daemon.network().run(|| command.spawn().context("start critest"))?;
    let end = Instant::now() + TIME_MAX;
    let mut progress = Progress::new(&log);
    let status = loop {
        if let Some(status) = child.try_wait().context("look after critest")? {
            break status;
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            bail!("critest takes more than {} s; its log is {}", TIME_MAX.as_secs(), log.display());
        }
        progress.show();
        std::thread::sleep(PAUSE);
    };
    progress.end();
    // Whether all passed is for the report to tell.
    Report::read(&report).with_context(|| format!("critest ended with {status}; its log is {}", log.display()))
}

/// How many specs have run, on a terminal.
struct Progress {
    log: PathBuf,
    is_shown: bool,
    last: usize,
}

impl Progress {
    fn new(log: &Path) -> Self {
        use std::io::IsTerminal;
        Self { log: log.to_owned(), is_shown: std::io::stderr().is_terminal(), last: 0 }
    }

    fn show(&mut self) {
        if !self.is_shown {
            return;
        }
        // critest writes such a line after each spec.
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let count = text.lines().filter(|line| line.starts_with("------------------------------")).count();
        if count != self.last {
            self.last = count;
            eprint!("\r{count} specs");
        }
    }

    fn end(&self) {
        if self.is_shown {
            eprint!("\r{:20}\r", "");
        }
    }
}
