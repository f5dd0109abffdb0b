//! Frames: read from bytes as they come, and written.
//!
//! ```text
//! data     0 stream:31 │ flags:8 length:24 │ bytes
//! control  1 version:15 type:16 │ flags:8 length:24 │ payload
//! ```
//!
//! Source: SPDY Protocol, Draft 3.1, section 2.2.

use super::headers::{Deflater, HeaderError, Headers, Inflater};
use crate::flow::PIECE_BYTES_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
/// `FLAG_FIN`: nothing more comes on the stream.
const FIN: u8 = 1;
const HEAD_BYTES: usize = 8;
/// The longest control frame that is taken.
const CONTROL_BYTES_MAX: usize = 32 * 1024;

/// `RST_STREAM`: a frame for a stream that is not there.
pub(super) const INVALID_STREAM: u32 = 2;
/// `RST_STREAM`: the stream was not taken, and nothing was done for it.
pub(super) const REFUSED_STREAM: u32 = 3;
/// `RST_STREAM`: nobody wants it any more.
pub(super) const CANCEL: u32 = 5;
/// `GOAWAY`: all is well.
pub(super) const GOAWAY_OK: u32 = 0;
/// `GOAWAY`: the other side broke the protocol.
pub(super) const GOAWAY_PROTOCOL_ERROR: u32 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Bytes that are no SPDY/3.1. The connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version of the protocol.
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    /// Longer than is taken.
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    /// Shorter than its type has to be.
    #[error("a control frame of type {0} that is cut off")]
    TooShort(u16),
    /// Its headers cannot be read.
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// A frame, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    SynStream {
        /// Its id: odd ones are the client's.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// The opener sends nothing on it.
        is_last: bool,
    },
    /// The stream is taken.
    SynReply {
        /// Which.
        stream: u32,
        /// What was answered.
        headers: Headers,
        /// The answerer sends nothing on it.
        is_last: bool,
    },
    /// The stream is over, in both directions.
    RstStream {
        /// Which.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// A question whether the other side is there, or the answer.
    Ping(u32),
    /// No more streams will be taken.
    GoAway {
        /// Why.
        status: u32,
    },
    /// Bytes of a stream: a data frame, or a piece of a long one.
    Data {
        /// Whose.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Nothing more comes.
        is_last: bool,
    },
    /// Something that is passed over: settings, windows, more headers, and what later drafts know.
    Other,
}

/// Reads frames.
#[derive(Debug, Default)]
pub struct Decoder {
    inflater: Inflater,
    /// The data frame that is under way: its stream, how much is to come, and whether it is the last.
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    /// Takes a frame, or a piece of a data frame, off the front of what has come; `None`: more has to come.
    ///
    /// # Errors
    /// It is no frame, after which nothing can be understood any more.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.data.is_some() {
            return Ok(self.take_data(buffer));
        }
        let Some(head) = buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [a, b, c, d, flags, rest @ ..] = *head;
        let word = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap_or(usize::MAX);
        if word & CONTROL == 0 {
            buffer.advance(HEAD_BYTES);
            let is_last = flags & FIN != 0;
            if length == 0 {
                return Ok(Some(Frame::Data { stream: word, bytes: Bytes::new(), is_last }));
            }
            self.data = Some((word, length, is_last));
            return Ok(self.take_data(buffer));
        }
        let (version, kind) = (u16::from_be_bytes([a & 0x7f, b]), u16::from_be_bytes([c, d]));
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        if buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        buffer.advance(HEAD_BYTES);
        let payload = buffer.split_to(length);
        self.control(kind, flags & FIN != 0, &payload).map(Some)
    }

    fn take_data(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        let (stream, left, is_last) = self.data?;
        if buffer.is_empty() {
            return None;
        }
        let bytes = buffer.split_to(left.min(buffer.len()).min(PIECE_BYTES_MAX)).freeze();
        let left = left - bytes.len();
        self.data = (left > 0).then_some((stream, left, is_last));
        Some(Frame::Data { stream, bytes, is_last: is_last && left == 0 })
    }

    fn control(&mut self, kind: u16, is_last: bool, mut payload: &[u8]) -> Result<Frame, FrameError> {
        let mut number = || payload.try_get_u32().map_err(|_| FrameError::TooShort(kind));
        match kind {
            SYN_STREAM => {
                let stream = number()? & !CONTROL;
                // The stream it belongs to, its priority and slot, which nobody uses.
                let _ = number()?;
                payload.try_get_u16().map_err(|_| FrameError::TooShort(kind))?;
                Ok(Frame::SynStream { stream, headers: self.inflater.inflate(payload)?, is_last })
            }
            SYN_REPLY => {
                let stream = number()? & !CONTROL;
                Ok(Frame::SynReply { stream, headers: self.inflater.inflate(payload)?, is_last })
            }
            HEADERS => {
                let _ = number()?;
                // Read all the same: what comes later is packed with it.
                self.inflater.inflate(payload)?;
                Ok(Frame::Other)
            }
            RST_STREAM => Ok(Frame::RstStream { stream: number()? & !CONTROL, status: number()? }),
            PING => Ok(Frame::Ping(number()?)),
            GOAWAY => {
                let _ = number()?;
                Ok(Frame::GoAway { status: number()? })
            }
            _ => Ok(Frame::Other),
        }
    }
}

/// Writes frames.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// The head of a data frame of so many bytes, at most 2^24 - 1.
    pub(super) fn data_head(stream: u32, length: usize, is_last: bool) -> Bytes {
        let mut head = BytesMut::with_capacity(HEAD_BYTES);
        head.put_u32(stream & !CONTROL);
        put_flags_and_length(&mut head, is_last, length);
        head.freeze()
    }

    pub(super) fn syn_stream(&mut self, stream: u32, headers: &Headers) -> Bytes {
        let packed = self.deflater.deflate(headers);
        let mut frame = control(SYN_STREAM, 10 + packed.len());
        frame.put_u32(stream);
        frame.put_u32(0);
        frame.put_u16(0);
        frame.put_slice(&packed);
        frame.freeze()
    }

    pub(super) fn syn_reply(&mut self, stream: u32) -> Bytes {
        let packed = self.deflater.deflate(&Headers::default());
        let mut frame = control(SYN_REPLY, 4 + packed.len());
        frame.put_u32(stream);
        frame.put_slice(&packed);
        frame.freeze()
    }

    pub(super) fn rst_stream(stream: u32, status: u32) -> Bytes {
        two_numbers(RST_STREAM, stream, status)
    }

    pub(super) fn go_away(last_stream: u32, status: u32) -> Bytes {
        two_numbers(GOAWAY, last_stream, status)
    }

    pub(super) fn ping(id: u32) -> Bytes {
        let mut frame = control(PING, 4);
        frame.put_u32(id);
        frame.freeze()
    }
}

fn two_numbers(kind: u16, first: u32, second: u32) -> Bytes {
    let mut frame = control(kind, 8);
    frame.put_u32(first);
    frame.put_u32(second);
    frame.freeze()
}

fn control(kind: u16, length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_u16(VERSION | 0x8000);
    frame.put_u16(kind);
    put_flags_and_length(&mut frame, false, length);
    frame
}

fn put_flags_and_length(frame: &mut BytesMut, is_last: bool, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    frame.put_u32(u32::from(if is_last { FIN } else { 0 }) << 24 | length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_length() {
        let headers = Headers::of(&[("streamtype", "data"), ("port", "80")]);
        let mut encoder = Encoder::default();
        let mut bytes = BytesMut::new();
        for part in [
            encoder.syn_stream(1, &headers),
            encoder.syn_reply(1),
            Encoder::data_head(1, 5, true),
            Bytes::from_static(b"hello"),
            Encoder::ping(7),
            Encoder::rst_stream(1, CANCEL),
            Encoder::go_away(1, GOAWAY_OK),
        ] {
            bytes.extend_from_slice(&part);
        }
        let expected = [
            Frame::SynStream { stream: 1, headers, is_last: false },
            Frame::SynReply { stream: 1, headers: Headers::default(), is_last: false },
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"hello"), is_last: true },
            Frame::Ping(7),
            Frame::RstStream { stream: 1, status: CANCEL },
            Frame::GoAway { status: GOAWAY_OK },
        ];
        assert_eq!(all(&bytes, bytes.len()), Ok(expected.to_vec()));
        for step in 1..40 {
            let frames = all(&bytes, step).expect("decodes");
            let text: Vec<u8> =
                frames.iter().flat_map(|frame| if let Frame::Data { bytes, .. } = frame { bytes.to_vec() } else { vec![] }).collect();
            assert_eq!(text, b"hello", "in pieces of {step}");
            let last = frames.iter().filter(|frame| matches!(frame, Frame::Data { is_last: true, .. })).count();
            assert_eq!(last, 1, "in pieces of {step}");
            assert_eq!(frames.iter().filter(|frame| !matches!(frame, Frame::Data { .. })).count(), 5, "in pieces of {step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(all(b"\x80\x02\x00\x01\x00\x00\x00\x00", 8), Err(FrameError::Version(2)));
        assert_eq!(all(b"\x80\x03\x00\x01\x00\xff\xff\xff", 8), Err(FrameError::TooLong(0xff_ffff)));
        assert_eq!(all(b"\x80\x03\x00\x06\x00\x00\x00\x03abc", 11), Err(FrameError::TooShort(PING)));
        assert_eq!(all(b"\x80\x03\x00\x09\x00\x00\x00\x00", 8), Ok(vec![Frame::Other]), "WINDOW_UPDATE is passed over");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), step in 1_usize..200) {
            let _ = all(&bytes, step);
        }
    }
}
