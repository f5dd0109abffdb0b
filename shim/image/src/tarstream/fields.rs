//! The fixed fields of a tar header block (POSIX pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format").

use std::collections::BTreeMap;

use super::{BLOCK_LEN, Entry, EntryKind, TarError};

/// A numeric field: octal digits padded with spaces and NULs, or GNU's base-256 when the top bit is set. A blank field
/// is 0. `None` for anything else, negative numbers included.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        if first & 0x40 != 0 {
            return None;
        }
        return rest
            .iter()
            .try_fold(u64::from(first & 0x3f), |value, &byte| value.checked_mul(256).map(|shifted| shifted | u64::from(byte)));
    }
    let text = field.split(|&b| b == 0).find(|part| !part.is_empty()).unwrap_or_default().trim_ascii();
    text.iter().try_fold(0u64, |value, &byte| match byte {
        b'0'..=b'7' => value.checked_mul(8).map(|shifted| shifted | u64::from(byte - b'0')),
        _ => None,
    })
}

/// Like [`number`], but GNU's base-256 may also be negative (two's complement): times before 1970.
fn signed(field: &[u8]) -> Option<i64> {
    match field.split_first()? {
        (&first, rest) if first & 0xc0 == 0xc0 => rest
            .iter()
            // The top bit is the mark of the form, the next one the sign.
            .try_fold(i64::from(first | 0x80) - 0x100, |value, &byte| value.checked_mul(256)?.checked_add(byte.into())),
        _ => number(field)?.try_into().ok(),
    }
}

/// The sum of all bytes, with the checksum field itself counted as spaces.
pub(super) fn checksum(block: &[u8; BLOCK_LEN]) -> u64 {
    let all: u64 = block.iter().map(|&b| u64::from(b)).sum();
    let field: u64 = block[148..156].iter().map(|&b| u64::from(b)).sum();
    all - field + 8 * u64::from(b' ')
}

/// What the fixed fields say about an entry; extension headers are applied on top.
pub(super) fn entry(block: &[u8; BLOCK_LEN], at: u64) -> Result<Entry, TarError> {
    let kind = kind(block[156]).ok_or(TarError::Kind { kind: char::from(block[156]), at })?;
    let field = |range: std::ops::Range<usize>, field| number(&block[range]).ok_or(TarError::Number { field, at });
    let narrow = |value: u64, field| u32::try_from(value).map_err(|_| TarError::Number { field, at });
    let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
    let device = |range, name| if is_device { narrow(field(range, name)?, name) } else { Ok(0) };
    Ok(Entry {
        path: path(block),
        link: text(&block[157..257]).to_vec(),
        kind,
        mode: (field(100..108, "mode")? & 0o7777) as u32,
        uid: narrow(field(108..116, "uid")?, "uid")?,
        gid: narrow(field(116..124, "gid")?, "gid")?,
        mtime_seconds: signed(&block[136..148]).ok_or(TarError::Number { field: "mtime", at })?,
        mtime_nanos: 0,
        device_major: device(329..337, "devmajor")?,
        device_minor: device(337..345, "devminor")?,
        size_bytes: 0,
        segments: None,
        xattrs: BTreeMap::new(),
    })
}

fn kind(flag: u8) -> Option<EntryKind> {
    Some(match flag {
        b'0' | 0 | b'7' | b'S' => EntryKind::Regular,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        _ => return None,
    })
}

fn path(block: &[u8; BLOCK_LEN]) -> Vec<u8> {
    let name = text(&block[..100]);
    // GNU headers ("ustar  ") use the place of the prefix for other fields.
    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { &[] };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}
