//! The systemd cgroup driver. These tests need a machine whose first process is systemd, with cgroup v2 alone, and stop and start
//! units there: `cargo xtask vm --systemd` runs them in a guest. Anywhere else each says so and is skipped.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbox_proto::v1::{CgroupDriver, PodSandboxState, RuntimeConfigRequest};
use podbox_tests::host::{cgroup_file, cgroup_hierarchies, lacks, runs};
use podbox_tests::{ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, TestImage, assert_refused, wait};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tonic::Code;

/// Tests that ask systemd something themselves run beside each other, and not beside the one that makes it lose its answers.
static STEADY: RwLock<()> = RwLock::const_new(());

/// systemd, as it is; `None` where it is not the first process.
async fn steady() -> Option<RwLockReadGuard<'static, ()>> {
    if has_systemd() { Some(STEADY.read().await) } else { None }
}

/// systemd, for one test alone.
async fn alone() -> Option<RwLockWriteGuard<'static, ()>> {
    if has_systemd() { Some(STEADY.write().await) } else { None }
}

/// Whether systemd is here; says so where it is not.
fn has_systemd() -> bool {
    let v2_alone = cgroup_hierarchies().len() == 1 && Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let here = Path::new("/run/systemd/system").is_dir() && v2_alone;
    if !here {
        lacks("systemd as its first process, with cgroup v2 alone");
    }
    here
}

/// systemctl is asked again where its systemd executed itself anew meanwhile, as a test beside this one makes it do: nothing that is
/// asked for here does harm when it is done twice.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    const ATTEMPTS: u32 = 10;
    for attempt in 1.. {
        let output = Command::new(program).args(arguments).output().with_context(|| format!("execute {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let was_lost = ["connection terminated", "Connection reset", "disconnected", "NoReply"].iter().any(|word| said.contains(word));
        if !output.status.success() && was_lost && program == "systemctl" && attempt < ATTEMPTS {
            std::thread::sleep(wait::scaled(std::time::Duration::from_millis(100)));
            continue;
        }
        ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    unreachable!("the last attempt is an answer")
}

fn units(pattern: &str) -> Result<String> {
    run("systemctl", &["list-units", "--all", "--plain", "--no-legend", pattern])
}

async fn daemon() -> Result<Daemon> {
    Daemon::for_test_with(DaemonOptions { cgroup_driver: "systemd".to_owned(), ..DaemonOptions::default() }).await
}

fn cgroup_of(pid: i32) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(text.trim().strip_prefix("0::").context("v2 alone")?.to_owned())
}

fn scope_of(pod: &Pod) -> String {
    format!("podbox-{}.scope", pod.id)
}

async fn nothing_is_left(pod: &Pod, slice: &str) -> Result<()> {
    let scope = scope_of(pod);
    wait::until_true("the units are gone", || [scope.as_str(), slice].iter().all(|unit| units(unit).is_ok_and(|list| list.is_empty())))
        .await?;
    assert!(!Path::new("/run/systemd/transient").join(&scope).exists());
    Ok(())
}

/// A slice as the kubelet makes one for a pod, with the pod's limit on it.
struct PodSlice(String);

impl PodSlice {
    fn new(name: &str, memory_max: u64) -> Result<Self> {
        let name = format!("podboxtest{}-{name}.slice", std::process::id());
        let manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
        let limit = memory_max.to_string();
        let call = ["StartTransientUnit", "ssa(sv)a(sa(sv))", &name, "replace", "1", "MemoryMax", "t", &limit, "0"];
        run("busctl", &[["call"].as_slice(), &manager, &call].concat())?;
        Ok(Self(name))
    }

    /// `/a.slice/a-b.slice`
    fn path(&self) -> String {
        let (above, _) = self.0.split_once('-').expect("two parts");
        format!("/{above}.slice/{}", self.0)
    }
}

impl Drop for PodSlice {
    fn drop(&mut self) {
        let above = self.path().split('/').nth(1).unwrap_or_default().to_owned();
        let _ = run("systemctl", &["stop", &self.0, &above]);
    }
}

#[tokio::test]
async fn a_pod_is_a_delegated_scope_with_a_leaf_for_each_process_and_no_unit_is_left_of_it() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let daemon = daemon().await?;
    let config = daemon.runtime().runtime_config(RuntimeConfigRequest::default()).await?.into_inner();
    assert_eq!(config.linux.context("a driver")?.cgroup_driver(), CgroupDriver::Systemd);
    let pod = daemon.run_pod(&PodSpec::new("scope")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let scope = format!("{}/{}", daemon.cgroup_parent(), scope_of(&pod));
    assert_eq!(cgroup_of(pod.pause_pid().await?)?, format!("{scope}/{}", pod.id));
    assert_eq!(cgroup_of(container.pid().await?)?, format!("{scope}/{}", container.id));
    assert_eq!(cgroup_of(daemon.monitor_of(&pod.id).context("a monitor")?)?, format!("{scope}/monitor"));
    assert_eq!(cgroup_file(&scope, "cgroup.procs")?, "", "none is in the scope itself");
    let shown = run("systemctl", &["show", "-p", "Delegate", "-p", "ActiveState", "-p", "TasksMax", &scope_of(&pod)])?;
    for line in ["Delegate=yes", "ActiveState=active", "TasksMax=infinity"] {
        assert!(shown.lines().any(|shown| shown == line), "{shown}");
    }
    pod.end().await?;
    nothing_is_left(&pod, daemon.cgroup_parent().trim_start_matches('/')).await
}

#[tokio::test]
async fn a_pod_is_in_the_kubelets_slice_which_stays_when_the_pod_goes() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let daemon = daemon().await?;
    let slice = PodSlice::new("kubelet", 256 << 20)?;
    // As the kubelet sends it, and by its name alone.
    for (name, parent) in [("path", slice.path()), ("name", slice.0.clone())] {
        let pod = daemon.run_pod(&PodSpec::new(name).cgroup_parent(&parent)).await?;
        assert_eq!(cgroup_of(pod.pause_pid().await?)?, format!("{}/{}/{}", slice.path(), scope_of(&pod), pod.id));
        pod.end().await?;
        wait::until_true("the scope is gone", || units(&scope_of(&pod)).is_ok_and(|list| list.is_empty())).await?;
        assert!(units(&slice.0)?.contains("active"));
    }
    assert_eq!(cgroup_file(&slice.path(), "memory.max")?, (256_u64 << 20).to_string());
    Ok(())
}

#[tokio::test]
async fn a_reload_of_systemd_changes_no_limit_and_moves_nothing() -> Result<()> {
    let Some(_alone) = alone().await else { return Ok(()) };
    let daemon = daemon().await?;
    let slice = PodSlice::new("reload", 256 << 20)?;
    let pod = daemon.run_pod(&PodSpec::new("reload").cgroup_parent(&slice.path())).await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(64 << 20).resources(|resources| {
        resources.cpu_period = 50_000;
        resources.cpu_quota = 25_000;
        resources.cpu_shares = 512;
        "0".clone_into(&mut resources.cpuset_cpus);
        resources.unified.insert("pids.max".to_owned(), "17".to_owned());
    });
    let container = pod.run(&spec).await?;
    let cgroup = cgroup_of(container.pid().await?)?;
    let limits = || -> Result<Vec<String>> {
        ["memory.max", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max"].iter().map(|file| cgroup_file(&cgroup, file)).collect()
    };
    let before = limits()?;
    container.sh("mknod /dev/disk b 8 0").await?;
    assert_eq!((before[0].as_str(), before[1].as_str(), before[4].as_str()), ("67108864", "25000 50000", "17"));
    run("systemctl", &["daemon-reload"])?;
    // Another unit's coming is what makes systemd write its neighbours' attributes anew.
    let other = daemon.run_pod(&PodSpec::new("other").cgroup_parent(&slice.path())).await?;
    run("systemctl", &["daemon-reexec"])?;
    assert_eq!(limits()?, before);
    assert_eq!(cgroup_of(container.pid().await?)?, cgroup);
    assert_eq!(cgroup_file(&slice.path(), "memory.max")?, (256_u64 << 20).to_string());
    let denied = container.exec(&["/bin/sh", "-c", "exec 3</dev/disk"]).await?;
    assert!(denied.stderr.contains("Operation not permitted"), "{denied:?}");
    other.end().await?;
    assert_eq!(limits()?, before);
    pod.end().await?;
    Ok(())
}

#[tokio::test]
async fn pods_outlive_a_killed_daemon_and_the_next_one_removes_their_units() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let mut daemon = daemon().await?;
    let pod = daemon.run_pod(&PodSpec::new("kept")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let pid = container.pid().await?;
    daemon.restart().await?;
    assert_eq!((container.pid().await?, pod.state().await?), (pid, PodSandboxState::SandboxReady));
    pod.end().await?;
    nothing_is_left(&pod, daemon.cgroup_parent().trim_start_matches('/')).await
}

#[tokio::test]
async fn a_pod_whose_scope_was_stopped_by_hand_is_removed_without_error() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let daemon = daemon().await?;
    let pod = daemon.run_pod(&PodSpec::new("stopped")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let pid = container.pid().await?;
    run("systemctl", &["stop", &scope_of(&pod)])?;
    wait::until_true("its processes end", || !runs(pid)).await?;
    pod.end().await?;
    nothing_is_left(&pod, daemon.cgroup_parent().trim_start_matches('/')).await
}

#[tokio::test]
async fn a_parent_that_is_no_slice_is_refused_by_name() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let daemon = daemon().await?;
    for parent in ["/kubepods/pod1", "/elsewhere/a-b.slice", "a--b.slice", "-.slice", "/a b.slice"] {
        let refused = daemon.run_pod(&PodSpec::new("bad").cgroup_parent(parent)).await;
        assert_refused(refused, Code::InvalidArgument, &["cgroup_parent"]);
    }
    assert!(daemon.recorded_pods().is_empty());
    Ok(())
}

/// At moments spread over the making of a pod: before the scope, with the placeholder in it, with the monitor, with pause.
#[tokio::test]
async fn a_daemon_that_is_killed_while_it_makes_a_pod_leaves_no_unit() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    const MOMENTS: u32 = 12;
    let mut daemon = daemon().await?;
    let begun = Instant::now();
    daemon.run_pod(&PodSpec::new("undisturbed")).await?.end().await?;
    let undisturbed = begun.elapsed();
    for moment in 0..MOMENTS {
        let (client, logs) = (daemon.client(), daemon.logs());
        let call = tokio::spawn(async move { Pod::run_new(&client, &logs, &PodSpec::new("cut-off")).await });
        tokio::time::sleep(undisturbed * moment / MOMENTS).await;
        daemon.restart().await?;
        // What was made whole is the caller's to end, whether the caller heard of it or not.
        drop(call.await);
        for pod in daemon.client().pods().await? {
            Pod::adopt(&daemon.client(), &pod.id, podbox_proto::v1::PodSandboxConfig::default()).end().await?;
        }
        let slice = daemon.cgroup_parent().trim_start_matches('/').to_owned();
        wait::until_true("the slice is gone, and all scopes in it", || units(&slice).is_ok_and(|list| list.is_empty())).await?;
        assert!(!Path::new("/sys/fs/cgroup").join(&slice).exists(), "moment {moment}");
        assert!(daemon.recorded_pods().is_empty(), "moment {moment}");
    }
    Ok(())
}

/// Nobody can stop what nobody can name any more: with a monitor that can be asked, and without.
#[tokio::test]
async fn what_runs_by_a_damaged_record_is_ended_with_its_unit() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let mut daemon = daemon().await?;
    let slice = PodSlice::new("damaged", 256 << 20)?;
    let (mut pods, mut pids) = (Vec::new(), Vec::new());
    for name in ["watched", "unwatched"] {
        let pod = daemon.run_pod(&PodSpec::new(name).cgroup_parent(&slice.path())).await?;
        pids.extend([pod.run(&ContainerSpec::sleeper("a")).await?.pid().await?, pod.pause_pid().await?]);
        pods.push(pod);
    }
    daemon.kill_9()?;
    kill(Pid::from_raw(daemon.monitor_of(&pods[1].id).context("a monitor")?), Signal::SIGKILL)?;
    assert!(pids.iter().all(|pid| runs(*pid)), "they run on without it");
    for pod in &pods {
        std::fs::write(daemon.state_dir().join("pods").join(&pod.id).join("sandbox.json"), "{")?;
    }
    daemon.start_again().await?;
    wait::until_true("all of it is ended", || !pids.iter().any(|pid| runs(*pid))).await?;
    for pod in &pods {
        wait::until_true("the monitor is gone", || daemon.monitor_of(&pod.id).is_none()).await?;
        wait::until_true("the scope is gone", || units(&scope_of(pod)).is_ok_and(|list| list.is_empty())).await?;
    }
    assert!(units(&slice.0)?.contains("active"), "the slice is the kubelet's");
    Ok(())
}

/// An answer, or the end of a job, may get lost with the systemd that was to give it.
#[tokio::test]
async fn pods_come_and_go_while_systemd_executes_itself_anew() -> Result<()> {
    let Some(_alone) = alone().await else { return Ok(()) };
    let daemon = daemon().await?;
    let (over, times) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let again_and_again = std::thread::spawn({
        let (over, times) = (over.clone(), times.clone());
        move || {
            while !over.load(Ordering::Relaxed) {
                // Its own answer may get lost as well.
                let _ = run("systemctl", &["daemon-reexec"]);
                times.fetch_add(1, Ordering::Relaxed);
                // Less and less in step with the pods, and not so often that a slow systemd does nothing else.
                std::thread::sleep(wait::scaled(std::time::Duration::from_millis(700)));
            }
        }
    });
    let mut outcome = Ok(());
    let mut pods = 0;
    while outcome.is_ok() && (pods < 3 || times.load(Ordering::Relaxed) < 5) {
        outcome = comes_and_goes(&daemon, pods).await;
        pods += 1;
    }
    over.store(true, Ordering::Relaxed);
    again_and_again.join().expect("it ends");
    outcome
}

async fn comes_and_goes(daemon: &Daemon, number: u32) -> Result<()> {
    let pod = daemon.run_pod(&PodSpec::new(&format!("pod{number}"))).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    assert_eq!(container.sh("echo runs").await?, "runs");
    pod.end().await?;
    let scope = scope_of(&pod);
    wait::until_true("the unit is gone", || units(&scope).is_ok_and(|list| list.is_empty())).await
}

/// A daemon that has another driver than the one before still ends what nobody can name any more.
#[tokio::test]
async fn a_damaged_pod_of_the_other_driver_is_ended() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let mut daemon = daemon().await?;
    let pod = daemon.run_pod(&PodSpec::new("other")).await?;
    let pids = [pod.run(&ContainerSpec::sleeper("a")).await?.pid().await?, pod.pause_pid().await?];
    daemon.kill_9()?;
    kill(Pid::from_raw(daemon.monitor_of(&pod.id).context("a monitor")?), Signal::SIGKILL)?;
    std::fs::write(daemon.state_dir().join("pods").join(&pod.id).join("sandbox.json"), "{")?;
    let config = std::fs::read_to_string(daemon.config_file())?;
    ensure!(config.contains("driver = \"systemd\""), "{config}");
    std::fs::write(daemon.config_file(), config.replace("driver = \"systemd\"", "driver = \"cgroupfs\""))?;
    daemon.start_again().await?;
    wait::until_true("all of it is ended", || !pids.iter().any(|pid| runs(*pid))).await?;
    let scope = scope_of(&pod);
    wait::until_true("the scope is gone", || units(&scope).is_ok_and(|list| list.is_empty())).await
}

/// systemd stops a unit of which the kernel killed a process for memory (`OOMPolicy=`), but no delegated one.
#[tokio::test]
async fn a_container_that_is_killed_for_memory_takes_no_other_along() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let daemon = daemon().await?;
    let pod = daemon.run_pod(&PodSpec::new("memory")).await?;
    let other = pod.run(&ContainerSpec::sleeper("other")).await?;
    let pid = other.pid().await?;
    let hungry = pod.run(&ContainerSpec::shell("hungry", "exec tail /dev/zero").memory_limit(24 << 20)).await?;
    let status = hungry.exited().await?;
    assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    // It would come some time after the kill; another job is another reason for systemd to have looked at all that happened.
    run("systemctl", &["daemon-reload"])?;
    assert_eq!(run("systemctl", &["show", "--value", "-p", "ActiveState", &scope_of(&pod)])?, "active");
    assert_eq!((other.pid().await?, pod.state().await?), (pid, PodSandboxState::SandboxReady));
    Ok(pod.end().await?)
}

/// The daemon as a service, by the unit file that podbox comes with.
struct Service {
    unit: String,
    file: PathBuf,
}

impl Service {
    fn start(daemon: &Daemon) -> Result<Self> {
        let binary = daemon.command(&[]).get_program().to_string_lossy().into_owned();
        let command = format!("ExecStart={binary} serve --config {}", daemon.config_file().display());
        let text = include_str!("../../shim/daemon/podbox.service").replace("ExecStart=/usr/local/bin/podbox serve", &command);
        assert!(text.contains(&command));
        let unit = format!("podboxtest{}.service", std::process::id());
        let file = Path::new("/run/systemd/system").join(&unit);
        std::fs::write(&file, text)?;
        let service = Self { unit, file };
        run("systemctl", &["daemon-reload"])?;
        run("systemctl", &["start", &service.unit])?;
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = run("systemctl", &["stop", &self.unit]);
        let _ = std::fs::remove_file(&self.file);
        let _ = run("systemctl", &["daemon-reload"]);
    }
}

#[tokio::test]
async fn stopping_the_service_leaves_pods_running_and_nothing_in_its_cgroup() -> Result<()> {
    let Some(_steady) = steady().await else { return Ok(()) };
    let daemon = Daemon::prepare(&DaemonOptions { cgroup_driver: "systemd".to_owned(), ..DaemonOptions::default() })?;
    daemon.import(&TestImage::default())?;
    let service = Service::start(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("service")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let pid = container.pid().await?;
    assert_eq!(container.sh("ulimit -n").await?, "1024", "the unit's limit, not the daemon's own");
    run("systemctl", &["stop", &service.unit])?;
    assert!(runs(pid) && runs(pod_pause(&pod)?), "the pod lives on");
    let remains = Path::new("/sys/fs/cgroup/system.slice").join(&service.unit).join("cgroup.procs");
    assert_eq!(std::fs::read_to_string(remains).unwrap_or_default(), "", "no monitor is left where systemd would warn of it");
    run("systemctl", &["start", &service.unit])?;
    daemon.client().reconnect();
    assert_eq!(container.pid().await?, pid);
    pod.end().await?;
    nothing_is_left(&pod, daemon.cgroup_parent().trim_start_matches('/')).await
}

/// The pause process while there is no daemon to ask: the one in its leaf.
fn pod_pause(pod: &Pod) -> Result<i32> {
    let found = podbox_tests::host::all_processes().into_iter().find(|pid| cgroup_of(*pid).is_ok_and(|path| path.ends_with(&pod.id)));
    found.context("pause")
}
