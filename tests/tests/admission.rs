//! Names are given once: the same request coming again joins the one under way, or gets what it made.

use anyhow::Result;
use podbox_proto::v1;
use podbox_tests::{ContainerSpec, Daemon, Pod, PodSpec, assert_refused, wait};
use std::time::Duration;
use tonic::Code;

fn request(daemon: &Daemon, spec: &PodSpec) -> v1::RunPodSandboxRequest {
    v1::RunPodSandboxRequest { config: Some(Pod::request(&daemon.logs(), spec)), runtime_handler: String::new() }
}

#[tokio::test]
async fn the_same_request_twice_at_once_makes_one_sandbox_that_both_get() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    for round in 0..5 {
        let request = request(&daemon, &PodSpec::new(&format!("twice{round}")));
        let (mut a, mut b) = (daemon.runtime(), daemon.runtime());
        let (a, b) = tokio::join!(a.run_pod_sandbox(request.clone()), b.run_pod_sandbox(request.clone()));
        assert_eq!(a?.into_inner(), b?.into_inner());
        assert_eq!(daemon.client().pods().await?.len(), round + 1);
    }
    Ok(())
}

#[tokio::test]
async fn another_request_for_a_name_under_way_is_refused() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let spec = PodSpec::new("contested");
    let (first, second) = (request(&daemon, &spec), request(&daemon, &spec.clone().label("another", "one")));
    let (mut a, mut b) = (daemon.runtime(), daemon.runtime());
    let outcomes = tokio::join!(a.run_pod_sandbox(first), b.run_pod_sandbox(second));
    let (won, lost) = if outcomes.0.is_ok() { (outcomes.0, outcomes.1) } else { (outcomes.1, outcomes.0) };
    won?;
    assert_refused(lost, Code::AlreadyExists, &["sandbox", "contested"]);
    Ok(())
}

#[tokio::test]
async fn a_client_that_gave_up_gets_its_sandbox_by_asking_again() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    for round in 0..10 {
        let request = request(&daemon, &PodSpec::new(&format!("gave-up{round}")));
        let mut impatient = daemon.client().separate().runtime();
        // It has to reach the daemon; a pod takes longer than this.
        let gave_up = tokio::time::timeout(Duration::from_millis(2), impatient.run_pod_sandbox(request.clone())).await.is_err();
        let id = daemon.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let pods = daemon.client().pods().await?;
        assert_eq!(pods.iter().filter(|pod| pod.id == id).count(), 1);
        assert_eq!(pods.len(), round + 1, "one a name, whether or not somebody gave up ({gave_up})");
    }
    Ok(())
}

/// As above, but the retry comes when the sandbox has long been made. How long a request takes to reach the daemon, and the daemon to
/// make a sandbox, is the machine's affair: patience grows until the caller goes in between.
#[tokio::test]
async fn what_was_made_for_nobody_waits_for_its_request() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    for patience_ms in [2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100] {
        let request = request(&daemon, &PodSpec::new(&format!("unclaimed{patience_ms}")));
        let mut impatient = daemon.client().separate().runtime();
        let call = impatient.run_pod_sandbox(request.clone());
        if tokio::time::timeout(Duration::from_millis(patience_ms), call).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(made) = daemon.recorded_pods().first().cloned() else { continue };
        wait::until("it is listed", || async { daemon.client().pods().await.ok().filter(|pods| pods.len() == 1) }).await?;
        assert_eq!(daemon.runtime().run_pod_sandbox(request.clone()).await?.into_inner().pod_sandbox_id, made);
        assert_refused(daemon.runtime().run_pod_sandbox(request).await, Code::AlreadyExists, &["unclaimed"]);
        return Ok(());
    }
    anyhow::bail!("no caller gave up between its request's coming and the sandbox's being made")
}

/// A container is made so fast that the second request may come too late to join; it never makes a second one.
#[tokio::test]
async fn the_same_container_twice_at_once_is_made_once() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    for round in 0..10 {
        let name = format!("c{round}");
        let request = pod.create_request(&ContainerSpec::sleeper(&name));
        let (mut a, mut b) = (daemon.runtime(), daemon.runtime());
        let outcomes = tokio::join!(a.create_container(request.clone()), b.create_container(request.clone()));
        let (one, other) = if outcomes.0.is_ok() { (outcomes.0, outcomes.1) } else { (outcomes.1, outcomes.0) };
        let made = one?.into_inner();
        match other {
            Ok(other) => assert_eq!(other.into_inner(), made),
            late => assert_refused(late, Code::AlreadyExists, &["container", &name]),
        }
        assert_eq!(daemon.client().containers().await?.len(), round + 1);
    }
    Ok(())
}
