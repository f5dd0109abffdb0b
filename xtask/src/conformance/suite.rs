//! critest and what it needs: podbox, and a registry with the specs' images.
//!
//! ```text
//! a network namespace:  docker-registry with the specs' images ◄── podbox ◄── critest
//! ```

use super::images;
use crate::build::{self, Profile};
use crate::{interrupt, terminal};
use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use podbox_tests::{Daemon, DaemonOptions, Registry, programs};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PORT: u16 = 5000;
/// Where the specs' images would come from.
const REGISTRIES: [&str; 3] = ["registry.k8s.io", "gcr.io", "k8s.gcr.io"];
const PAUSE: Duration = Duration::from_millis(200);

/// The programs, and the folder of the registry's.
#[derive(Debug)]
pub(crate) struct Parts {
    critest: PathBuf,
    podbox: PathBuf,
    registry: PathBuf,
    store: PathBuf,
    /// Where the store was made; it goes with this.
    _made: Option<TempDir>,
}

/// Where parts are made and logs are kept.
pub(crate) fn folder() -> PathBuf {
    build::workspace().join("target/conformance")
}

impl Parts {
    /// Makes all of them; `None` where there is no Go to build critest with.
    ///
    /// # Errors
    /// One cannot be made.
    pub(crate) fn make(profile: Profile) -> Result<Option<Self>> {
        let Some(critest) = programs::critest()? else { return Ok(None) };
        let (podbox, registry) = (build::program("podbox", "podbox", profile)?, programs::docker_registry()?);
        let made = tempfile::tempdir_in(folder()).context("make a folder for the images")?;
        let store = made.path().join("store");
        images::all(&folder())?.store(&store)?;
        Ok(Some(Self { critest, podbox, registry, store, _made: Some(made) }))
    }

    /// Those that were made elsewhere and brought to a folder by their names.
    pub(super) fn below(folder: &Path) -> Self {
        let [critest, podbox, registry, store] = Self::NAMES.map(|name| folder.join(name));
        Self { critest, podbox, registry, store, _made: None }
    }

    const NAMES: [&str; 4] = ["critest", "podbox", "docker-registry", "store"];

    /// All of them, by their names.
    pub(super) fn files(&self) -> [(&'static str, &Path); 4] {
        let [critest, podbox, registry, store] = Self::NAMES;
        [(critest, &self.critest), (podbox, &self.podbox), (registry, &self.registry), (store, &self.store)]
    }
}

/// podbox and the registry, running. They end with it, and what they said stays in a folder.
pub(crate) struct Suite<'a> {
    critest: &'a Path,
    folder: &'a Path,
    name: &'a str,
    daemon: Daemon,
    registry: Registry,
    /// Has `hosts.toml` for the registries, and what stands for sudo.
    directory: TempDir,
    runtime: Runtime,
}

impl<'a> Suite<'a> {
    /// Starts both; `name` is that of the logs. The calling thread leaves its IPC namespace, and with it all that is started: specs make
    /// segments in the node's, and leave them there.
    ///
    /// # Errors
    /// One does not start.
    pub(crate) fn start(parts: &'a Parts, folder: &'a Path, name: &'a str) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWIPC).context("leave the IPC namespace")?;
        let directory = tempfile::tempdir().context("make a directory")?;
        let hosts = directory.path().join("hosts");
        let mirror = format!("server = \"http://127.0.0.1:{PORT}\"\n[host.\"http://127.0.0.1:{PORT}\"]\n");
        for registry in REGISTRIES {
            let folder = hosts.join(registry);
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(folder.join("hosts.toml"), &mirror))
                .context("write hosts.toml")?;
        }
        let options = DaemonOptions {
            binary: Some(parts.podbox.clone()),
            more_config: format!("[image]\nhosts_dir = {hosts:?}\n"),
            on_disk: true,
            ..DaemonOptions::default()
        };
        let runtime = Runtime::new().context("start the asynchronous runtime")?;
        let daemon = runtime.block_on(interrupt::or_else(Daemon::start(options)))?;
        let registry = Registry::serve(&parts.registry, daemon.network(), PORT, &parts.store);
        let registry = runtime.block_on(interrupt::or_else(registry))?.quiet();
        Ok(Self { critest: &parts.critest, folder, name, daemon, registry, directory, runtime })
    }

    /// Where what critest prints is kept.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// Runs critest to its end, and keeps all logs.
    ///
    /// # Errors
    /// It cannot be started, takes longer than `time_max`, or a signal comes; it has ended then, too.
    pub(crate) fn critest(&self, flags: &[String], time_max: Duration) -> Result<ExitStatus> {
        let status = self.run_critest(flags, time_max);
        let keep = |kind: &str, text: String| std::fs::write(self.folder.join(format!("{}.{kind}.log", self.name)), text);
        keep("podbox", self.daemon.log()).and_then(|()| keep("registry", self.registry.log())).context("keep the logs")?;
        status
    }

    fn run_critest(&self, flags: &[String], time_max: Duration) -> Result<ExitStatus> {
        let log = self.log();
        let output = File::create(&log).context("make critest's log")?;
        let endpoint = format!("unix://{}", self.daemon.socket().display());
        let sudo = Sudo::new(self.directory.path())?;
        let mut command = Command::new(self.critest);
        command.args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint, "-ginkgo.no-color"]).args(flags);
        command.env("PATH", sudo.path()?).current_dir(self.folder);
        command.stdin(Stdio::null()).stdout(output.try_clone().context("share critest's log")?).stderr(output);
        let mut child = self.daemon.network().run(|| command.spawn().context("start critest"))?;
        let end = Instant::now() + time_max;
        let mut progress = Progress::new(&log);
        let ended = self.runtime.block_on(interrupt::or_else(async {
            loop {
                if let Some(status) = child.try_wait().context("look after critest")? {
                    return Ok(status);
                }
                ensure!(Instant::now() < end, "critest takes more than {} s; its log is {}", time_max.as_secs(), log.display());
                progress.show();
                tokio::time::sleep(PAUSE).await;
            }
        }));
        progress.end();
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended
    }
}

/// What stands for sudo, which critest calls to load AppArmor's profiles: it is root already. It keeps them, so that they can be unloaded.
struct Sudo<'a> {
    folder: &'a Path,
}

impl<'a> Sudo<'a> {
    fn new(folder: &'a Path) -> Result<Self> {
        let program = folder.join("sudo");
        // The last argument is the file with the profiles.
        let script = "#!/bin/sh\nfor last; do :; done\ncat \"$last\" >>\"${0%/*}/profiles\"\nexec \"$@\"\n";
        std::fs::write(&program, script).context("write what stands for sudo")?;
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).context("make it executable")?;
        Ok(Self { folder })
    }

    /// `PATH`, where it is found first.
    fn path(&self) -> Result<std::ffi::OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.to_owned()).chain(std::env::split_paths(&path));
        std::env::join_paths(folders).context("extend PATH")
    }
}

impl Drop for Sudo<'_> {
    fn drop(&mut self) {
        let profiles = self.folder.join("profiles");
        if profiles.exists() {
            // They may never have been loaded.
            let _ = Command::new("apparmor_parser").arg("--remove").arg(&profiles).stderr(Stdio::null()).status();
        }
    }
}

/// How many specs have run: on a terminal always, elsewhere now and then.
struct Progress {
    log: PathBuf,
    on_terminal: bool,
    last: usize,
}

impl Progress {
    const STEP: usize = 20;

    fn new(log: &Path) -> Self {
        Self { log: log.to_owned(), on_terminal: terminal::overwrites_lines(), last: 0 }
    }

    fn show(&mut self) {
        // critest writes such a line after each spec.
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let count = text.lines().filter(|line| line.starts_with("------------------------------")).count();
        if self.on_terminal && count != self.last {
            self.last = count;
            eprint!("\r{count} specs");
        } else if count >= self.last + Self::STEP {
            self.last = count;
            eprintln!("{count} specs");
        }
    }

    fn end(&self) {
        if self.on_terminal {
            eprint!("\r{:20}\r", "");
        }
    }
}
