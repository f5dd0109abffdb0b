//! Decompression by what the first bytes say: gzip, zstd, or nothing. All in this process, with bounded windows.
//!
//! What zstd keeps in memory is its stream's to say, up to a bound. Streams with the windows that packers of images use are unpacked side
//! by side; of those with larger ones a process unpacks one at a time, so that no image decides how much memory is taken.

use std::io::{self, BufRead, Chain, Cursor, Read};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What a zstd frame says of its window ends here at the latest: 4 bytes of magic and 14 of header (RFC 8878, 3.1.1).
const HEAD_LEN: usize = 18;
/// The largest zstd window that any stream may have, as a power of two: 8 MiB, what every decoder is to take (RFC 8878, 3.1.1.1.2).
const ZSTD_WINDOW_LOG: u32 = 23;
/// The largest window of a stream that is unpacked alone: 64 MiB. One that asks for more is refused.
const ZSTD_WIDE_WINDOW_LOG: u32 = 26;

/// How often who waits for that looks again.
const LOOK: Duration = Duration::from_millis(20);

/// Held by who unpacks a stream with a wide window.
static WIDE: Mutex<()> = Mutex::new(());

/// A stream whose first bytes were looked at.
type Looked<R> = Chain<Cursor<Vec<u8>>, R>;

/// A stream of plain bytes from one that may be compressed. It stays on the thread that made it.
pub(crate) enum Decompressed<R: BufRead> {
    Plain(Looked<R>),
    Gzip(Box<MultiGzDecoder<Looked<R>>>),
    Zstd { decoder: zstd::Decoder<'static, Looked<R>>, _wide: Option<MutexGuard<'static, ()>> },
}

impl<R: BufRead> Decompressed<R> {
    /// Chooses the decoder by the magic number at the start of `reader`. Waits where it needs much memory and another does so already,
    /// as long as `is_wanted`.
    pub(crate) fn new(mut reader: R, is_wanted: &dyn Fn() -> bool) -> io::Result<Self> {
        let mut head = Vec::with_capacity(HEAD_LEN);
        // One read may give less than there is.
        reader.by_ref().take(HEAD_LEN as u64).read_to_end(&mut head)?;
        let is_gzip = head.starts_with(&GZIP_MAGIC);
        let is_zstd = head.starts_with(&ZSTD_MAGIC) || is_skippable(&head);
        let is_wide = has_wide_window(&head);
        let looked = Cursor::new(head).chain(reader);
        if is_gzip {
            Ok(Self::Gzip(Box::new(MultiGzDecoder::new(looked))))
        } else if is_zstd {
            let wide = if is_wide { Some(turn_of_the_wide(is_wanted)?) } else { None };
            let mut decoder = zstd::Decoder::with_buffer(looked)?;
            decoder.window_log_max(if wide.is_some() { ZSTD_WIDE_WINDOW_LOG } else { ZSTD_WINDOW_LOG })?;
            Ok(Self::Zstd { decoder, _wide: wide })
        } else {
            Ok(Self::Plain(looked))
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The compressed stream, positioned after what was decoded.
    pub(crate) fn into_compressed(self) -> R {
        let looked = match self {
            Self::Plain(looked) => looked,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd { decoder, _wide } => decoder.finish(),
        };
        looked.into_inner().1
    }
}

/// Waits for the one place there is.
fn turn_of_the_wide(is_wanted: &dyn Fn() -> bool) -> io::Result<MutexGuard<'static, ()>> {
    loop {
        match WIDE.try_lock() {
            Ok(turn) => return Ok(turn),
            Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
            Err(TryLockError::WouldBlock) if is_wanted() => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "nobody wants it any more")),
        }
    }
}

/// A frame that holds no content (RFC 8878, 3.1.2); packers that work in parallel begin with one.
fn is_skippable(head: &[u8]) -> bool {
    matches!(head, [first, 0x2a, 0x4d, 0x18, ..] if first >> 4 == 5)
}

/// Whether the first frame has a window over 2^[`ZSTD_WINDOW_LOG`] bytes (RFC 8878, 3.1.1.1). Later frames with larger windows than the
/// first are refused by the decoder.
fn has_wide_window(head: &[u8]) -> bool {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    if !head.starts_with(&ZSTD_MAGIC) {
        return false;
    }
    let Some((&descriptor, rest)) = head.get(ZSTD_MAGIC.len()..).and_then(<[u8]>::split_first) else { return false };
    if descriptor & SINGLE_SEGMENT == 0 {
        let Some(window) = rest.first() else { return false };
        let (exponent, mantissa) = (u32::from(window >> 3), u64::from(window & 7));
        let base = 1u64 << (10 + exponent);
        return base + base / 8 * mantissa > 1 << ZSTD_WINDOW_LOG;
    }
    // The window is the content, whose size stands behind the dictionary's number.
    let dictionary_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (size_len, added) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let Some(size) = rest.get(dictionary_len..dictionary_len + size_len) else { return false };
    let size = size.iter().rev().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
    size.saturating_add(added) > 1 << ZSTD_WINDOW_LOG
}

impl<R: BufRead> Read for Decompressed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd { decoder, .. } => decoder.read(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Write};

    /// Zeros, packed with a window of 2^`log` bytes; `told`: the frame says how many they are.
    fn packed(log: u32, len: usize, told: bool) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.long_distance_matching(true).unwrap();
        if told {
            encoder.set_pledged_src_size(Some(len as u64)).unwrap();
        }
        encoder.write_all(&vec![0; len]).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(stream: &[u8]) -> io::Result<usize> {
        let mut plain = Vec::new();
        Decompressed::new(BufReader::with_capacity(1, stream), &|| true)?.read_to_end(&mut plain)
    }

    #[test]
    fn wide_windows_are_seen_in_every_form_of_a_frame() {
        const LEN: usize = 12 << 20;
        for (log, told, wide) in
            [(20, false, false), (23, false, false), (24, false, true), (26, false, true), (20, true, false), (26, true, true)]
        {
            let stream = packed(log, LEN, told);
            assert_eq!(has_wide_window(&stream[..HEAD_LEN]), wide, "2^{log}, told {told}");
            assert_eq!(unpacked(&stream).unwrap(), LEN, "2^{log}, told {told}");
        }
        assert!(unpacked(&packed(27, 200 << 20, false)).is_err());
    }

    #[test]
    fn a_stream_that_comes_byte_by_byte_or_ends_early_is_what_it_is() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"plain").unwrap();
        let gzip = encoder.finish().unwrap();
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let count = buf.len().min(1);
                self.0.read(&mut buf[..count])
            }
        }
        for (stream, plain) in [(gzip.as_slice(), "plain"), (b"\x1f", "\x1f"), (b"", ""), (b"text", "text")] {
            let mut text = String::new();
            Decompressed::new(BufReader::new(Slow(stream)), &|| true).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, plain);
        }
        assert!(unpacked(&ZSTD_MAGIC).is_err());
        let skipped = [&b"\x50\x2a\x4d\x18\x03\0\0\0xyz"[..], &packed(20, 1000, false)].concat();
        assert_eq!(unpacked(&skipped).unwrap(), 1000);
    }

    #[test]
    fn one_wide_stream_is_unpacked_at_a_time() {
        let stream = packed(24, 12 << 20, false);
        let first = Decompressed::new(BufReader::new(stream.as_slice()), &|| true).unwrap();
        let given_up = Decompressed::new(BufReader::new(stream.as_slice()), &|| false);
        assert_eq!(given_up.map(drop).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        let second = std::thread::spawn({
            let stream = stream.clone();
            move || unpacked(&stream).unwrap()
        });
        // One that is not wide passes by.
        assert_eq!(unpacked(&packed(20, 100, false)).unwrap(), 100);
        assert!(WIDE.try_lock().is_err() && !second.is_finished());
        drop(first);
        assert_eq!(second.join().unwrap(), 12 << 20);
    }
}
