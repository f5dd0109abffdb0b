//! Settings by the names of their v2 files, block I/O among them: the cgroup's, or refused by name where a kernel has no such file.

use anyhow::Result;
use podbox_tests::host::lacks;
use podbox_tests::limits::{MIB, content, counter, prepared, reported, setting, update};
use podbox_tests::{ContainerSpec, assert_refused, wait};
use tonic::{Code, Status};

/// The refusal names what is not there; the last of the words is the file or its reason.
fn is_lacked(status: Status, words: &[&str]) {
    assert_refused::<()>(Err(status), Code::FailedPrecondition, words);
    lacks(&format!("setting {} in its cgroups", words.iter().find(|word| word.contains('.')).unwrap_or(&"")));
}

/// The kernel slows a process down that is over `memory.high`, and counts that.
#[tokio::test]
async fn a_raw_setting_is_kept_by_the_kernel_on_v2_and_refused_by_name_on_v1() -> Result<()> {
    let (_daemon, pod) = prepared("unified").await?;
    let spec = ContainerSpec::shell("high", "dd if=/dev/zero of=/dev/null bs=48M count=1; sleep 1000").memory_limit(256 * MIB);
    match pod.run(&spec.resources(setting("memory.high", "16777216"))).await {
        Ok(container) => {
            wait::until("the kernel throttles", || async { (counter(&container, "memory.events", "high").await.ok()? > 0).then_some(()) })
                .await?;
            assert_eq!(reported(&container).await?.unified.get("memory.high").map(String::as_str), Some("16777216"));
        }
        Err(status) => is_lacked(status, &["unified", "memory.high", "v1"]),
    }
    Ok(())
}

#[tokio::test]
async fn a_raw_setting_wins_over_the_field_that_means_the_same() -> Result<()> {
    let (daemon, pod) = prepared("wins").await?;
    let spec = ContainerSpec::sleeper("a").memory_limit(64 * MIB).resources(setting("memory.swap.max", "8388608"));
    match pod.run(&spec).await {
        Ok(container) => {
            assert_eq!(content(&container, &["memory.swap.max"]).await?, "8388608");
            update(&daemon, &container, |limits| limits.memory_limit_in_bytes = 128 * MIB).await?;
            assert_eq!(content(&container, &["memory.swap.max"]).await?, "8388608", "nothing was said about swap");
        }
        Err(status) => is_lacked(status, &["memory.swap.max"]),
    }
    Ok(())
}

/// v1 has no such file that podbox sets, and not every v2 kernel has one.
#[tokio::test]
async fn a_block_io_weight_is_the_cgroups_or_refused_by_name() -> Result<()> {
    let (_daemon, pod) = prepared("io").await?;
    let mut kept = false;
    for (index, name) in ["io.weight", "io.bfq.weight"].into_iter().enumerate() {
        match pod.run(&ContainerSpec::sleeper(&format!("c{index}")).resources(setting(name, "default 200"))).await {
            Ok(container) => {
                let weight = content(&container, &[name]).await?;
                assert!(weight.lines().any(|line| line == "default 200" || line == "200"), "{weight}");
                kept = true;
            }
            Err(status) => assert_refused::<()>(Err(status), Code::FailedPrecondition, &[name]),
        }
    }
    let v1 = std::fs::read_dir("/sys/fs/cgroup/blkio").is_ok();
    assert!(!(kept && v1), "what v1 does not have cannot have been set");
    if !kept {
        lacks("io.weight or io.bfq.weight in its cgroups");
    }
    Ok(())
}

/// Every block device that can be throttled will do.
#[tokio::test]
async fn a_block_io_limit_is_the_cgroups_or_refused_by_name() -> Result<()> {
    let (daemon, pod) = prepared("io-max").await?;
    let devices: Vec<String> = std::fs::read_dir("/sys/block")?
        .flatten()
        .filter_map(|device| Some(std::fs::read_to_string(device.path().join("dev")).ok()?.trim().to_owned()))
        .collect();
    let Some(device) = devices.first() else {
        lacks("block device");
        return Ok(());
    };
    let limit = format!("{device} wbps=1048576");
    let container = pod.run(&ContainerSpec::sleeper("a")).await?;
    match update(&daemon, &container, setting("io.max", &limit)).await {
        Ok(()) => {
            let kept = content(&container, &["io.max"]).await?;
            assert!(kept.lines().any(|line| line.starts_with(&device[..]) && line.contains("wbps=1048576")), "{kept}");
        }
        Err(status) => is_lacked(status, &["io.max"]),
    }
    Ok(())
}
