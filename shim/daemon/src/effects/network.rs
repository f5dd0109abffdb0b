//! The pod network: the bridge, which is opened when it is first needed and again when somebody deleted it, the pool of
//! addresses, and who has which ports of the node.
//!
//! Rules of the bridge's that somebody else deletes are [kept](rules) while it is open.
//!
//! What a pod has is what the pool says. A record may claim more: an address that was given to another meanwhile.

mod rules;

use crate::chain::Chain;
use ipnetwork::IpNetwork;
use podbox_netns::{
    AddressPool, Bridge, BridgeConfig, BridgeError, ConfigError, ForwardDrop, HostPort, HostPortError, HostPorts, Owner, PodAddresses,
    PoolError, delete_port, pods_elsewhere, withdraw_host_ports,
};
use rules::RulesKeeper;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;

/// The network cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configured subnets are not usable.
    #[error("the pod network's subnets")]
    Subnets(#[source] ConfigError),
    /// No address is free.
    #[error("reserve an address")]
    Reserve(#[source] PoolError),
    /// A port of the node cannot be had.
    #[error("reserve the host ports of sandbox {id}")]
    HostPorts {
        /// Whose they were to be.
        id: String,
        /// Why.
        source: HostPortError,
    },
    /// The bridge cannot be made or changed.
    #[error("the pod network's bridge")]
    Bridge(#[source] BridgeError),
    /// A pod cannot be connected.
    #[error("connect sandbox {id}")]
    Attach {
        /// Which sandbox.
        id: String,
        /// Why.
        source: BridgeError,
    },
    /// A pod cannot be disconnected.
    #[error("disconnect sandbox {id}")]
    Detach {
        /// Which sandbox.
        id: String,
        /// Why.
        source: BridgeError,
    },
}

/// The built-in bridge network of the daemon's own network namespace.
#[derive(Debug)]
pub struct Network {
    name: String,
    pool: Mutex<AddressPool>,
    host_ports: HostPorts,
    /// Replaced by an empty one when the bridge in it is found to be gone.
    bridge: Mutex<Arc<OnceCell<Bridge>>>,
    /// Of the bridge that was opened last.
    rules: Mutex<Option<RulesKeeper>>,
}

impl Network {
    /// A network that has yet to be opened.
    ///
    /// # Errors
    /// The subnets overlap, are too small or are no networks.
    pub fn new(name: &str, subnets: &[IpNetwork]) -> Result<Self, NetworkError> {
        let pool = AddressPool::new(subnets).map_err(NetworkError::Subnets)?;
        Ok(Self {
            name: name.to_owned(),
            pool: Mutex::new(pool),
            host_ports: HostPorts::default(),
            bridge: Mutex::default(),
            rules: Mutex::default(),
        })
    }

    fn pool(&self) -> MutexGuard<'_, AddressPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bridge(&self) -> MutexGuard<'_, Arc<OnceCell<Bridge>>> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> MutexGuard<'_, Option<RulesKeeper>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bridge, which is looked at: one that was deleted is made again, and the pods that hung on it hang on the new one.
    /// Opening is tried again after a failure.
    ///
    /// # Errors
    /// The bridge cannot be made.
    pub async fn open(&self) -> Result<Bridge, NetworkError> {
        let bridge = self.opened().await?;
        if bridge.stands().await.map_err(NetworkError::Bridge)? {
            return Ok(bridge);
        }
        self.discard(&bridge);
        self.opened().await
    }

    /// The bridge as it was opened, whether or not it still stands.
    async fn opened(&self) -> Result<Bridge, NetworkError> {
        let opening = self.bridge().clone();
        let bridge = opening.get_or_try_init(|| self.open_anew()).await;
        bridge.cloned().map_err(NetworkError::Bridge)
    }

    async fn open_anew(&self) -> Result<Bridge, BridgeError> {
        let config = BridgeConfig { name: self.name.clone(), subnets: self.subnets() };
        let bridge = Bridge::open(&config, &self.host_ports).await?;
        *self.rules() = Some(RulesKeeper::of(bridge.clone()));
        for id in bridge.orphans().await? {
            let Some(addresses) = self.addresses(&id) else { continue };
            // One pod that cannot be helped must not keep the others from their network.
            match bridge.reattach(&id, &addresses).await {
                Ok(()) => tracing::info!(sandbox = %id, bridge = %self.name, "the pod's link is on the bridge again"),
                Err(error) => tracing::error!(sandbox = %id, error = %Chain(&error), "the pod stays without a network"),
            }
        }
        Ok(bridge)
    }

    /// The ids of pods that hang on another bridge than this one, with the name of that; other daemons' are among them.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub async fn pods_elsewhere(&self) -> Result<BTreeMap<String, String>, NetworkError> {
        pods_elsewhere(&self.name).await.map_err(NetworkError::Bridge)
    }

    /// What somebody else's firewall, or a kernel that lacks something, may keep pods from, for whoever runs the node to read.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub async fn warnings(&self) -> Result<Vec<String>, NetworkError> {
        let bridge = self.opened().await?;
        let drops = bridge.forward_drops().await.map_err(NetworkError::Bridge)?;
        let name = &self.name;
        let warn = |drop: &ForwardDrop| {
            format!(
                "{drop} drops what is forwarded (policy drop): unless it has rules that accept what comes from and goes to {name} (iifname and \
                 oifname), pods do not reach other machines, nor those their host ports"
            )
        };
        const FLOWS: &str = "the kernel has no ctnetlink (module nf_conntrack_netlink): who goes on sending by UDP to a host port that came or \
                             went meanwhile is not heard by whom it leads to";
        let flows = match bridge.forgets_flows() {
            Ok(forgets) => (!forgets).then(|| FLOWS.to_owned()),
            Err(error) => Some(format!("whether the kernel tells of flows is unknown: {}", Chain(&error))),
        };
        Ok(drops.iter().map(warn).chain(flows).collect())
    }

    /// Several may find the same bridge gone; the first throws it away.
    fn discard(&self, gone: &Bridge) {
        let mut bridge = self.bridge();
        if bridge.get().is_some_and(|open| open.index() == gone.index()) {
            tracing::warn!(bridge = %self.name, "the pod network's bridge was deleted: it is made again");
            *bridge = Arc::default();
            *self.rules() = None;
        }
    }

    /// Addresses and host ports for one more pod.
    ///
    /// # Errors
    /// A subnet is full, or another pod has one of the ports; nothing is reserved then.
    pub fn reserve(&self, id: &str, host_ports: &[HostPort]) -> Result<PodAddresses, NetworkError> {
        let addresses = self.pool().reserve(&Owner::new(id)).map_err(NetworkError::Reserve)?;
        self.reserve_host_ports(id, &addresses, host_ports).inspect_err(|_| self.release(id))?;
        Ok(addresses)
    }

    /// Keeps where the daemon listens from all pods.
    ///
    /// # Errors
    /// The id of the pod that has the port already.
    pub fn keep(&self, socket: SocketAddr) -> Result<(), Owner> {
        self.host_ports.keep(socket)
    }

    fn reserve_host_ports(&self, id: &str, addresses: &PodAddresses, host_ports: &[HostPort]) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::HostPorts { id: id.to_owned(), source };
        self.host_ports.reserve(&Owner::new(id), addresses, host_ports).map_err(failed)
    }

    /// Takes the addresses and the host ports that a pod of before has. Of two that claim the same one, the first has it.
    ///
    /// # Errors
    /// Another pod has one of them: without its addresses this one has nothing, without its ports the addresses alone.
    pub fn restore(&self, id: &str, addresses: &PodAddresses, host_ports: &[HostPort]) -> Result<(), NetworkError> {
        self.pool().restore(&Owner::new(id), addresses).map_err(NetworkError::Reserve)?;
        self.reserve_host_ports(id, addresses, host_ports)
    }

    /// Frees the addresses of a pod, once its link is gone, and its host ports, once nothing leads there. Nobody else's, whatever is on its
    /// record.
    pub fn release(&self, id: &str) {
        self.host_ports.release(&Owner::new(id));
        self.pool().release(&Owner::new(id));
    }

    /// What the pod has by rights.
    fn addresses(&self, id: &str) -> Option<PodAddresses> {
        self.pool().addresses(&Owner::new(id)).cloned()
    }

    /// Connects a pod, and lets its host ports lead there. That the bridge was deleted is noticed here at the latest.
    ///
    /// # Errors
    /// What was done is to be undone by [`Self::withdraw`] and [`Self::detach`].
    pub async fn attach(&self, id: &str, netns: OwnedFd, addresses: &PodAddresses) -> Result<(), NetworkError> {
        self.attach_link(id, netns, addresses).await?;
        let failed = |source| NetworkError::Attach { id: id.to_owned(), source };
        self.opened().await?.publish(id).await.map_err(failed)
    }

    /// Lets nothing more lead into a pod by the node's ports, and frees those. None is success.
    ///
    /// # Errors
    /// They may still lead there, and stay its own.
    pub async fn withdraw(&self, id: &str) -> Result<(), NetworkError> {
        let withdrawn = match self.opened().await {
            Ok(bridge) => bridge.withdraw(id).await,
            Err(_) => withdraw_host_ports(&self.name, &self.host_ports, id).await,
        };
        withdrawn.map_err(|source| NetworkError::Detach { id: id.to_owned(), source })
    }

    async fn attach_link(&self, id: &str, netns: OwnedFd, addresses: &PodAddresses) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Attach { id: id.to_owned(), source };
        let again = netns.try_clone();
        let bridge = self.opened().await?;
        let Err(error) = bridge.attach(id, netns, addresses).await else { return Ok(()) };
        let (Ok(netns), Ok(false)) = (again, bridge.stands().await) else { return Err(failed(error)) };
        self.discard(&bridge);
        self.opened().await?.attach(id, netns, addresses).await.map(drop).map_err(failed)
    }

    /// Disconnects a pod; one that is not connected is success.
    ///
    /// # Errors
    /// The link stands, or neighbours are still told where the pod was.
    pub async fn detach(&self, id: &str) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Detach { id: id.to_owned(), source };
        loop {
            let addresses = self.addresses(id);
            let Ok(bridge) = self.opened().await else {
                delete_port(&self.name, id, addresses.as_ref()).await.map_err(failed)?;
                // Others may have had more luck meanwhile, and taken the pod over.
                if self.bridge().get().is_none() {
                    return Ok(());
                }
                continue;
            };
            bridge.detach(id, addresses.as_ref()).await.map_err(failed)?;
            // One that is made again meanwhile may have taken the pod over, for it was still there.
            if self.is_current(&bridge) {
                return Ok(());
            }
        }
    }

    fn is_current(&self, bridge: &Bridge) -> bool {
        self.bridge().get().is_some_and(|open| open.index() == bridge.index())
    }

    /// Disconnects what hangs on the bridge and belongs to no pod; tells whose it was. What pods have must be restored before.
    ///
    /// # Errors
    /// The links cannot be listed or deleted.
    pub async fn collect(&self, is_live: impl Fn(&str) -> bool) -> Result<Vec<String>, NetworkError> {
        let bridge = self.open().await?;
        let stale = bridge.stale(is_live).await.map_err(NetworkError::Bridge)?;
        for id in &stale {
            self.detach(id).await?;
        }
        bridge.delete_stale_neighbours(|address| self.pool().is_taken(address)).await.map_err(NetworkError::Bridge)?;
        Ok(stale)
    }

    /// New pods get addresses of these subnets from now on.
    ///
    /// # Errors
    /// The subnets are no use, or the bridge cannot be changed; new pods get what they got before then.
    pub async fn set_subnets(&self, subnets: &[IpNetwork]) -> Result<(), NetworkError> {
        let checked = AddressPool::new(subnets).map_err(NetworkError::Subnets)?;
        drop(checked);
        self.open().await?.set_subnets(subnets).await.map_err(NetworkError::Bridge)?;
        self.pool().set_subnets(subnets).map_err(NetworkError::Subnets)
    }

    /// The subnets that new pods get addresses of.
    pub fn subnets(&self) -> Vec<IpNetwork> {
        self.pool().subnets().collect()
    }
}
