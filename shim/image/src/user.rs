//! Which user and groups a process runs as: from the image's `USER` or the CRI's `run_as_*`, through the image's own
//! `/etc/passwd` and `/etc/group`.
//!
//! What consists of digits is a number and stays one: it is parsed as decimal, leading zeros without meaning, must fit,
//! and is never looked up as a name. An entry that is looked up and is malformed is an error, not user 0. 4294967295 is
//! refused: to the kernel it means "unchanged".
//!
//! Both files are read with a limit and only if they are regular files. As with containerd, a number needs no entry
//! (group 0, no further groups), a name does.

mod accounts;

use std::collections::BTreeSet;
use std::path::Path;

use crate::rootfs::{RootFs, RootFsError};
use accounts::{Group, Passwd};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const FILE_LEN_MAX: u64 = 10 << 20;
/// The kernel takes no more (`NGROUPS_MAX`, getgroups(2)).
const GROUPS_MAX: usize = 65536;

/// Who is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserSpec {
    /// The image's `USER`: empty, `user`, `uid`, `user:group`, `uid:gid` and mixtures (OCI image specification,
    /// `config.User`). Empty means user 0.
    Image(String),
    /// CRI's `run_as_username`: a name, or digits, which mean a number here too.
    Username(String),
    /// CRI's `run_as_user`.
    Uid(i64),
}

/// The identity of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User ID.
    pub uid: u32,
    /// Primary group ID.
    pub gid: u32,
    /// The groups that the image's `/etc/group` lists the user in, ascending, without the primary one. CRI's policy
    /// `Merge` adds them, `Strict` does not.
    pub supplementary_gids: Vec<u32>,
    /// The user's name, if `/etc/passwd` has one.
    pub name: Option<String>,
    /// The home directory from `/etc/passwd`, absolute and free of control characters; the default for `HOME`.
    pub home: Option<String>,
}

/// Why no identity could be made of a specification.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A number that is not a user or group ID: negative, signed, or above 4294967294.
    #[error("{text:?} is not a user or group ID between 0 and 4294967294")]
    OutOfRange {
        /// The text as given.
        text: String,
    },
    /// More than one colon.
    #[error("user {text:?} is not of the form user[:group]")]
    Form {
        /// The text as given.
        text: String,
    },
    /// No such user in `/etc/passwd`.
    #[error("user {name:?} is not in the image's {PASSWD}")]
    NoUser {
        /// The name.
        name: String,
    },
    /// No such group in `/etc/group`.
    #[error("group {name:?} is not in the image's {GROUP}")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// The entry that was looked up has no valid numbers.
    #[error("the entry {name:?} in the image's {file} is malformed")]
    MalformedEntry {
        /// The entry's name.
        name: String,
        /// The file.
        file: &'static str,
    },
    /// `/etc/group` lists the user in more groups than the kernel takes.
    #[error("user {name:?} is in more than {GROUPS_MAX} groups of the image's {GROUP}")]
    TooManyGroups {
        /// The user's name.
        name: String,
    },
    /// One of the files could not be read.
    #[error("read the image's user database")]
    Read(#[from] RootFsError),
}

/// Resolves `spec` in an image. `run_as_group`, CRI's, replaces the primary group.
///
/// # Errors
/// Says which user, group or file is at fault.
pub fn resolve(spec: &UserSpec, run_as_group: Option<i64>, rootfs: &RootFs) -> Result<ResolvedUser, UserError> {
    let (user, group) = match spec {
        UserSpec::Image(text) => match text.split_once(':') {
            Some((_, group)) if group.contains(':') => return Err(UserError::Form { text: text.clone() }),
            Some((user, group)) => (Wanted::parse(user)?, Wanted::parse(group)?),
            None => (Wanted::parse(text)?, Wanted::Nothing),
        },
        UserSpec::Username(name) => (Wanted::parse(name)?, Wanted::Nothing),
        UserSpec::Uid(uid) => (Wanted::Id(id_from(*uid)?), Wanted::Nothing),
    };
    let passwd = Passwd::parse(read(rootfs, PASSWD)?);
    let mut resolved = find_user(user, &passwd)?;
    let groups = Group::parse(read(rootfs, GROUP)?);
    match (run_as_group, group) {
        (Some(gid), _) => resolved.gid = id_from(gid)?,
        (None, Wanted::Id(gid)) => resolved.gid = gid,
        (None, Wanted::Name(name)) => resolved.gid = groups.gid_of(name)?,
        (None, Wanted::Nothing) => {}
    }
    if let Some(name) = &resolved.name {
        let mut gids: BTreeSet<u32> = groups.gids_with_member(name);
        gids.remove(&resolved.gid);
        if gids.len() > GROUPS_MAX {
            return Err(UserError::TooManyGroups { name: name.clone() });
        }
        resolved.supplementary_gids = gids.into_iter().collect();
    }
    Ok(resolved)
}

/// One half of a specification.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Nothing,
    Id(u32),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Result<Self, UserError> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if text.is_empty() {
            Ok(Self::Nothing)
        } else if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self::Name(text))
        } else {
            let id = accounts::id(text.as_bytes());
            id.map(Self::Id).ok_or_else(|| UserError::OutOfRange { text: text.to_owned() })
        }
    }
}

fn find_user(user: Wanted<'_>, passwd: &Passwd) -> Result<ResolvedUser, UserError> {
    let (entry, uid) = match user {
        Wanted::Name(name) => match passwd.by_name(name)? {
            Some(entry) => (Some(entry), 0),
            None => return Err(UserError::NoUser { name: name.to_owned() }),
        },
        Wanted::Id(uid) => (passwd.by_uid(uid)?, uid),
        Wanted::Nothing => (passwd.by_uid(0)?, 0),
    };
    Ok(match entry {
        Some(entry) => {
            ResolvedUser { uid: entry.uid, gid: entry.gid, supplementary_gids: Vec::new(), name: Some(entry.name), home: entry.home }
        }
        None => ResolvedUser { uid, ..ResolvedUser::default() },
    })
}

fn id_from(number: i64) -> Result<u32, UserError> {
    accounts::valid_id(u32::try_from(number).ok()).ok_or_else(|| UserError::OutOfRange { text: number.to_string() })
}

fn read(rootfs: &RootFs, path: &str) -> Result<Vec<u8>, UserError> {
    Ok(rootfs.read_regular(Path::new(path), FILE_LEN_MAX)?.unwrap_or_default())
}
