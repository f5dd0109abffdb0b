//! Bad input gets the right code and a message that names the object and the step, and leaves nothing behind.

use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_tests::spec::words;
use podbox_tests::{Census, ContainerSpec, Daemon, Pod, PodSpec, TestImage, assert_refused, wait};
use std::path::Path;
use tonic::Code;

/// A daemon with a pod, and the census that every refusal must lead back to.
async fn prepared() -> Result<(Daemon, Pod, Census)> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    let pod = run_pod(&daemon).await?;
    let before = Census::at_rest(&daemon).await?;
    Ok((daemon, pod, before))
}

/// A pod that has had a container, and so the folders that come with the first one.
async fn run_pod(daemon: &Daemon) -> Result<Pod> {
    let pod = daemon.run_pod(&PodSpec::new("there")).await?;
    pod.create(&ContainerSpec::sleeper("first")).await?.remove().await?;
    Ok(pod)
}

async fn nothing_left(daemon: &Daemon, before: &Census) -> Result<()> {
    Census::settle(daemon, before, wait::DEADLINE).await
}

#[tokio::test]
async fn an_unknown_image() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let outcome = pod.create(&ContainerSpec::sleeper("a").image("localhost/absent:v1")).await;
    assert_refused(outcome, Code::NotFound, &["image", "localhost/absent:v1"]);
    assert_refused(pod.create(&ContainerSpec::sleeper("a").image("")).await, Code::InvalidArgument, &["image"]);
    assert_refused(pod.create(&ContainerSpec::sleeper("a").image("NOT/a/name")).await, Code::NotFound, &["NOT/a/name"]);
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn a_refused_container_has_no_log_folder() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let spec = ContainerSpec::sleeper("a")
        .with(|config| "deep/er/0.log".clone_into(&mut config.log_path))
        .resources(|resources| "4000".clone_into(&mut resources.cpuset_cpus));
    assert_refused(pod.create(&spec).await, Code::InvalidArgument, &["cpuset"]);
    let below = podbox_tests::host::entries_below(&daemon.logs());
    assert!(!below.is_empty() && below.iter().all(|path| !path.ends_with("deep")), "{below:?}");
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn an_entrypoint_that_does_not_exist_or_is_not_executable() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.import(&TestImage::named("scripts").file("script", 0o644, b"#!/bin/sh\n").file("garbage", 0o755, b"no program"))?;
    let image = TestImage { cmd: Vec::new(), ..TestImage::named("idle") };
    daemon.import(&image)?;
    daemon.warm_up().await?;
    let pod = run_pod(&daemon).await?;
    let before = Census::at_rest(&daemon).await?;
    for (name, program) in
        [("absent", "/no/such/program"), ("plain", "/script"), ("garbage", "/garbage"), ("folder", "/etc"), ("in-path", "nothing-in-path")]
    {
        let spec = ContainerSpec::command(name, &[program]).image("localhost/podbox-test/scripts:latest");
        let container = pod.create(&spec).await?;
        assert_refused(container.start().await, Code::FailedPrecondition, &[&container.id, program]);
        let status = container.status().await?;
        assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 128), "{name}: {status:?}");
        assert!(status.message.contains(program) && status.reason == "StartError", "{status:?}");
        container.remove().await?;
    }
    assert_refused(pod.create(&ContainerSpec::new("idle").image(&image.name)).await, Code::InvalidArgument, &["command"]);
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn a_missing_mount_source() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let absent = daemon.directory().join("absent");
    let outcome = pod.create(&ContainerSpec::sleeper("a").mount(&absent, "/volume")).await;
    assert_refused(outcome, Code::FailedPrecondition, &["mount", &absent.to_string_lossy()]);
    assert!(!absent.exists(), "nobody made it");
    nothing_left(&daemon, &before).await
}

/// It was there when the container was created.
#[tokio::test]
async fn a_mount_source_that_goes_before_the_start() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let source = daemon.directory().join("source");
    std::fs::create_dir(&source)?;
    let container = pod.create(&ContainerSpec::sleeper("a").mount(&source, "/volume")).await?;
    std::fs::remove_dir(&source)?;
    assert_refused(container.start().await, Code::FailedPrecondition, &[&container.id, &source.to_string_lossy()]);
    container.remove().await?;
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn a_relative_path_where_an_absolute_one_is_due() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let sleeper = || ContainerSpec::sleeper("a");
    let cases = [
        ("host_path", sleeper().mount(Path::new("relative"), "/volume")),
        ("container_path", sleeper().mount(Path::new("/tmp"), "volume")),
        ("container_path", sleeper().mount(Path::new("/tmp"), "/../volume")),
        ("container_path", sleeper().mount(Path::new("/tmp"), "/")),
        ("working_dir", sleeper().with(|config| "here".clone_into(&mut config.working_dir))),
        ("masked_paths", sleeper().security(|security| security.masked_paths = words(&["proc"]))),
        ("readonly_paths", sleeper().security(|security| security.readonly_paths = words(&["proc"]))),
        ("log_path", sleeper().with(|config| "/absolute.log".clone_into(&mut config.log_path))),
        ("log_path", sleeper().with(|config| "../up.log".clone_into(&mut config.log_path))),
    ];
    for (field, spec) in cases {
        assert_refused(pod.create(&spec).await, Code::InvalidArgument, &[field]);
    }
    let logs = PodSpec::new("logs").with(|config| "logs".clone_into(&mut config.log_directory));
    assert_refused(daemon.run_pod(&logs).await, Code::InvalidArgument, &["log_directory"]);
    for parent in ["relative", "/", "/a/../b"] {
        assert_refused(daemon.run_pod(&PodSpec::new("parent").cgroup_parent(parent)).await, Code::InvalidArgument, &["cgroup_parent"]);
    }
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn two_pods_or_containers_of_the_same_name() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let same = PodSpec { config: pod.config.clone() };
    assert_refused(daemon.run_pod(&same).await, Code::AlreadyExists, &["sandbox", "there"]);
    let other = PodSpec { config: pod.config.clone() }.label("another", "request");
    assert_refused(daemon.run_pod(&other).await, Code::AlreadyExists, &["sandbox", "there"]);
    nothing_left(&daemon, &before).await?;
    let container = pod.create(&ContainerSpec::sleeper("a")).await?;
    assert_refused(pod.create(&ContainerSpec::sleeper("a")).await, Code::AlreadyExists, &["container", "a"]);
    let next = ContainerSpec::sleeper("a").with(|config| config.metadata.get_or_insert_default().attempt = 1);
    pod.create(&next).await?.remove().await?;
    container.remove().await?;
    pod.create(&ContainerSpec::sleeper("a")).await?.remove().await?;
    // The next attempt at the pod is another pod.
    let next = PodSpec { config: pod.config.clone() }.with(|config| config.metadata.get_or_insert_default().attempt = 1);
    daemon.run_pod(&next).await?.end().await?;
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn a_container_in_a_stopped_or_removed_sandbox() -> Result<()> {
    let (daemon, pod, _) = prepared().await?;
    let created = pod.create(&ContainerSpec::sleeper("created")).await?;
    pod.stop().await?;
    daemon.link_is_gone(&pod.id).await?;
    let before = Census::at_rest(&daemon).await?;
    assert_refused(pod.create(&ContainerSpec::sleeper("a")).await, Code::FailedPrecondition, &[&pod.id, "not ready"]);
    assert_refused(created.start().await, Code::FailedPrecondition, &["not ready"]);
    nothing_left(&daemon, &before).await?;
    pod.remove().await?;
    assert_refused(pod.create(&ContainerSpec::sleeper("a")).await, Code::NotFound, &["sandbox"]);
    assert_refused(created.start().await, Code::NotFound, &["container"]);
    Ok(())
}

#[tokio::test]
async fn a_label_of_ten_megabytes() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let huge = "x".repeat(10 << 20);
    assert_refused(daemon.run_pod(&PodSpec::new("huge").label("a", &huge)).await, Code::InvalidArgument, &["labels"]);
    let annotated = PodSpec::new("huge").with(|config| drop(config.annotations.insert("a".to_owned(), huge.clone())));
    assert_refused(daemon.run_pod(&annotated).await, Code::InvalidArgument, &["annotations"]);
    assert_refused(pod.create(&ContainerSpec::sleeper("huge").label("a", &huge)).await, Code::InvalidArgument, &["labels"]);
    assert_refused(daemon.run_pod(&PodSpec::new(&huge[..1 << 20])).await, Code::InvalidArgument, &["name"]);
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn an_id_that_leads_elsewhere() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let client = daemon.client();
    let canary = daemon.state_dir().join("canary");
    std::fs::create_dir(&canary)?;
    for id in ["../..", "../canary", "/", ".", "", "\0", "%2e%2e", &"a".repeat(100_000)] {
        let sandbox = Pod::adopt(&client, id, v1::PodSandboxConfig::default());
        let container = podbox_tests::Container::adopt(&client, id, Path::new(""));
        for outcome in [sandbox.status().await.map(drop), container.status().await.map(drop), container.start().await] {
            let status = outcome.err().with_context(|| format!("{id:?} is nobody"))?;
            assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{id:?}: {status:?}");
            assert!(status.message().len() < 1000, "the message is not as long as the id");
        }
        assert!(sandbox.create(&ContainerSpec::sleeper("a")).await.is_err());
    }
    for id in ["../..", "../canary"] {
        let sandbox = Pod::adopt(&client, id, v1::PodSandboxConfig::default());
        let container = podbox_tests::Container::adopt(&client, id, Path::new(""));
        sandbox.end().await?;
        container.stop(0).await?;
        container.remove().await?;
        assert_refused(sandbox.status().await, Code::NotFound, &[id]);
    }
    assert!(canary.exists());
    std::fs::remove_dir(canary)?;
    assert_eq!(pod.state().await?, v1::PodSandboxState::SandboxReady);
    nothing_left(&daemon, &before).await
}

#[tokio::test]
async fn fields_that_must_be_there_or_in_range() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let pods = [
        ("metadata", PodSpec::new("a").with(|config| config.metadata = None)),
        ("metadata.name", PodSpec::new("")),
        ("metadata.uid", PodSpec::new("a").with(|config| config.metadata.get_or_insert_default().uid.clear())),
        ("metadata.namespace", PodSpec::new("a").with(|config| config.metadata.get_or_insert_default().namespace.clear())),
        ("hostname", PodSpec::new("a").with(|config| config.hostname = "h".repeat(65))),
        ("hostname", PodSpec::new("a").with(|config| "two\nlines".clone_into(&mut config.hostname))),
        ("dns_config", PodSpec::new("a").with(|config| config.dns_config.get_or_insert_default().servers = words(&["1.1.1.1\nevil"]))),
        ("namespace_options", PodSpec::new("a").pid(v1::NamespaceMode::Target)),
        ("namespace_options", PodSpec::new("a").network(v1::NamespaceMode::Container)),
        ("namespace_options", PodSpec::new("a").security(|security| security.namespace_options.get_or_insert_default().ipc = 77)),
    ];
    for (field, spec) in pods {
        assert_refused(daemon.run_pod(&spec).await, Code::InvalidArgument, &[field]);
    }
    let containers = [
        ("metadata", ContainerSpec::sleeper("a").with(|config| config.metadata = None)),
        ("metadata.name", ContainerSpec::sleeper("")),
        ("image", ContainerSpec::sleeper("a").with(|config| config.image = None)),
        ("envs", ContainerSpec::sleeper("a").env("", b"value")),
        ("envs", ContainerSpec::sleeper("a").env("A=B", b"value")),
        ("stdin_once", ContainerSpec::sleeper("a").with(|config| config.stdin_once = true)),
        ("stop_signal", ContainerSpec::sleeper("a").with(|config| config.stop_signal = 999)),
        ("memory_limit", ContainerSpec::sleeper("a").memory_limit(-5)),
        ("oom_score_adj", ContainerSpec::sleeper("a").resources(|resources| resources.oom_score_adj = 2000)),
        ("cpuset_cpus", ContainerSpec::sleeper("a").resources(|resources| "all".clone_into(&mut resources.cpuset_cpus))),
    ];
    for (field, spec) in containers {
        assert_refused(pod.create(&spec).await, Code::InvalidArgument, &[field]);
    }
    let mut runtime = daemon.runtime();
    let empty = v1::RunPodSandboxRequest { config: None, runtime_handler: String::new() };
    assert_refused(runtime.run_pod_sandbox(empty).await, Code::InvalidArgument, &["config"]);
    let handler =
        v1::RunPodSandboxRequest { config: Some(Pod::request(&daemon.logs(), &PodSpec::new("a"))), runtime_handler: "kata".to_owned() };
    assert_refused(runtime.run_pod_sandbox(handler).await, Code::InvalidArgument, &["runtime_handler", "kata"]);
    nothing_left(&daemon, &before).await
}

/// A limit that only the kernel can judge: no line of a device that is not there is taken.
#[tokio::test]
async fn a_limit_that_the_kernel_refuses() -> Result<()> {
    let (daemon, pod, before) = prepared().await?;
    let spec = ContainerSpec::sleeper("a").resources(|resources| {
        resources.unified.insert("pids.max".to_owned(), "4194305".to_owned());
    });
    assert_refused(pod.create(&spec).await, Code::InvalidArgument, &["pids.max", "4194305"]);
    nothing_left(&daemon, &before).await
}
