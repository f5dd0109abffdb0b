//! Lists in pieces: the same entries as the unary call's, so many to a message.

use futures_util::Stream;
use futures_util::stream;
use prost::Message;
use std::pin::Pin;
use tonic::{Response, Status};

/// Entries of one message.
const ENTRIES_MAX: usize = 500;
/// Bytes of one message, unless a single entry is larger: gRPC clients take 4 MiB by default.
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// A stream of answers.
pub(super) type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Cuts a list into messages; an empty list is an empty stream.
pub(super) fn pieces<E: Message + 'static, T: Send + 'static>(
    entries: Vec<E>,
    wrap: impl Fn(Vec<E>) -> T + Send + 'static,
) -> Response<Pieces<T>> {
    let mut messages = Vec::new();
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let size = entry.encoded_len();
        if !piece.is_empty() && (piece.len() == ENTRIES_MAX || bytes + size > BYTES_MAX) {
            messages.push(Ok(wrap(std::mem::take(&mut piece))));
            bytes = 0;
        }
        bytes += size;
        piece.push(entry);
    }
    if !piece.is_empty() {
        messages.push(Ok(wrap(piece)));
    }
    Response::new(Box::pin(stream::iter(messages)))
}
