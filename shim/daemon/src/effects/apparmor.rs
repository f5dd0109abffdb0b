//! AppArmor: which profiles are loaded, and podbox's own.
//!
//! The kernel lists its profiles in securityfs, which is mounted for the look alone and for nobody else to see. Policy is compiled by
//! `apparmor_parser`, which is executed when the daemon starts, if podbox's profile is not loaded yet, and where a container asks for it and
//! it still is not: what failed before is tried again.

mod default_profile;
mod parser;

pub use default_profile::DefaultProfile;
pub use parser::ParserError;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of podbox's own profile. Its last part is the beginning of the SHA-256 of the text without that part: another text has another
/// name, so that what is loaded under it is what is meant.
pub const DEFAULT_PROFILE: &str = "podbox-default-d62d4bf5";
const DEFAULT_PROFILE_TEXT: &str = include_str!("apparmor/podbox-default");
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Where systems keep what only root runs.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
const PARSER: &str = "apparmor_parser";
/// It takes a fraction of a second.
const PARSER_TIME_MAX: Duration = Duration::from_secs(30);
/// More than any node's list is long.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// AppArmor would not.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    /// The kernel's list cannot be read.
    #[error("read the kernel's list of AppArmor profiles")]
    List(#[source] io::Error),
    /// There is no parser.
    #[error("{PARSER} is not installed on this node, so that podbox's own profile cannot be loaded")]
    NoParser,
    /// The parser failed.
    #[error("load podbox's own profile by {}", path.display())]
    Load {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ParserError,
    },
    /// The parser succeeded, and the kernel does not have the profile.
    #[error("{} says that it has loaded podbox's own profile, and the kernel does not have it", path.display())]
    NotThere {
        /// Which.
        path: PathBuf,
    },
}

/// Whether the kernel has it, and it is on.
#[must_use]
pub fn is_enabled() -> bool {
    std::fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Whether a profile of this name is loaded.
///
/// # Errors
/// The list cannot be read.
pub fn is_loaded(name: &str) -> Result<bool, AppArmorError> {
    let mut list = String::new();
    let profiles = open_list().map_err(|errno| AppArmorError::List(errno.into()))?;
    profiles.take(LIST_BYTES_MAX).read_to_string(&mut list).map_err(AppArmorError::List)?;
    // `name (mode)`
    Ok(list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name)))
}

/// A mount that is nowhere: it goes with its descriptor.
fn open_list() -> Result<File, Errno> {
    let context = fsopen(c"securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(rustix::fs::openat(&mount, c"apparmor/profiles", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Loads podbox's own profile.
fn load_default() -> Result<(), AppArmorError> {
    let parser = FOLDERS.iter().map(|folder| Path::new(folder).join(PARSER)).find(|path| path.exists()).ok_or(AppArmorError::NoParser)?;
    parser::load(&parser, DEFAULT_PROFILE_TEXT, PARSER_TIME_MAX).map_err(|source| AppArmorError::Load { path: parser.clone(), source })?;
    if is_loaded(DEFAULT_PROFILE)? { Ok(()) } else { Err(AppArmorError::NotThere { path: parser }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podbox_image::Digest;

    /// A node may have the profile of an older podbox loaded, and containers under it.
    #[test]
    fn another_text_of_the_profile_has_another_name() {
        let (stem, part) = DEFAULT_PROFILE.rsplit_once('-').expect("a part that tells the text");
        let text = DEFAULT_PROFILE_TEXT.replace(DEFAULT_PROFILE, stem);
        let digest = Digest::of(text.as_bytes()).to_string();
        let (_, hex) = digest.split_once(':').expect("sha256:");
        assert_eq!(&hex[..8], part, "the text has changed: it is {stem}-{} from now on, in the text too", &hex[..8]);
        assert_eq!(text.matches(&format!("profile {stem} ")).count(), 1, "the text is that of the profile");
    }
}
