//! The lines of `/etc/passwd` and `/etc/group` (passwd(5), group(5)), searched without building a table of them.

use std::collections::BTreeSet;

use super::{GROUP, GROUPS_MAX, PASSWD, UserError};

/// A user or group ID: digits only, and not the number that means "unchanged".
pub(super) fn id(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    valid_id(std::str::from_utf8(text).ok()?.parse().ok())
}

pub(super) fn valid_id(id: Option<u32>) -> Option<u32> {
    id.filter(|&id| id != u32::MAX)
}

/// A user's entry.
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: Option<String>,
}

/// `/etc/passwd`
pub(super) struct Passwd {
    bytes: Vec<u8>,
}

impl Passwd {
    pub(super) fn parse(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The first entry with this name; an error if its numbers are not IDs.
    pub(super) fn by_name(&self, name: &str) -> Result<Option<User>, UserError> {
        lines(&self.bytes).find(|line| field(line, 0) == Some(name.as_bytes())).map(user).transpose()
    }

    /// The first entry with this user ID.
    pub(super) fn by_uid(&self, uid: u32) -> Result<Option<User>, UserError> {
        lines(&self.bytes).find(|line| field(line, 2).and_then(id) == Some(uid)).map(user).transpose()
    }
}

fn user(line: &[u8]) -> Result<User, UserError> {
    let name = String::from_utf8_lossy(field(line, 0).unwrap_or_default()).into_owned();
    match (field(line, 2).and_then(id), field(line, 3).and_then(id)) {
        (Some(uid), Some(gid)) => Ok(User { name, uid, gid, home: field(line, 5).and_then(home) }),
        _ => Err(UserError::MalformedEntry { name, file: PASSWD }),
    }
}

fn home(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    (text.starts_with('/') && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// `/etc/group`
pub(super) struct Group {
    bytes: Vec<u8>,
}

impl Group {
    pub(super) fn parse(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The ID of the first group with this name.
    pub(super) fn gid_of(&self, name: &str) -> Result<u32, UserError> {
        let line = lines(&self.bytes)
            .find(|line| field(line, 0) == Some(name.as_bytes()))
            .ok_or_else(|| UserError::NoGroup { name: name.to_owned() })?;
        field(line, 2).and_then(id).ok_or_else(|| UserError::MalformedEntry { name: name.to_owned(), file: GROUP })
    }

    /// The IDs of the groups that list `user`; those without a valid ID are left out. At most one more than
    /// [`GROUPS_MAX`], plus the primary group.
    pub(super) fn gids_with_member(&self, user: &str) -> BTreeSet<u32> {
        let mut gids = BTreeSet::new();
        for line in lines(&self.bytes) {
            let is_member = field(line, 3).is_some_and(|members| members.split(|&b| b == b',').any(|member| member == user.as_bytes()));
            if is_member {
                gids.extend(field(line, 2).and_then(id));
            }
            if gids.len() > GROUPS_MAX + 1 {
                break;
            }
        }
        gids
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty() && line[0] != b'#')
}

fn field(line: &[u8], number: usize) -> Option<&[u8]> {
    line.split(|&b| b == b':').nth(number)
}
