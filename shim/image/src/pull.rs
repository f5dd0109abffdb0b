//! Pulls images from registries into the store.
//!
//! ```text
//! pull ── one flight an image ──▶ what the tag means ─▶ manifest for this machine ─▶ configuration
//!                                                                   │
//!                             one flight a layer, so many at once: stream ─▶ digest, inflate, diff ID, unpack
//!                                                                   │
//!                             all verified: synced, put in place, recorded under its name
//! ```
//!
//! What holds throughout:
//!
//! - Who asks for what is on its way already waits for the same download: the same image with the same credentials, the same layer of one
//!   registry for whatever image. When the last one who waits leaves, it is given up. No registry has a say in what another one's images
//!   get: its downloads are not theirs, and of the room that all share it has a part. What is unpacked and verified is everybody's.
//! - A layer is unpacked while it streams and is a directory in `tmp/` until its blob's digest and its diff ID matched. What
//!   is left there by a crash or a full disk goes with the next start, or at once.
//! - An image appears whole, under the names it was asked for by, after all its layers did.
//! - Who gives a digest gets what has it. The tag beside a digest means nothing, as with Docker.

mod error;
mod flights;
mod layer;

pub use error::PullError;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use crate::digest::Digest;
use crate::document::{self, Content, Descriptor, PlannedImage, PlannedLayer};
use crate::reference::Reference;
use crate::registry::{AuthFile, Credentials, Document, Origin, Patience, RegistryError, Session, Transport};
use crate::store::RECORD_ATTEMPTS_MAX;
use crate::store::pulled::{PulledLayer, TmpLock, WorkLock};
use crate::store::record::ImageRecord;
use crate::{Error, ImageStore};
use flights::Flights;
use layer::LayerPull;

/// Layers that are downloaded and unpacked at once, of all registries: each takes a thread and some megabytes.
const LAYERS_AT_ONCE_MAX: usize = 16;

/// How pulls are done.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Where `hosts.toml` files are.
    pub hosts_dir: Option<PathBuf>,
    /// Credentials of whoever asks without any.
    pub auth_file: Option<AuthFile>,
    /// How long a registry may be silent.
    pub patience: Patience,
    /// How many layers are downloaded and unpacked at once, of all images of a registry.
    pub layers_at_once: usize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { hosts_dir: None, auth_file: None, patience: Patience::default(), layers_at_once: 4 }
    }
}

/// What a pull is doing, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullProgress {
    /// It is known what the image is.
    Image {
        /// The image's ID.
        id: Digest,
        /// Its layers, lowest first: blob, and its size in bytes.
        layers: Vec<(Digest, u64)>,
    },
    /// A layer is in the store already.
    Present {
        /// Its blob.
        blob: Digest,
    },
    /// Bytes of a layer came.
    Bytes {
        /// Its blob.
        blob: Digest,
        /// How many came.
        count: u64,
    },
    /// A layer is unpacked and verified.
    Unpacked {
        /// Its blob.
        blob: Digest,
    },
}

/// Who watches pulls.
pub type Observer = Arc<dyn Fn(PullProgress) + Send + Sync>;

type Shared<T> = Result<Arc<T>, Arc<PullError>>;

/// A layer that waits to be put in its place; none, if it is there.
type PulledOrThere = Result<Option<Arc<PulledLayer>>, Arc<PullError>>;

/// Pulls images into one store.
pub struct Puller {
    context: Arc<Context>,
}

/// What every pull needs.
struct Context {
    store: Arc<ImageStore>,
    options: PullOptions,
    transport: Arc<Transport>,
    room_of_all: Semaphore,
    /// By registry.
    rooms: Mutex<HashMap<String, Weak<Semaphore>>>,
    images: Flights<(Reference, Credentials), Shared<ImageRecord>>,
    layers: Flights<LayerKey, PulledOrThere>,
    /// Layers that are verified and wait for the rest of an image, by diff ID.
    staged: Mutex<HashMap<Digest, Weak<PulledLayer>>>,
    /// What pulls hold until nothing of them is left.
    at_work: Mutex<Vec<Weak<TmpLock>>>,
    observe: Observer,
}

/// What makes two downloads of a layer the same one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct LayerKey {
    registry: String,
    credentials: Credentials,
    blob: Digest,
    size_bytes: u64,
    diff_id: Digest,
}

impl Puller {
    /// Pulls into `store`.
    #[must_use]
    pub fn new(store: Arc<ImageStore>, options: PullOptions) -> Self {
        Self::observed(store, options, Arc::new(|_| {}))
    }

    /// [`Puller::new`] that tells `observe` what its pulls are doing.
    #[must_use]
    pub fn observed(store: Arc<ImageStore>, options: PullOptions, observe: Observer) -> Self {
        let transport = Transport::new(options.patience, options.hosts_dir.clone());
        let (images, layers) = (Flights::default(), Flights::default());
        let room_of_all = Semaphore::new(LAYERS_AT_ONCE_MAX);
        let context = Context {
            store,
            options,
            transport,
            room_of_all,
            rooms: Mutex::default(),
            images,
            layers,
            staged: Mutex::default(),
            at_work: Mutex::default(),
            observe,
        };
        Self { context: Arc::new(context) }
    }

    /// Whether nothing of any pull is under way, nor left of one that was given up. Threads notice a little later that they are not wanted.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let mut at_work = self.context.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        at_work.retain(|work| work.strong_count() > 0);
        at_work.is_empty()
    }

    /// Pulls what `name` means. Must be called within a tokio runtime; dropping the future leaves the pull, which ends with the last
    /// who waits for it.
    ///
    /// # Errors
    /// Names the step that failed. Nothing of a failed pull becomes visible.
    pub fn pull(&self, name: &str, credentials: Credentials) -> impl Future<Output = Shared<ImageRecord>> + Send + use<> {
        let reference = Reference::parse(name, self.context.store.default_registry()).map(Reference::without_idle_tag);
        let context = self.context.clone();
        async move {
            let reference = reference.map_err(|error| Arc::new(PullError::Reference(error)))?;
            let key = (reference.clone(), credentials.clone());
            let pull = {
                let context = context.clone();
                move || async move { context.pull(reference, credentials).await.map_err(Arc::new) }
            };
            match context.images.join(key, pull).await {
                Some(outcome) => outcome,
                None => Err(Arc::new(PullError::CutOff)),
            }
        }
    }
}

impl Context {
    async fn pull(self: Arc<Self>, reference: Reference, credentials: Credentials) -> Result<Arc<ImageRecord>, PullError> {
        let context = self.clone();
        let given = credentials.clone();
        let opened = blocking(move || {
            let lock = context.store.lock_work()?;
            {
                let mut at_work = context.at_work.lock().unwrap_or_else(PoisonError::into_inner);
                at_work.retain(|work| work.strong_count() > 0);
                at_work.push(lock.holders());
            }
            let options = &context.options;
            let origin = Origin {
                transport: context.transport.clone(),
                hosts_dir: options.hosts_dir.as_deref(),
                auth_file: options.auth_file.as_ref(),
            };
            Ok((Session::open(&origin, &reference, &credentials)?, reference, lock))
        });
        let (session, reference, lock) = opened.await?;
        Pull { context: self, session: Arc::new(session), reference, credentials: given, lock }.run().await
    }

    /// Where a registry's layers wait for their turn.
    fn room(&self, registry: &str) -> Arc<Semaphore> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(registry).and_then(Weak::upgrade) {
            return room;
        }
        rooms.retain(|_, room| room.strong_count() > 0);
        let room = Arc::new(Semaphore::new(self.options.layers_at_once.max(1)));
        rooms.insert(registry.to_owned(), Arc::downgrade(&room));
        room
    }

    /// The layer, if some pull has it verified and not in its place yet.
    fn staged(&self, diff_id: &Digest) -> Option<Arc<PulledLayer>> {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let found = staged.get(diff_id).and_then(Weak::upgrade);
        drop(staged);
        found.filter(|layer| layer.is_staged())
    }

    fn keep_staged(&self, layer: &Arc<PulledLayer>) {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.retain(|_, layer| layer.strong_count() > 0);
        staged.insert(layer.diff_id().clone(), Arc::downgrade(layer));
    }
}

/// One image on its way.
struct Pull {
    context: Arc<Context>,
    session: Arc<Session>,
    reference: Reference,
    credentials: Credentials,
    lock: WorkLock,
}

impl Pull {
    async fn run(&self) -> Result<Arc<ImageRecord>, PullError> {
        let digest = self.ask_for_digest().await?;
        if let Some(digest) = &digest
            && let Some(known) = self.known(digest.clone()).await?
        {
            return Ok(known);
        }
        let target = self.manifest(self.reference.digest().or(digest.as_ref())).await?;
        let image = self.plan(target).await?;
        let blobs = image.layers.iter().filter_map(|layer| layer.blob.as_ref().map(|blob| (blob.digest.clone(), blob.size_bytes)));
        (self.context.observe)(PullProgress::Image { id: image.id.clone(), layers: blobs.collect() });
        let mut attempts_left = RECORD_ATTEMPTS_MAX;
        // What was unpacked for an attempt that failed is there for the next.
        let mut unpacked = Vec::new();
        loop {
            attempts_left -= 1;
            unpacked.extend(self.layers(&image.layers).await?);
            let (store, planned, layers, lock) = (self.context.store.clone(), image.clone(), unpacked.clone(), self.lock.clone());
            let recorded = blocking(move || {
                let recorded = store.record_pulled(planned, &layers);
                drop((layers, lock));
                Ok(recorded?)
            });
            match recorded.await {
                // One that was there was collected meanwhile.
                Err(PullError::Store(Error::MissingLayer { .. })) if attempts_left > 0 => {}
                recorded => return recorded,
            }
        }
    }

    /// What the name points to, if the registry says so without sending it. It is asked for a digest, too: whoever may not have the
    /// image is to be told so, though it may be there already.
    async fn ask_for_digest(&self) -> Result<Option<Digest>, PullError> {
        let given = self.reference.digest();
        let name = given.map_or(self.reference.tag().unwrap_or_default(), Digest::as_str);
        let told = match self.session.digest_of(name, given.is_some(), &document::accepted_manifests()).await {
            // Registries that do not know HEAD: whether the image may be had, its manifest will show.
            Err(RegistryError::Status { .. }) => return Ok(None),
            told => told?,
        };
        Ok(given.cloned().or(told))
    }

    /// The image that the store has under this repository's digest; it gets the name that is asked for.
    async fn known(&self, digest: Digest) -> Result<Option<Arc<ImageRecord>>, PullError> {
        let (store, reference) = (self.context.store.clone(), self.reference.clone());
        blocking(move || Ok(store.name_known(&reference, &digest)?)).await
    }

    async fn manifest(&self, digest: Option<&Digest>) -> Result<Document, PullError> {
        let limit = self.context.store.limits().document_bytes;
        let tag = self.reference.tag().unwrap_or_default();
        Ok(self.session.manifest(tag, digest, &document::accepted_manifests(), limit).await?)
    }

    /// Follows indexes to the manifest for this machine, and reads the configuration.
    async fn plan(&self, target: Document) -> Result<PlannedImage, PullError> {
        let limits = self.context.store.limits();
        let target_digest = target.digest.clone();
        let mut document = target;
        for _ in 0..document::INDEX_DEPTH_MAX {
            let object = document.digest.to_string();
            match document::content(&object, &document.bytes, limits)? {
                Content::Index(manifests) => {
                    let descriptor = document::for_this_machine(manifests, object)?;
                    document = self.child(&descriptor).await?;
                }
                Content::Manifest { config, layers } => {
                    let (blob, layers) = document::manifest_parts(&config, &layers, limits)?;
                    let config_bytes = self.session.document(&blob, limits.document_bytes).await?;
                    let mut image = document::planned_image(blob.digest.as_str(), config_bytes, layers, limits)?;
                    image.names = vec![self.reference.clone()];
                    image.manifest_digest = Some(document.digest);
                    image.target_digest = Some(target_digest);
                    return Ok(image);
                }
            }
        }
        Err(Error::NestedIndex { object: document.digest.to_string() }.into())
    }

    async fn child(&self, descriptor: &Descriptor) -> Result<Document, PullError> {
        let blob = descriptor.blob();
        let document = self.manifest(Some(&blob.digest)).await?;
        if document.bytes.len() as u64 != blob.size_bytes {
            let (expected_bytes, actual_bytes) = (blob.size_bytes, document.bytes.len() as u64);
            return Err(Error::SizeMismatch { object: blob.digest.to_string(), expected_bytes, actual_bytes }.into());
        }
        Ok(document)
    }

    /// All layers, unpacked and verified but not in their places yet. Fails with the first that does.
    async fn layers(&self, layers: &[PlannedLayer]) -> Result<Vec<Arc<PulledLayer>>, PullError> {
        let mut flights = JoinSet::new();
        let mut seen = std::collections::HashSet::new();
        for layer in layers {
            if !seen.insert(layer.diff_id.clone()) {
                continue;
            }
            let pull = LayerPull {
                context: self.context.clone(),
                session: self.session.clone(),
                registry: self.reference.registry().to_owned(),
                credentials: self.credentials.clone(),
                layer: layer.clone(),
                lock: self.lock.clone(),
            };
            flights.spawn(pull.join());
        }
        let mut pulled = Vec::new();
        while let Some(ended) = flights.join_next().await {
            match ended {
                Ok(Ok(layer)) => pulled.extend(layer),
                Ok(Err(error)) => return Err(PullError::Layer(error)),
                Err(_) => return Err(PullError::CutOff),
            }
        }
        Ok(pulled)
    }
}

/// Does what waits for the disk on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PullError> + Send + 'static) -> Result<T, PullError> {
    spawn_blocking(work).await.unwrap_or(Err(PullError::CutOff))
}
