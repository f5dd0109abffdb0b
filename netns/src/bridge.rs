//! The built-in network: a Linux bridge, one port per pod, masquerade for what leaves the node.
//!
//! ```text
//! pod netns                    node netns
//! ┌──────────────┐             ┌──────────────────────────────────────────┐
//! │ eth0 10.0.0.2├── veth pair ─┤ pb0123… ── BRIDGE 10.0.0.1 ── forwarding ├── uplink
//! └──────────────┘             └──────────────────────────── masquerade ──┘
//! ```
//!
//! Invariants:
//! - the bridge is ours by its MAC, a port by its pod's id as alias and the name derived from it; nothing else is ever
//!   changed or deleted;
//! - the bridge has its own MAC and MTU, whatever ports come and go;
//! - the networks of the bridge's addresses are the pod networks: gateway addresses of subnets no longer configured
//!   stay, and so does masquerade for their pods, until the bridge is removed;
//! - what exists is asked of the kernel, what a pod has of the caller, its host ports of [`HostPorts`]: nothing is remembered here;
//! - a bridge that somebody deletes is missed, not replaced: the caller asks whether it [stands](Bridge::stands), opens it
//!   anew and puts the pods' links, which the kernel keeps, on it again;
//! - rules that somebody deletes are missed at once: the caller waits for [that](Bridge::rules_lost) and has them made anew.
//!
//! Netlink does its work before `send` returns. What is done for a pod, or to the rules, is done on threads that may wait; what
//! else is done for the bridge, once, on the caller's.

mod attach;
mod config;
mod firewall;
mod orphan;
mod port;
mod publish;
mod uplink;

use std::fmt;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use rtnetlink::LinkBridge;
use rtnetlink::LinkMessageBuilder;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use crate::address::{gateway, validate_subnets};
use crate::error::{BridgeError, SysctlError};
use crate::host_port::HostPorts;
use crate::mac::MacAddress;
use crate::rtnl::{self, Rtnl};
use crate::sysctl;
pub use attach::{Attachment, delete_port};
pub use config::BridgeConfig;
pub use firewall::{ForwardDrop, RulesLost};
use firewall::{NftSocket, Watch};
pub use orphan::pods_elsewhere;
use publish::Firewall;
pub use publish::withdraw_host_ports;

/// An open bridge. Clones share its sockets, which belong to the network namespace it was opened in.
#[derive(Clone)]
pub struct Bridge {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    index: u32,
    mtu_bytes: u32,
    rtnl: Rtnl,
    host_ports: HostPorts,
    /// Used in a turn of the host ports' alone, which is held while the bridge's addresses and, from them and from host ports, the rules are
    /// changed.
    firewall: NftSocket,
    /// Held by who waits for what others delete.
    watch: tokio::sync::Mutex<Watch>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { name, index, mtu_bytes, .. } = &*self.shared;
        f.debug_struct("Bridge").field("name", name).field("index", index).field("mtu_bytes", mtu_bytes).finish()
    }
}

impl Bridge {
    /// Makes the bridge, or takes over the one made earlier, in the network namespace of the calling thread, and lets
    /// the node forward and masquerade for it. Can be repeated, but not while a pod is being attached: ports whose making
    /// was cut short are deleted.
    ///
    /// The MTU is that of the default route's link, or 1,500 without a default route. Must be called in a tokio runtime,
    /// which serves the bridge from then on.
    ///
    /// What `host_ports` holds leads to its pods from now on, and nothing else does: those of pods of before must have been reserved.
    ///
    /// # Errors
    /// Names the step. What was done until then stays: a repetition goes on from there.
    pub async fn open(config: &BridgeConfig, host_ports: &HostPorts) -> Result<Self, BridgeError> {
        let name = &config.name;
        let invalid = |source| BridgeError::Config { bridge: name.clone(), source };
        config.validate().map_err(invalid)?;
        let failed = |source| BridgeError::Open { bridge: name.clone(), source };
        let rtnl = Rtnl::open().map_err(failed)?;
        let refused = |source| BridgeError::Firewall { bridge: name.clone(), source };
        let firewall = NftSocket::open().map_err(refused)?;
        let watch = Watch::open(name, &firewall).map_err(refused)?;
        let listing = |source| BridgeError::ListRoutes { bridge: name.clone(), source };
        let mtu_bytes = uplink::mtu_bytes(&rtnl).await.map_err(listing)?;
        let index = find_or_create(&rtnl, config).await?;
        let sysctls = |source| BridgeError::Sysctl { bridge: name.clone(), source };
        set_bridge_sysctls(name, &config.subnets).map_err(sysctls)?;
        let started = rtnl.set_mtu_and_up(index, mtu_bytes).await;
        started.map_err(|source| BridgeError::Start { bridge: name.clone(), mtu_bytes, source })?;
        let shared = Shared {
            name: name.clone(),
            index,
            mtu_bytes,
            rtnl,
            host_ports: host_ports.clone(),
            firewall,
            watch: tokio::sync::Mutex::new(watch),
        };
        let bridge = Self { shared: Arc::new(shared) };
        bridge.set_subnets(&config.subnets).await?;
        bridge.delete_half_made_ports().await?;
        Ok(bridge)
    }

    /// Serves pods with addresses out of `subnets` from now on: adds their gateway addresses and masquerade, and
    /// forwarding of their families. What earlier subnets have stays.
    ///
    /// # Errors
    /// Names the step. What was done until then stays and is harmless; the call can be repeated.
    pub async fn set_subnets(&self, subnets: &[IpNetwork]) -> Result<(), BridgeError> {
        validate_subnets(subnets).map_err(|source| BridgeError::Config { bridge: self.shared.name.clone(), source })?;
        self.serve(subnets).await
    }

    /// As [`Bridge::set_subnets`], of subnets that were checked or are in use.
    async fn serve(&self, subnets: &[IpNetwork]) -> Result<(), BridgeError> {
        let Shared { name, index, rtnl, .. } = &*self.shared;
        let bridge = || name.clone();
        let sysctls = |source| BridgeError::Sysctl { bridge: name.clone(), source };
        let firewall = Firewall::of(self).await;
        set_bridge_sysctls(name, subnets).map_err(sysctls)?;
        for &subnet in subnets {
            let address = gateway(subnet);
            match rtnl.add_address(*index, address).await {
                Err(error) if !rtnl::is_exists(&error) => {
                    return Err(BridgeError::AddGateway { bridge: bridge(), address, source: error });
                }
                _ => {}
            }
        }
        self.replace_rules(firewall, None).await?;
        // Last, so that nothing is ever forwarded with a pod's address in it.
        forward(subnets).map_err(sysctls)
    }

    /// Deletes the bridge and its rules. Forwarding stays on: others may rely on it by now.
    ///
    /// # Errors
    /// [`BridgeError::PortsRemain`] when a pod is still attached; nothing is deleted then.
    pub async fn remove(self) -> Result<(), BridgeError> {
        let Shared { name, index, rtnl, .. } = &*self.shared;
        let firewall = Firewall::of(&self).await;
        let ports = rtnl.ports(*index).await;
        let ports = ports.map_err(|source| BridgeError::ListPorts { bridge: name.clone(), source })?;
        if let Some(port) = ports.first() {
            let link = rtnl::name(port).unwrap_or("without a name").to_owned();
            return Err(BridgeError::PortsRemain { bridge: name.clone(), link });
        }
        match rtnl.delete_link(*index).await {
            Err(error) if !rtnl::is_no_device(&error) => {
                return Err(BridgeError::Delete { bridge: name.clone(), source: error });
            }
            _ => {}
        }
        let bridge = name.clone();
        firewall.order(move |socket| firewall::remove(socket, &bridge)).await.map(drop)
    }

    /// Whether the bridge is still the one that was opened. One that was deleted, and perhaps made again, takes no pod any
    /// more: open it anew.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub async fn stands(&self) -> Result<bool, BridgeError> {
        let Shared { name, index, rtnl, .. } = &*self.shared;
        let link = rtnl.link(name).await;
        let link = link.map_err(|source| BridgeError::GetLink { link: name.clone(), source })?;
        Ok(link.is_some_and(|link| link.header.index == *index))
    }

    /// Chains of somebody else's that keep pods' packets from being forwarded, unless rules in them accept those; nothing can be done about them
    /// here. What legacy iptables has is not seen.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub async fn forward_drops(&self) -> Result<Vec<ForwardDrop>, BridgeError> {
        let refused = |source| self.refused(source);
        // With a socket of its own: whoever changes rules is not held up by who only looks.
        let drops = firewall::forward_drops(&NftSocket::open().map_err(refused)?).map_err(refused)?;
        if drops.is_empty() {
            return Ok(drops);
        }
        let pods = self.networks().await?;
        Ok(drops.into_iter().filter(|drop| pods.iter().any(|pods| drop.concerns(pods))).collect())
    }

    /// Whether flows can be forgotten that a host port has made untrue, which is done with `ctnetlink`. Where they cannot, who goes on calling
    /// by UDP is heard by whom the port led to before.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub fn forgets_flows(&self) -> Result<bool, BridgeError> {
        let asked = NftSocket::open().and_then(|socket| firewall::tells_of_flows(&socket));
        asked.map_err(|source| self.refused(source))
    }

    /// The networks that pods have addresses of, as the bridge's own addresses have them.
    async fn networks(&self) -> Result<Vec<IpNetwork>, BridgeError> {
        let Shared { name, index, rtnl, .. } = &*self.shared;
        rtnl.addresses(*index).await.map_err(|source| BridgeError::ListAddresses { bridge: name.clone(), source })
    }

    /// The bridge's link index: another one each time that it is made.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.shared.index
    }

    /// The bridge's link name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The MTU of the bridge and of every pod attached from now on.
    #[must_use]
    pub fn mtu_bytes(&self) -> u32 {
        self.shared.mtu_bytes
    }
}

/// The index of our bridge, which is made, down, if there is none.
async fn find_or_create(rtnl: &Rtnl, config: &BridgeConfig) -> Result<u32, BridgeError> {
    let name = &config.name;
    let failed = |source| BridgeError::GetLink { link: name.clone(), source };
    if let Some(link) = rtnl.link(name).await.map_err(failed)? {
        return our_bridge(&link, name);
    }
    let first = config.subnets.first().expect("the configuration was validated");
    // A MAC of its own from the start: else the bridge would take its ports' and change it with them, and udev would
    // give it another a moment later.
    let mac = MacAddress::of_bridge(gateway(*first).ip());
    let message = LinkMessageBuilder::<LinkBridge>::new(name).address(mac.octets().to_vec());
    match rtnl.create_link(message.build()).await {
        // Somebody was quicker: it is ours or it is not.
        Err(error) if !rtnl::is_exists(&error) => {
            return Err(BridgeError::Create { bridge: name.clone(), source: error });
        }
        _ => {}
    }
    let link = rtnl.link(name).await.map_err(failed)?;
    let link = link.ok_or_else(|| failed(nix::errno::Errno::ENODEV.into()))?;
    our_bridge(&link, name)
}

fn our_bridge(link: &LinkMessage, name: &str) -> Result<u32, BridgeError> {
    let is_bridge = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    });
    if is_bridge && rtnl::mac(link).is_some_and(MacAddress::is_bridge) {
        Ok(link.header.index)
    } else {
        Err(BridgeError::ForeignBridge { bridge: name.to_owned() })
    }
}

/// Any pod could send router advertisements to the bridge: it must not heed them. Nor does it look for duplicates of its link-local address,
/// which its MAC makes its own: until that is done, a second after the first pod's carrier, it would ask for no pod's MAC on behalf of others,
/// and what comes from outside would not get in.
fn set_bridge_sysctls(name: &str, subnets: &[IpNetwork]) -> Result<(), SysctlError> {
    if sysctl::has_ipv6(name) {
        sysctl::set(sysctl::ipv6_conf(name, "accept_ra"), "0")?;
        sysctl::set(sysctl::ipv6_conf(name, "accept_dad"), "0")?;
    }
    if subnets.iter().any(IpNetwork::is_ipv6) {
        sysctl::set(sysctl::ipv6_conf(name, "disable_ipv6"), "0")?;
    }
    Ok(())
}

fn forward(subnets: &[IpNetwork]) -> Result<(), SysctlError> {
    if subnets.iter().any(IpNetwork::is_ipv4) {
        sysctl::forward_ipv4()?;
    }
    if subnets.iter().any(IpNetwork::is_ipv6) {
        sysctl::forward_ipv6()?;
    }
    Ok(())
}
