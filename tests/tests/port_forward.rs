//! PortForward: connections to a pod's own loopback.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1::NamespaceMode;
use podbox_stream::Received;
use podbox_stream::spdy::Headers;
use podbox_tests::network::NetworkNamespace;
use podbox_tests::spec::own_users;
use podbox_tests::streams::{Forwarding, read_all};
use podbox_tests::{Census, Daemon, Pod, PodSpec, assert_refused, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

/// A pod in which somebody listens on IPv4's loopback alone, at 8080, and on IPv6's, at 8081, and says back what it is told once that is all.
/// It is the test that listens: what a pod does with a connection is not podbox's.
async fn listening(daemon: &Daemon, spec: &PodSpec) -> Result<Pod> {
    let pod = daemon.run_pod(spec).await?;
    let network = NetworkNamespace::of_process(pod.pause_pid().await?)?;
    for (address, name) in [("127.0.0.1:8080", "four"), ("[::1]:8081", "six")] {
        let listener = network.run(|| Ok(std::net::TcpListener::bind(address)?)).with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut said = String::new();
                    connection.read_to_string(&mut said).await?;
                    connection.write_all(format!("{name}: {said}\n").as_bytes()).await
                });
            }
        });
    }
    Ok(pod)
}

#[tokio::test]
async fn each_direction_ends_by_itself_and_a_refusal_is_told_and_the_session_lives_on() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    for users in [None, Some(own_users())] {
        let pod = listening(&daemon, &PodSpec::new("ports").users(users)).await?;
        let mut session = Forwarding::open(&daemon, &pod).await?;
        assert_eq!(session.ask(8080, "one").await?, "four: one\n");
        let (mut data, mut error) = session.dial(9).await?;
        let refused = String::from_utf8(read_all(&mut error.inbound).await?)?;
        assert!(refused.contains("port 9") && refused.contains("refused"), "{refused}");
        assert!(matches!(data.inbound.next().await, Received::Lost));
        assert_eq!(session.ask(8081, "two").await?, "six: two\n", "IPv6 alone is found as well");
        let many = 50;
        let mut open = Vec::new();
        for _ in 0..many {
            open.push(session.dial(8080).await?);
        }
        for (number, (mut data, mut error)) in open.into_iter().enumerate() {
            data.outbound.send(number.to_string().into()).await?;
            data.outbound.end().await?;
            assert_eq!(read_all(&mut data.inbound).await?, format!("four: {number}\n").as_bytes());
            assert_eq!(read_all(&mut error.inbound).await?, b"");
        }
        pod.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_in_the_nodes_network_is_reached_there() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = listening(&daemon, &PodSpec::new("node").network(NamespaceMode::Node)).await?;
    let mut session = Forwarding::open(&daemon, &pod).await?;
    assert_eq!(session.ask(8080, "x").await?, "four: x\n");
    Ok(())
}

#[tokio::test]
async fn streams_that_make_no_sense_are_given_up_and_sessions_leave_nothing() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = listening(&daemon, &PodSpec::new("ports")).await?;
    Forwarding::open(&daemon, &pod).await?.ask(8080, "warm").await?;
    let before = Census::at_rest(&daemon).await?;
    let mut session = Forwarding::open(&daemon, &pod).await?;
    for headers in [
        &[("streamType", "data"), ("port", "0"), ("requestID", "1")][..],
        &[("streamType", "data"), ("port", "65536"), ("requestID", "1")],
        &[("streamType", "data"), ("requestID", "1")],
        &[("streamType", "data"), ("port", "80"), ("requestID", &"1".repeat(129))],
        &[("streamType", "stdin"), ("port", "80"), ("requestID", "1")],
        &[],
    ] {
        let mut stream = session.connection.open(Headers::of(headers)).await?;
        assert!(matches!(stream.inbound.next().await, Received::Lost), "{headers:?}");
    }
    // The same part twice, and a port that is not the pair's.
    let pair = |part, port| Headers::of(&[("streamType", part), ("port", port), ("requestID", "twice")]);
    let error = session.connection.open(pair("error", "8080")).await?;
    for wrong in [pair("error", "8080"), pair("data", "8081")] {
        let mut stream = session.connection.open(wrong).await?;
        assert!(matches!(stream.inbound.next().await, Received::Lost));
    }
    let mut data = session.connection.open(pair("data", "8080")).await?;
    data.outbound.end().await?;
    assert_eq!(read_all(&mut data.inbound).await?, b"four: \n");
    drop(error);
    assert_eq!(session.ask(8080, "still").await?, "four: still\n");
    drop(session);
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// The pod does not read what a client sends: its reset ends that, and whoever else forwards in the session goes on.
#[tokio::test]
async fn a_connection_that_is_reset_holds_up_no_other() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = listening(&daemon, &PodSpec::new("ports")).await?;
    let network = NetworkNamespace::of_process(pod.pause_pid().await?)?;
    let deaf = network.run(|| Ok(std::net::TcpListener::bind("127.0.0.1:8082")?))?;
    let mut session = Forwarding::open(&daemon, &pod).await?;
    let (data, _error) = session.dial(8082).await?;
    let (connection, _) = deaf.accept()?;
    // More than one reading and one writing socket hold, and less than makes the session stop reading.
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(2);
    while tokio::time::timeout_at(end, data.outbound.send(vec![0; 1 << 12].into())).await.is_ok_and(|sent| sent.is_ok()) {
        if network_queue(&connection)? > 1 << 16 {
            break;
        }
    }
    data.outbound.abort().await?;
    assert_eq!(session.ask(8080, "still").await?, "four: still\n");
    let mut connection = tokio::net::TcpStream::from_std({
        connection.set_nonblocking(true)?;
        connection
    })?;
    let mut all = Vec::new();
    let ended = tokio::time::timeout(wait::scaled(wait::DEADLINE), connection.read_to_end(&mut all)).await?;
    assert!(ended.is_err(), "what breaks off does not read as complete");
    Ok(())
}

/// Bytes that wait to be read.
fn network_queue(connection: &std::net::TcpStream) -> Result<u64> {
    Ok(rustix::io::ioctl_fionread(connection)?)
}

/// Clients of old name no request: the error stream comes first, and the data's right after it.
#[tokio::test]
async fn streams_without_a_request_id_are_paired_by_their_order() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = listening(&daemon, &PodSpec::new("ports")).await?;
    let session = Forwarding::open(&daemon, &pod).await?;
    for _ in 0..2 {
        let headers = |part| Headers::of(&[("streamType", part), ("port", "8080")]);
        let _error = session.connection.open(headers("error")).await?;
        let mut data = session.connection.open(headers("data")).await?;
        data.outbound.send("old".into()).await?;
        data.outbound.end().await?;
        assert_eq!(read_all(&mut data.inbound).await?, b"four: old\n");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_is_refused() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = listening(&daemon, &PodSpec::new("ports")).await?;
    let ask = async |id: &str, port: Vec<i32>| {
        let request = podbox_proto::v1::PortForwardRequest { pod_sandbox_id: id.to_owned(), port };
        daemon.runtime().port_forward(request).await
    };
    assert_refused(ask(&pod.id, vec![80, 65_536]).await, Code::InvalidArgument, &["port", "65536"]);
    assert_refused(ask("", vec![]).await, Code::InvalidArgument, &["pod_sandbox_id"]);
    assert_refused(ask("none", vec![]).await, Code::NotFound, &["none"]);
    let mut session = Forwarding::open(&daemon, &pod).await?;
    pod.stop().await?;
    let error = session.ask(8080, "x").await.err().context("the pod is stopped")?.to_string();
    ensure!(error.contains(&pod.id), "{error}");
    assert_refused(ask(&pod.id, vec![]).await, Code::FailedPrecondition, &[&pod.id]);
    Ok(())
}
