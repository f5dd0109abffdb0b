//! The cgroup mounts in the text of `/proc/PID/mountinfo`.

use crate::{Controller, Controllers};
use std::path::PathBuf;

/// A mount of a hierarchy that podbox can use.
pub(super) struct Mount {
    pub(super) mount_point: PathBuf,
    pub(super) mounted: MountedAs,
}

/// What is mounted there.
pub(super) enum MountedAs {
    V1(Controllers),
    Unified,
}

/// Those mounts, whole hierarchies before parts of one (a container's host may bind only a subtree), otherwise in the order of
/// the table.
pub(super) fn cgroup_mounts(table: &str) -> Vec<Mount> {
    let (whole, parts): (Vec<_>, Vec<_>) = table.lines().filter_map(parse).partition(|(root, _)| root == "/");
    whole.into_iter().chain(parts).map(|(_, mount)| mount).collect()
}

/// The mounted root and the mount, for a line that is one.
fn parse(line: &str) -> Option<(String, Mount)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount_point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let mounted = match kind {
        "cgroup2" => MountedAs::Unified,
        "cgroup" => MountedAs::V1(options.split(',').filter_map(Controller::from_v1_name).collect()),
        _ => return None,
    };
    let unused = matches!(&mounted, MountedAs::V1(controllers) if controllers.is_empty());
    // A root such as `/..` lies outside of this process's cgroup namespace.
    let outside = root.split('/').any(|component| component == "..");
    let mount = Mount { mount_point: unescape(mount_point).into(), mounted };
    (!unused && !outside).then(|| (root.to_owned(), mount))
}

/// Undoes `\040` and the like: space, tab, newline and backslash are three octal digits in this table.
fn unescape(field: &str) -> String {
    let mut plain = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, escaped)) = rest.split_once('\\') {
        plain.push_str(before);
        match escaped.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &escaped[3..];
            }
            None => {
                plain.push('\\');
                rest = escaped;
            }
        }
    }
    plain + rest
}
