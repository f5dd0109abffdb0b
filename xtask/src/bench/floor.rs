//! The floor of the bench: what one pod's start and end cost in bare system calls, with no runtime around them.
//!
//! A round does what a pod needs and nothing more. *Sandbox*: the pod's cgroups, and `clone3` of pause with new network, IPC, UTS
//! and mount namespaces, until its `execve` is done. *Network*: a veth pair made in place, its host end in a bridge, with
//! address and route. *Container*: its cgroups, overlay directories, and `clone3` of a process that joins them and pause's
//! namespaces, mounts a root, pivots into it and executes. *Teardown*: kill, reap, remove the cgroups and the overlay
//! directories; the kernel lets go of the namespaces later, and with them of the link. *Link*: deleting the link at once
//! instead, which waits for RCU grace periods; not a part of the teardown.
//!
//! Runs in a process of its own, since `clone3` wants a single thread. Everything is private: a network namespace stands in for
//! the host's, cgroups are below one of its own, and all of it goes when the run ends, well or not, also by a signal and where nobody reads
//! any more what it prints; what one that was killed has left, the next takes away. Prints one JSON object a round, in microseconds
//! (`sandbox_us` …), and one with the medians: `{"rounds": N, "p50_ms": {"sandbox": …}}`. Asked to hold pods,
//! it starts so many more that only wait, and prints what the host had available on the way, in bytes: `{"available": [[PODS, BYTES], …]}`.
mod cgroups;
mod child;
mod container;
mod rtnl;
mod signals;

use super::machine::HostMemory;
use anyhow::{Context, Result, ensure};
use cgroups::{Directories, RoundCgroup};
use child::Child;
use nix::sched::{CloneFlags as Namespaces, setns, unshare};
use podbox_cgroup::{Cgroup, CgroupPath, Hierarchies};
use podbox_sys::CloneFlags;
use rtnl::Socket;
use serde_json::{Map, Value, json};
use signals::Signals;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const GONE_WITHIN: Duration = Duration::from_secs(5);
/// For what the kernel has yet to do, and how often memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);
const HOLD_STEPS: u32 = 5;
const POD_LINK: &str = "eth0";
const STAGES: usize = 6;
/// `start` is the sum of the three before it.
const NAMES: [&str; STAGES] = ["sandbox", "network", "container", "start", "teardown", "link"];

/// What to measure with.
#[derive(Debug, Clone, clap::Args)]
pub struct FloorArgs {
    /// Pods started and ended, one after the other.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Rounds before those, that are not counted.
    #[arg(long, default_value_t = 5)]
    warmup: u32,
    /// Pods to hold at the end, while memory is looked at.
    #[arg(long, default_value_t = 0)]
    hold: u32,
    /// Name of the bridge, which is made in a network namespace of the bench's own.
    #[arg(long, default_value = "podbox-floor")]
    bridge: String,
    /// IPv4 subnet: the bridge has its first address, the pod its second.
    #[arg(long, default_value = "10.99.0.0/24")]
    subnet: String,
    /// A static program that waits: pause. The container executes it too.
    #[arg(long)]
    pause: PathBuf,
    /// Lower layer of the container's root.
    #[arg(long)]
    lower: PathBuf,
    /// Where the overlay's upper directories are made; by default the folder for temporary files.
    #[arg(long)]
    scratch: Option<PathBuf>,
}

/// Runs the rounds; see the module's head for what is printed.
///
/// # Errors
/// In a process of several threads, without root, or when the kernel refuses a step, which is named.
pub fn run(args: FloorArgs) -> Result<()> {
    let signals = Signals::hold()?;
    let bench = Bench::set_up(&args)?;
    let mut stages: [Vec<u64>; STAGES] = Default::default();
    for round in 0..args.warmup + args.rounds {
        signals.check()?;
        let measured = bench.round(round).with_context(|| format!("round {round}"))?;
        if round < args.warmup {
            continue;
        }
        let numbers = NAMES.iter().zip(measured).map(|(name, us)| (format!("{name}_us"), json!(us)));
        let mut line: Map<String, Value> = numbers.collect();
        line.insert("round".to_owned(), json!(round - args.warmup));
        tell(&Value::from(line))?;
        stages.iter_mut().zip(measured).for_each(|(stage, us)| stage.push(us));
    }
    let medians: Map<String, Value> =
        NAMES.iter().zip(stages).map(|(name, samples)| ((*name).to_owned(), json!(median_ms(samples)))).collect();
    tell(&json!({ "rounds": args.rounds, "p50_ms": medians }))?;
    if args.hold > 0 {
        tell(&json!({ "available": bench.hold(args.hold, &signals)? }))?;
    }
    Ok(())
}

/// A line for whoever measures. If nobody does any more, that is an error and not the end of this process, which has to clean up.
fn tell(line: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("write the results")
}

fn median_ms(mut samples_us: Vec<u64>) -> Option<f64> {
    samples_us.sort_unstable();
    samples_us.get(samples_us.len() / 2).map(|us| *us as f64 / 1e3)
}

/// What all rounds share.
struct Bench {
    directories: Directories,
    /// The namespace that stands in for the host's.
    host_netns: File,
    socket: Socket,
    bridge_index: u32,
    gateway: Ipv4Addr,
    pod: Ipv4Addr,
    prefix: u8,
    pause: OwnedFd,
    lower: PathBuf,
    scratch: tempfile::TempDir,
    _cgroups: OwnCgroups,
}

/// The bench's cgroup; removed with all below it.
struct OwnCgroups(Cgroup);

impl Drop for OwnCgroups {
    fn drop(&mut self) {
        let _best_effort = (self.0.kill(), self.0.wait_empty(GONE_WITHIN), self.0.remove());
    }
}

impl Bench {
    fn set_up(args: &FloorArgs) -> Result<Self> {
        let (gateway, pod, prefix) = addresses(&args.subnet)?;
        let pause = File::open(&args.pause).with_context(|| format!("open {}", args.pause.display()))?;
        let lower = args.lower.canonicalize().with_context(|| format!("find {}", args.lower.display()))?;
        let prefixed = tempfile::Builder::new().prefix("podbox-floor-").to_owned();
        let scratch = match &args.scratch {
            Some(folder) => prefixed.tempdir_in(folder),
            None => prefixed.tempdir(),
        };
        let scratch = scratch.context("make a folder for the overlays")?;

        let host = Hierarchies::discover()?;
        let path = CgroupPath::new(format!("/{}{}", cgroups::PREFIX, std::process::id()))?;
        cgroups::remove_abandoned(&host, &path)?;
        let own = OwnCgroups(Cgroup::create(&host, &path)?.0);
        let directories = Directories::below(&host, &path)?;

        unshare(Namespaces::CLONE_NEWNET).context("leave the host's network namespace")?;
        let host_netns = File::open("/proc/self/ns/net").context("open the network namespace")?;
        let socket = Socket::open()?;
        let bridge_index = socket.make_bridge(&args.bridge, gateway, prefix)?;
        let pause = pause.into();
        Ok(Self { directories, host_netns, socket, bridge_index, gateway, pod, prefix, pause, lower, scratch, _cgroups: own })
    }

    /// Microseconds of each stage, as [`NAMES`] has them.
    fn round(&self, round: u32) -> Result<[u64; STAGES]> {
        let (pod, [sandbox_us, network_us, container_us]) = self.start(&round.to_string())?;
        let mut clock = Clock(Instant::now());
        let link = pod.end()?;
        let teardown_us = clock.lap_us();
        self.socket.delete_link(&link)?;
        let start_us = sandbox_us + network_us + container_us;
        Ok([sandbox_us, network_us, container_us, start_us, teardown_us, clock.lap_us()])
    }

    fn start(&self, name: &str) -> Result<(Pod<'_>, [u64; 3])> {
        let mut clock = Clock(Instant::now());
        let pod_cgroup = self.directories.pod(&format!("pod{name}"))?;
        let namespaces = CloneFlags::NEW_NET | CloneFlags::NEW_IPC | CloneFlags::NEW_UTS | CloneFlags::NEW_MOUNT;
        let pause = Child::spawn(namespaces, None, || Ok(()), &self.pause).context("start pause")?;
        let sandbox_us = clock.lap_us();

        let link = format!("pbf{name}");
        self.connect(&link, &pause)?;
        let network_us = clock.lap_us();

        let container_cgroup = pod_cgroup.container("container")?;
        let root = container::Root::make(self.scratch.path().join(name), &self.lower)?;
        let container = container::start(&container_cgroup, &root, &pause, &self.pause).context("start the container")?;
        let container_us = clock.lap_us();
        Ok((Pod { cgroup: pod_cgroup, pause, link, container_cgroup, root, container }, [sandbox_us, network_us, container_us]))
    }

    /// Pods, and how many bytes the host had available then.
    fn hold(&self, pods: u32, signals: &Signals) -> Result<Vec<(u32, u64)>> {
        let mut host = HostMemory::default();
        while !host.rests()? {
            signals.check_for(HostMemory::PAUSE)?;
        }
        let (mut held, mut looks) = (Vec::new(), vec![(0, HostMemory::available()?)]);
        for number in 1..=pods {
            signals.check()?;
            held.push(self.start(&format!("h{number}"))?.0);
            if number % pods.div_ceil(HOLD_STEPS) == 0 || number == pods {
                signals.check_for(SETTLE)?;
                looks.push((number, HostMemory::available()?));
            }
        }
        held.into_iter().try_for_each(|pod| self.socket.delete_link(&pod.end()?))?;
        Ok(looks)
    }

    fn connect(&self, link: &str, pause: &Child) -> Result<()> {
        self.socket.make_pair(link, POD_LINK, self.bridge_index, pause.pid())?;
        setns(pause.pidfd(), Namespaces::CLONE_NEWNET).context("enter the pod's network namespace")?;
        let inside = Socket::open().and_then(|socket| socket.configure_pod(POD_LINK, self.pod, self.prefix, self.gateway));
        setns(&self.host_netns, Namespaces::CLONE_NEWNET).context("return to the host's network namespace")?;
        inside
    }
}

/// One that was started.
struct Pod<'a> {
    cgroup: RoundCgroup<'a>,
    pause: Child,
    link: String,
    container_cgroup: RoundCgroup<'a>,
    root: container::Root,
    container: Child,
}

impl Pod<'_> {
    /// Ends it; the link, which is named, goes by itself later or is deleted.
    fn end(self) -> Result<String> {
        self.container.end()?;
        self.pause.end()?;
        self.container_cgroup.remove()?;
        self.cgroup.remove()?;
        self.root.remove()?;
        Ok(self.link)
    }
}

/// From lap to lap.
struct Clock(Instant);

impl Clock {
    fn lap_us(&mut self) -> u64 {
        let now = Instant::now();
        let lap = now - std::mem::replace(&mut self.0, now);
        u64::try_from(lap.as_micros()).expect("a lap is shorter than half a million years")
    }
}

/// Gateway, pod and prefix length.
fn addresses(subnet: &str) -> Result<(Ipv4Addr, Ipv4Addr, u8)> {
    let (network, prefix) = subnet.split_once('/').context("a subnet is ADDRESS/PREFIX")?;
    let network: Ipv4Addr = network.parse().with_context(|| format!("parse {network}"))?;
    let prefix: u8 = prefix.parse().with_context(|| format!("parse {prefix}"))?;
    ensure!((8..=30).contains(&prefix), "the prefix length {prefix} leaves no room or too much");
    let network = u32::from(network) & (u32::MAX << (32 - prefix));
    Ok((Ipv4Addr::from(network + 1), Ipv4Addr::from(network + 2), prefix))
}

/// Nothing may be left in the buffer when a child is cloned: it would be written twice.
fn flush_output() -> Result<()> {
    std::io::stdout().flush().context("write the results")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_has_the_first_address_and_the_pod_the_second() {
        let parsed = addresses("10.99.7.9/24").expect("plain");
        assert_eq!(parsed, (Ipv4Addr::new(10, 99, 7, 1), Ipv4Addr::new(10, 99, 7, 2), 24));
        for refused in ["10.0.0.0", "10.0.0.0/31", "10.0.0.0/0", "ten/8", "fd00::/64"] {
            assert!(addresses(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median_ms(vec![3000, 1000, 2000]), Some(2.0));
        assert_eq!(median_ms(Vec::new()), None);
    }
}
