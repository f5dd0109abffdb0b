//! Ways out of the box that other runtimes had: each was an advisory once. What is inside a container, or stands in its image or in
//! a volume that it shares, means ill; a canary on the host must not notice.
//!
//! Each says how it was seen to fail with its defence switched off, where it was.

use anyhow::{Context, Result, ensure};
use podbox_tests::host::{all_processes, status_field};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, Pod, PodSpec, TestImage, wait};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A folder of the host with one file in it, which nobody may change.
struct Canary(PathBuf);

impl Canary {
    const CONTENT: &str = "the host's";

    fn new(daemon: &Daemon) -> Result<Self> {
        let folder = daemon.directory().join("canary");
        std::fs::create_dir(&folder).context("make the canary")?;
        std::fs::write(folder.join("file"), Self::CONTENT)?;
        Ok(Self(folder))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a folder of ours")
    }

    /// As a container sees the way from the root of its own file system up and down to it.
    fn relative(&self) -> String {
        format!("../../../../../../../..{}", self.path())
    }

    fn is_untouched(&self, when: &str) -> Result<()> {
        let names: Vec<_> = std::fs::read_dir(&self.0)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
        ensure!(names == ["file"], "{when}: {names:?} stand in the host's folder");
        let content = std::fs::read_to_string(self.0.join("file"))?;
        ensure!(content == Self::CONTENT, "{when}: the host's file says {content:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(self.path()), "{when}: something is mounted on the host's folder");
        Ok(())
    }
}

fn hash_of(file: &Path) -> Result<Vec<u8>> {
    Ok(Sha256::digest(std::fs::read(file).with_context(|| file.display().to_string())?).to_vec())
}

/// A program that begins with `#!/proc/self/exe` has the runtime execute itself, within the container. What is executed cannot be written
/// to, so the attacker keeps the file open until nobody executes it any more; the monitor's program is in no hurry, for it waits
/// for a word from its terminal. It is one file in memory for all pods, and sealed.
///
/// Two things keep it out, and with either switched off the other still did: the seals, which
/// `pause_and_monitor_run_from_sealed_memory` looks at, and that the file is executed for as long as there is a pod to attack from.
#[tokio::test]
async fn the_runtimes_programs_cannot_be_overwritten_from_within() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let image = TestImage::named("shebang").file("evil/unborn", 0o755, b"#!/proc/self/exe x\n");
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("overwrite").pid(podbox_proto::v1::NamespaceMode::Pod)).await?;
    let shared = |spec: ContainerSpec| spec.pid(podbox_proto::v1::NamespaceMode::Pod);
    let attack = "while :; do for process in /proc/[0-9]*; do case $(readlink $process/exe) in *memfd*monitor*) \
         (exec 3<$process/exe; echo keeps it; while test -d $process; do :; done; echo x >>/proc/self/fd/3 && echo wrote to it; echo end);; \
         esac; done; done 2>/dev/null";
    let attacker = pod.run(&shared(ContainerSpec::shell("attacker", attack))).await?;

    let podbox = PathBuf::from(format!("/proc/{}/exe", daemon.pid()?));
    let monitor = PathBuf::from(format!("/proc/{}/exe", daemon.monitor_of(&pod.id).context("a monitor")?));
    let pause = PathBuf::from(format!("/proc/{}/exe", pod.pause_pid().await?));
    let before = [hash_of(&podbox)?, hash_of(&monitor)?, hash_of(&pause)?];
    // Its name is looked up where it is, so that it is one word.
    let evil = ContainerSpec::command("evil", &["unborn"]).image(&image.name).env("PATH", b":").with(|config| {
        "/evil".clone_into(&mut config.working_dir);
        config.tty = true;
    });
    let evil = pod.run(&shared(evil)).await?;
    wait::until_true("the attacker has it", || attacker.output().is_ok_and(|said| said.contains("keeps it"))).await?;
    evil.stop(0).await?;
    wait::until_true("the attacker has tried", || attacker.output().is_ok_and(|said| said.contains("end"))).await?;
    assert_eq!(attacker.output()?, "keeps it\nend");
    assert_eq!([hash_of(&podbox)?, hash_of(&monitor)?, hash_of(&pause)?], before);
    // Pause cannot even be looked at.
    assert_eq!(attacker.exec(&["/bin/head", "-c1", "/proc/1/exe"]).await?.code, 1);
    Ok(pod.end().await?)
}

/// Descriptors of the runtime as working directories: `/proc/self/fd/N`, as the request says it, as the image does, and by a link
/// that a container puts in place of the directory it has, for the next command.
///
/// Seen to fail: with links followed as the kernel does by itself (no `RESOLVE_IN_ROOT`), a container started in descriptor 21; and in
/// descriptor 20 with the look at where the kernel says that this is off as well.
#[tokio::test]
async fn a_working_directory_that_is_a_descriptor_of_the_runtimes_leads_nowhere() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let canary = Canary::new(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("descriptors")).await?;
    let ordinary = pod.run(&ContainerSpec::sleeper("ordinary").with(|config| config.working_dir = "/work".to_owned())).await?;
    for number in 0..64 {
        let descriptor = format!("/proc/self/fd/{number}");
        let spec = ContainerSpec::sleeper(&format!("c{number}")).with(|config| config.working_dir.clone_from(&descriptor));
        let container = pod.create(&spec).await?;
        let started = container.start().await;
        ensure!(started.is_err(), "{descriptor} is no working directory");

        ordinary.sh(&format!("cd /; rm -rf /work; ln -s {descriptor} /work")).await.or_else(|error| {
            // The shell itself is executed in /work, which is a link by now.
            if format!("{error:#}").contains("working directory") { Ok(String::new()) } else { Err(error) }
        })?;
        let within = ordinary.exec(&["/bin/cat", &canary.relative()]).await;
        ensure!(within.is_err() || within.is_ok_and(|output| !output.stdout.contains(Canary::CONTENT)), "{descriptor} led to the host");
    }
    canary.is_untouched("after all of them")
}

/// The image's own `/proc`, `/sys`, `/dev`, files that the runtime mounts over, and the working directory are links to the host: there,
/// or to what is not there yet and would be made.
///
/// Seen to fail: with links followed as the kernel does by itself (no `RESOLVE_IN_ROOT`), a mount target was made in the host's folder.
#[tokio::test]
async fn links_in_an_image_lead_to_nothing_of_the_hosts() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let canary = Canary::new(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("links")).await?;
    let volume = daemon.directory().join("volume");
    std::fs::create_dir(&volume)?;
    let targets = [canary.path().to_owned(), canary.relative(), format!("{}/new/one", canary.path()), format!("{}/file", canary.path())];
    // The base layer has an /etc of its own.
    const FOLDERS: usize = 4;
    for (number, at) in ["proc", "sys", "dev", "work", "etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/mtab"].into_iter().enumerate() {
        let of_folder = number < FOLDERS;
        for (variant, target) in targets.iter().enumerate().filter(|(variant, _)| of_folder || variant % 2 == 0) {
            let image = TestImage::named(&format!("link{number}-{variant}")).link(at, target);
            daemon.import(&image)?;
            let spec = ContainerSpec::shell(&format!("c{number}-{variant}"), "touch /work/made /dev/made /proc/made; sleep 1000000");
            let spec = spec.image(&image.name).mount(&volume, "/work/volume").with(|config| config.working_dir = "/work/here".to_owned());
            let container = pod.create(&spec).await?;
            let started = container.start().await;
            if matches!(at, "proc" | "sys" | "dev") {
                let error = started.err().with_context(|| format!("/{at} is a link to {target}, and the container runs"))?;
                ensure!(error.message().contains("symbolic link"), "/{at} -> {target}: {error}");
            } else if started.is_ok() {
                let _ = container.exec(&["/bin/touch", "/work/made", &format!("/{at}")]).await;
            }
            container.remove().await?;
            canary.is_untouched(&format!("/{at} -> {target}"))?;
        }
    }
    Ok(pod.end().await?)
}

/// Exchanges a folder of a volume and a link to the host, as fast as it can.
struct Racer {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Racer {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = over.clone();
            move || {
                let mut exchanged = 0;
                while !over.load(Ordering::Relaxed) {
                    exchanged += u64::from(renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok());
                }
                exchanged
            }
        });
        Self { over, thread: Some(thread) }
    }

    /// How many times it did.
    fn stop(&mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or_default())
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// As long as the race is run.
const RACE: Duration = Duration::from_secs(60);

/// Two containers share a volume, and one exchanges folders of it with links to the host while mounts of the other are attached below
/// them, masks and read-only paths among them. Every start ends with the mount within the container, or with an error.
///
/// Seen to fail: with links followed as the kernel does by itself (no `RESOLVE_IN_ROOT`), the first start that hit the link made the target
/// in the host's folder.
#[tokio::test]
async fn mount_targets_that_are_exchanged_all_the_time_lead_to_nothing_of_the_hosts() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let canary = Canary::new(&daemon)?;
    let (volume, other) = (daemon.directory().join("volume"), daemon.directory().join("other"));
    std::fs::create_dir_all(volume.join("folder/below"))?;
    std::fs::create_dir(&other)?;
    std::fs::write(other.join("mine"), "mine")?;
    std::os::unix::fs::symlink(canary.relative(), volume.join("link"))?;
    let pod = daemon.run_pod(&PodSpec::new("race")).await?;
    let before = Census::take(&daemon)?;
    let mut racer = Racer::start(volume.join("folder"), volume.join("link"));
    let began = Instant::now();
    let (mut started, mut refused) = (0, 0);
    while began.elapsed() < RACE {
        let script = "cat /volume/folder/below/mine; touch /volume/folder/new; exec sleep 1000000";
        let spec =
            ContainerSpec::shell("racer", script).mount(&volume, "/volume").mount(&other, "/volume/folder/below").security(|security| {
                security.masked_paths = vec!["/volume/folder/file".to_owned()];
                security.readonly_paths = vec!["/volume/folder/below".to_owned()];
            });
        let container = pod.create(&spec).await?;
        match container.start().await {
            Ok(()) => started += 1,
            Err(_) => refused += 1,
        }
        container.remove().await?;
        canary.is_untouched("in the race")?;
    }
    let exchanged = racer.stop();
    ensure!(started > 0 && exchanged > 1000, "no race: {started} started, {refused} refused, {exchanged} exchanges");
    println!("{started} starts and {refused} refusals in {exchanged} exchanges");
    wait::until_true("nothing is left of them", || Census::take(&daemon).is_ok_and(|now| now.count("mount") == before.count("mount"))).await
}

/// What hides files is the container's null device. A container that brings a `/dev` of its own may have put anything there: a link to
/// what it wants to be let at, or a file of its own.
///
/// Seen to fail: without the look at the device's numbers, the container started.
#[tokio::test]
async fn what_poses_as_the_null_device_hides_nothing_and_is_an_error() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let canary = Canary::new(&daemon)?;
    let pod = daemon.run_pod(&PodSpec::new("null")).await?;
    let dev = daemon.directory().join("dev");
    std::fs::create_dir(&dev)?;
    let null = dev.join("null");
    let spec = |name: &str| {
        let spec = ContainerSpec::sleeper(name).mount(&dev, "/dev");
        spec.security(|security| security.masked_paths = vec!["/etc/passwd".to_owned()])
    };
    std::fs::write(&null, "mine")?;
    refuses_to_start(&pod, &spec("file"), "mask /etc/passwd").await?;
    std::fs::remove_file(&null)?;
    for (name, target) in [("proc", "/proc/sys/kernel/core_pattern"), ("link", canary.path()), ("zero", "/dev/zero")] {
        std::os::unix::fs::symlink(target, &null)?;
        refuses_to_start(&pod, &spec(name), "mask /etc/passwd").await?;
        std::fs::remove_file(&null)?;
    }
    canary.is_untouched("whatever posed as the device")
}

/// A masked path that is a link hides what it leads to in the container, and never a file of the host's.
#[tokio::test]
async fn a_masked_path_that_is_a_link_hides_what_the_container_has_there() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let canary = Canary::new(&daemon)?;
    let at = format!("{}/file", canary.path());
    let image =
        TestImage::named("masked").file(at.trim_start_matches('/'), 0o644, b"the image's").link("secret", &at).link("loop", "/loop");
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("masked")).await?;
    let spec = |name: &str, path: &str| {
        let spec = ContainerSpec::sleeper(name).image(&image.name);
        spec.security(|security| security.masked_paths = vec![path.to_owned()])
    };
    let container = pod.run(&spec("link", "/secret")).await?;
    assert_eq!(container.sh(&format!("cat /secret {at}")).await?, "");
    refuses_to_start(&pod, &spec("loop", "/loop"), "mask /loop").await?;
    canary.is_untouched("behind the masked path")
}

async fn refuses_to_start(pod: &Pod, spec: &ContainerSpec, step: &str) -> Result<()> {
    let container = pod.create(spec).await?;
    let error = container.start().await.err().with_context(|| format!("{} runs", container.id))?;
    ensure!(error.message().contains(step), "{error}");
    Ok(container.remove().await?)
}

/// Sysctls are written to the host's `/proc/sys`, where most belong to the machine.
///
/// Seen to fail: with `kernel.core_pattern` on the list of what is a pod's, the machine's was set.
#[tokio::test]
async fn a_sysctl_reaches_nothing_but_the_pods_own_namespaces() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let all = ["kernel/core_pattern", "kernel/sysrq", "vm/swappiness", "fs/file-max"].map(|name| format!("/proc/sys/{name}"));
    // A kernel need not have every one of them.
    let values = || all.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect::<Vec<_>>();
    let before = values();
    for name in [
        "kernel.core_pattern",
        "kernel.sysrq",
        "vm.swappiness",
        "net.ipv4/../../vm/swappiness",
        "net/../vm/swappiness",
        "net...vm.swappiness",
        "kernel.shmmax/../sysrq",
        "kernel.msgmax\n1\nkernel.sysrq",
        "kernel.msgmax=1\0",
        "/proc/sys/kernel/sysrq",
        "fs.mqueue/../file-max",
        "fs.mqueue.../file-max",
    ] {
        ensure!(daemon.run_pod(&PodSpec::new("sysctl").sysctl(name, "1")).await.is_err(), "{name:?}");
    }
    assert_eq!(values(), before);
    // In the node's network there are none of the pod's.
    let in_nodes = PodSpec::new("node").network(podbox_proto::v1::NamespaceMode::Node).sysctl("net.ipv4.ip_forward", "1");
    ensure!(daemon.run_pod(&in_nodes).await.is_err(), "the node's own would have been set");
    Ok(())
}

/// A program that gets all capabilities in a container still finds no way to the machine's cgroups, on which a release agent is a program
/// that the host runs.
///
/// Seen to fail: with a container's cgroup mounts writable, all of its limits could be changed from within.
#[tokio::test]
async fn no_cgroup_can_be_changed_from_within() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("cgroup")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").memory_limit(64 << 20)).await?;
    let script = "for file in $(find /sys/fs/cgroup -type f 2>/dev/null); do (echo 1 >$file) 2>/dev/null && echo wrote $file; done; \
        (mkdir /sys/fs/cgroup/new || mkdir /sys/fs/cgroup/*/new) 2>/dev/null && echo made one; \
        mount -t cgroup -o memory none /tmp 2>/dev/null && echo mounted; mount -t cgroup2 none /tmp 2>/dev/null && echo mounted; true";
    assert_eq!(container.sh(script).await?, "");
    let shown = container.sh("cat /proc/self/mountinfo").await?;
    ensure!(shown.contains(" - cgroup"), "there are cgroups to write to: {shown}");
    let limit = container.sh("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true").await?;
    assert_eq!(limit, (64 << 20).to_string(), "they are its own");
    let pod_cgroup = pod.cgroup().await?;
    // Whatever is born in the pod is in a cgroup of the pod's.
    let namespace = std::fs::read_link(format!("/proc/{}/ns/net", pod.pause_pid().await?))?;
    for pid in all_processes() {
        let is_the_pods = std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other == namespace);
        if is_the_pods && let Ok(cgroups) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            ensure!(cgroups.contains(&pod_cgroup), "process {pid} is in {cgroups}");
        }
    }
    Ok(pod.end().await?)
}

/// The daemon's own session keyring, and that of whoever started it, stays outside; and each process that is started has one of its own.
///
/// Seen to fail: without a keyring of its own, a container had none, or the one of the session in which the daemon was started.
#[tokio::test]
async fn every_process_that_is_started_has_a_session_keyring_of_its_own() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("keys")).await?;
    // Whoever is not root sees none but what it possesses.
    let user = |spec: ContainerSpec| {
        spec.security(|security| {
            security.run_as_user = Some(podbox_proto::v1::Int64Value { value: 54_321 });
            security.masked_paths = vec!["/proc/kcore".to_owned()];
        })
    };
    let (one, other) = (pod.run(&user(ContainerSpec::sleeper("one"))).await?, pod.run(&user(ContainerSpec::sleeper("other"))).await?);
    let keyring = async |container: &Container| -> Result<String> {
        let keys = container.sh("cat /proc/keys").await?;
        ensure!(keys.lines().count() == 1 && keys.contains("keyring   _ses"), "one session keyring and no other key: {keys}");
        Ok(keys.split(' ').next().unwrap_or_default().to_owned())
    };
    let keyrings = [keyring(&one).await?, keyring(&one).await?, keyring(&other).await?];
    ensure!(keyrings[0] != keyrings[2] && keyrings[0] != keyrings[1], "{keyrings:?}");
    Ok(())
}

/// Limits are the container's own, whatever the daemon was started with.
///
/// Seen to fail: with limits inherited, that of open files was the test's own.
#[tokio::test]
async fn limits_of_processes_are_not_inherited() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("limits")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", container.pid().await?))?;
    let line = |name: &str| -> Result<Vec<String>> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in {limits}"))?;
        Ok(line.split_whitespace().take(2).map(str::to_owned).collect())
    };
    assert_eq!(line("Max open files")?[0], "1024");
    assert_eq!(line("Max core file size")?[0], "0");
    assert_eq!(line("Max stack size")?[0], "8388608");
    assert_eq!(line("Max nice priority")?, ["0", "0"]);
    assert_eq!(container.sh("ulimit -n; ulimit -c").await?, "1024\n0", "a command run in it has the same");
    assert_eq!(status_field(container.pid().await?, "Threads")?, "1");
    Ok(())
}
