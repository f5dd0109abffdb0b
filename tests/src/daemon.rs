//! A daemon of one's own.
//!
//! ```text
//! DIR/                       temporary
//!   podbox.toml daemon.log
//!   run/podbox.sock run/...  state_dir
//!   lib/...                  root_dir
//!   logs/                    the pods' log directories
//! ```
//!
//! It runs in a network namespace of its own and puts its pods below a cgroup of its own, by which everything that it started can be
//! found again. Dropping it ends and removes all of that, whatever state it is in.

use crate::binary::{Profile, podbox};
use crate::census::Census;
use crate::client::{Client, ImageClient, RuntimeClient};
use crate::footprint::{self, Footprint};
use crate::image::TestImage;
use crate::network::NetworkNamespace;
use crate::pod::{Pod, PodSpec};
use crate::wait;
use crate::{host, programs};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use tempfile::TempDir;

/// How a daemon is set up. The default fits most tests.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Subnets of the pod network.
    pub subnets: Vec<String>,
    /// The binary; `None`: the one of [`Profile::Dev`].
    pub binary: Option<PathBuf>,
    /// `cgroup.driver`; by default `PODBOX_TEST_CGROUP_DRIVER`. Without that it is cgroupfs, on a node with systemd too: tests of
    /// cgroups know where that driver has them.
    pub cgroup_driver: String,
    /// How much it logs.
    pub log_level: String,
    /// More lines of the configuration file, from a `[table]` on.
    pub more_config: String,
    /// Variables of its environment, beside those of the tests.
    pub environment: Vec<(String, String)>,
    /// How many files it may open before it asks for more; `None`: as many as the tests.
    pub open_files: Option<u32>,
    /// Its directory is on a disk, where the kernel can do more than with the memory that `/tmp` may be.
    pub on_disk: bool,
    /// The end of the log is printed when the daemon goes, for the test harness to show if the test failed.
    pub show_log: bool,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            subnets: vec!["10.200.0.0/16".to_owned(), "fd00:10:200::/64".to_owned()],
            binary: None,
            cgroup_driver: std::env::var("PODBOX_TEST_CGROUP_DRIVER").unwrap_or_else(|_| "cgroupfs".to_owned()),
            log_level: "debug".to_owned(),
            more_config: String::new(),
            environment: Vec::new(),
            open_files: None,
            on_disk: false,
            show_log: false,
        }
    }
}

impl DaemonOptions {
    /// With these subnets.
    #[must_use]
    pub fn subnets(mut self, subnets: &[&str]) -> Self {
        self.subnets = subnets.iter().map(|subnet| (*subnet).to_owned()).collect();
        self
    }

    /// With the cgroupfs driver, for what only that does; its parents are no slices.
    #[must_use]
    pub fn cgroupfs(self) -> Self {
        Self { cgroup_driver: "cgroupfs".to_owned(), ..self }
    }

    /// On a disk: see [`DaemonOptions::on_disk`].
    #[must_use]
    pub fn on_disk(self) -> Self {
        Self { on_disk: true, ..self }
    }

    /// With the binary that is measured.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn release(mut self) -> Result<Self> {
        self.binary = Some(podbox(Profile::Release)?);
        "info".clone_into(&mut self.log_level);
        Ok(self)
    }
}

/// A running daemon, or one that was killed and can be started again.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    directory: TempDir,
    network: Arc<NetworkNamespace>,
    bridge: String,
    cgroup_parent: String,
    client: Client,
    environment: Vec<(String, String)>,
    open_files: Option<u32>,
    child: Option<Child>,
    show_log: bool,
}

impl Daemon {
    /// A daemon for a test, with the default image.
    ///
    /// # Errors
    /// It does not start, or the image cannot be imported.
    pub async fn for_test() -> Result<Self> {
        Self::for_test_with(DaemonOptions::default()).await
    }

    /// As [`Daemon::for_test`], set up differently.
    ///
    /// # Errors
    /// It does not start, or the image cannot be imported.
    pub async fn for_test_with(options: DaemonOptions) -> Result<Self> {
        let daemon = Self::start(DaemonOptions { show_log: true, ..options }).await?;
        daemon.import(&TestImage::default())?;
        Ok(daemon)
    }

    /// Makes the directory and the configuration file, starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It cannot be built, does not start or does not answer; its log is in the error then.
    pub async fn start(options: DaemonOptions) -> Result<Self> {
        let mut daemon = Self::prepare(&options)?;
        daemon.start_again().await?;
        Ok(daemon)
    }

    /// As [`Daemon::start`], without starting it.
    ///
    /// # Errors
    /// The binary cannot be built, or the files cannot be made.
    pub fn prepare(options: &DaemonOptions) -> Result<Self> {
        let network = NetworkNamespace::new()?;
        Self::prepare_in(options, Arc::new(network))
    }

    /// As [`Daemon::prepare`], in a network namespace that it may share with others.
    ///
    /// # Errors
    /// The binary cannot be built, or the files cannot be made.
    pub fn prepare_in(options: &DaemonOptions, network: Arc<NetworkNamespace>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static ORPHANS: Once = Once::new();
        ORPHANS.call_once(footprint::erase_orphans);
        programs::install_packages()?;
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => podbox(Profile::Dev)?,
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = footprint::name(number);
        let above = if options.on_disk { PathBuf::from(footprint::ON_DISK) } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(above).context("make a directory")?;
        // What keeps strangers out must be the daemon's own directories.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).context("open the directory")?;
        std::fs::create_dir(directory.path().join("logs")).context("make the log directory")?;
        let daemon = Self {
            binary,
            network,
            bridge: format!("pbt{}n{number}", std::process::id() % 100_000),
            cgroup_parent: match options.cgroup_driver.as_str() {
                "systemd" => format!("/{}.slice", name.replace('-', "_")),
                _ => format!("/{name}"),
            },
            client: Client::new(&directory.path().join("run/podbox.sock")),
            environment: options.environment.clone(),
            open_files: options.open_files,
            child: None,
            show_log: options.show_log,
            directory,
        };
        std::fs::write(daemon.config_file(), daemon.config(options)).context("write the configuration file")?;
        Ok(daemon)
    }

    fn config(&self, options: &DaemonOptions) -> String {
        format!(
            "socket = {:?}\nstate_dir = {:?}\nroot_dir = {:?}\nlog_level = {:?}\n[cgroup]\nparent = {:?}\ndriver = {:?}\n[network]\nbridge = {:?}\nsubnets = {:?}\n{}",
            self.socket(),
            self.state_dir(),
            self.root_dir(),
            options.log_level,
            self.cgroup_parent,
            options.cgroup_driver,
            self.bridge,
            options.subnets,
            options.more_config
        )
    }

    /// Starts the daemon that was killed or ended, in the same namespace with the same files, and waits until it answers.
    ///
    /// # Errors
    /// It still runs, or does not come up.
    pub async fn start_again(&mut self) -> Result<()> {
        self.spawn()?;
        self.client.reconnect();
        self.answers().await
    }

    /// Starts the daemon and does not wait for it.
    ///
    /// # Errors
    /// It still runs, or cannot be executed.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).context("open the daemon's log")?;
        let mut command = self.serve_command();
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        self.child = Some(self.network.run(|| command.spawn().context("execute the daemon"))?);
        Ok(())
    }

    /// A shell that lowers its limit becomes the daemon.
    fn serve_command(&self) -> Command {
        let serve = self.command(&["serve"]);
        let Some(open_files) = self.open_files else { return serve };
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "ulimit -Sn \"$1\" && shift && exec \"$@\"", "sh"]).arg(open_files.to_string());
        shell.arg(serve.get_program()).args(serve.get_args());
        shell.env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG");
        shell
    }

    async fn answers(&mut self) -> Result<()> {
        let end = std::time::Instant::now() + wait::scaled(wait::DEADLINE);
        loop {
            if self.client.version().await.is_ok() {
                return Ok(());
            }
            let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = status {
                self.child = None;
                bail!("the daemon ended with {status}:\n{}", self.log_tail());
            }
            ensure!(std::time::Instant::now() < end, "the daemon does not answer:\n{}", self.log_tail());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Kills the daemon as `kill -9` does. Its pods live on.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill().context("kill the daemon")?;
        child.wait().context("wait for the daemon")?;
        Ok(())
    }

    /// Asks the daemon to end, with SIGTERM, and waits for it.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        let pid = self.pid()?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("signal the daemon")?;
        let child = self.child.as_mut().context("the daemon does not run")?;
        let status = wait::until("the daemon ends", || std::future::ready(child.try_wait().ok().flatten())).await?;
        self.child = None;
        Ok(status)
    }

    /// `kill -9`, and start again.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill_9()?;
        self.start_again().await
    }

    /// The daemon's process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<i32> {
        let child = self.child.as_ref().context("the daemon does not run")?;
        i32::try_from(child.id()).context("a process id")
    }

    /// A `podbox` command with this daemon's configuration file.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--config").arg(self.config_file());
        command.env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG");
        command
    }

    /// Imports an image under its name, with the command that users have.
    ///
    /// # Errors
    /// The command failed; what it said is in the error.
    pub fn import(&self, image: &TestImage) -> Result<()> {
        let archive = self.directory.path().join("image.tar");
        image.write_oci_archive(&archive)?;
        self.import_file(&archive, Some(&image.name))
    }

    /// `podbox image import FILE [--name NAME]`
    ///
    /// # Errors
    /// The command failed; what it said is in the error.
    pub fn import_file(&self, file: &Path, name: Option<&str>) -> Result<()> {
        let mut command = self.command(&["image", "import"]);
        command.arg(file);
        if let Some(name) = name {
            command.args(["--name", name]);
        }
        let output = command.stdin(Stdio::null()).output().context("execute podbox image import")?;
        ensure!(output.status.success(), "podbox image import {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Runs a pod and its container once, so that what a daemon makes at its first pod (the bridge, sockets, folders) is there;
    /// then takes a census, to which later ones can be compared.
    ///
    /// # Errors
    /// The pod cannot be run.
    pub async fn warm_up(&self) -> Result<Census> {
        self.import(&TestImage::default())?;
        let pod = self.run_pod(&PodSpec::new("warm-up")).await?;
        pod.run(&crate::ContainerSpec::shell("warm-up", "true")).await?.exit_code().await?;
        pod.end().await?;
        self.link_is_gone(&pod.id).await?;
        Census::at_rest(self).await
    }

    /// Waits until the kernel has removed a stopped pod's link, which takes it some time that nobody waits for.
    ///
    /// # Errors
    /// It stays.
    pub async fn link_is_gone(&self, id: &str) -> Result<()> {
        let is_its = |link: &String| link.strip_prefix("pb").is_some_and(|start| id.starts_with(start));
        wait::until_true("the pod's link is gone", || self.network().links().is_ok_and(|links| !links.iter().any(is_its))).await
    }

    /// Runs a pod.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn run_pod(&self, spec: &PodSpec) -> Result<Pod, tonic::Status> {
        Pod::run_new(&self.client, &self.logs(), spec).await
    }

    /// The way to the daemon.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The CRI's runtime service.
    #[must_use]
    pub fn runtime(&self) -> RuntimeClient {
        self.client.runtime()
    }

    /// The CRI's image service.
    #[must_use]
    pub fn images(&self) -> ImageClient {
        self.client.images()
    }

    /// The network namespace that the daemon is in.
    #[must_use]
    pub fn network(&self) -> &NetworkNamespace {
        &self.network
    }

    /// The same, to be kept.
    #[must_use]
    pub fn shared_network(&self) -> Arc<NetworkNamespace> {
        self.network.clone()
    }

    /// Name of the pod network's bridge.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The cgroup below which its pods are, from the hierarchies' roots. Pods with a `cgroup_parent` belong below it, too.
    #[must_use]
    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// The directory of everything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `socket`
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state_dir().join("podbox.sock")
    }

    /// `state_dir`
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// `root_dir`
    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        self.directory.path().join("lib")
    }

    /// Where the pods' logs go.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.directory.path().join("logs")
    }

    /// The configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("podbox.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }

    /// Everything that the daemon wrote, before its restarts too.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    pub(crate) fn footprint(&self) -> Footprint {
        let alone = Arc::strong_count(&self.network) == 1;
        Footprint {
            directory: self.directory.path().to_owned(),
            cgroup_parent: self.cgroup_parent.clone(),
            network: alone.then(|| self.network.inode()),
        }
    }

    /// Ids of the pods that stand in its state directory.
    #[must_use]
    pub fn recorded_pods(&self) -> Vec<String> {
        self.footprint().recorded_pods()
    }

    /// Process id of a pod's monitor; `None` if it is gone.
    #[must_use]
    pub fn monitor_of(&self, pod: &str) -> Option<i32> {
        let mut monitors = host::processes_named("podbox-monitor").into_iter();
        monitors.find(|(_, words)| words.get(1).is_some_and(|id| id == pod)).map(|(pid, _)| pid)
    }

    /// An open file of the daemon's directory, made anew.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.directory.path().join(name);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok((path, file))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.show_log || std::thread::panicking() {
            host::show(&format!("--- the end of the daemon's log ---\n{}\n---", self.log_tail()));
        }
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.footprint().erase();
        // The name is this daemon's alone, and stays otherwise: that is what keeps claims simple.
        let _ = std::fs::remove_file(Path::new("/run/podbox-bridges").join(&self.bridge));
    }
}
