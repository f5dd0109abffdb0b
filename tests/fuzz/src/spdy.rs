//! SPDY: whatever a client sends, its connection ends when it does, and with it every stream; no piece is longer than is taken at once.

use crate::cursor::Cursor;
use podbox_stream::Received;
use podbox_stream::spdy::{Connection, Decoder, Frame};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a client sends in a session with most of what there is: streams, data, an end, a ping, a reset, more headers, a window, the end.
const SEED: &[u8] = b"\
\x80\x03\x00\x01\x00\x00\x00\x3f\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x78\x3f\xe3\xc6\xa7\xc2\x02\xa6\x23\x66\x70\x3a\
\x2b\x29\x4a\x4d\xcc\x85\x16\x25\xac\xa9\xa0\x80\x06\x0a\x03\x8b\xe5\x22\x50\x12\x66\xb2\x30\x00\x92\x9c\x45\x90\x48\xcc\
\x04\x25\x6e\x46\x03\x00\x00\x00\x00\xff\xff\x80\x03\x00\x01\x00\x00\x00\x1b\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x02\
\x8a\x60\x6a\x05\x95\x42\xa0\x4c\x82\x57\x27\x00\x00\x00\xff\xff\x00\x00\x00\x03\x00\x00\x00\x05\x68\x65\x6c\x6c\x6f\x80\
\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x03\x01\x00\x00\x00\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\
\x01\x00\x00\x00\x05\x80\x03\x00\x01\x00\x00\x00\x1d\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x02\xca\x33\x02\x31\x57\x31\
\x8a\xa5\xc5\x25\xc0\x8c\x08\x00\x00\x00\xff\xff\x80\x03\x00\x08\x00\x00\x00\x11\x00\x00\x00\x05\x82\x4a\x31\x82\xcc\x60\
\x4c\x02\x00\x00\x00\xff\xff\x80\x03\x00\x09\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x01\x80\x03\x00\x07\x00\x00\x00\
\x08\x00\x00\x00\x00\x00\x00\x00\x00\
";
/// More than is ever taken at once.
const PIECE_BYTES_MAX: usize = 256 * 1024;
/// Far more than any of it takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Reads what is nearly a session, once as frames and once as a server.
///
/// # Panics
/// A piece is too long, or the connection does not end.
pub fn spdy(bytes: &[u8]) {
    let mut cursor = Cursor::new(bytes);
    let step = 1 + usize::from(cursor.byte());
    let session = cursor.mutated(SEED);
    let (mut decoder, mut buffer) = (Decoder::default(), bytes::BytesMut::new());
    'frames: for piece in session.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(Frame::Data { bytes, .. })) => assert!(bytes.len() <= PIECE_BYTES_MAX),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => break 'frames,
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let served = runtime.block_on(async { tokio::time::timeout(DEADLINE, serve(session)).await });
    assert!(served.is_ok(), "the connection does not end");
}

async fn serve(session: Vec<u8>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (mut answers, mut questions) = tokio::io::split(client);
    let talk = async move {
        // It may be hung up on.
        let _ = questions.write_all(&session).await;
        let _ = questions.shutdown().await;
    };
    let listen = async move {
        let mut all = Vec::new();
        let _ = answers.read_to_end(&mut all).await;
    };
    let answer = async move {
        let mut server = Connection::server(server);
        while let Some(mut stream) = server.accept().await {
            while let Received::Bytes(_) = stream.inbound.next().await {}
            let _ = stream.outbound.end().await;
        }
    };
    tokio::join!(talk, listen, answer);
}
