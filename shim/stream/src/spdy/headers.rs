//! Header blocks: name-value pairs, compressed with one zlib stream for each direction of a connection.
//!
//! Source: SPDY Protocol, Draft 3.1, section 2.6.10.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What both sides begin to compress with (draft 3, section 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// The longest block, unpacked: a stream has a handful of headers. A small block may claim to be gigabytes.
const BLOCK_BYTES_MAX: usize = 4 * 1024;
/// The most pairs in a block.
const PAIRS_MAX: usize = 64;
/// Parts between the values of one name.
const SEPARATOR: char = '\0';

/// A block that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is not zlib's, or not with this dictionary.
    #[error("headers that cannot be inflated")]
    Inflate,
    /// More than is taken.
    #[error("headers of more than {BLOCK_BYTES_MAX} bytes")]
    TooLong,
    /// More than are taken.
    #[error("more than {PAIRS_MAX} headers")]
    TooMany,
    /// A length leads beyond the block, or what it covers is no text.
    #[error("headers that are cut off or no text")]
    Malformed,
}

/// Headers of a stream, in their order. Names are in lower case, as the protocol wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers of these names and values.
    #[must_use]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect())
    }

    /// The first value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(of, _)| of.eq_ignore_ascii_case(name))?;
        value.split(SEPARATOR).next()
    }

    fn parse(block: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = block;
        let count = take_number(&mut rest)?;
        if count > PAIRS_MAX {
            return Err(HeaderError::TooMany);
        }
        let pairs = (0..count).map(|_| Ok((take_text(&mut rest)?.to_ascii_lowercase(), take_text(&mut rest)?)));
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    fn write(&self) -> Vec<u8> {
        let mut block = Vec::new();
        put_number(&mut block, self.0.len());
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            put_number(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

fn take_number(rest: &mut &[u8]) -> Result<usize, HeaderError> {
    let (number, after) = rest.split_first_chunk().ok_or(HeaderError::Malformed)?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| HeaderError::Malformed)
}

fn take_text(rest: &mut &[u8]) -> Result<String, HeaderError> {
    let length = take_number(rest)?;
    let (text, after) = rest.split_at_checked(length).ok_or(HeaderError::Malformed)?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Malformed)
}

fn put_number(block: &mut Vec<u8>, number: usize) {
    block.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
}

/// Unpacks the blocks of one direction, every one of them and in their order.
#[derive(Debug)]
pub(super) struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    pub(super) fn inflate(&mut self, packed: &[u8]) -> Result<Headers, HeaderError> {
        let mut block = Vec::with_capacity(1024);
        let mut rest = packed;
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress_vec(rest, &mut block, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before_in).map_err(|_| HeaderError::Inflate)?;
            rest = rest.get(taken..).ok_or(HeaderError::Inflate)?;
            match outcome {
                Ok(Status::Ok | Status::BufError) if block.len() == block.capacity() => {
                    if block.len() >= BLOCK_BYTES_MAX {
                        return Err(HeaderError::TooLong);
                    }
                    block.reserve(block.len());
                }
                // What is given in is used up, and all of it has come out.
                Ok(Status::Ok | Status::BufError) if rest.is_empty() => return Headers::parse(&block),
                Ok(_) if taken == 0 && self.0.total_out() == before_out => return Err(HeaderError::Inflate),
                Ok(Status::StreamEnd) => return Err(HeaderError::Inflate),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| HeaderError::Inflate)?;
                }
                Err(_) => return Err(HeaderError::Inflate),
            }
        }
    }
}

/// Packs the blocks of one direction.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // Refused only in the middle of a stream.
        let _ = compress.set_dictionary(DICTIONARY);
        Self(compress)
    }
}

impl Deflater {
    pub(super) fn deflate(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.write();
        let mut packed = Vec::with_capacity(block.len() + 256);
        let mut rest = &block[..];
        loop {
            let before = self.0.total_in();
            let outcome = self.0.compress_vec(rest, &mut packed, FlushCompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken.min(rest.len())..];
            // A flush is whole when it left room.
            if outcome.is_err() || (rest.is_empty() && packed.len() < packed.capacity()) {
                return packed;
            }
            packed.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_block_is_unpacked_with_what_went_before() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let mut lengths = Vec::new();
        for _ in 0..3 {
            let headers = Headers::of(&[("streamType", "stdout"), ("requestID", "7"), ("port", "8080")]);
            let packed = deflater.deflate(&headers);
            lengths.push(packed.len());
            let unpacked = inflater.inflate(&packed).expect("inflates");
            assert_eq!(unpacked, headers);
            assert_eq!((unpacked.get("StreamType"), unpacked.get("nothing")), (Some("stdout"), None));
        }
        assert!(lengths[2] < lengths[0], "{lengths:?}");
    }

    #[test]
    fn a_bomb_goes_off_at_the_bound() {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(DICTIONARY).expect("dictionary");
        let mut packed = Vec::with_capacity(1 << 20);
        compress.compress_vec(&vec![0; 64 << 20], &mut packed, FlushCompress::Sync).expect("compress");
        assert!(packed.len() < 128 * 1024, "{}", packed.len());
        assert_eq!(Inflater::default().inflate(&packed), Err(HeaderError::TooLong));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let deflated = |block: &[u8]| {
            let mut compress = Compress::new(Compression::fast(), true);
            compress.set_dictionary(DICTIONARY).expect("dictionary");
            let mut packed = Vec::with_capacity(4096);
            compress.compress_vec(block, &mut packed, FlushCompress::Sync).expect("compress");
            packed
        };
        for (block, why) in [
            (&[0, 0, 0][..], HeaderError::Malformed),
            (&[0, 0, 1, 0], HeaderError::TooMany),
            (&[0, 0, 0, 1, 0, 0, 0, 9, b'a'], HeaderError::Malformed),
            (&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], HeaderError::Malformed),
            (&[], HeaderError::Malformed),
        ] {
            assert_eq!(Inflater::default().inflate(&deflated(block)), Err(why), "{block:?}");
        }
        assert_eq!(Inflater::default().inflate(b"no zlib at all"), Err(HeaderError::Inflate));
    }

    proptest! {
        #[test]
        fn all_headers_come_through(pairs in prop::collection::vec(("[a-z:-]{1,20}", "\\PC{0,40}"), 0..16)) {
            let headers = Headers(pairs);
            prop_assert!(headers.write().len() <= BLOCK_BYTES_MAX);
            let packed = Deflater::default().deflate(&headers);
            prop_assert_eq!(Inflater::default().inflate(&packed), Ok(headers));
        }

        #[test]
        fn nothing_makes_it_panic(packed in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Inflater::default().inflate(&packed);
        }
    }
}
