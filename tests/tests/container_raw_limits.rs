//! Settings by the names of their v2 files, block I/O among them: the cgroup's, or refused by name where a kernel has no such file. Which
//! of both is due says the cgroup of a container that asks for nothing.

use anyhow::Result;
use podbox_tests::host::lacks;
use podbox_tests::limits::{MIB, content, counter, file, kept_by_kernel, prepared, reported, run_with_setting, setting, update};
use podbox_tests::{ContainerSpec, assert_refused, wait};
use std::path::Path;
use tonic::Code;

/// The kernel slows a process down that is over `memory.high`, and counts that.
#[tokio::test]
async fn a_raw_setting_is_kept_by_the_kernel_on_v2_and_refused_by_name_on_v1() -> Result<()> {
    let (_daemon, pod) = prepared("unified").await?;
    let spec = ContainerSpec::shell("high", "dd if=/dev/zero of=/dev/null bs=48M count=1; sleep 1000").memory_limit(256 * MIB);
    let v1 = !kept_by_kernel(&pod, &["memory.limit_in_bytes"]).await?.is_empty();
    if v1 {
        let refused = pod.run(&spec.clone().resources(setting("memory.high", "16777216"))).await;
        assert_refused(refused, Code::FailedPrecondition, &["unified", "memory.high", "v1"]);
    }
    let spec = spec.with(|config| config.metadata.get_or_insert_default().attempt = 1);
    let Some(container) = run_with_setting(&pod, spec, "memory.high", "16777216").await? else { return Ok(()) };
    assert!(!v1, "v1 has no such setting");
    wait::until("the kernel throttles", || async { (counter(&container, "memory.events", "high").await.ok()? > 0).then_some(()) }).await?;
    assert_eq!(reported(&container).await?.unified.get("memory.high").map(String::as_str), Some("16777216"));
    Ok(())
}

#[tokio::test]
async fn a_raw_setting_wins_over_the_field_that_means_the_same() -> Result<()> {
    let (daemon, pod) = prepared("wins").await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(64 * MIB);
    let Some(container) = run_with_setting(&pod, spec, "memory.swap.max", "8388608").await? else { return Ok(()) };
    assert_eq!(content(&container, &["memory.swap.max"]).await?, "8388608");
    update(&daemon, &container, |limits| limits.memory_limit_in_bytes = 128 * MIB).await?;
    assert_eq!(content(&container, &["memory.swap.max"]).await?, "8388608", "nothing was said about swap");
    Ok(())
}

/// v1 has no such file that podbox sets, and not every v2 kernel has one.
#[tokio::test]
async fn a_block_io_weight_is_the_cgroups_or_refused_by_name() -> Result<()> {
    const NAMES: [&str; 2] = ["io.weight", "io.bfq.weight"];
    let (_daemon, pod) = prepared("io").await?;
    let kept = kept_by_kernel(&pod, &NAMES).await?;
    for (index, name) in NAMES.into_iter().enumerate() {
        let outcome = pod.run(&ContainerSpec::sleeper(&format!("c{index}")).resources(setting(name, "default 200"))).await;
        if kept.contains(&name) {
            let weight = content(&outcome?, &[name]).await?;
            assert!(weight.lines().any(|line| line == "default 200" || line == "200"), "{weight}");
        } else {
            assert_refused(outcome, Code::FailedPrecondition, &["unified", name]);
        }
    }
    if kept.is_empty() {
        lacks("io.weight or io.bfq.weight in its cgroups");
    }
    Ok(())
}

/// Whether a disk is one in name only: a path to another, of which the kernel tells nobody else.
fn is_hidden(disk: &Path) -> bool {
    std::fs::read_to_string(disk.join("hidden")).is_ok_and(|hidden| hidden.trim() == "1")
}

/// Every disk can be throttled.
#[tokio::test]
async fn a_block_io_limit_is_the_cgroups_or_refused_by_name() -> Result<()> {
    let (daemon, pod) = prepared("io-max").await?;
    let devices: Vec<String> = std::fs::read_dir("/sys/block")?
        .flatten()
        .filter(|device| !is_hidden(&device.path()))
        .filter_map(|device| Some(std::fs::read_to_string(device.path().join("dev")).ok()?.trim().to_owned()))
        .collect();
    let Some(device) = devices.first() else {
        lacks("block device");
        return Ok(());
    };
    let limit = format!("{device} wbps=1048576");
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    let is_kept = file(&container, "io.max").await?.is_some();
    let outcome = update(&daemon, &container, setting("io.max", &limit)).await;
    if is_kept {
        outcome?;
        let kept = content(&container, &["io.max"]).await?;
        assert!(kept.lines().any(|line| line.starts_with(&device[..]) && line.contains("wbps=1048576")), "{kept}");
    } else {
        assert_refused(outcome, Code::FailedPrecondition, &["unified", "io.max"]);
        lacks("io.max in its cgroups");
    }
    Ok(())
}
