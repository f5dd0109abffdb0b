//! PullImage by several at once, and by some who leave before it is done: what is shared is downloaded once, and nothing is left of what
//! nobody waits for.

use anyhow::{Context, Result};
use podbox_tests::pulls::{PORT, Scene, blob, daemon_with, is_layer, left, pull, status_of};
use podbox_tests::registry::Answer;
use podbox_tests::{Content, HostileRegistry, TestImage, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test]
async fn the_same_image_asked_for_by_many_is_downloaded_once() -> Result<()> {
    let scene = Scene::new("", |asked, content, pushed| {
        is_layer(asked, pushed, 1).then(|| {
            std::thread::sleep(Duration::from_millis(300));
            Answer::ok(blob(content, pushed, 1))
        })
    })
    .await?;
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (client, name) = (scene.daemon.client(), scene.name());
            tokio::spawn(async move { pull(&client, &name).await })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await??, scene.pushed.id);
    }
    for layer in &scene.pushed.layers {
        assert_eq!(scene.registry.gets_of(layer), 1);
    }
    assert_eq!(scene.registry.gets_of(&scene.pushed.manifest), 1, "{:?}", scene.registry.asked());
    Ok(())
}

#[tokio::test]
async fn a_pull_that_the_last_caller_left_ends_and_leaves_nothing() -> Result<()> {
    let stalled = Arc::new(AtomicUsize::new(0));
    let seen = stalled.clone();
    let scene = Scene::new("progress_timeout_seconds = 600", move |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        (is_layer(asked, pushed, 1) && seen.fetch_add(1, Ordering::SeqCst) == 0).then(|| Answer {
            cut_at: Some(bytes.len() / 2),
            stall: Duration::from_secs(30),
            ..Answer::ok(bytes)
        })
    })
    .await?;
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (client, name) = (scene.daemon.client().separate(), scene.name());
            tokio::spawn(async move { pull(&client, &name).await })
        })
        .collect();
    wait::until_true("the layer is on its way", || stalled.load(Ordering::SeqCst) == 1 && !left(&scene.daemon).is_empty()).await?;
    for caller in callers {
        caller.abort();
    }
    scene.left_nothing().await?;
    assert_eq!(scene.pull().await?, scene.pushed.id, "who comes again begins anew");
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_is_killed_in_the_middle_leaves_no_half_layer() -> Result<()> {
    let stalled = Arc::new(AtomicUsize::new(0));
    let seen = stalled.clone();
    let mut scene = Scene::new("", move |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        (is_layer(asked, pushed, 1) && seen.fetch_add(1, Ordering::SeqCst) == 0).then(|| Answer {
            cut_at: Some(bytes.len() / 2),
            stall: Duration::from_millis(900),
            ..Answer::ok(bytes)
        })
    })
    .await?;
    let (client, name) = (scene.daemon.client(), scene.name());
    let caller = tokio::spawn(async move { pull(&client, &name).await });
    wait::until_true("the layer is on its way", || stalled.load(Ordering::SeqCst) == 1 && !left(&scene.daemon).is_empty()).await?;
    scene.daemon.kill_9()?;
    assert!(caller.await?.is_err());
    scene.daemon.start_again().await?;
    assert_eq!(left(&scene.daemon), [""; 0], "the next daemon cleans up");
    assert_eq!(scene.pull().await?, scene.pushed.id);
    Ok(())
}

#[tokio::test]
async fn two_tags_of_one_image_pulled_at_once_are_downloaded_once() -> Result<()> {
    let daemon = daemon_with("").await?;
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::named("twice").file("x", 0o644, b"x"))?;
    content.tag("a", "v2", &pushed.manifest);
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |asked, _| {
        // The downloads take long enough to overlap.
        if asked.path.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(200));
        }
        None
    })?;
    let client = daemon.client();
    let names = ["latest", "v2"].map(|tag| format!("{}/a:{tag}", registry.host()));
    let (one, two) = tokio::join!(pull(&client, &names[0]), pull(&client, &names[1]));
    assert_eq!((one?, two?), (pushed.id.clone(), pushed.id.clone()));
    for layer in &pushed.layers {
        assert_eq!(registry.gets_of(layer), 1, "{:?}", registry.asked());
    }
    let mut tags = status_of(&client, &pushed.id).await?.context("pulled")?.repo_tags;
    tags.sort();
    assert_eq!(tags, names);
    Ok(())
}

#[tokio::test]
async fn a_layer_of_two_images_is_downloaded_once_also_if_one_has_it_already_and_waits_for_another() -> Result<()> {
    let daemon = daemon_with("").await?;
    let mut content = Content::default();
    let one = content.push("one", "latest", &TestImage::named("one").file("x", 0o644, b"one"))?;
    let two = content.push("two", "latest", &TestImage::named("two").file("x", 0o644, b"two"))?;
    let (shared, last) = (one.layers[0].clone(), one.layers[1].clone());
    assert!(two.layers[0] == shared && two.layers[1] != last);
    let may_end = Arc::new(AtomicBool::new(false));
    let its_end = may_end.clone();
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, move |asked, _| {
        for _ in 0..2000 {
            if !asked.path.contains(&last) || its_end.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    })?;
    let (client, name) = (daemon.client(), format!("{}/one", registry.host()));
    let first = tokio::spawn(async move { pull(&client, &name).await });
    wait::until_true("the shared layer comes", || registry.gets_of(&shared) == 1).await?;
    // Time to be unpacked; were it too short, the second image would join the download.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pull(&daemon.client(), &format!("{}/two", registry.host())).await?, two.id);
    assert!(!first.is_finished(), "it waits for its last layer");
    may_end.store(true, Ordering::SeqCst);
    assert_eq!(first.await??, one.id);
    assert_eq!(registry.gets_of(&shared), 1, "{:?}", registry.asked());
    Ok(())
}
