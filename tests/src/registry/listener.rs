//! A port of a network namespace, and a thread for each connection to it.

use crate::network::NetworkNamespace;
use anyhow::{Context, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// It ends with its value, and the port is free then.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    ended: Arc<AtomicBool>,
    network: Arc<NetworkNamespace>,
    accepting: Option<JoinHandle<()>>,
}

impl Listener {
    /// Serves whoever comes.
    ///
    /// # Errors
    /// The port is taken.
    pub(super) fn start(
        network: Arc<NetworkNamespace>,
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = network.run(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
        let ended = Arc::<AtomicBool>::default();
        let (its_end, serve) = (ended.clone(), Arc::new(serve));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if its_end.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { address, ended, network, accepting: Some(accepting) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // It sees the end with the next connection.
        let woken = self.network.run(|| TcpStream::connect(self.address).context("wake the listener"));
        if let (Ok(_), Some(accepting)) = (woken, self.accepting.take()) {
            let _ = accepting.join();
        }
    }
}
