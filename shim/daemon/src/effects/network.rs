//! The pod network: the bridge, which is opened when it is first needed, and the pool of addresses.

use ipnetwork::IpNetwork;
use podbox_netns::{AddressPool, Bridge, BridgeConfig, BridgeError, ConfigError, PodAddresses, PoolError};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    bridge: OnceCell<Bridge>,
}

impl Network {
    /// A network that has yet to be opened.
    ///
    /// # Errors
    /// The subnets overlap, are too small or are no networks.
    pub fn new(name: &str, subnets: &[IpNetwork]) -> Result<Self, NetworkError> {
        let pool = AddressPool::new(subnets).map_err(NetworkError::Subnets)?;
        Ok(Self { name: name.to_owned(), pool: Mutex::new(pool), bridge: OnceCell::new() })
    }

    fn pool(&self) -> MutexGuard<'_, AddressPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open bridge; opening is tried again after a failure.
    ///
    /// # Errors
    /// The bridge cannot be made.
    pub async fn open(&self) -> Result<&Bridge, NetworkError> {
        let config = || BridgeConfig { name: self.name.clone(), subnets: self.pool().subnets().collect() };
        self.bridge.get_or_try_init(|| async { Bridge::open(&config()).await }).await.map_err(NetworkError::Bridge)
    }

    /// Addresses for one more pod.
    ///
    /// # Errors
    /// A subnet is full.
    pub fn reserve(&self) -> Result<PodAddresses, NetworkError> {
        self.pool().reserve().map_err(NetworkError::Reserve)
    }

    /// Takes the addresses that a pod of before has.
    ///
    /// # Errors
    /// Another pod has one of them.
    pub fn restore(&self, addresses: &PodAddresses) -> Result<(), NetworkError> {
        self.pool().restore(addresses).map_err(NetworkError::Reserve)
    }

    /// Frees addresses, once the pod's link is gone.
    pub fn release(&self, addresses: &PodAddresses) {
        self.pool().release(addresses);
    }

    /// Connects a pod.
    ///
    /// # Errors
    /// Nothing is connected then.
    pub async fn attach(&self, id: &str, netns: OwnedFd, addresses: &PodAddresses) -> Result<(), NetworkError> {
        let bridge = self.open().await?;
        let attached = bridge.attach(id, netns, addresses).await;
        attached.map(drop).map_err(|source| NetworkError::Attach { id: id.to_owned(), source })
    }

    /// Disconnects a pod; one that is not connected is success.
    ///
    /// # Errors
    /// The link stands.
    pub async fn detach(&self, id: &str) -> Result<(), NetworkError> {
        // Nothing hangs on a bridge that could never be opened.
        let Some(bridge) = self.bridge.get() else { return Ok(()) };
        bridge.detach(id).await.map_err(|source| NetworkError::Detach { id: id.to_owned(), source })
    }

    /// Disconnects what hangs on the bridge and belongs to no pod; tells whose it was.
    ///
    /// # Errors
    /// The links cannot be listed or deleted.
    pub async fn collect(&self, is_live: impl Fn(&str) -> bool) -> Result<Vec<String>, NetworkError> {
        let bridge = self.open().await?;
        let stale = bridge.stale(is_live).await.map_err(NetworkError::Bridge)?;
        for id in &stale {
            self.detach(id).await?;
        }
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
