//! What can fail, by operation. The kernel's own answer is always the `source`, as an [`io::Error`] with its errno.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use crate::owner::Owner;

/// A bridge configuration that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not usable as a link name, or one that names something else under `/proc/sys/net`.
    #[error(
        "bridge name {name:?} is not 1 to 15 of the characters a-z, A-Z, 0-9, '-', '_' and '.', or is '.', '..', \
         'all', 'default' or 'lo'"
    )]
    BridgeName {
        /// The name as given.
        name: String,
    },
    /// No subnet at all.
    #[error("no pod subnet")]
    NoSubnet,
    /// An address with a prefix length instead of a subnet.
    #[error("pod subnet {subnet} has host bits set: write {}/{}", .subnet.network(), .subnet.prefix())]
    HostBits {
        /// The subnet as given.
        subnet: IpNetwork,
    },
    /// The gateway leaves no address for a pod.
    #[error("pod subnet {subnet} is too small: the smallest are /30 for IPv4 and /126 for IPv6")]
    SubnetTooSmall {
        /// The subnet as given.
        subnet: IpNetwork,
    },
    /// Two subnets share addresses.
    #[error("pod subnets {other} and {subnet} overlap")]
    SubnetsOverlap {
        /// The later one.
        subnet: IpNetwork,
        /// The earlier one.
        other: IpNetwork,
    },
}

/// A bridge cannot be claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The network namespace cannot be told from others.
    #[error("look at the network namespace")]
    Namespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// The file that stands for bridges of this name cannot be opened.
    #[error("open {path}", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel would not lock it.
    #[error("lock {path} for bridge {bridge}", path = .path.display())]
    Lock {
        /// Name of the bridge.
        bridge: String,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else has claimed it.
    #[error("bridge {bridge} is served by another process in this network namespace: give each its own bridge and subnets")]
    Taken {
        /// Name of the bridge.
        bridge: String,
    },
}

/// The pool cannot give, or take, these addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// Every address of the subnet belongs to a pod.
    #[error("no free address in pod subnet {subnet}")]
    SubnetFull {
        /// The full one.
        subnet: IpNetwork,
    },
    /// A bridge has no port for one more.
    #[error("{pods_max} pods are all that one bridge takes")]
    TooManyPods {
        /// How many it takes.
        pods_max: usize,
    },
    /// Two records claim the same address.
    #[error("address {address} belongs to pod {owner} already")]
    Taken {
        /// The address in question.
        address: IpAddr,
        /// Whose it is.
        owner: Owner,
    },
    /// A pod without any address.
    #[error("a pod needs at least one address")]
    NoAddress,
}

/// A file under `/proc/sys/net` could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// Reading failed.
    #[error("read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Writing failed.
    #[error("write {value} to {path}")]
    Write {
        /// The file.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SysctlError {
    /// Whether there is no such file, as for a link that is gone.
    pub(crate) fn is_absent(&self) -> bool {
        let (Self::Read { source, .. } | Self::Write { source, .. }) = self;
        source.kind() == io::ErrorKind::NotFound
    }
}

/// The kernel did not take our nftables rules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirewallError {
    /// The thread that did it ended before its work did.
    #[error("the work was cut off")]
    CutOff,
    /// No netfilter socket.
    #[error("open a netfilter socket")]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// The batch could not be sent or its answer not be read.
    #[error("exchange a batch with nftables")]
    Exchange {
        /// What the kernel said.
        source: io::Error,
    },
    /// One message of the batch was refused, and with it the whole batch.
    #[error("nftables refused {operation}")]
    Refused {
        /// The kind of message.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel answered nothing.
    #[error("nftables did not confirm the batch")]
    Unconfirmed,
    /// What others do to the rules cannot be heard.
    #[error("hear of what others do to nftables")]
    Watch {
        /// What the kernel said.
        source: io::Error,
    },
    /// The chains of others could not be looked at.
    #[error("list the chains of nftables")]
    Chains {
        /// What the kernel said.
        source: io::Error,
    },
    /// Flows to a port that came or went could not be looked through, or one not be forgotten.
    #[error("forget flows that go where a host port led before")]
    Flows {
        /// What the kernel said.
        source: io::Error,
    },
}

/// Setting up the inside of a pod's network namespace failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodNetnsError {
    /// No thread to enter the namespace with.
    #[error("start a thread to enter the network namespace")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// The file descriptor is not a network namespace, or entering it is not allowed.
    #[error("enter the network namespace")]
    Enter {
        /// What the kernel said.
        source: io::Error,
    },
    /// No netlink socket inside the namespace.
    #[error("open a netlink socket in the network namespace")]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread ended without an answer.
    #[error("the thread in the network namespace ended early")]
    Lost,
    /// A sysctl of the namespace.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The link is not there, or cannot be asked for.
    #[error("look up {link}")]
    GetLink {
        /// Name of the link.
        link: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The link cannot be brought up.
    #[error("bring up {link}")]
    Up {
        /// Name of the link.
        link: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An address cannot be set.
    #[error("add address {address}")]
    AddAddress {
        /// The address with its prefix length.
        address: IpNetwork,
        /// What the kernel said.
        source: io::Error,
    },
    /// The default route cannot be set.
    #[error("add the default route by {gateway}")]
    AddRoute {
        /// The bridge's address.
        gateway: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An operation on the bridge or on one of its ports failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// Somebody deleted it.
    #[error("bridge {bridge} was deleted")]
    Gone {
        /// Name of the bridge.
        bridge: String,
    },
    /// The configuration cannot work.
    #[error("invalid configuration of bridge {bridge}")]
    Config {
        /// Name of the bridge.
        bridge: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// No route netlink socket.
    #[error("open a netlink socket for bridge {bridge}")]
    Open {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A link cannot be asked for.
    #[error("look up link {link}")]
    GetLink {
        /// Name of the link, or `#index`.
        link: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The name is in use by something that is not ours.
    #[error("link {bridge} exists and is not a bridge made here: choose another name or delete it")]
    ForeignBridge {
        /// Name of the bridge.
        bridge: String,
    },
    /// The bridge cannot be made.
    #[error("create bridge {bridge}")]
    Create {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bridge's MTU cannot be set, or it cannot be brought up.
    #[error("set MTU {mtu_bytes} on bridge {bridge} and bring it up")]
    Start {
        /// Name of the bridge.
        bridge: String,
        /// The MTU wanted.
        mtu_bytes: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The routing table cannot be read to find the default route.
    #[error("list routes to choose the MTU of bridge {bridge}")]
    ListRoutes {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bridge's addresses cannot be read.
    #[error("list the addresses of bridge {bridge}")]
    ListAddresses {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A gateway address cannot be set.
    #[error("add gateway address {address} to bridge {bridge}")]
    AddGateway {
        /// Name of the bridge.
        bridge: String,
        /// The address with its prefix length.
        address: IpNetwork,
        /// What the kernel said.
        source: io::Error,
    },
    /// A sysctl of the bridge, or one that lets the node forward.
    #[error("set sysctls for bridge {bridge}")]
    Sysctl {
        /// Name of the bridge.
        bridge: String,
        /// Which one, and why.
        source: SysctlError,
    },
    /// The masquerade rules.
    #[error("install the nftables rules of bridge {bridge}")]
    Firewall {
        /// Name of the bridge.
        bridge: String,
        /// What was refused.
        source: FirewallError,
    },
    /// The links cannot be listed.
    #[error("list the ports of bridge {bridge}")]
    ListPorts {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bridge is to be removed but pods are still attached.
    #[error("bridge {bridge} still has port {link}")]
    PortsRemain {
        /// Name of the bridge.
        bridge: String,
        /// One of the ports.
        link: String,
    },
    /// The bridge cannot be deleted.
    #[error("delete bridge {bridge}")]
    Delete {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The id cannot name a link.
    #[error("sandbox id {id:?} is not 13 to 255 of the characters a-z, A-Z, 0-9, '-', '_' and '.'")]
    SandboxId {
        /// The id as given.
        id: String,
    },
    /// The bridge has all the ports the kernel allows.
    #[error("bridge {bridge} has no port left for sandbox {id}: {pods_max} are all it takes")]
    BridgeFull {
        /// Name of the bridge.
        bridge: String,
        /// The pod.
        id: String,
        /// How many it takes.
        pods_max: usize,
    },
    /// The link name belongs to another pod or to somebody else.
    #[error("link {link} exists and is not that of sandbox {id}")]
    ForeignPort {
        /// Name of the link.
        link: String,
        /// The pod.
        id: String,
    },
    /// The veth pair cannot be made.
    #[error("create veth pair {link} for sandbox {id}")]
    CreatePort {
        /// Name of the link.
        link: String,
        /// The pod.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host end cannot be made a working port.
    #[error("set up port {link} of sandbox {id}")]
    StartPort {
        /// Name of the link.
        link: String,
        /// The pod.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Both ends are up but the host end has no carrier.
    #[error("port {link} of sandbox {id} has no carrier")]
    PortDown {
        /// Name of the link.
        link: String,
        /// The pod.
        id: String,
    },
    /// The bridge cannot be told where the pod's address is.
    #[error("add neighbour {address} of sandbox {id} to bridge {bridge}")]
    AddNeighbour {
        /// Name of the bridge.
        bridge: String,
        /// The pod's address.
        address: IpAddr,
        /// The pod.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The entries that tell where pods are cannot be read.
    #[error("list the neighbours of bridge {bridge}")]
    ListNeighbours {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An entry of an address that no pod has cannot be deleted.
    #[error("delete neighbour {address} from bridge {bridge}")]
    DeleteNeighbour {
        /// Name of the bridge.
        bridge: String,
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The links cannot be listed to find those that lost their bridge.
    #[error("list links that belong on bridge {bridge}")]
    ListOrphans {
        /// Name of the bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A link that lost its bridge cannot be made a port of the new one.
    #[error("put link {link} of sandbox {id} on bridge {bridge} again")]
    Reattach {
        /// Name of the bridge.
        bridge: String,
        /// Name of the link.
        link: String,
        /// The pod.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The inside of the pod.
    #[error("set up the network namespace of sandbox {id}")]
    Pod {
        /// The pod.
        id: String,
        /// Which step.
        source: PodNetnsError,
    },
    /// The host end cannot be deleted.
    #[error("delete link {link} of sandbox {id}")]
    DeletePort {
        /// Name of the link.
        link: String,
        /// The pod.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A port whose making was cut short cannot be deleted.
    #[error("delete half-made port {link}")]
    DeleteHalfMade {
        /// Name of the link.
        link: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A port of a pod cannot be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Its namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] PodNetnsError),
    /// Nobody takes the connection.
    #[error("connect to port {port} on the pod's loopback")]
    Connect {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}
