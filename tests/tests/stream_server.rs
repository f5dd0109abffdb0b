//! The server of streams: who is let in, WebSockets, and clients that mean no good.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use podbox_proto::v1;
use podbox_stream::spdy::{Connection, Headers};
use podbox_stream::{Outcome, Received};
use podbox_tests::network::NetworkNamespace;
use podbox_tests::streams::{ALL, COMMAND_PROTOCOLS, OUTPUTS, Session, TERMINAL, attach_url, connect, exec_url};
use podbox_tests::{Census, Container, ContainerSpec, Daemon, DaemonOptions, Pod, PodSpec, assert_refused, wait};
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tonic::Code;

async fn container(daemon: &Daemon) -> Result<(Pod, Container)> {
    let pod = daemon.run_pod(&PodSpec::new("server")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    Ok((pod, container))
}

async fn true_url(daemon: &Daemon, container: &Container) -> Result<String> {
    Ok(exec_url(daemon, container, &["/bin/true"], OUTPUTS).await?)
}

/// Sends a request as it is written, and gives the head of the answer.
async fn ask(daemon: &Daemon, url: &str, method: &str, headers: &[(&str, &str)]) -> Result<(u16, String)> {
    let path = url.splitn(4, '/').nth(3).context("a path")?;
    let mut connection = connect(daemon, url).await?;
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    connection.write_all(format!("{method} /{path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await?);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(wait::scaled(wait::DEADLINE), read).await.context("an answer")??;
    let head = String::from_utf8(head)?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, head))
}

const SPDY: &[(&str, &str)] = &[("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v4.channel.k8s.io")];

#[tokio::test]
async fn whoever_does_not_fit_is_told_why_and_starts_nothing() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let websocket = |version: &'static str, protocol: &'static str| {
        vec![
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", version),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", protocol),
        ]
    };
    for (method, headers, status, said) in [
        ("POST", vec![], 400, ""),
        ("GET", vec![("Connection", "close")], 400, ""),
        ("POST", SPDY[..1].to_vec(), 400, ""),
        ("POST", vec![("Connection", "Upgrade"), ("Upgrade", "h2c")], 400, ""),
        ("POST", SPDY[..2].to_vec(), 400, ""),
        (
            "POST",
            [&SPDY[..2], &[("X-Stream-Protocol-Version", "v9.channel.k8s.io, v8.channel.k8s.io")]].concat(),
            403,
            "x-accepted-stream-protocol-versions: v4.channel.k8s.io\r\n",
        ),
        ("DELETE", SPDY.to_vec(), 405, "allow: get, post"),
        ("GET", websocket("12", "v5.channel.k8s.io"), 400, "sec-websocket-version: 13"),
        ("GET", websocket("13", "v1.channel.k8s.io"), 403, ""),
        ("POST", websocket("13", "v5.channel.k8s.io"), 400, ""),
        ("GET", websocket("13", "v5.channel.k8s.io")[..3].to_vec(), 400, ""),
        // The best of what is offered is the client's to say, in one header or in several.
        ("POST", SPDY.to_vec(), 101, "x-stream-protocol-version: v4.channel.k8s.io"),
        ("GET", SPDY.to_vec(), 101, "upgrade: spdy/3.1"),
        (
            "POST",
            [&SPDY[..2], &[("X-Stream-Protocol-Version", "v5.channel.k8s.io"), ("X-Stream-Protocol-Version", "v3.channel.k8s.io")]]
                .concat(),
            101,
            "x-stream-protocol-version: v3.channel.k8s.io",
        ),
        // RFC 6455, section 1.3, has this key and its answer.
        ("GET", websocket("13", "v5.channel.k8s.io"), 101, "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        ("GET", websocket("13", "x, v4.channel.k8s.io"), 101, "sec-websocket-protocol: v4.channel.k8s.io"),
    ] {
        let (got, head) = ask(&daemon, &true_url(&daemon, &container).await?, method, &headers).await?;
        assert!(got == status && head.contains(said), "{method} {headers:?}: {head}");
        let connection = if status == 101 { "\r\nconnection: upgrade\r\n" } else { "\r\nconnection: close\r\n" };
        assert!(head.contains(connection), "{method} {headers:?}: {head}");
    }
    Ok(())
}

#[tokio::test]
async fn a_url_is_good_once_and_for_what_it_says() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let url = true_url(&daemon, &container).await?;
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert_eq!(ask(&daemon, &url, "POST", SPDY).await?.0, 101);
    assert_eq!(ask(&daemon, &url, "POST", SPDY).await?.0, 404, "a second time");
    let url = true_url(&daemon, &container).await?;
    for other in [url.replace("/exec/", "/attach/"), url.clone()] {
        assert_eq!(ask(&daemon, &other, "POST", SPDY).await?.0, 404, "{other}");
    }
    let base = url.rsplit_once("/exec/").context("a URL")?.0;
    for path in ["", "/", "/exec", "/exec/", "/exec/0123456789abcdef0123456789abcdef", "/exec/../exec/x", "/cri/exec/x", "/x"] {
        let status = ask(&daemon, &format!("{base}{path}/").replace("//exec", "/exec"), "GET", SPDY).await?.0;
        assert_eq!(status, 404, "{path:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_wait_and_no_more() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let mut urls = Vec::new();
    for _ in 0..1000 {
        urls.push(true_url(&daemon, &container).await?);
    }
    assert_refused(exec_url(&daemon, &container, &["/bin/true"], OUTPUTS).await, Code::ResourceExhausted, &["1000"]);
    assert_refused(attach_url(&daemon, &container, OUTPUTS).await, Code::ResourceExhausted, &["1000"]);
    Session::open(&daemon, &urls[0], OUTPUTS).await?.finish().await?;
    true_url(&daemon, &container).await?;
    Ok(())
}

/// A client's side of a WebSocket.
async fn websocket(daemon: &Daemon, url: &str, protocol: &str) -> Result<WebSocketStream<TcpStream>> {
    let mut request = url.replacen("http", "ws", 1).into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse()?);
    let (socket, answer) = tokio_tungstenite::client_async(request, connect(daemon, url).await?).await?;
    ensure!(answer.headers().get("sec-websocket-protocol").is_some_and(|got| got == protocol), "{answer:?}");
    Ok(socket)
}

/// What comes on each channel until the server closes, and the code it closes with.
async fn channels(socket: &mut WebSocketStream<TcpStream>) -> Result<([Vec<u8>; 5], Option<u16>)> {
    let mut said: [Vec<u8>; 5] = Default::default();
    let read = async {
        while let Some(message) = socket.next().await {
            match message? {
                Message::Binary(bytes) => {
                    let (channel, text) = bytes.split_first().context("a channel")?;
                    said.get_mut(usize::from(*channel)).context("a channel")?.extend_from_slice(text);
                }
                Message::Close(frame) => return anyhow::Ok(frame.map(|frame| frame.code.into())),
                _ => {}
            }
        }
        Ok(None)
    };
    let code = tokio::time::timeout(wait::scaled(wait::DEADLINE), read).await.context("the end")??;
    Ok((said, code))
}

#[tokio::test]
async fn commands_run_over_websockets() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let url = exec_url(&daemon, &container, &["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], OUTPUTS).await?;
        let (said, code) = channels(&mut websocket(&daemon, &url, protocol).await?).await?;
        assert_eq!((&*said[1], &*said[2], code), (&b"out\n"[..], &b"err\n"[..], Some(1000)), "{protocol}");
        assert_eq!(Outcome::from_json(&said[3]), Some(Outcome::Exited(7)), "{protocol}");
    }
    let url = exec_url(&daemon, &container, &["/bin/sh", "-c", "cat; echo ended"], ALL).await?;
    let mut socket = websocket(&daemon, &url, "v5.channel.k8s.io").await?;
    socket.send(Message::Binary(Bytes::from_static(b"\0hello "))).await?;
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await?;
    socket.send(Message::Binary(Bytes::from_static(b"\0you\n"))).await?;
    socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await?;
    let (said, code) = channels(&mut socket).await?;
    assert_eq!((&*said[1], code), (&b"hello you\nended\n"[..], Some(1000)));
    let url =
        exec_url(&daemon, &container, &["/bin/sh", "-c", "until stty size 2>/dev/null | grep '37 101'; do :; done"], TERMINAL).await?;
    let mut socket = websocket(&daemon, &url, "v5.channel.k8s.io").await?;
    socket.send(Message::Binary(Bytes::from_static(b"\x04{\"Width\":101,\"Height\":37}"))).await?;
    assert_eq!(channels(&mut socket).await?.0[1], b"37 101\r\n");
    Ok(())
}

#[tokio::test]
async fn a_websocket_that_breaks_off_or_talks_nonsense_ends_its_command() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let before = Census::at_rest(&daemon).await?;
    for nonsense in [None, Some(Message::text("words")), Some(Message::Binary(Bytes::from(vec![0; 2 << 20]))), Some(Message::Close(None))] {
        let url = exec_url(&daemon, &container, &["/bin/sh", "-c", "echo there; exec sleep 600"], ALL).await?;
        let mut socket = websocket(&daemon, &url, "v5.channel.k8s.io").await?;
        while !matches!(socket.next().await.context("a message")??, Message::Binary(bytes) if bytes.ends_with(b"there\n")) {}
        match nonsense {
            None => drop(socket),
            Some(message) => {
                // It may be cut off before all of it is sent.
                let _ = socket.send(message).await;
                let closed = async { while let Some(Ok(_)) = socket.next().await {} };
                tokio::time::timeout(wait::scaled(wait::DEADLINE), closed).await.context("it is closed")?;
            }
        }
        Census::settle(&daemon, &before, wait::DEADLINE).await?;
    }
    Ok(())
}

/// The bytes of a SPDY connection within a client's WebSocket.
struct Tunnel(WebSocketStream<TcpStream>, Bytes);

impl tokio::io::AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>, buffer: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.1.is_empty() {
            match ready!(self.0.poll_next_unpin(context)) {
                Some(Ok(Message::Binary(bytes))) => self.1 = bytes,
                Some(Ok(_)) => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
        let count = self.1.len().min(buffer.remaining());
        buffer.put_slice(&self.1.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.0.poll_ready_unpin(context)).map_err(io::Error::other)?;
        self.0.start_send_unpin(Message::Binary(Bytes::copy_from_slice(bytes))).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush_unpin(context).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.0.poll_close_unpin(context).map_err(io::Error::other)
    }
}

#[tokio::test]
async fn ports_are_forwarded_through_a_websocket() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (pod, _container) = container(&daemon).await?;
    let network = NetworkNamespace::of_process(pod.pause_pid().await?)?;
    let listener = network.run(|| Ok(std::net::TcpListener::bind("127.0.0.1:8080")?))?;
    std::thread::spawn(move || -> Result<()> {
        for connection in listener.incoming() {
            let mut connection = connection?;
            io::copy(&mut connection.try_clone()?, &mut connection)?;
        }
        Ok(())
    });
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![8080] };
    let url = daemon.runtime().port_forward(request).await?.into_inner().url;
    let tunnel = Tunnel(websocket(&daemon, &url, "SPDY/3.1+portforward.k8s.io").await?, Bytes::new());
    let connection = Connection::client(tunnel);
    let headers = |kind| Headers::of(&[("streamType", kind), ("port", "8080"), ("requestID", "0")]);
    let mut error = connection.open(headers("error")).await?;
    let mut data = connection.open(headers("data")).await?;
    let sent = Bytes::from(vec![5; 3 << 20]);
    let send = async {
        data.outbound.send(sent.clone()).await?;
        data.outbound.end().await
    };
    let (done, back) = tokio::join!(send, podbox_tests::streams::read_all(&mut data.inbound));
    done?;
    assert!(back? == sent);
    assert_eq!(podbox_tests::streams::read_all(&mut error.inbound).await?, b"");
    Ok(())
}

/// Goes as far as the upgrade, and says then what it wants.
async fn raw(daemon: &Daemon, url: &str, bytes: &[u8]) -> Result<TcpStream> {
    let path = url.splitn(4, '/').nth(3).context("a path")?;
    let mut connection = connect(daemon, url).await?;
    let lines: String = SPDY.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    connection.write_all(format!("POST /{path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n").as_bytes()).await?;
    connection.write_all(bytes).await?;
    Ok(connection)
}

#[tokio::test]
async fn broken_frames_end_their_connection_and_nothing_else() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let mut other = Session::exec(&daemon, &container, &["/bin/cat"], ALL).await?;
    let before = Census::at_rest(&daemon).await?;
    // A header block that would be 64 MiB, of nothing but zeros.
    let mut bomb = flate2::Compress::new(flate2::Compression::best(), true);
    let mut packed = Vec::with_capacity(1 << 20);
    bomb.compress_vec(&vec![0; 64 << 20], &mut packed, flate2::FlushCompress::Sync)?;
    packed.truncate(30_000);
    let mut syn = vec![0x80, 3, 0, 1, 0];
    syn.extend_from_slice(&u32::try_from(10 + packed.len())?.to_be_bytes()[1..]);
    syn.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    syn.extend_from_slice(&packed);
    for bytes in [
        b"\x80\x02\x00\x01\x00\x00\x00\x00".to_vec(),
        b"\x80\x03\x00\x01\x00\xff\xff\xff".to_vec(),
        b"\x80\x03\x00\x01\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00no".to_vec(),
        syn,
    ] {
        let mut connection = raw(&daemon, &true_url(&daemon, &container).await?, &bytes).await?;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(wait::scaled(wait::DEADLINE), connection.read_to_end(&mut answer)).await;
        // Cut off with something unread, it may be reset.
        let _ = read.context("the connection is closed")?;
    }
    other.say("still here\n").await?;
    other.wait_for("still here").await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn streams_that_are_never_opened_are_not_waited_for_and_idle_sessions_end() -> Result<()> {
    let options = DaemonOptions { more_config: "[stream]\nidle_timeout_seconds = 2\n".to_owned(), ..DaemonOptions::default() };
    let idle = Daemon::for_test_with(options).await?;
    let daemon = Daemon::for_test().await?;
    let (_pod, container_there) = container(&daemon).await?;
    let (_pod, container_idle) = container(&idle).await?;
    let before = Census::at_rest(&daemon).await?;
    let silent = raw(&daemon, &true_url(&daemon, &container_there).await?, b"").await?;
    let before_idle = Census::at_rest(&idle).await?;
    let mut session = Session::exec(&idle, &container_idle, &["/bin/sh", "-c", "echo there; exec sleep 600"], ALL).await?;
    session.wait_for("there").await?;
    let outcome = session.status().await?;
    assert!(
        matches!(&outcome, Outcome::Failed(why) if why.contains("nothing has moved")),
        "silence would be taken for success: {outcome:?}"
    );
    Census::settle(&idle, &before_idle, wait::DEADLINE).await?;
    let mut silent = silent;
    let mut said = Vec::new();
    let end = wait::scaled(Duration::from_secs(90));
    tokio::time::timeout(end, silent.read_to_end(&mut said)).await.context("it is closed")??;
    drop(silent);
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// What the daemon's memory is made of, in kB.
fn resident_kb(daemon: &Daemon) -> Result<u64> {
    let text = podbox_tests::host::status_field(daemon.pid()?, "VmRSS")?;
    Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
}

/// A key that is typed is a frame, and a stream's headers pack well: little that is sent shall not be much that is kept.
#[tokio::test]
async fn what_a_session_keeps_is_not_more_for_coming_in_small_pieces() -> Result<()> {
    const GROWTH_KB_MAX: u64 = 24 << 10;
    let daemon = Daemon::for_test().await?;
    let (pod, container) = container(&daemon).await?;
    let before = resident_kb(&daemon)?;
    let session = Session::exec(&daemon, &container, &["/bin/sleep", "600"], ALL).await?;
    let stdin = session.stdin.context("input")?.outbound;
    // As much as its pipe holds, and then what nobody takes.
    stdin.send(Bytes::from(vec![0; 256 << 10])).await?;
    let typed = async {
        for _ in 0..100_000 {
            stdin.send(Bytes::from_static(b"x")).await?;
        }
        anyhow::Ok(())
    };
    // Held up, which it may be, it is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(10), typed).await;
    let grown = resident_kb(&daemon)?.saturating_sub(before);
    assert!(grown < GROWTH_KB_MAX, "keys: the daemon grew by {grown} kB");
    drop((session.connection, stdin));
    let forwarding = podbox_tests::streams::Forwarding::open(&daemon, &pod).await?;
    let before = resident_kb(&daemon)?;
    let mut streams = Vec::new();
    for request in 0..1500 {
        let (request, much) = (format!("{request}{}", "r".repeat(100)), "x".repeat(3 << 10));
        let headers = Headers::of(&[("streamType", "error"), ("port", "80"), ("requestID", &request), ("more", &much)]);
        streams.push(forwarding.connection.open(headers).await?);
    }
    let grown = resident_kb(&daemon)?.saturating_sub(before);
    assert!(grown < GROWTH_KB_MAX, "headers: the daemon grew by {grown} kB");
    Ok(())
}

/// In every state that a session can be in: before the upgrade, before its streams, with its command running, in its output.
#[tokio::test]
async fn ten_thousand_clients_that_break_off_leave_nothing() -> Result<()> {
    const CLIENTS: usize = 10_000;
    const AT_ONCE: usize = 8;
    let daemon = Daemon::for_test().await?;
    let (_pod, container) = container(&daemon).await?;
    let known = true_url(&daemon, &container).await?;
    let break_off = async |number: usize| -> Result<()> {
        let command = ["/bin/sh", "-c", "exec yes"];
        let url = match number % 3 {
            // It comes no further than a connection: a token would wait for nobody, and no more than a thousand may.
            2 => known.clone(),
            _ => exec_url(&daemon, &container, &command, ALL).await?,
        };
        match number % 60 {
            0 => {
                let mut session = Session::open(&daemon, &url, ALL).await?;
                let first = session.stdout.as_mut().context("output")?.inbound.next().await;
                ensure!(matches!(first, Received::Bytes(_)), "{first:?}");
            }
            1 => drop(Session::open(&daemon, &url, ALL).await?),
            number if number % 3 == 0 => drop(podbox_stream::begin(connect(&daemon, &url).await?, &url, COMMAND_PROTOCOLS).await?),
            number if number % 3 == 1 => drop(raw(&daemon, &url, b"\x80\x03\x00").await?),
            _ => drop(connect(&daemon, &url).await?),
        }
        Ok(())
    };
    let rounds = async |clients: usize| -> Result<()> {
        futures_util::stream::iter(0..clients).map(|number| Ok(break_off(number))).try_for_each_concurrent(AT_ONCE, |one| one).await
    };
    rounds(500).await?;
    let before = Census::at_rest(&daemon).await?;
    let resident_before = resident_kb(&daemon)?;
    rounds(CLIENTS).await?;
    Census::settle(&daemon, &before, wait::DEADLINE).await?;
    let grown_kb = resident_kb(&daemon)?.saturating_sub(resident_before);
    assert!(grown_kb < 8 << 10, "the daemon grew by {grown_kb} kB");
    Ok(())
}
