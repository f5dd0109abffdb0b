//! Folders that an image's upper layers have no entry for, as its lower layers have them.
//!
//! A layer that holds `tmp/x` alone says nothing about `/tmp`; overlayfs shows the topmost folder all the same, with the owner and
//! mode that unpacking had to make up. Where a lower layer has an entry for the folder, that is what counts: its owner, mode,
//! extended attributes and times. The layer itself cannot be given them, as images share it whose lower layers differ.
//!
//! So such an image gets one more layer, of folders alone, on top of the others. It is named by a digest of what is in it, is made
//! once for all images that need the same, and lives as layers do: staged in `tmp/`, synced and renamed before the record that
//! names it, collected when no image and no snapshot does. Layers without a list of implied folders have none.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, syncfs,
};
use rustix::io::Errno;
use serde::Serialize;

use super::record::{LayerFile, write_json};
use super::{ImageStore, LAYER_RECORD, UPPER};
use crate::digest::Digest;
use crate::document::PlannedImage;
use crate::tree::open_child;
use crate::unpack::{OPAQUE_XATTR, attributes::is_for_images};
use crate::{Error, tree};

/// Beside a layer's tree: the folders that it has no entry for.
pub(super) const IMPLIED_RECORD: &str = "implied.json";
/// Of all of an image's layers; what is beyond is left as it is.
const FOLDERS_MAX: usize = 4096;
/// Of all extended attributes of these folders; what is beyond is left as it is.
const XATTRS_LEN_MAX: usize = 1 << 20;
/// What Linux allows for the names or one value of a file's extended attributes (xattr(7)).
const XATTR_LEN_MAX: usize = 64 * 1024;
/// Where a tar header has its checksum, this has letters: the digest is none that a layer could have for its diff ID.
const DOMAIN: &str = "podbox: folders alone, not a tar archive\n";
const TAR_HEADER_LEN: usize = 512;

/// One of an image's layers.
struct Layer {
    root: OwnedFd,
    implied: HashSet<String>,
    /// It hides all layers below it.
    is_last: bool,
}

/// What there is to know about a folder but its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A folder that containers see.
struct Folder {
    /// As the topmost layer has it.
    shown: Attributes,
    /// As the topmost layer with an entry for it has it.
    meant: Attributes,
}

impl ImageStore {
    /// Makes the layer of folders that goes on top of an image's layers, which are in their places; `None` if it needs none.
    pub(super) fn make_folders(&self, image: &PlannedImage) -> Result<Option<Digest>, Error> {
        let failed = |source| Error::Folders { image: image.id.clone(), source };
        let mut layers = Vec::new();
        let mut candidates = BTreeSet::new();
        for layer in image.layers.iter().rev() {
            let diff_id = &layer.diff_id;
            let opened = self.open_layer(diff_id);
            let opened = opened.map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::MissingLayer { image: image.id.clone(), diff_id: diff_id.clone() },
                _ => failed(source),
            })?;
            candidates.extend(opened.implied.iter().take(FOLDERS_MAX.saturating_sub(candidates.len())).cloned());
            let is_last = opened.is_last;
            layers.push(opened);
            if is_last {
                break;
            }
        }
        let folders = differing(&layers, &candidates).map_err(failed)?;
        if folders.is_empty() {
            return Ok(None);
        }
        let digest = digest_of(&folders).map_err(failed)?;
        if self.layer_record(&digest).is_err() {
            let staging = self.make_tmp("folders").map_err(failed)?;
            let made = self.fill_folders(&staging, &digest, &folders).and_then(|()| self.install_layer(&digest, &staging));
            self.discard_tmp(&staging);
            made.map_err(failed)?;
        }
        Ok(Some(digest))
    }

    fn open_layer(&self, diff_id: &Digest) -> io::Result<Layer> {
        let is_last = self.layer_record(diff_id)?.has_opaque_root;
        let directory = self.layer_dir(diff_id);
        let implied = match std::fs::read(directory.join(IMPLIED_RECORD)) {
            // A list that is damaged costs what it tells, and no image.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Layer { root: tree::open_directory(&directory.join(UPPER))?, implied, is_last })
    }

    fn fill_folders(&self, staging: &Path, digest: &Digest, folders: &BTreeMap<String, Attributes>) -> io::Result<()> {
        let fs = staging.join(UPPER);
        std::fs::create_dir(&fs)?;
        let root = tree::open_directory(&fs)?;
        fchmod(&root, Mode::from_raw_mode(0o755))?;
        // A folder is after the one that it is in.
        for path in folders.keys() {
            std::fs::create_dir(fs.join(path))?;
        }
        // And its making changed that one's times.
        for (path, attributes) in folders.iter().rev() {
            attributes.apply(&tree::open_directory(&fs.join(path))?)?;
        }
        let record = LayerFile::new(digest.clone(), tree::usage(root.as_fd())?, false, false);
        write_json(&staging.join(LAYER_RECORD), &record)?;
        Ok(syncfs(&root)?)
    }
}

/// The folders that are shown otherwise than meant, with all that lead to them, as they should be seen. `layers`: topmost first.
fn differing(layers: &[Layer], candidates: &BTreeSet<String>) -> io::Result<BTreeMap<String, Attributes>> {
    let mut folders = BTreeMap::new();
    let mut xattrs_len = 0;
    for path in candidates {
        let Some(folder) = look_up(layers, path)?.filter(|folder| folder.shown != folder.meant) else { continue };
        xattrs_len += folder.meant.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if xattrs_len > XATTRS_LEN_MAX {
            break;
        }
        folders.insert(path.clone(), folder.meant);
        for (end, _) in path.match_indices('/') {
            let above = &path[..end];
            if !folders.contains_key(above)
                && let Some(folder) = look_up(layers, above)?
            {
                folders.insert(above.to_owned(), folder.meant);
            }
        }
    }
    Ok(folders)
}

/// What containers of these layers see at `path`, and what they should; `None` if it is no folder.
fn look_up(layers: &[Layer], path: &str) -> io::Result<Option<Folder>> {
    let mut shown = None;
    for layer in layers {
        let (found, hides_lower) = look_into(layer, path)?;
        if let Some(found) = found {
            let attributes = Attributes::of(&found)?;
            if !layer.implied.contains(path) {
                let shown = shown.unwrap_or_else(|| attributes.clone());
                return Ok(Some(Folder { shown, meant: attributes }));
            }
            shown.get_or_insert(attributes);
        }
        if hides_lower {
            break;
        }
    }
    // Nobody says how it should be.
    Ok(shown.map(|shown| Folder { meant: shown.clone(), shown }))
}

/// The folder that one layer has at `path`, and whether it keeps the layers below from showing theirs.
fn look_into(layer: &Layer, path: &str) -> io::Result<(Option<OwnedFd>, bool)> {
    let mut directory = open_child(&layer.root, OsStr::new("."))?;
    let mut hides_lower = layer.is_last;
    for component in path.split('/') {
        match open_child(&directory, OsStr::new(component)) {
            Ok(child) => directory = child,
            Err(Errno::NOENT) => return Ok((None, hides_lower)),
            // A file, a link, or a whiteout.
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok((None, true)),
            Err(errno) => return Err(errno.into()),
        }
        hides_lower |= is_opaque(&directory)?;
    }
    Ok((Some(directory), hides_lower))
}

fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    match fgetxattr(directory, OPAQUE_XATTR, &mut [0u8; 8][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn digest_of(folders: &BTreeMap<String, Attributes>) -> io::Result<Digest> {
    let mut bytes = DOMAIN.repeat(TAR_HEADER_LEN.div_ceil(DOMAIN.len())).into_bytes();
    serde_json::to_writer(&mut bytes, folders)?;
    Ok(Digest::of(&bytes))
}

impl Attributes {
    fn of(directory: &OwnedFd) -> io::Result<Self> {
        let stat = fstat(directory)?;
        let mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
        Ok(Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, mtime, xattrs: xattrs(directory)? })
    }

    /// Each of the former would undo the latter.
    fn apply(&self, directory: &OwnedFd) -> io::Result<()> {
        fchown(directory, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        fchmod(directory, Mode::from_raw_mode(self.mode))?;
        for (name, value) in &self.xattrs {
            fsetxattr(directory, name.as_slice(), value, XattrFlags::empty())?;
        }
        let time = Timespec { tv_sec: self.mtime.0, tv_nsec: self.mtime.1.into() };
        Ok(futimens(directory, &Timestamps { last_access: time, last_modification: time })?)
    }
}

/// Those that come from images, in the order of their names.
fn xattrs(directory: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; XATTR_LEN_MAX];
    let len = match flistxattr(directory, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        len => len?,
    };
    let mut xattrs = Vec::new();
    for name in names[..len].split(|&b| b == 0).filter(|name| is_for_images(name)) {
        let mut value = vec![0; XATTR_LEN_MAX];
        let len = fgetxattr(directory, name, &mut value[..])?;
        xattrs.push((name.to_vec(), value[..len].to_vec()));
    }
    xattrs.sort();
    Ok(xattrs)
}
