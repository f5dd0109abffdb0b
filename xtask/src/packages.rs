//! Debian packages that are taken apart instead of being installed.

use crate::setup;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Fetches packages into `folder/packages`, with all that they depend on: apt resolves for a system without a single package, so that what
/// is installed here does not count.
///
/// # Errors
/// apt-get fails, or the folder cannot be made.
pub(crate) fn fetch(folder: &Path, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let archives = folder.join("packages");
    recreate(&archives.join("partial"))?;
    let status = folder.join("no-packages");
    fs::write(&status, "").context("write an empty list of packages")?;
    let status = format!("Dir::State::status={}", status.display());
    let cache = format!("Dir::Cache::archives={}", archives.display());
    let mut arguments = vec!["-q", "-o", &status, "-o", &cache, "--no-install-recommends", "--download-only", "--yes", "install"];
    arguments.extend(packages);
    setup::command("apt-get", &arguments, folder)?;
    let entries = fs::read_dir(&archives).context("list the packages")?;
    let paths = entries.map(|entry| Ok(entry.context("list the packages")?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}

/// Unpacks packages into a folder, which is made anew.
///
/// # Errors
/// One cannot be unpacked.
pub(crate) fn unpack(archives: &[PathBuf], folder: &Path) -> Result<()> {
    recreate(folder)?;
    for archive in archives {
        setup::command("dpkg-deb", &["--extract", &archive.to_string_lossy(), &folder.to_string_lossy()], Path::new("/"))?;
    }
    Ok(())
}

/// Makes a folder anew, with those above it.
///
/// # Errors
/// The old one cannot be removed, or the new one not be made.
pub(crate) fn recreate(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(format!("remove {}", folder.display())),
        _ => fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display())),
    }
}
