//! Container logs: the CRI's format, whole and in order, across rotation.

use anyhow::{Result, bail};
use podbox_tests::flag::Flag;
use podbox_tests::pod::LogLine;
use podbox_tests::{ContainerSpec, Daemon, PodSpec, assert_refused, wait};
use std::path::PathBuf;
use tonic::Code;

#[tokio::test]
async fn both_streams_stand_in_the_log_in_the_cris_format() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("streams")).await?;
    let container = pod.run(&ContainerSpec::shell("a", "echo out; echo err >&2; echo; printf 'no end'")).await?;
    assert_eq!(container.exit_code().await?, 0);
    let lines = container.log_lines()?;
    let of = |stream: &str| -> Vec<String> {
        lines.iter().filter(|line| line.stream == stream).map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
    };
    assert_eq!(of("stdout"), ["out", "", "no end"]);
    assert_eq!(of("stderr"), ["err"]);
    let mut times: Vec<&str> = lines.iter().map(|line| &*line.time).collect();
    let in_order = times.clone();
    times.sort_unstable();
    assert_eq!(times, in_order, "times do not go back");
    assert_eq!(container.status().await?.log_path, container.log.to_string_lossy());
    Ok(())
}

#[tokio::test]
async fn a_long_line_is_cut_into_partial_lines_that_add_up() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("partial")).await?;
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo short";
    let container = pod.run(&ContainerSpec::shell("a", script)).await?;
    assert_eq!(container.exit_code().await?, 0);
    let lines = container.log_lines()?;
    let long: Vec<&LogLine> = lines.iter().take_while(|line| line.text != b"short").collect();
    assert!(long.len() > 1);
    assert_eq!(long.iter().map(|line| line.text.len()).sum::<usize>(), 100_000);
    assert!(long.iter().all(|line| line.text.iter().all(|byte| *byte == b'x')));
    let (last, first) = long.split_last().expect("several");
    assert!(first.iter().all(|line| line.partial) && !last.partial, "P until the last, which is F");
    Ok(())
}

/// What a stream has in files, one after the other: a number a line.
fn numbers(files: &[PathBuf], stream: &str) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for file in files {
        for line in LogLine::parse_all(&std::fs::read(file)?)?.into_iter().filter(|line| line.stream == stream) {
            found.push(String::from_utf8(line.text)?.parse()?);
        }
    }
    Ok(found)
}

#[tokio::test]
async fn rotation_loses_no_line() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("rotation")).await?;
    // It writes as long as its log is rotated, and in the end how much that was.
    let script = "i=0; while ! test -e /dev/shm/go; do echo $i; i=$((i+1)); done; echo $i >&2";
    let container = pod.run(&ContainerSpec::shell("a", script)).await?;
    let mut files = Vec::new();
    for number in 0..5 {
        wait::until_true("there is a new log with something in it", || container.log.metadata().is_ok_and(|file| file.len() > 0)).await?;
        let rotated = container.log.with_extension(number.to_string());
        std::fs::rename(&container.log, &rotated)?;
        container.reopen_log().await?;
        files.push(rotated);
    }
    Flag::of(&pod).await?.raise()?;
    assert_eq!(container.exit_code().await?, 0);
    files.push(container.log.clone());
    let [count] = numbers(&files, "stderr")?[..] else { bail!("one line says how many there are") };
    assert_eq!(numbers(&files, "stdout")?, (0..count).collect::<Vec<u64>>());
    Ok(())
}

#[tokio::test]
async fn a_log_is_reopened_only_of_a_running_container_and_no_file_is_made_otherwise() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("reopen")).await?;
    let container = pod.run(&ContainerSpec::shell("a", "echo once")).await?;
    container.exited().await?;
    std::fs::rename(&container.log, container.log.with_extension("0"))?;
    assert_refused(container.reopen_log().await, Code::FailedPrecondition, &[&container.id, "running"]);
    assert!(!container.log.exists());
    // A folder that is gone: the old file stays in use.
    let runs = pod.run(&ContainerSpec::sleeper("b").with(|config| "folder/b.log".clone_into(&mut config.log_path))).await?;
    let folder = runs.log.parent().expect("a folder").to_owned();
    std::fs::rename(&folder, folder.with_extension("away"))?;
    assert!(runs.reopen_log().await.is_err());
    assert!(!runs.log.exists());
    std::fs::rename(folder.with_extension("away"), &folder)?;
    runs.reopen_log().await?;
    Ok(())
}

#[tokio::test]
async fn a_container_without_a_log_path_runs_all_the_same() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("no-log")).await?;
    let spec = ContainerSpec::shell("a", "yes | head -c 1000000; exit 3").with(|config| config.log_path.clear());
    assert_eq!(pod.run(&spec).await?.exit_code().await?, 3);
    Ok(())
}
