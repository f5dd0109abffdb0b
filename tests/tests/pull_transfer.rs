//! PullImage over connections that stall, break and lead elsewhere: it goes on, or gives up after a while and says so.

use anyhow::{Context, Result};
use podbox_tests::pulls::{OTHER_PORT, PORT, Scene, blob, daemon_with, impatient_daemon_with, is_layer, pull, write_hosts};
use podbox_tests::registry::{Answer, Asked};
use podbox_tests::{Content, HostileRegistry, TestImage, wait};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() -> Result<()> {
    let breaks = AtomicUsize::new(0);
    let scene = Scene::new("", move |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        let asks_for_all = is_layer(asked, pushed, 1) && asked.header("range").is_none();
        (asks_for_all && breaks.fetch_add(1, Ordering::SeqCst) == 0).then(|| Answer { cut_at: Some(bytes.len() / 2), ..Answer::ok(bytes) })
    })
    .await?;
    assert_eq!(scene.pull().await?, scene.pushed.id);
    let asked = scene.registry.asked();
    let ranges: Vec<_> = asked.iter().filter(|asked| is_layer(asked, &scene.pushed, 1)).map(|asked| asked.header("range")).collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    let start = ranges[1].and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()).context("a range")?;
    assert!(start > 0, "what came was not asked for again");
    Ok(())
}

#[tokio::test]
async fn a_download_from_a_server_without_ranges_begins_anew_and_comes_out_right() -> Result<()> {
    let breaks = AtomicUsize::new(0);
    let scene = Scene::new("", move |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        let cut_at = if breaks.load(Ordering::SeqCst) < 2 { Some(bytes.len() / 3) } else { None };
        is_layer(asked, pushed, 1).then(|| {
            breaks.fetch_add(1, Ordering::SeqCst);
            Answer { cut_at, ..Answer::ok(bytes) }
        })
    })
    .await?;
    assert_eq!(scene.pull().await?, scene.pushed.id);
    assert_eq!(scene.registry.gets_of(&scene.pushed.layers[1]), 3);
    Ok(())
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up_on_after_the_progress_timeout() -> Result<()> {
    let scene = Scene::new("", |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        // The honest length, ten bytes, and then nothing.
        is_layer(asked, pushed, 1).then(|| Answer { cut_at: Some(10), stall: Duration::from_secs(60), status: 200, ..Answer::ok(bytes) })
    })
    .await?;
    scene.refused("RegistryUnavailable: ", &["127.0.0.1:5000"]).await
}

#[tokio::test]
async fn a_registry_that_never_answers_is_asked_a_bounded_number_of_times() -> Result<()> {
    let scene = Scene::new("", |asked, _, pushed| {
        is_layer(asked, pushed, 1).then(|| {
            std::thread::sleep(wait::scaled(Duration::from_secs(5)));
            Answer::status(500)
        })
    })
    .await?;
    scene.refused("RegistryUnavailable: ", &["sent nothing for"]).await?;
    let asked = scene.registry.gets_of(&scene.pushed.layers[1]);
    assert!((2..=5).contains(&asked), "asked {asked} times");
    Ok(())
}

#[tokio::test]
async fn a_registry_that_trickles_is_given_up_on_as_one_that_stalls() -> Result<()> {
    for of_layer in [true, false] {
        let scene = Scene::new("", move |asked, content, pushed| {
            let bytes = if of_layer && is_layer(asked, pushed, 1) {
                blob(content, pushed, 1)
            } else if !of_layer && asked.method == "GET" && asked.path.contains(&pushed.id) {
                &content.blobs[&pushed.id]
            } else {
                return None;
            };
            Some(Answer { trickle: Duration::from_millis(50), ..Answer::ok(bytes) })
        })
        .await?;
        scene.refused("RegistryUnavailable: ", &["less than 1024 bytes a second"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_when_it_wants_to_be() -> Result<()> {
    let refusals = AtomicUsize::new(0);
    let scene = Scene::new("", move |_, _, _| match refusals.fetch_add(1, Ordering::SeqCst) {
        0 => Some(Answer::status(429).with("retry-after", "1")),
        1 | 3 => Some(Answer::status(503)),
        _ => None,
    })
    .await?;
    assert_eq!(scene.pull().await?, scene.pushed.id);
    Ok(())
}

#[tokio::test]
async fn a_registry_that_stays_busy_is_unavailable() -> Result<()> {
    let scene = Scene::new("", |_, _, _| {
        Some(Answer { body: br#"{"errors":[{"message":"too many \u001b[31m"}]}"#.to_vec(), ..Answer::status(503) })
    })
    .await?;
    scene.refused("RegistryUnavailable: ", &["503"]).await
}

#[tokio::test]
async fn redirects_in_circles_and_to_nowhere_end() -> Result<()> {
    for (target, word) in [("/v2/a/blobs/again", "without an end"), ("file:///etc/passwd", "http"), ("http://[", "no address")] {
        let scene =
            Scene::new("", move |asked, _, _| asked.path.contains("/blobs/").then(|| Answer::status(307).with("location", target))).await?;
        scene.refused("pull ", &[word]).await?;
        assert!(scene.registry.asked().len() < 30, "{target}: {} requests", scene.registry.asked().len());
    }
    Ok(())
}

#[tokio::test]
async fn proxies_of_the_environment_are_used_and_not_for_this_machine() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = impatient_daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    std::fs::create_dir(hosts.path().join("reg.test"))?;
    std::fs::write(hosts.path().join("reg.test/hosts.toml"), "server = \"http://reg.test\"\n")?;
    let mut content = Content::default();
    content.push("a", "latest", &TestImage::named("proxied"))?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content.clone(), |_, _| None)?;
    let proxy = HostileRegistry::start(daemon.shared_network(), OTHER_PORT, content, |_, _| None)?;
    for name in ["reg.test/a".to_owned(), format!("{}/a", registry.host())] {
        let mut command = daemon.command(&["image", "pull", &name]);
        command.env("http_proxy", format!("http://{}", proxy.host())).env_remove("no_proxy").env_remove("NO_PROXY");
        let output = daemon.network().run(|| Ok(command.output()?))?;
        assert!(output.status.success(), "{name}: {output:?}");
    }
    assert!(!proxy.asked().is_empty() && proxy.asked().iter().all(|asked| asked.path.starts_with("http://reg.test/v2/a/")));
    assert!(!registry.asked().is_empty(), "what is on this machine is asked itself");
    Ok(())
}

#[tokio::test]
async fn a_download_goes_on_after_a_reset_of_its_connection() -> Result<()> {
    let breaks = AtomicUsize::new(0);
    let scene = Scene::new("", move |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        let cut_at = Some(bytes.len() / 2);
        // What was sent has time to come before the reset, which takes the rest along.
        let stall = Duration::from_millis(300);
        let resets = is_layer(asked, pushed, 1) && asked.header("range").is_none() && breaks.fetch_add(1, Ordering::SeqCst) == 0;
        resets.then(|| Answer { cut_at, stall, is_reset: true, ..Answer::ok(bytes) })
    })
    .await?;
    assert_eq!(scene.pull().await?, scene.pushed.id);
    let asked = scene.registry.asked();
    let ranges: Vec<_> = asked.iter().filter(|asked| is_layer(asked, &scene.pushed, 1)).map(|asked| asked.header("range")).collect();
    assert!(ranges.len() == 2 && ranges[1].is_some_and(|range| range != "bytes=0-"), "{ranges:?}");
    Ok(())
}

#[tokio::test]
async fn a_mirrors_dial_timeout_is_how_long_its_connection_may_take() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::default())?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    // Connections to it are made, and TLS is never spoken.
    let silent = daemon.network().run(|| Ok(std::net::TcpListener::bind(("127.0.0.1", OTHER_PORT))?))?;
    let mirror = format!("[host.\"https://{}\"]\ndial_timeout = \"200ms\"\n", silent.local_addr()?);
    write_hosts(hosts.path(), &registry.host(), &format!("server = \"http://{}\"\n{mirror}", registry.host()))?;
    let begun = std::time::Instant::now();
    assert_eq!(pull(&daemon.client(), &format!("{}/a", registry.host())).await?, pushed.id);
    // By default, each of ten attempts would take fifteen seconds.
    assert!(begun.elapsed() < wait::scaled(Duration::from_secs(30)), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_mirror_whose_path_is_given_whole_is_asked_below_it() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::default())?;
    let mirror = HostileRegistry::start(daemon.shared_network(), OTHER_PORT, content, |asked, content| {
        let below = asked.path.strip_prefix("/cache/of-it/")?;
        Some(content.answer(&Asked { path: format!("/v2/{below}"), ..asked.clone() }))
    })?;
    let text = |last: &str| format!("server = \"http://127.0.0.1:5998\"\n[host.\"http://{}/cache/of-it\"]\n{last}\n", mirror.host());
    let name = format!("127.0.0.1:{PORT}/a");
    write_hosts(hosts.path(), "127.0.0.1:5000", &text(""))?;
    pull(&daemon.client(), &name).await.expect_err("nothing is below /cache/of-it/v2");
    assert!(mirror.asked().iter().all(|asked| asked.path.starts_with("/cache/of-it/v2/a/")), "{:?}", mirror.asked());
    write_hosts(hosts.path(), "127.0.0.1:5000", &text("override_path = true"))?;
    assert_eq!(pull(&daemon.client(), &name).await?, pushed.id);
    Ok(())
}
