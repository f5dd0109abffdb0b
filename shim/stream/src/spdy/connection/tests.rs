//! Two connections, back to back.

use super::*;
use crate::flow::Received;
use tokio::io::DuplexStream;

const PATIENCE: Duration = Duration::from_secs(20);

fn pair() -> (Connection, Connection) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    (started(Role::Client, ours), started(Role::Server, theirs))
}

fn started(role: Role, io: DuplexStream) -> Connection {
    let (source, sink) = tokio::io::split(io);
    Connection::start(role, source, sink, Bytes::new(), Activity::default())
}

async fn text_of(inbound: &mut Inbound) -> (Vec<u8>, Received) {
    let mut text = Vec::new();
    loop {
        match inbound.next().await {
            Received::Bytes(held) => text.extend_from_slice(&held.bytes),
            end => return (text, end),
        }
    }
}

#[tokio::test]
async fn both_directions_of_a_stream_end_by_themselves() {
    let (client, mut server) = pair();
    let (mine, yours) = tokio::join!(client.open(Headers::of(&[("streamType", "data")])), server.accept());
    let (mut mine, mut yours) = (mine.expect("opened"), yours.expect("accepted"));
    assert_eq!(yours.headers.get("streamtype"), Some("data"));
    mine.outbound.send(Bytes::from_static(b"a question")).await.expect("sent");
    mine.outbound.end().await.expect("ended");
    let (text, end) = text_of(&mut yours.inbound).await;
    assert!(text == b"a question" && matches!(end, Received::End));
    let answer = Bytes::from(vec![7; 3 << 20]);
    let (sent, (text, end)) = tokio::join!(
        async {
            yours.outbound.send(answer.clone()).await?;
            yours.outbound.end().await
        },
        text_of(&mut mine.inbound)
    );
    sent.expect("sent");
    assert!(text == answer && matches!(end, Received::End));
    assert!(server.shared.table().streams.is_empty());
    server.close(PATIENCE).await;
    assert_eq!(client.open(Headers::default()).await.err(), Some(OpenError::Gone));
}

/// What nobody takes stops the sender, and holds no other stream's end up that came before.
#[tokio::test]
async fn a_stream_that_nobody_takes_stops_its_sender() {
    let (client, mut server) = pair();
    let (mine, yours) = tokio::join!(client.open(Headers::default()), server.accept());
    let (mine, mut yours) = (mine.expect("opened"), yours.expect("accepted"));
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    let flood = tokio::spawn(async move {
        while mine.outbound.send(Bytes::from(vec![1; 1 << 16])).await.is_ok() {
            count.fetch_add(1 << 16, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let stalled = async {
        loop {
            let before = sent.load(std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
            if before > 0 && before == sent.load(std::sync::atomic::Ordering::Relaxed) {
                return before;
            }
        }
    };
    let stalled = tokio::time::timeout(PATIENCE, stalled).await.expect("it stalls");
    assert!(stalled < 2 << 20, "{stalled} bytes are kept");
    assert!(matches!(yours.inbound.next().await, Received::Bytes(_)));
    drop(yours);
    // With nobody left to take them, the bytes go nowhere, and hold up nothing.
    let other = tokio::join!(client.open(Headers::default()), server.accept());
    assert!(other.0.is_ok() && other.1.is_some());
    drop(client);
    tokio::time::timeout(PATIENCE, flood).await.expect("it ends").expect("no panic");
}

#[tokio::test]
async fn a_stream_that_is_taken_back_is_lost_and_the_others_are_not() {
    let (client, mut server) = pair();
    let (first, at_server) = tokio::join!(client.open(Headers::default()), server.accept());
    let mut at_server = at_server.expect("accepted");
    first.expect("opened").outbound.abort().await.expect("aborted");
    assert!(matches!(at_server.inbound.next().await, Received::Lost));
    tokio::time::timeout(PATIENCE, at_server.outbound.taken_back()).await.expect("told");
    assert!(at_server.outbound.send(Bytes::from_static(b"x")).await.is_err());
    let (second, at_server) = tokio::join!(client.open(Headers::default()), server.accept());
    second.expect("opened").outbound.end().await.expect("ended");
    assert!(matches!(at_server.expect("accepted").inbound.next().await, Received::End));
}

#[tokio::test]
async fn what_is_against_the_rules_ends_the_connection() {
    for bytes in [
        // An even id, and one for the second time.
        [Encoder::default().syn_stream(2, &Headers::default())].concat(),
        {
            let mut encoder = Encoder::default();
            [encoder.syn_stream(3, &Headers::default()), encoder.syn_stream(3, &Headers::default())].concat()
        },
        b"\x80\x02\x00\x01\x00\x00\x00\x00".to_vec(),
        b"\x80\x03\x00\x01\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00junk".to_vec(),
    ] {
        let (mut raw, theirs) = tokio::io::duplex(1 << 16);
        let mut server = started(Role::Server, theirs);
        raw.write_all(&bytes).await.expect("written");
        let over = async { while server.accept().await.is_some() {} };
        tokio::time::timeout(PATIENCE, over).await.expect("it ends");
        let mut said = Vec::new();
        tokio::time::timeout(PATIENCE, raw.read_to_end(&mut said)).await.expect("it closes").expect("read");
        assert!(said.ends_with(&GOAWAY_PROTOCOL_ERROR.to_be_bytes()), "{said:?}");
    }
}

#[tokio::test]
async fn more_streams_than_are_taken_are_refused_one_by_one() {
    let (client, mut server) = pair();
    let kept = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(stream) = server.accept().await {
            kept.push(stream);
        }
        kept.len()
    });
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        streams.push(client.open(Headers::default()).await.expect("opened"));
    }
    assert_eq!(client.open(Headers::default()).await.err(), Some(OpenError::Refused));
    streams.pop().expect("one").outbound.abort().await.expect("aborted");
    // Word of the one that is given up may come after that of the next.
    let again = async { while client.open(Headers::default()).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
    drop((client, streams));
    assert_eq!(tokio::time::timeout(PATIENCE, kept).await.expect("it ends").expect("no panic"), STREAMS_MAX + 1);
}

#[tokio::test]
async fn pings_of_the_peer_are_answered() {
    let (mut raw, theirs) = tokio::io::duplex(1 << 16);
    let _server = started(Role::Server, theirs);
    raw.write_all(&Encoder::ping(9)).await.expect("written");
    let mut answer = [0; 12];
    tokio::time::timeout(PATIENCE, raw.read_exact(&mut answer)).await.expect("in time").expect("read");
    assert_eq!(Bytes::copy_from_slice(&answer), Encoder::ping(9));
}
