//! AppArmor: which profiles are loaded, and podbox's own.
//!
//! The kernel lists its profiles in securityfs, which is mounted for the look alone and for nobody else to see. Policy is compiled by
//! `apparmor_parser`, which is executed when the daemon starts, if podbox's profile is not loaded yet, and where a container asks for it and
//! it still is not.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The name of podbox's own profile. Another text is another name, so that what is loaded under it is what is meant.
pub const DEFAULT_PROFILE: &str = "podbox-default-1";
const DEFAULT_PROFILE_TEXT: &str = include_str!("apparmor/podbox-default-1");
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Where systems keep what only root runs.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
const PARSER: &str = "apparmor_parser";
/// Of what the parser says.
const SAID_BYTES_MAX: usize = 1024;
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
    /// The parser cannot be run.
    #[error("run {}", path.display())]
    Run {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The parser failed.
    #[error("{PARSER} does not load podbox's own profile: {said}")]
    Load {
        /// The beginning of what it said.
        said: String,
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

/// Sees to it that podbox's own profile is loaded.
///
/// # Errors
/// It is not, and cannot be.
pub fn load_default() -> Result<(), AppArmorError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if is_loaded(DEFAULT_PROFILE)? {
        return Ok(());
    }
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if is_loaded(DEFAULT_PROFILE)? {
        return Ok(());
    }
    let parser = FOLDERS.iter().map(|folder| Path::new(folder).join(PARSER)).find(|path| path.exists()).ok_or(AppArmorError::NoParser)?;
    let failed = |source| AppArmorError::Run { path: parser.clone(), source };
    let mut command = Command::new(&parser);
    // Nothing is kept on disk: the kernel has it, and another kernel needs another.
    command.args(["--replace", "--skip-cache", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = running.stdin.take() {
        // One that ended early says why on its standard error.
        let _ = stdin.write_all(DEFAULT_PROFILE_TEXT.as_bytes());
    }
    let output = running.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(SAID_BYTES_MAX)]).trim().replace('\n', "; ");
    if !output.status.success() || !is_loaded(DEFAULT_PROFILE)? {
        return Err(AppArmorError::Load { said: if said.is_empty() { output.status.to_string() } else { said } });
    }
    Ok(())
}
