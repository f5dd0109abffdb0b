//! The list of allowed devices: a new cgroup has its parent's.

use crate::{DeviceRule, Error};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

const DENY: &str = "devices.deny";
const ALLOW: &str = "devices.allow";
const EVERYTHING: &str = "a";

/// Denies everything, then allows rule by rule. The parent must allow as much itself (`EPERM`), and nothing may be below yet (`EINVAL`).
pub(crate) fn restrict_devices(directory: &Path, rules: &[DeviceRule]) -> Result<(), Error> {
    write_all(directory, DENY, std::iter::once(EVERYTHING.to_owned()))?;
    write_all(directory, ALLOW, rules.iter().map(ToString::to_string))
}

/// One `write(2)` each, as the kernel wants it.
fn write_all(directory: &Path, name: &str, values: impl Iterator<Item = String>) -> Result<(), Error> {
    let file = directory.join(name);
    let failed = |value: String, source| Error::Write { file: file.clone(), value, source };
    let open: Result<File, _> = OpenOptions::new().write(true).open(&file);
    let mut open = open.map_err(|source| failed(String::new(), source))?;
    for value in values {
        open.write_all(value.as_bytes()).map_err(|source| failed(value, source))?;
    }
    Ok(())
}
