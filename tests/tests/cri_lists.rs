//! Lists, filters, ids and their prefixes, and what is idempotent.

use anyhow::Result;
use podbox_proto::v1::{self, ContainerState, PodSandboxState};
use podbox_tests::{Container, ContainerSpec, Daemon, Pod, PodSpec, assert_refused};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tokio_stream::StreamExt;
use tonic::Code;

async fn pods(daemon: &Daemon, filter: v1::PodSandboxFilter) -> Result<BTreeSet<String>> {
    let request = v1::ListPodSandboxRequest { filter: Some(filter) };
    let items = daemon.runtime().list_pod_sandbox(request).await?.into_inner().items;
    Ok(items.into_iter().map(|pod| pod.metadata.unwrap_or_default().name).collect())
}

async fn containers(daemon: &Daemon, filter: v1::ContainerFilter) -> Result<BTreeSet<String>> {
    let request = v1::ListContainersRequest { filter: Some(filter) };
    let items = daemon.runtime().list_containers(request).await?.into_inner().containers;
    Ok(items.into_iter().map(|container| container.metadata.unwrap_or_default().name).collect())
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod_state(state: PodSandboxState) -> Option<v1::PodSandboxStateValue> {
    Some(v1::PodSandboxStateValue { state: state.into() })
}

#[tokio::test]
async fn pods_are_filtered_by_id_state_and_labels_all_of_which_must_fit() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let a = daemon.run_pod(&PodSpec::new("a").label("app", "web").label("tier", "front")).await?;
    let b = daemon.run_pod(&PodSpec::new("b").label("app", "web")).await?;
    daemon.run_pod(&PodSpec::new("c")).await?;
    b.stop().await?;
    let filter = v1::PodSandboxFilter::default;
    let ready = PodSandboxState::SandboxReady;
    for (filter, want) in [
        (filter(), &["a", "b", "c"][..]),
        (v1::PodSandboxFilter { id: a.id.clone(), ..filter() }, &["a"]),
        (v1::PodSandboxFilter { id: a.id[..13].to_owned(), ..filter() }, &["a"]),
        (v1::PodSandboxFilter { id: "nobody".to_owned(), ..filter() }, &[]),
        (v1::PodSandboxFilter { state: pod_state(ready), ..filter() }, &["a", "c"]),
        (v1::PodSandboxFilter { state: pod_state(PodSandboxState::SandboxNotready), ..filter() }, &["b"]),
        (v1::PodSandboxFilter { label_selector: labels(&[("app", "web")]), ..filter() }, &["a", "b"]),
        (v1::PodSandboxFilter { label_selector: labels(&[("app", "web"), ("tier", "front")]), ..filter() }, &["a"]),
        (v1::PodSandboxFilter { label_selector: labels(&[("app", "other")]), ..filter() }, &[]),
        (v1::PodSandboxFilter { label_selector: labels(&[("app", "web")]), state: pod_state(ready), ..filter() }, &["a"]),
        (v1::PodSandboxFilter { label_selector: labels(&[("app", "web")]), state: pod_state(ready), id: b.id.clone() }, &[]),
    ] {
        let shown = format!("{filter:?}");
        assert_eq!(pods(&daemon, filter).await?, names(want), "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn containers_are_filtered_by_id_state_sandbox_and_labels_all_of_which_must_fit() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let one = daemon.run_pod(&PodSpec::new("one")).await?;
    let two = daemon.run_pod(&PodSpec::new("two")).await?;
    let a = one.run(&ContainerSpec::sleeper("a").label("app", "web").label("tier", "front")).await?;
    one.create(&ContainerSpec::sleeper("b").label("app", "web")).await?;
    two.run(&ContainerSpec::command("c", &["/bin/true"]).label("app", "web")).await?.exited().await?;
    let filter = v1::ContainerFilter::default;
    let state = |state: ContainerState| Some(v1::ContainerStateValue { state: state.into() });
    for (filter, want) in [
        (filter(), &["a", "b", "c"][..]),
        (v1::ContainerFilter { id: a.id[..20].to_owned(), ..filter() }, &["a"]),
        (v1::ContainerFilter { pod_sandbox_id: one.id.clone(), ..filter() }, &["a", "b"]),
        (v1::ContainerFilter { pod_sandbox_id: two.id[..20].to_owned(), ..filter() }, &["c"]),
        (v1::ContainerFilter { state: state(ContainerState::ContainerRunning), ..filter() }, &["a"]),
        (v1::ContainerFilter { state: state(ContainerState::ContainerCreated), ..filter() }, &["b"]),
        (v1::ContainerFilter { state: state(ContainerState::ContainerExited), ..filter() }, &["c"]),
        (v1::ContainerFilter { label_selector: labels(&[("app", "web"), ("tier", "front")]), ..filter() }, &["a"]),
        (v1::ContainerFilter { pod_sandbox_id: two.id.clone(), id: a.id.clone(), ..filter() }, &[]),
    ] {
        let shown = format!("{filter:?}");
        assert_eq!(containers(&daemon, filter).await?, names(want), "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn lists_and_status_carry_what_the_kubelet_needs_and_labels_come_back_unaltered() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let spec = PodSpec::new("full").label("k", "v").with(|config| drop(config.annotations.insert("note".to_owned(), "ä\n ".to_owned())));
    let pod = daemon.run_pod(&spec).await?;
    let container = pod.run(&ContainerSpec::sleeper("c").label("x", "y")).await?;
    let listed = daemon.client().pods().await?.remove(0);
    assert_eq!(
        (&listed.id, &listed.metadata, &listed.labels, &listed.annotations),
        (&pod.id, &pod.config.metadata, &pod.config.labels, &pod.config.annotations)
    );
    assert!(listed.created_at > 0);
    let status = pod.status().await?.status.unwrap_or_default();
    assert_eq!(
        (&status.id, &status.metadata, &status.labels, &status.annotations),
        (&pod.id, &pod.config.metadata, &pod.config.labels, &pod.config.annotations)
    );
    assert_eq!(status.created_at, listed.created_at);
    let listed = daemon.client().containers().await?.remove(0);
    let status = container.status().await?;
    assert_eq!((&listed.id, &listed.pod_sandbox_id, listed.state()), (&container.id, &pod.id, ContainerState::ContainerRunning));
    assert_eq!(
        (&listed.metadata, &listed.labels, &listed.image, &listed.image_ref, &listed.image_id),
        (&status.metadata, &status.labels, &status.image, &status.image_ref, &status.image_id)
    );
    assert_eq!(listed.image.unwrap_or_default().image, podbox_tests::image::DEFAULT_NAME);
    assert!(!listed.image_id.is_empty() && !listed.image_ref.is_empty() && listed.created_at > 0);
    Ok(())
}

#[tokio::test]
async fn streaming_lists_say_what_the_unary_ones_say() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    for name in ["a", "b", "c"] {
        daemon.run_pod(&PodSpec::new(name)).await?.run(&ContainerSpec::sleeper(name)).await?;
    }
    let mut runtime = daemon.runtime();
    let mut streamed = Vec::new();
    let mut stream = runtime.stream_pod_sandboxes(v1::StreamPodSandboxesRequest::default()).await?.into_inner();
    while let Some(message) = stream.next().await {
        streamed.extend(message?.pod_sandboxes);
    }
    assert_eq!(streamed, daemon.client().pods().await?);
    let mut streamed = Vec::new();
    let mut stream = runtime.stream_containers(v1::StreamContainersRequest::default()).await?.into_inner();
    while let Some(message) = stream.next().await {
        streamed.extend(message?.containers);
    }
    assert_eq!(streamed, daemon.client().containers().await?);
    let mut streamed = Vec::new();
    let mut images = daemon.images();
    let mut stream = images.stream_images(v1::StreamImagesRequest::default()).await?.into_inner();
    while let Some(message) = stream.next().await {
        streamed.extend(message?.images);
    }
    assert_eq!(streamed, images.list_images(v1::ListImagesRequest::default()).await?.into_inner().images);
    Ok(())
}

#[tokio::test]
async fn statistics_are_streamed_an_entry_a_pod_or_container() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let mut ids = (BTreeSet::new(), BTreeSet::new());
    for name in ["a", "b"] {
        let pod = daemon.run_pod(&PodSpec::new(name)).await?;
        ids.1.insert(pod.run(&ContainerSpec::sleeper(name)).await?.id);
        ids.0.insert(pod.id);
    }
    let mut runtime = daemon.runtime();
    let mut found = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut stream = runtime.stream_pod_sandbox_stats(v1::StreamPodSandboxStatsRequest::default()).await?.into_inner();
    while let Some(message) = stream.next().await {
        found.0.extend(message?.pod_sandbox_stats.into_iter().map(|stats| stats.attributes.unwrap_or_default().id));
    }
    let mut stream = runtime.stream_container_stats(v1::StreamContainerStatsRequest::default()).await?.into_inner();
    while let Some(message) = stream.next().await {
        for stats in message?.container_stats {
            assert!(stats.memory.unwrap_or_default().usage_bytes.is_some_and(|bytes| bytes.value > 0));
            found.1.insert(stats.attributes.unwrap_or_default().id);
        }
    }
    let mut stream = runtime.stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest::default()).await?.into_inner();
    while let Some(message) = stream.next().await {
        found.2.extend(message?.pod_sandbox_metrics.into_iter().map(|metrics| metrics.pod_sandbox_id));
    }
    assert_eq!((&found.0, &found.1, &found.2), (&ids.0, &ids.1, &ids.0));
    Ok(())
}

#[tokio::test]
async fn an_id_can_be_given_by_a_beginning_that_only_it_has() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let client = daemon.client();
    let pod = daemon.run_pod(&PodSpec::new("prefix")).await?;
    let short = Pod::adopt(&client, &pod.id[..12], pod.config.clone());
    let container = short.create(&ContainerSpec::sleeper("c")).await?;
    let abbreviated = Container::adopt(&client, &container.id[..12], Path::new(""));
    abbreviated.start().await?;
    assert_eq!(abbreviated.status().await?.id, container.id);
    assert_eq!(abbreviated.sh("echo runs").await?, "runs");
    assert_eq!(short.status().await?.status.unwrap_or_default().id, pod.id);
    // Of 17 ids, two begin with the same digit.
    let mut firsts: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..17 {
        let id = pod.create(&ContainerSpec::sleeper(&format!("c{number}"))).await?.id;
        *firsts.entry(id[..1].to_owned()).or_default() += 1;
    }
    let twice = firsts.into_iter().find(|(_, count)| *count > 1).map(|(first, _)| first).unwrap_or_default();
    let ambiguous = Container::adopt(&client, &twice, Path::new(""));
    assert_refused(ambiguous.status().await, Code::InvalidArgument, &[&twice, "more than one"]);
    assert_refused(ambiguous.start().await, Code::InvalidArgument, &[&twice, "more than one"]);
    assert!(ambiguous.remove().await.is_err(), "nothing is removed by chance");
    assert_eq!(client.containers().await?.len(), 18);
    abbreviated.stop(0).await?;
    abbreviated.remove().await?;
    short.end().await?;
    assert!(client.pods().await?.is_empty() && client.containers().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn stop_and_remove_succeed_again_and_on_what_never_was() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let client = daemon.client();
    let pod = daemon.run_pod(&PodSpec::new("again")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    for _ in 0..2 {
        container.stop(0).await?;
    }
    for _ in 0..2 {
        container.remove().await?;
        container.stop(0).await?;
    }
    assert_refused(container.status().await, Code::NotFound, &[&container.id]);
    assert_refused(container.start().await, Code::NotFound, &[&container.id]);
    // Removing kills what still runs.
    let runs = pod.run(&ContainerSpec::sleeper("runs")).await?;
    let pid = runs.pid().await?;
    runs.remove().await?;
    assert!(!podbox_tests::host::runs(pid));
    for _ in 0..2 {
        pod.stop().await?;
    }
    assert_eq!(pod.state().await?, PodSandboxState::SandboxNotready);
    for _ in 0..2 {
        pod.remove().await?;
        pod.stop().await?;
    }
    assert_refused(pod.status().await, Code::NotFound, &[&pod.id]);
    // A pod that runs can be removed without being stopped.
    let forced = daemon.run_pod(&PodSpec::new("forced")).await?;
    let pid = forced.run(&ContainerSpec::sleeper("c")).await?.pid().await?;
    forced.remove().await?;
    assert!(!podbox_tests::host::runs(pid));
    let nobody = Pod::adopt(&client, "0123456789abcdef", v1::PodSandboxConfig::default());
    nobody.end().await?;
    Ok(())
}

#[tokio::test]
async fn many_may_stop_and_remove_the_same_at_once() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("crowd")).await?;
    let container = pod.run(&ContainerSpec::shell("c", "trap '' TERM; while :; do sleep 0.05; done")).await?;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (pod, container) = (pod.clone(), container.clone());
        calls.spawn(async move {
            match number % 4 {
                0 => container.stop(number % 3).await,
                1 => container.remove().await,
                2 => pod.stop().await,
                _ => pod.remove().await,
            }
        });
    }
    while let Some(outcome) = calls.join_next().await {
        outcome??;
    }
    assert!(daemon.client().pods().await?.is_empty());
    Ok(())
}
