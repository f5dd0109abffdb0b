//! The images, in memory, kept equal to the `images/` directory: this process or another may change it at any time.
//!
//! A look at the directory's modification time tells whether to read it again, and then only new or replaced files are
//! read. A time so recent that a further change could carry the same one is not relied on.
//!
//! What a record of another version or one that cannot be read says is not known: then nothing is. Layers of images that are
//! only out of sight would be collected.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::record::{ImageFile, ImageRecord, is_damage};
use crate::Error;
use crate::digest::Digest;

/// Longer than any kernel's granularity of file times.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Index {
    read_at: Option<Stamp>,
    files: HashMap<String, (Stamp, Arc<ImageRecord>)>,
    images: BTreeMap<Digest, Arc<ImageRecord>>,
    names: HashMap<String, Digest>,
}

/// What changes when a file or directory is replaced or modified.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanos: i64,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), size: metadata.len(), seconds: metadata.mtime(), nanos: metadata.mtime_nsec() }
    }
}

impl Index {
    /// Brings the index up to date and returns the record files whose content is damaged.
    ///
    /// # Errors
    /// Names the directory or the record that cannot be read, or that another version of podbox wrote.
    pub(super) fn refresh(&mut self, images: &Path, layers: &Path) -> Result<Vec<PathBuf>, Error> {
        let failed = |source| Error::ReadRecords { path: images.to_owned(), source };
        let metadata = std::fs::metadata(images).map_err(failed)?;
        let stamp = Stamp::from(&metadata);
        if self.read_at == Some(stamp) {
            return Ok(Vec::new());
        }
        let settled = SystemTime::now().duration_since(metadata.modified().map_err(failed)?).is_ok_and(|age| age > SETTLED_AFTER);
        let mut damaged = Vec::new();
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(images).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(id) = image_id_of(&path) else { continue };
            match self.load(&path, &id, layers) {
                Ok(Some(file)) => {
                    files.insert(id.hex().to_owned(), file);
                }
                Ok(None) => {}
                Err(error) if is_damage(&error) => damaged.push(path),
                Err(source) => return Err(Error::ReadRecords { path, source }),
            }
        }
        self.files = files;
        self.resolve_names();
        self.read_at = (settled && damaged.is_empty()).then_some(stamp);
        Ok(damaged)
    }

    fn load(&self, path: &Path, id: &Digest, layers: &Path) -> io::Result<Option<(Stamp, Arc<ImageRecord>)>> {
        let stamp = match std::fs::metadata(path) {
            Ok(metadata) => Stamp::from(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some((known, record)) = self.files.get(id.hex())
            && *known == stamp
        {
            return Ok(Some((stamp, Arc::clone(record))));
        }
        match check(path, id, layers) {
            Ok(record) => Ok(Some((stamp, Arc::new(record)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives each name to the record that claimed it last: a crash may have left it with two.
    fn resolve_names(&mut self) {
        let mut records: Vec<_> = self.files.values().map(|(_, record)| Arc::clone(record)).collect();
        records.sort_by(|a, b| (a.named_at_unix_nanos, &a.id).cmp(&(b.named_at_unix_nanos, &b.id)));
        self.names.clear();
        for record in &records {
            for name in record.repo_tags.iter().chain(&record.repo_digests) {
                self.names.insert(name.clone(), record.id.clone());
            }
        }
        let names = &self.names;
        let owns = |record: &ImageRecord, name: &String| names.get(name) == Some(&record.id);
        self.images = records
            .into_iter()
            .map(|mut record| {
                if !record.repo_tags.iter().all(|tag| owns(&record, tag)) {
                    let mut kept = ImageRecord::clone(&record);
                    kept.repo_tags.retain(|tag| owns(&record, tag));
                    record = Arc::new(kept);
                }
                (record.id.clone(), record)
            })
            .collect();
    }

    pub(super) fn images(&self) -> impl Iterator<Item = &Arc<ImageRecord>> {
        self.images.values()
    }

    pub(super) fn by_id(&self, id: &Digest) -> Option<&Arc<ImageRecord>> {
        self.images.get(id)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Arc<ImageRecord>> {
        self.names.get(name).and_then(|id| self.images.get(id))
    }

    pub(super) fn by_hex_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<ImageRecord>> {
        // Records are ordered by ID, so those with a prefix are neighbours.
        self.images.range(first_with(prefix)..).map(|(_, record)| record).take_while(move |record| record.id.hex().starts_with(prefix))
    }
}

/// Reads a record and checks that everything it needs is there.
pub(super) fn check(path: &Path, id: &Digest, layers: &Path) -> io::Result<ImageRecord> {
    let record = ImageFile::read(path)?.record()?;
    if record.id != *id {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record under another image's name"));
    }
    for layer in record.stack() {
        std::fs::metadata(layers.join(layer.hex()).join(super::LAYER_RECORD))?;
    }
    Ok(record)
}

/// The image a record file belongs to, by its name; `None` for files that are not records.
pub(super) fn image_id_of(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.file_name()?.to_str()?.strip_suffix(".json")?).ok()
}

fn first_with(prefix: &str) -> Digest {
    Digest::from_hex(&format!("{prefix:0<64}")).expect("callers pass at most 64 hexadecimal digits")
}
