//! GetContainerEvents: what is told, to whom, and what becomes of those who do not listen.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_proto::v1::{ContainerEventType, ContainerState, PodSandboxState};
use podbox_tests::{ContainerSpec, Daemon, PodSpec, assert_refused, wait};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

/// Far more than any event takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Created and deleted: two events each, more in all than podbox keeps and the connection holds.
const UNREAD_CONTAINERS: usize = 560;
const FLOODERS: usize = 8;
/// At a time.
const SUBSCRIBERS_MAX: usize = 64;
/// What a label makes of each event: the connection holds few of these.
const LABEL_BYTES: usize = 64 * 1024;

struct Events(Streaming<v1::ContainerEventResponse>);

impl Events {
    async fn subscribe(daemon: &Daemon) -> Result<Self, Status> {
        // Its own connection: what it does not read holds up nobody else.
        let answer = daemon.client().separate().runtime().get_container_events(v1::GetEventsRequest {}).await?;
        Ok(Self(answer.into_inner()))
    }

    async fn next(&mut self) -> Result<v1::ContainerEventResponse> {
        let event = tokio::time::timeout(PATIENCE, self.0.message()).await.context("no event comes")?;
        event?.context("the stream ended")
    }

    async fn expect(&mut self, kind: ContainerEventType, id: &str) -> Result<v1::ContainerEventResponse> {
        let event = self.next().await?;
        assert_eq!((event.container_event_type(), &*event.container_id), (kind, id), "{event:?}");
        assert!(event.created_at > 0);
        let sandbox = event.pod_sandbox_status.as_ref().context("without the pod's status")?;
        assert!(sandbox.metadata.is_some(), "the kubelet passes over events without metadata");
        Ok(event)
    }
}

fn sandbox_state(event: &v1::ContainerEventResponse) -> PodSandboxState {
    event.pod_sandbox_status.as_ref().map(v1::PodSandboxStatus::state).unwrap_or_default()
}

fn container_states(event: &v1::ContainerEventResponse) -> Vec<ContainerState> {
    event.containers_statuses.iter().map(v1::ContainerStatus::state).collect()
}

#[tokio::test]
async fn each_change_is_told_once_in_order_and_with_the_pod_as_it_then_was() -> Result<()> {
    use ContainerEventType as Kind;
    let daemon = Daemon::for_test().await?;
    let mut events = Events::subscribe(&daemon).await?;
    let pod = daemon.run_pod(&PodSpec::new("told")).await?;
    let created = events.expect(Kind::ContainerCreatedEvent, &pod.id).await?;
    assert_eq!((sandbox_state(&created), container_states(&created)), (PodSandboxState::SandboxReady, vec![]));
    events.expect(Kind::ContainerStartedEvent, &pod.id).await?;

    let container = pod.create(&ContainerSpec::sleeper("a")).await?;
    let created = events.expect(Kind::ContainerCreatedEvent, &container.id).await?;
    assert_eq!(container_states(&created), [ContainerState::ContainerCreated]);
    container.start().await?;
    let started = events.expect(Kind::ContainerStartedEvent, &container.id).await?;
    assert_eq!(container_states(&started), [ContainerState::ContainerRunning]);
    container.stop(0).await?;
    let stopped = events.expect(Kind::ContainerStoppedEvent, &container.id).await?;
    assert_eq!((container_states(&stopped), stopped.containers_statuses[0].exit_code), (vec![ContainerState::ContainerExited], 137));
    container.remove().await?;
    let deleted = events.expect(Kind::ContainerDeletedEvent, &container.id).await?;
    assert_eq!((sandbox_state(&deleted), container_states(&deleted)), (PodSandboxState::SandboxReady, vec![]));

    // Repeated calls change nothing, and nothing is told.
    container.stop(0).await?;
    container.remove().await?;
    pod.stop().await?;
    let stopped = events.expect(Kind::ContainerStoppedEvent, &pod.id).await?;
    assert_eq!(sandbox_state(&stopped), PodSandboxState::SandboxNotready);
    pod.stop().await?;
    pod.remove().await?;
    events.expect(Kind::ContainerDeletedEvent, &pod.id).await?;
    Ok(())
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_told_and_a_failed_start_is_an_end() -> Result<()> {
    use ContainerEventType as Kind;
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("ends")).await?;
    let brief = pod.create(&ContainerSpec::shell("brief", "exit 7")).await?;
    let wrong = pod.create(&ContainerSpec::command("wrong", &["/no/such/program"])).await?;
    let mut events = Events::subscribe(&daemon).await?;
    brief.start().await?;
    events.expect(Kind::ContainerStartedEvent, &brief.id).await?;
    let stopped = events.expect(Kind::ContainerStoppedEvent, &brief.id).await?;
    let status = stopped.containers_statuses.iter().find(|status| status.id == brief.id).context("not among the statuses")?;
    assert_eq!((status.exit_code, status.state()), (7, ContainerState::ContainerExited));
    assert!(wrong.start().await.is_err());
    events.expect(Kind::ContainerStoppedEvent, &wrong.id).await?;
    Ok(())
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_off_and_holds_up_nobody() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("flood").label("large", &"x".repeat(LABEL_BYTES))).await?;
    let mut lazy = Events::subscribe(&daemon).await?;
    let mut eager = Events::subscribe(&daemon).await?;
    let reader = tokio::spawn(async move {
        let mut heard = 0;
        while heard < 2 * UNREAD_CONTAINERS {
            eager.next().await?;
            heard += 1;
        }
        anyhow::Ok(heard)
    });
    let mut flood = JoinSet::new();
    for client in 0..FLOODERS {
        let pod = pod.through(&daemon.client());
        flood.spawn(async move {
            for number in 0..UNREAD_CONTAINERS / FLOODERS {
                pod.create(&ContainerSpec::sleeper(&format!("c{client}-{number}"))).await?.remove().await?;
            }
            Ok::<_, Status>(())
        });
    }
    flood.join_all().await.into_iter().collect::<Result<(), Status>>()?;
    assert_eq!(reader.await??, 2 * UNREAD_CONTAINERS, "who reads hears all");
    // Its place is free although it has not read that it is cut off.
    let others = fill(&daemon).await?;
    assert_eq!(others.len(), SUBSCRIBERS_MAX);
    drop(others);
    let end = loop {
        match tokio::time::timeout(PATIENCE, lazy.0.message()).await.context("neither an event nor the end")? {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("cut off without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::DataLoss, "{end}");
    Ok(())
}

/// As many as are let in.
async fn fill(daemon: &Daemon) -> Result<Vec<Events>> {
    let mut subscribers = Vec::new();
    while let Ok(events) = Events::subscribe(daemon).await {
        subscribers.push(events);
        ensure!(subscribers.len() < 1000, "without a bound");
    }
    Ok(subscribers)
}

#[tokio::test]
async fn subscribers_are_bounded_and_one_that_leaves_makes_room() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let mut subscribers = fill(&daemon).await?;
    let refused = Events::subscribe(&daemon).await.map(drop).expect_err("more than the bound");
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, &["events"]);
    subscribers.pop();
    wait::until("room for one more", || async { Events::subscribe(&daemon).await.ok() }).await?;
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_stops_ends_the_streams_and_is_not_held_up_by_them() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let mut events = Events::subscribe(&daemon).await?;
    assert!(daemon.terminate().await?.success());
    let end = tokio::time::timeout(PATIENCE, events.0.message()).await.context("the stream goes on")?;
    assert!(matches!(end, Ok(None)), "{end:?}");
    Ok(())
}
