//! One layer: downloaded by a task, unpacked by a thread, a bounded channel in between.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Context, LayerKey, PullError, PullProgress, PulledOrThere, blocking};
use crate::Error;
use crate::digest::Digest;
use crate::document::{Blob, PlannedLayer};
use crate::registry::{BlobSink, Credentials, Session};
use crate::store::pulled::{PulledLayer, WorkLock};

/// Pieces of a download that wait for the disk. Each is at most what the HTTP library reads at once, half a megabyte.
const PIECES_WAITING_MAX: usize = 4;

/// A layer to be there.
#[derive(Clone)]
pub(super) struct LayerPull {
    pub(super) context: Arc<Context>,
    pub(super) session: Arc<Session>,
    pub(super) registry: String,
    pub(super) credentials: Credentials,
    pub(super) layer: PlannedLayer,
    pub(super) lock: WorkLock,
}

impl LayerPull {
    /// Waits until the layer is unpacked and verified; `None` if it is in the store already.
    pub(super) async fn join(self) -> PulledOrThere {
        let Some(blob) = self.layer.blob.clone() else { return Ok(None) };
        let key = LayerKey {
            registry: self.registry.clone(),
            credentials: self.credentials.clone(),
            blob: blob.digest.clone(),
            size_bytes: blob.size_bytes,
            diff_id: self.layer.diff_id.clone(),
        };
        loop {
            if let Some(layer) = self.present(&blob).await? {
                return Ok(layer);
            }
            let begun = Arc::new(AtomicBool::new(false));
            let (pull, blob, begins) = (self.clone(), blob.clone(), begun.clone());
            let flight = self.context.layers.join(key.clone(), move || {
                begins.store(true, Ordering::Relaxed);
                pull.run(blob)
            });
            match flight.await.unwrap_or_else(|| Err(Arc::new(PullError::CutOff))) {
                // It was another image's, perhaps of a repository that has not got the layer.
                Err(_) if !begun.load(Ordering::Relaxed) => {}
                outcome => return outcome,
            }
        }
    }

    /// Whether the layer needs no download: with the layer, if it is not in its place yet.
    async fn present(&self, blob: &Blob) -> Result<Option<Option<Arc<PulledLayer>>>, Arc<PullError>> {
        let staged = self.context.staged(&self.layer.diff_id);
        if staged.is_none() {
            let (store, diff_id) = (self.context.store.clone(), self.layer.diff_id.clone());
            if !blocking(move || Ok(store.has_layer(&diff_id))).await.map_err(Arc::new)? {
                return Ok(None);
            }
        }
        (self.context.observe)(PullProgress::Present { blob: blob.digest.clone() });
        Ok(Some(staged))
    }

    async fn run(self, blob: Blob) -> PulledOrThere {
        let limit_bytes = self.context.store.limits().layer_bytes;
        if blob.size_bytes > limit_bytes {
            let (object, size_bytes) = (blob.digest.to_string(), blob.size_bytes);
            return Err(Arc::new(Error::ObjectTooLarge { object, size_bytes, limit_bytes }.into()));
        }
        let room = self.context.room(&self.registry);
        // The semaphore is never closed; were it, there would be no bound and no harm.
        let _turn = room.acquire().await;
        let _of_all = self.context.room_of_all.acquire().await;
        // Another registry's pull may have been quicker.
        if let Some(layer) = self.present(&blob).await? {
            return Ok(layer);
        }
        let places = self.session.blob_places();
        let mut first = 0;
        loop {
            let error = match self.attempt(&blob, first).await {
                Ok(layer) => {
                    (self.context.observe)(PullProgress::Unpacked { blob: blob.digest });
                    let layer = Arc::new(layer);
                    self.context.keep_staged(&layer);
                    return Ok(Some(layer));
                }
                Err(error) => error,
            };
            first += 1;
            // A mirror may have what the registry has not.
            if first >= places || !is_the_places_fault(&error) {
                return Err(Arc::new(error));
            }
        }
    }

    async fn attempt(&self, blob: &Blob, first: usize) -> Result<PulledLayer, PullError> {
        let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let (store, layer, lock) = (self.context.store.clone(), self.layer.clone(), self.lock.clone());
        // It is wanted for as long as this future lives.
        let wanted = Arc::new(());
        let is_wanted = {
            let wanted = Arc::downgrade(&wanted);
            move || wanted.strong_count() > 0
        };
        let unpacking = on_own_thread(move || Ok(store.unpack_pulled(&layer, Pieces::new(receiver), lock, &is_wanted)?));
        let downloading = async {
            let mut sink = Sink { sender, context: &self.context, blob: &blob.digest };
            self.session.blob(blob, first, &mut sink).await?;
            // Without this mark the other side takes the end for a broken connection.
            let _ = sink.sender.send(None).await;
            Ok::<(), PullError>(())
        };
        let (downloaded, unpacked) = tokio::join!(downloading, unpacking);
        downloaded?;
        unpacked
    }
}

/// Does what may wait for a registry on a thread of its own: those of the runtime are for what waits for the disk, and are counted.
async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, PullError> + Send + 'static) -> Result<T, PullError> {
    let (tell, outcome) = oneshot::channel();
    let started = std::thread::Builder::new().name("unpack".to_owned()).spawn(move || {
        // Where nobody waits any more, what came of it goes here.
        let _ = tell.send(work());
    });
    match started {
        Ok(_) => outcome.await.unwrap_or(Err(PullError::CutOff)),
        Err(source) => Err(PullError::Thread(source)),
    }
}

fn is_the_places_fault(error: &PullError) -> bool {
    match error {
        PullError::Registry(error) => error.is_forged(),
        PullError::Store(Error::DigestMismatch { .. } | Error::DiffIdMismatch { .. } | Error::Unpack { .. } | Error::ReadObject { .. }) => {
            true
        }
        _ => false,
    }
}

/// Where a download goes.
struct Sink<'a> {
    sender: mpsc::Sender<Option<Bytes>>,
    context: &'a Context,
    blob: &'a Digest,
}

impl BlobSink for Sink<'_> {
    async fn take(&mut self, bytes: Bytes) -> bool {
        let count = bytes.len() as u64;
        let taken = self.sender.send(Some(bytes)).await.is_ok();
        (self.context.observe)(PullProgress::Bytes { blob: self.blob.clone(), count });
        taken
    }
}

/// The download, as the unpacking thread reads it.
struct Pieces {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Pieces {
    fn new(receiver: mpsc::Receiver<Option<Bytes>>) -> Self {
        Self { receiver, piece: Bytes::new(), ended: false }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download was given up")),
            }
        }
        let count = buf.len().min(self.piece.len());
        buf[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
