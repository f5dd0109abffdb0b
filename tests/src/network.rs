//! Network namespaces: one for each daemon, so that the host's links and routes stay as they are.

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// A network namespace that lives as long as this value or a process in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
}

impl NetworkNamespace {
    /// A new one, with its loopback up.
    ///
    /// # Errors
    /// The kernel would not make it.
    pub fn new() -> Result<Self> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            let status = Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status().context("run busybox")?;
            ensure!(status.success(), "set loopback up");
            Self::of_thread()
        })
    }

    /// That of another machine, 192.0.2.2 and 2001:db8::2, on a link to a node, which ends with 1 there. It has no way to pods.
    ///
    /// # Errors
    /// The kernel would not make it.
    pub fn outside(node: &Self) -> Result<Self> {
        let outside = Self::new()?;
        let ip = |network: &Self, words: String| {
            let status = network.run(|| Command::new("ip").args(words.split(' ')).status().context("run ip"))?;
            ensure!(status.success(), "ip {words}");
            Ok(())
        };
        ip(node, format!("link add near type veth peer name far netns {}", outside.path().display()))?;
        for (network, link, host) in [(node, "near", 1), (&outside, "far", 2)] {
            ip(network, format!("addr add 192.0.2.{host}/24 dev {link}"))?;
            ip(network, format!("addr add 2001:db8::{host}/64 dev {link} nodad"))?;
            ip(network, format!("link set {link} up"))?;
        }
        Ok(outside)
    }

    /// The one this process is in.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn of_thread() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net").context("open the network namespace")?;
        Ok(Self { file })
    }

    /// The one that a process is in.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of_process(pid: i32) -> Result<Self> {
        let file = File::open(format!("/proc/{pid}/ns/net")).context("open the network namespace of a process")?;
        Ok(Self { file })
    }

    /// Its inode.
    #[must_use]
    pub fn inode(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or(0, |metadata| metadata.ino())
    }

    /// A path by which other processes of root's can open it, as long as this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Works within it, on a thread that is then thrown away. Processes started there are in it as well.
    ///
    /// # Errors
    /// It cannot be entered, or the work failed.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            work()
        })
    }

    /// Names of its links.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn links(&self) -> Result<Vec<String>> {
        self.run(|| links_of("/proc/thread-self/net/dev"))
    }
}

/// Names of the links that a `net/dev` file lists.
///
/// # Errors
/// It cannot be read.
pub fn links_of(path: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let mut names: Vec<String> = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
    names.sort();
    Ok(names)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("the thread panicked"))?
}
