//! The service itself: versions, readiness, configuration, reflection, health, and what is not served yet.

use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_tests::{ContainerSpec, Daemon, DaemonOptions, PodSpec, assert_refused};
use serde_json::Value;
use std::collections::BTreeSet;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

#[tokio::test]
async fn version_and_status_say_what_the_kubelet_asks_for() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let version = daemon.client().version().await?;
    assert_eq!((&*version.runtime_name, &*version.runtime_api_version), ("podbox", "v1"));
    assert!(!version.version.is_empty() && !version.runtime_version.is_empty());
    let answer = daemon.runtime().status(v1::StatusRequest { verbose: true }).await?.into_inner();
    for name in ["RuntimeReady", "NetworkReady"] {
        let conditions = &answer.status.clone().unwrap_or_default().conditions;
        let condition = conditions.iter().find(|condition| condition.r#type == name).context(name)?;
        assert!(condition.status, "{condition:?}");
    }
    let info: Value = serde_json::from_str(answer.info.get("info").context("no info")?)?;
    assert_eq!(info["config"]["state_dir"], daemon.state_dir().to_string_lossy().into_owned());
    let features = answer.runtime_handlers.first().and_then(|handler| handler.features).unwrap_or_default();
    assert!(features.recursive_read_only_mounts, "{features:?}");
    // What the kernel has of it is told in the verbose answer as well.
    assert_eq!(features.user_namespaces, info["facts"]["no_user_namespaces"].is_null(), "{info}");
    assert_eq!(features.user_namespaces, !info["limits"].to_string().contains("userns_options"), "{info}");
    assert_eq!(answer.features.unwrap_or_default().user_namespaces_host_network, features.user_namespaces);
    let brief = daemon.runtime().status(v1::StatusRequest { verbose: false }).await?.into_inner();
    assert!(brief.info.is_empty());
    Ok(())
}

/// Where oom_score_adj cannot be lowered the wish is clamped, and Status says so.
#[tokio::test]
async fn status_tells_what_the_host_keeps_podbox_from() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let answer = daemon.runtime().status(v1::StatusRequest { verbose: true }).await?.into_inner();
    let info: Value = serde_json::from_str(answer.info.get("info").context("no info")?)?;
    let sys_resource = u64::from_str_radix(&podbox_tests::host::status_field(daemon.pid()?, "CapEff")?, 16)? & (1 << 24) != 0;
    let pod = daemon.run_pod(&PodSpec::new("oom")).await?;
    let spec = ContainerSpec::sleeper("a").resources(|resources| resources.oom_score_adj = -500);
    let container = pod.run(&spec).await?;
    let set: i32 = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", container.pid().await?))?.trim().parse()?;
    if sys_resource {
        assert_eq!(set, -500);
    } else {
        assert!(info["limits"].to_string().contains("CAP_SYS_RESOURCE"), "{info}");
        assert!(set > -500);
    }
    let spec = ContainerSpec::sleeper("b").resources(|resources| resources.oom_score_adj = 750);
    let container = pod.run(&spec).await?;
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/oom_score_adj", container.pid().await?))?.trim(), "750");
    Ok(())
}

#[tokio::test]
async fn runtime_config_names_the_cgroup_driver() -> Result<()> {
    let options = DaemonOptions::default();
    let configured = if options.cgroup_driver == "systemd" { v1::CgroupDriver::Systemd } else { v1::CgroupDriver::Cgroupfs };
    let daemon = Daemon::for_test_with(options).await?;
    let answer = daemon.runtime().runtime_config(v1::RuntimeConfigRequest {}).await?.into_inner();
    assert_eq!(answer.linux.context("a driver")?.cgroup_driver(), configured);
    Ok(())
}

async fn set_pod_cidr(daemon: &Daemon, cidr: &str) -> Result<(), Status> {
    let network_config = Some(v1::NetworkConfig { pod_cidr: cidr.to_owned() });
    let request = v1::UpdateRuntimeConfigRequest { runtime_config: Some(v1::RuntimeConfig { network_config }) };
    daemon.runtime().update_runtime_config(request).await.map(drop)
}

#[tokio::test]
async fn a_pod_cidr_holds_for_new_pods_and_across_restarts() -> Result<()> {
    let mut daemon = Daemon::for_test().await?;
    let old = daemon.run_pod(&PodSpec::new("old")).await?;
    let old_ips = old.ips().await?;
    assert!(old_ips[0].starts_with("10.200."), "{old_ips:?}");
    set_pod_cidr(&daemon, "10.207.7.0/24,fd00:10:207::/64").await?;
    let new = daemon.run_pod(&PodSpec::new("new")).await?.ips().await?;
    assert!(new[0].starts_with("10.207.7.") && new[1].starts_with("fd00:10:207:"), "{new:?}");
    assert_eq!(old.ips().await?, old_ips, "a pod keeps what it has");
    let client = old.run(&ContainerSpec::sleeper("c")).await?;
    assert_eq!(client.exec(&["/bin/ping", "-c1", "-W5", &new[0]]).await?.code, 0, "and reaches the new ones");
    for wrong in ["nonsense", "10.0.0.0/99", "10.0.0.0/31"] {
        assert_refused(set_pod_cidr(&daemon, wrong).await, Code::InvalidArgument, &[]);
    }
    set_pod_cidr(&daemon, "").await?;
    daemon.restart().await?;
    let later = daemon.run_pod(&PodSpec::new("later")).await?.ips().await?;
    assert!(later[0].starts_with("10.207.7.") && later[0] != new[0], "{later:?}");
    old.end().await?;
    Ok(())
}

#[tokio::test]
async fn verbose_status_holds_what_crictl_inspect_reads() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("verbose")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    let of_pod = pod.info().await?;
    for key in ["pid", "sandboxID", "config", "runtimeSpec", "netns", "cgroup"] {
        assert!(!of_pod[key].is_null(), "{key}: {of_pod}");
    }
    let spec = &of_pod["runtimeSpec"];
    assert_eq!((&spec["process"]["args"][0], &spec["hostname"]), (&"pause".into(), &"verbose".into()), "{spec}");
    // What it says is what pause is.
    let status = std::fs::read_to_string(format!("/proc/{}/status", pod.pause_pid().await?))?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().next());
    assert_eq!(uid, Some(&*spec["process"]["user"]["uid"].to_string()));
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", pod.pause_pid().await?))?;
    let path = spec["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    assert!(!path.is_empty() && cgroups.lines().any(|line| line.ends_with(path)), "{path}: {cgroups}");
    assert_eq!(of_pod["sandboxID"], pod.id);
    let of_container = container.info().await?;
    for key in ["pid", "sandboxID", "config", "runtimeSpec", "netns", "cgroup"] {
        assert!(!of_container[key].is_null(), "{key}: {of_container}");
    }
    let spec = &of_container["runtimeSpec"];
    assert_eq!(spec["process"]["args"][0], "/bin/sleep");
    assert!(spec["ociVersion"].is_string() && spec["linux"]["namespaces"].is_array(), "{spec}");
    let brief = v1::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
    assert!(daemon.runtime().container_status(brief).await?.into_inner().info.is_empty());
    let brief = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    assert!(daemon.runtime().pod_sandbox_status(brief).await?.into_inner().info.is_empty());
    Ok(())
}

#[track_caller]
fn is_named<T: std::fmt::Debug>(call: &str, outcome: Result<T, Status>) {
    assert_refused(outcome, Code::Unimplemented, &[call]);
}

/// Also where there is something that they could be of: no archive is written, and none is read, as a container's image least of all.
///
/// Seen to fail: with a file made where a checkpoint is asked for, and success told.
#[tokio::test]
async fn what_is_not_served_yet_is_unimplemented_by_its_name() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let mut runtime = daemon.runtime();
    let pod = daemon.run_pod(&PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::sleeper("c")).await?;
    let archive = daemon.directory().join("checkpoint.tar");
    let location = archive.to_string_lossy().into_owned();
    let request = v1::CheckpointContainerRequest { container_id: container.id.clone(), location: location.clone(), ..Default::default() };
    is_named("CheckpointContainer", runtime.checkpoint_container(request).await);
    assert!(!archive.exists(), "{location}");
    std::fs::write(&archive, "an archive")?;
    assert!(pod.create(&ContainerSpec::sleeper("restored").image(&location)).await.is_err(), "{location}");
    is_named("CheckpointContainer", runtime.checkpoint_container(v1::CheckpointContainerRequest::default()).await);
    is_named("CheckpointPod", runtime.checkpoint_pod(v1::CheckpointPodRequest::default()).await);
    is_named("RestorePod", runtime.restore_pod(v1::RestorePodRequest::default()).await);
    Ok(())
}

async fn ask_reflection(daemon: &Daemon, question: MessageRequest) -> Result<ServerReflectionResponse> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(daemon.client().channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await?.into_inner();
    Ok(answers.next().await.context("an answer")??)
}

#[tokio::test]
async fn reflection_lists_and_describes_every_service() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let answer = ask_reflection(&daemon, MessageRequest::ListServices(String::new())).await?;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { anyhow::bail!("{answer:?}") };
    let names: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["runtime.v1.RuntimeService", "runtime.v1.ImageService", "grpc.health.v1.Health"] {
        assert!(names.contains(name), "{names:?}");
    }
    for symbol in ["runtime.v1.RuntimeService", "runtime.v1.ImageService.PullImage", "runtime.v1.PodSandboxConfig"] {
        let answer = ask_reflection(&daemon, MessageRequest::FileContainingSymbol(symbol.to_owned())).await?;
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else { anyhow::bail!("{symbol}: {answer:?}") };
        assert!(files.file_descriptor_proto.iter().any(|file| file.windows(10).any(|part| part == b"runtime.v1")), "{symbol}");
    }
    Ok(())
}

#[tokio::test]
async fn health_says_serving() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let mut client = HealthClient::new(daemon.client().channel());
    for service in ["", "runtime.v1.RuntimeService", "runtime.v1.ImageService"] {
        let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await?.into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    Ok(())
}

#[tokio::test]
async fn each_call_is_one_line_in_the_log_with_its_duration_and_outcome() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("logged")).await?;
    pod.end().await?;
    assert!(pod.status().await.is_err());
    let log = daemon.log();
    for (call, outcome) in [("RunPodSandbox", "ok"), ("StopPodSandbox", "ok"), ("RemovePodSandbox", "ok"), ("PodSandboxStatus", "NotFound")]
    {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&format!("{call}\""))).collect();
        assert_eq!(lines.len(), 1, "{call}: {lines:?}");
        let lower = lines[0].to_lowercase().replace([' ', '_'], "");
        assert!(lower.contains("duration") && lower.contains(&outcome.to_lowercase()), "{}", lines[0]);
    }
    Ok(())
}
