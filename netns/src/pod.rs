//! The inside of a pod's network namespace.
//!
//! A namespace is entered by a thread made for it, which ends with its work: sysctls go by the thread's namespace, a
//! netlink socket keeps the one it was opened in. No thread that runs anything else ever changes its namespace.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::address::{self, PodAddresses};
use crate::error::{PodNetnsError, SysctlError};
use crate::rtnl::{DirectRtnl, Order};
use crate::sysctl;

/// Name of the pod's end of the veth pair.
pub(crate) const POD_LINK: &str = "eth0";
/// The loopback link: always there, always first.
pub(crate) const LOOPBACK: &str = "lo";
const LOOPBACK_INDEX: u32 = 1;

/// Brings up `lo` in the namespace, with 127.0.0.1/8 and, where the kernel has IPv6, ::1/128.
///
/// `lo` being up already is fine.
///
/// # Errors
/// Names the step that failed; nothing needs to be undone.
pub async fn loopback_up(netns: OwnedFd) -> Result<(), PodNetnsError> {
    let up = move || {
        let rtnl = enter(netns)?;
        set_loopback_sysctls()?;
        rtnl.order(Order::up(LOOPBACK_INDEX)).map_err(|source| PodNetnsError::Up { link: LOOPBACK, source })
    };
    on_own_thread(up).await?
}

/// Runs `work` on a thread that ends with it, and may therefore leave it in another namespace.
///
/// It runs to its end even if nobody waits for it any more.
pub(crate) async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PodNetnsError> {
    let (answer, answered) = oneshot::channel();
    let thread = thread::Builder::new().name("pod-netns".to_owned()).spawn(move || drop(answer.send(work())));
    thread.map_err(|source| PodNetnsError::Thread { source })?;
    answered.await.map_err(|_| PodNetnsError::Lost)
}

/// Moves the calling thread into the namespace, for good, and opens a netlink socket there.
fn enter(netns: impl AsFd) -> Result<DirectRtnl, PodNetnsError> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| PodNetnsError::Enter { source: errno.into() })?;
    DirectRtnl::open().map_err(|source| PodNetnsError::Open { source })
}

/// Gives `eth0` its addresses and default routes and brings it and `lo` up. The calling thread stays in the namespace.
pub(crate) fn set_up(netns: impl AsFd, addresses: &PodAddresses) -> Result<(), PodNetnsError> {
    let rtnl = enter(netns)?;
    set_loopback_sysctls()?;
    set_pod_link_sysctls(addresses)?;
    let steps = plan_steps(pod_link_index(&rtnl)?, addresses);
    let (orders, failures): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    rtnl.orders(orders).map_err(|refusal| match failures[refusal.order] {
        Step::Up(link) => PodNetnsError::Up { link, source: refusal.source },
        Step::AddAddress(address) => PodNetnsError::AddAddress { address, source: refusal.source },
        Step::AddRoute(gateway) => PodNetnsError::AddRoute { gateway, source: refusal.source },
    })
}

/// What an order is for, should it be refused.
enum Step {
    Up(&'static str),
    AddAddress(IpNetwork),
    AddRoute(IpAddr),
}

fn plan_steps(index: u32, addresses: &PodAddresses) -> Vec<(Order, Step)> {
    let mut steps = vec![(Order::up(LOOPBACK_INDEX), Step::Up(LOOPBACK)), (Order::up(index), Step::Up(POD_LINK))];
    for &address in addresses.as_slice() {
        steps.push((Order::add_address(index, address), Step::AddAddress(address)));
    }
    for &address in addresses.first_of_each_family() {
        let gateway = address::gateway(address).ip();
        steps.push((Order::add_default_route(index, gateway), Step::AddRoute(gateway)));
    }
    steps
}

fn pod_link_index(rtnl: &DirectRtnl) -> Result<u32, PodNetnsError> {
    let failed = |source| PodNetnsError::GetLink { link: POD_LINK, source };
    let link = rtnl.link(POD_LINK).map_err(failed)?;
    let link = link.ok_or_else(|| failed(nix::errno::Errno::ENODEV.into()))?;
    Ok(link.header.index)
}

fn set_loopback_sysctls() -> Result<(), SysctlError> {
    if sysctl::has_ipv6(LOOPBACK) {
        sysctl::set(sysctl::ipv6_conf(LOOPBACK, "disable_ipv6"), "0")?;
    }
    Ok(())
}

/// The addresses are given, and derived MACs make them unique. So `eth0` heeds no router advertisement, which any other
/// pod could send, and does not probe for duplicates: a bridge port in hairpin mode returns the probe to its sender.
fn set_pod_link_sysctls(addresses: &PodAddresses) -> Result<(), SysctlError> {
    if !sysctl::has_ipv6(POD_LINK) {
        return Ok(());
    }
    if addresses.as_slice().iter().any(IpNetwork::is_ipv6) {
        sysctl::set(sysctl::ipv6_conf(POD_LINK, "disable_ipv6"), "0")?;
    }
    sysctl::set(sysctl::ipv6_conf(POD_LINK, "accept_ra"), "0")?;
    sysctl::set(sysctl::ipv6_conf(POD_LINK, "accept_dad"), "0")
}
