//! Decompression by what the first bytes say: gzip, zstd, or nothing. All in this process, with bounded windows.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest zstd window, as a power of two: 64 MiB. A stream that asks for more is refused, as its decoder would
/// allocate it all.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// A stream of plain bytes from one that may be compressed.
pub(crate) enum Decompressed<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(zstd::Decoder<'static, R>),
}

impl<R: BufRead> Decompressed<R> {
    /// Chooses the decoder by the magic number at the start of `reader`.
    pub(crate) fn new(mut reader: R) -> io::Result<Self> {
        let start = reader.fill_buf()?;
        if start.starts_with(&GZIP_MAGIC) {
            Ok(Self::Gzip(Box::new(MultiGzDecoder::new(reader))))
        } else if start.starts_with(&ZSTD_MAGIC) {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Ok(Self::Zstd(decoder))
        } else {
            Ok(Self::Plain(reader))
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The compressed stream, positioned after what was decoded.
    pub(crate) fn into_compressed(self) -> R {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: BufRead> Read for Decompressed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}
