//! Host ports come and go with pods.
//!
//! Who has which is [`HostPorts`]' business, which the bridge was opened with and reads whenever its rules are made anew. So rules that
//! somebody deleted come back whole, as soon as [that is heard](Bridge::rules_lost).

use super::firewall::{self, Added, NftSocket, Rules, RulesLost, Turn};
use super::{Bridge, Shared};
use crate::error::{BridgeError, FirewallError};
use crate::host_port::{Forward, HostPorts, RulesTurn};
use crate::owner::Owner;
use crate::sysctl;

/// The right to change the rules.
pub(super) struct Firewall {
    bridge: Bridge,
    _turn: RulesTurn,
}

impl Firewall {
    /// Waits until nobody else has it.
    pub(super) async fn of(bridge: &Bridge) -> Self {
        Self { bridge: bridge.clone(), _turn: bridge.shared.host_ports.rules_turn().await }
    }

    /// Has `work` done on a thread that may wait: thousands of ports are much to tell the kernel, and flows without number to hear of. It is
    /// done to its end, and nobody else's begins before that, even if the future is dropped.
    pub(super) async fn order<T: Send + 'static>(
        self,
        work: impl FnOnce(&NftSocket) -> Result<T, FirewallError> + Send + 'static,
    ) -> Result<(Self, T), BridgeError> {
        let bridge = self.bridge.clone();
        let done = on_thread(move || {
            let done = work(&self.bridge.shared.firewall)?;
            Ok((self, done))
        });
        done.await.map_err(|source| bridge.refused(source))
    }
}

impl Bridge {
    /// Lets the host ports that are reserved for the pod `id` lead into it. None is fine, and so is a repetition.
    ///
    /// # Errors
    /// Names the step. The ports are still reserved, and [`Bridge::withdraw`] undoes what was done.
    pub async fn publish(&self, id: &str) -> Result<(), BridgeError> {
        let owner = Owner::new(id);
        if self.shared.host_ports.of(&owner).is_empty() {
            return Ok(());
        }
        let firewall = Firewall::of(self).await;
        let forwards = self.shared.host_ports.of(&owner);
        let (bridge, adding) = (self.shared.name.clone(), forwards.clone());
        let (mut firewall, added) = firewall.order(move |socket| firewall::add(socket, &bridge, &adding)).await?;
        if added == Added::NoTable {
            firewall = self.replace_rules(firewall, None).await?;
        } else {
            self.route_loopback(&forwards)?;
        }
        firewall.order(move |socket| firewall::forget_flows(socket, &forwards, Turn::Came)).await.map(drop)
    }

    /// Lets nothing more lead into the pod `id`, and frees its host ports for another one. None is fine.
    ///
    /// # Errors
    /// Names the step. The ports stay reserved; the call can be repeated.
    pub async fn withdraw(&self, id: &str) -> Result<(), BridgeError> {
        let owner = Owner::new(id);
        if self.shared.host_ports.of(&owner).is_empty() {
            return Ok(());
        }
        let mut firewall = Firewall::of(self).await;
        let forwards = self.shared.host_ports.of(&owner);
        if self.shared.host_ports.all_but(&owner).is_empty() && self.stands().await? {
            firewall = self.replace_rules(firewall, Some(&owner)).await?;
        } else {
            let (bridge, deleting) = (self.shared.name.clone(), forwards.clone());
            (firewall, ()) = firewall.order(move |socket| firewall::delete(socket, &bridge, &deleting)).await?;
        }
        (firewall, ()) = firewall.order(move |socket| firewall::forget_flows(socket, &forwards, Turn::Went)).await?;
        // While nobody else can make the rules anew with them.
        self.shared.host_ports.release(&owner);
        drop(firewall);
        Ok(())
    }

    /// Waits until somebody else deletes rules of this bridge, and a moment longer, for what belongs to that. What has been told before is not
    /// told again.
    ///
    /// # Errors
    /// The kernel would not tell. It may the next time.
    pub async fn rules_lost(&self) -> Result<RulesLost, BridgeError> {
        self.shared.watch.lock().await.rules_lost().await.map_err(|source| self.refused(source))
    }

    /// Makes the rules anew, as when the bridge was opened: for all networks of the bridge, and the host ports of all pods that have some now.
    /// Nothing is done for a bridge that does not [stand](Bridge::stands).
    ///
    /// # Errors
    /// Names the step. Each family has the rules of before or the new ones.
    pub async fn restore_rules(&self) -> Result<(), BridgeError> {
        let firewall = Firewall::of(self).await;
        if !self.stands().await? {
            return Ok(());
        }
        let firewall = self.replace_rules(firewall, None).await?;
        // Flows of the time without rules go on as they began: ports led nowhere, as before they came.
        let (forwards, pods) = (self.shared.host_ports.all(), self.networks().await?);
        let forget = move |socket: &NftSocket| {
            firewall::forget_flows(socket, &forwards, Turn::Came)?;
            firewall::forget_unmasqueraded(socket, &pods)
        };
        firewall.order(forget).await.map(drop)
    }

    /// Makes the rules for all networks of the bridge and all host ports but those of one pod. A bridge that does not stand has none: they are
    /// those of the one in its place.
    pub(super) async fn replace_rules(&self, firewall: Firewall, but: Option<&Owner>) -> Result<Firewall, BridgeError> {
        let Shared { name, host_ports, .. } = &*self.shared;
        if !self.stands().await? {
            return Err(BridgeError::Gone { bridge: name.clone() });
        }
        let pods = self.networks().await?;
        let forwards = but.map_or_else(|| host_ports.all(), |owner| host_ports.all_but(owner));
        let needs_loopback = needs_loopback(&forwards);
        // The guard must be there before what it guards, and go after it.
        if !needs_loopback {
            self.set_route_loopback(false)?;
        }
        let bridge = name.clone();
        let replace = move |socket: &NftSocket| firewall::replace(socket, &Rules { bridge: &bridge, pods: &pods, forwards: &forwards });
        let (firewall, ()) = firewall.order(replace).await?;
        if needs_loopback {
            self.set_route_loopback(true)?;
        }
        Ok(firewall)
    }

    fn route_loopback(&self, forwards: &[Forward]) -> Result<(), BridgeError> {
        if needs_loopback(forwards) { self.set_route_loopback(true) } else { Ok(()) }
    }

    fn set_route_loopback(&self, route: bool) -> Result<(), BridgeError> {
        let name = &self.shared.name;
        sysctl::route_loopback_by(name, route).map_err(|source| BridgeError::Sysctl { bridge: name.clone(), source })
    }

    pub(super) fn refused(&self, source: FirewallError) -> BridgeError {
        BridgeError::Firewall { bridge: self.shared.name.clone(), source }
    }
}

/// Work that waits for the kernel, away from the tasks that serve.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, FirewallError> + Send + 'static) -> Result<T, FirewallError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| error.try_into_panic().map_or(Err(FirewallError::CutOff), |panic| std::panic::resume_unwind(panic)))
}

/// Only what may be called on 127.0.0.1 needs it to leave the node.
fn needs_loopback(forwards: &[Forward]) -> bool {
    forwards.iter().any(|forward| forward.to.is_ipv4() && forward.address.is_none_or(|address| address.is_loopback()))
}

/// As [`Bridge::withdraw`], where the bridge of that name cannot be opened, or is somebody else's by now.
///
/// # Errors
/// Names the step. The ports stay reserved; the call can be repeated.
pub async fn withdraw_host_ports(bridge: &str, host_ports: &HostPorts, id: &str) -> Result<(), BridgeError> {
    let turn = host_ports.rules_turn().await;
    let owner = Owner::new(id);
    let forwards = host_ports.of(&owner);
    if forwards.is_empty() {
        return Ok(());
    }
    let name = bridge.to_owned();
    let withdraw = move || {
        let firewall = NftSocket::open()?;
        firewall::delete(&firewall, &name, &forwards)?;
        firewall::forget_flows(&firewall, &forwards, Turn::Went).map(|()| turn)
    };
    let _turn = on_thread(withdraw).await.map_err(|source| BridgeError::Firewall { bridge: bridge.to_owned(), source })?;
    host_ports.release(&owner);
    Ok(())
}
