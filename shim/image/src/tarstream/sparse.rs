//! Sparse files: where in the file each piece of stored data belongs (GNU tar, "Storing Sparse Files").
//!
//! Four encodings: GNU's own header type `S`, and in PAX headers the versions 0.0, 0.1 and 1.0, the last with its map
//! at the start of the data. All become a list of [`Segment`]s that are in order, do not overlap, lie within the file and
//! account for exactly the stored data.

use super::pax::decimal;
use super::{BLOCK_LEN, Skip, TarError, TarStream, fields};

/// Upper bound of the pieces of one file, so that a map cannot grow memory.
const SEGMENTS_MAX: usize = 1 << 16;
const GNU_HEADER_MAPS: std::ops::Range<usize> = 386..482;
const GNU_EXTENDED_MAPS: std::ops::Range<usize> = 0..504;
const GNU_MAP_LEN: usize = 24;

/// One piece of data in a file with holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// What the `GNU.sparse.*` records of a PAX header say.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    real_size: Option<u64>,
    major: u64,
    minor: u64,
    numbers: Vec<u64>,
}

impl PaxSparse {
    pub(super) fn apply(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = decimal(value)?,
            b"minor" => self.minor = decimal(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(decimal(value)?),
            b"offset" | b"numbytes" => self.numbers.push(decimal(value)?),
            b"map" => self.numbers = value.split(|&b| b == b',').map(decimal).collect::<Option<_>>()?,
            _ => {}
        }
        (self.numbers.len() <= 2 * SEGMENTS_MAX).then_some(())
    }
}

impl<R: Skip> TarStream<R> {
    /// The map of a GNU sparse entry: four pieces in the header, more in blocks between header and data.
    pub(super) fn read_gnu_sparse(&mut self, block: &[u8; BLOCK_LEN], at: u64) -> Result<(Vec<Segment>, u64), TarError> {
        let real_size = fields::number(&block[483..495]).ok_or(TarError::Number { field: "realsize", at })?;
        let mut segments = Vec::new();
        push_gnu_maps(&mut segments, &block[GNU_HEADER_MAPS], at)?;
        let mut extended = block[482] != 0;
        while extended {
            // These blocks lie before the data and are not part of the entry's size.
            let mut more = [0; BLOCK_LEN];
            if !self.read_block(&mut more)? {
                return Err(TarError::Truncated);
            }
            push_gnu_maps(&mut segments, &more[GNU_EXTENDED_MAPS], at)?;
            extended = more[504] != 0;
        }
        self.checked_map(segments, real_size, at)
    }

    /// The map of a PAX sparse entry, read from the start of the data for version 1.0.
    pub(super) fn read_pax_sparse(&mut self, map: &PaxSparse, at: u64) -> Result<(Vec<Segment>, u64), TarError> {
        let real_size = map.real_size.ok_or(TarError::Sparse { at })?;
        let in_data;
        let numbers = match (map.major, map.minor) {
            (0, _) => &map.numbers,
            (1, 0) => {
                in_data = self.read_map_in_data(at)?;
                &in_data
            }
            _ => return Err(TarError::Sparse { at }),
        };
        let (pairs, []) = numbers.as_chunks::<2>() else {
            return Err(TarError::Sparse { at });
        };
        let segments = pairs.iter().map(|&[offset, len]| Segment { offset, len }).collect();
        self.checked_map(segments, real_size, at)
    }

    /// Decimal lines, a count and then pairs, padded to a whole block.
    fn read_map_in_data(&mut self, at: u64) -> Result<Vec<u64>, TarError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::new();
        let mut wanted = None;
        while wanted != Some(numbers.len()) {
            let mut block = [0; BLOCK_LEN];
            self.read_data_exact(&mut block)?;
            for byte in block {
                if wanted == Some(numbers.len()) {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(TarError::Sparse { at });
                    }
                    continue;
                }
                let number = decimal(&digits).ok_or(TarError::Sparse { at })?;
                digits.clear();
                if wanted.is_some() {
                    numbers.push(number);
                } else {
                    let count = usize::try_from(number).ok().filter(|&count| count <= SEGMENTS_MAX);
                    wanted = Some(2 * count.ok_or(TarError::Sparse { at })?);
                }
            }
        }
        Ok(numbers)
    }

    fn checked_map(&self, segments: Vec<Segment>, real_size: u64, at: u64) -> Result<(Vec<Segment>, u64), TarError> {
        let mut end = 0;
        let mut stored = 0u64;
        for segment in &segments {
            if segment.offset < end {
                return Err(TarError::Sparse { at });
            }
            end = segment.offset.checked_add(segment.len).ok_or(TarError::Sparse { at })?;
            stored += segment.len;
        }
        if end > real_size || stored != self.stored_bytes() {
            return Err(TarError::Sparse { at });
        }
        Ok((segments, real_size))
    }
}

fn push_gnu_maps(segments: &mut Vec<Segment>, maps: &[u8], at: u64) -> Result<(), TarError> {
    for map in maps.chunks_exact(GNU_MAP_LEN) {
        if map[0] == 0 || map[12] == 0 {
            break;
        }
        let number = |field| fields::number(field).ok_or(TarError::Sparse { at });
        segments.push(Segment { offset: number(&map[..12])?, len: number(&map[12..])? });
        if segments.len() > SEGMENTS_MAX {
            return Err(TarError::Sparse { at });
        }
    }
    Ok(())
}
