//! Pulls beside pulls and removals: what one registry does is not another one's matter, what is verified is everybody's, and what nobody
//! uses goes at once.

use anyhow::{Context, Result};
use podbox_tests::pulls::{OTHER_PORT, PORT, SmallDisk, blob, daemon_with, is_layer, left, noisy_image, pull, remove, status_of};
use podbox_tests::registry::{Answer, Asked, Compression, Content, Format, HostileRegistry, Pushed, digest_of};
use podbox_tests::{Client, ContainerSpec, Daemon, DaemonOptions, PodSpec, TestImage, assert_refused, wait};
use serde_json::json;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// A gate that answers of a registry wait at, at most a minute.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<AtomicBool>,
}

impl Gate {
    fn wait(&self) {
        for _ in 0..12_000 {
            if self.open.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// The behaviour of a registry whose layer of this number waits.
    fn holding(&self, held: &Pushed, number: usize) -> impl Fn(&Asked, &Content) -> Option<Answer> + Send + Sync + 'static {
        let (gate, held) = (self.clone(), held.clone());
        move |asked, content| {
            is_layer(asked, &held, number).then(|| {
                gate.wait();
                Answer::ok(blob(content, &held, number))
            })
        }
    }
}

fn begin(client: &Client, name: String) -> JoinHandle<Result<String, Status>> {
    let client = client.separate();
    tokio::spawn(async move { pull(&client, &name).await })
}

/// An image of the plain base layer and one of its own.
fn image(name: &str) -> TestImage {
    TestImage::named(name).file("name", 0o644, name.as_bytes())
}

#[tokio::test]
async fn a_registry_that_stalls_or_lies_about_a_layer_keeps_no_other_registrys_image() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let (mut bad, mut good) = (Content::default(), Content::default());
    let base = TestImage::default();
    let pushed = good.push("good", "latest", &base)?;
    // Many repositories with the very same layer, which never comes: more than are downloaded at once.
    for number in 0..6 {
        bad.push(&format!("bad{number}"), "latest", &base)?;
    }
    let never = Gate::default();
    let bad = HostileRegistry::start(daemon.shared_network(), OTHER_PORT, bad, never.holding(&pushed, 0))?;
    let good = HostileRegistry::start(daemon.shared_network(), PORT, good, |_, _| None)?;
    let begun: Vec<_> = (0..6).map(|number| begin(&client, format!("{}/bad{number}", bad.host()))).collect();
    wait::until_true("the layer is asked for", || bad.gets_of(&pushed.layers[0]) > 0).await?;
    assert_eq!(pull(&client, &format!("{}/good", good.host())).await?, pushed.id);
    never.open();
    for pull in begun {
        assert_eq!(pull.await??, pushed.id);
    }
    Ok(())
}

#[tokio::test]
async fn layers_of_many_registries_take_their_turns() -> Result<()> {
    const REGISTRIES: u16 = 24;
    const AT_ONCE: usize = 16;
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let gate = Gate::default();
    let (mut registries, mut pulls) = (Vec::new(), Vec::new());
    for number in 0..REGISTRIES {
        let mut content = Content::default();
        let pushed = content.push("a", "latest", &image(&format!("turn{number}")))?;
        // The base layer is all that comes.
        let held = gate.holding(&pushed, 0);
        let registry = HostileRegistry::start(daemon.shared_network(), PORT + number, content, held)?;
        pulls.push((begin(&client, format!("{}/a", registry.host())), pushed.id.clone()));
        registries.push((registry, pushed));
    }
    let asked = || registries.iter().map(|(registry, pushed)| registry.gets_of("/blobs/") - registry.gets_of(&pushed.id)).sum::<usize>();
    wait::until_true("as many layers as may be are asked for", || asked() >= AT_ONCE).await?;
    tokio::time::sleep(wait::scaled(Duration::from_millis(500))).await;
    // Small layers that came have made way for others; what waits at the gate has not.
    let waiting = registries.iter().filter(|(registry, pushed)| registry.gets_of(&pushed.layers[0]) > 0).count();
    assert!(waiting <= AT_ONCE, "{waiting} wait");
    gate.open();
    for (pull, id) in pulls {
        assert_eq!(pull.await??, id);
    }
    Ok(())
}

#[tokio::test]
async fn what_a_manifest_says_of_a_layers_size_is_for_its_image_alone() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("good", "latest", &TestImage::default())?;
    let (media_type, manifest) = content.manifests[&pushed.manifest].clone();
    let mut lie: serde_json::Value = serde_json::from_slice(&manifest)?;
    lie["layers"][0]["size"] = json!(17);
    let lie = content.manifest("bad", &media_type, lie.to_string().into_bytes());
    content.tag("bad", "latest", &lie);
    let gate = Gate::default();
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, gate.holding(&pushed, 0))?;
    let bad = begin(&client, format!("{}/bad", registry.host()));
    wait::until_true("the layer is asked for", || registry.gets_of(&pushed.layers[0]) > 0).await?;
    let good = begin(&client, format!("{}/good", registry.host()));
    gate.open();
    assert_eq!(good.await??, pushed.id);
    let error = bad.await?.expect_err("its size is a lie");
    assert!(error.message().starts_with("SignatureValidationFailed: "), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_layer_of_an_image_that_is_on_its_way_is_another_images_at_once() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let mut content = Content::default();
    let slow = content.push("slow", "latest", &image("slow"))?;
    let quick = content.push("quick", "latest", &image("quick"))?;
    assert_eq!(slow.layers[0], quick.layers[0]);
    let gate = Gate::default();
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, gate.holding(&slow, 1))?;
    let begun = begin(&client, format!("{}/slow", registry.host()));
    wait::until_true("the base layer is there", || left(&daemon).iter().any(|name| name.starts_with("tmp/"))).await?;
    wait::until_true("the other layer is asked for", || registry.gets_of(&slow.layers[1]) == 1).await?;
    assert_eq!(pull(&client, &format!("{}/quick", registry.host())).await?, quick.id);
    gate.open();
    assert_eq!(begun.await??, slow.id);
    assert_eq!(registry.gets_of(&slow.layers[0]), 1, "{:?}", registry.asked());
    Ok(())
}

#[tokio::test]
async fn an_image_is_removed_at_once_while_others_are_on_their_way() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let mut content = Content::default();
    let slow = content.push("slow", "latest", &image("slow"))?;
    let old = content.push("old", "latest", &image("old"))?;
    let gate = Gate::default();
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, gate.holding(&slow, 1))?;
    let old_name = format!("{}/old", registry.host());
    assert_eq!(pull(&client, &old_name).await?, old.id);
    let begun = begin(&client, format!("{}/slow", registry.host()));
    wait::until_true("the slow layer is asked for", || registry.gets_of(&slow.layers[1]) == 1).await?;
    // Both images have the base layer, and the slow one found it there.
    remove(&client, &old_name).await?;
    let layers = || left(&daemon).into_iter().filter(|name| name.starts_with("layers/")).count();
    assert_eq!(layers(), 0, "{:?}", left(&daemon));
    gate.open();
    assert_eq!(begun.await??, slow.id, "what was taken away is pulled again");
    assert_eq!((layers(), registry.gets_of(&slow.layers[0])), (2, 2));
    let pod = daemon.run_pod(&PodSpec::new("slow")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").image(&format!("{}/slow", registry.host()))).await?;
    assert_eq!(container.sh("cat /name").await?, "slow");
    pod.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_command_that_is_interrupted_leaves_nothing() -> Result<()> {
    let daemon = daemon_with("").await?;
    let mut content = Content::default();
    let slow = content.push("slow", "latest", &image("slow"))?;
    let gate = Gate::default();
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, gate.holding(&slow, 1))?;
    let mut command = daemon.command(&["image", "pull", &format!("{}/slow", registry.host())]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut pulling = daemon.network().run(|| command.spawn().context("execute podbox image pull"))?;
    wait::until_true("the base layer is unpacked", || left(&daemon).len() >= 2 && registry.gets_of(&slow.layers[1]) == 1).await?;
    let pid = nix::unistd::Pid::from_raw(pulling.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let ended = pulling.wait()?;
    let mut told = String::new();
    std::io::Read::read_to_string(&mut pulling.stderr.take().context("its output")?, &mut told)?;
    assert!(!ended.success() && told.contains("interrupted"), "{ended}: {told}");
    assert_eq!(left(&daemon), [""; 0]);
    gate.open();
    Ok(())
}

/// Ten thousand empty files, in folders.
fn crowd() -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for number in 0..10_000 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("crowd/{}/{number}", number % 100), &b""[..])?;
    }
    Ok(archive.into_inner()?)
}

#[tokio::test]
async fn a_disk_without_inodes_can_be_cleared_and_a_daemon_starts_on_it() -> Result<()> {
    let mut daemon = Daemon::prepare(&DaemonOptions { show_log: true, ..DaemonOptions::default() })?;
    let _disk = SmallDisk::over(&daemon, "nr_inodes=4000")?;
    daemon.start_again().await?;
    let client = daemon.client();
    let mut content = Content::default();
    let layer = crowd()?;
    let config = json!({"os": "linux", "rootfs": {"diff_ids": [digest_of(&layer)]}}).to_string().into_bytes();
    content.push_parts("crowd", "latest", config, vec![layer], Compression::Gzip, Format::Oci)?;
    let pushed = content.push("a", "latest", &noisy_image())?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    let name = format!("{}/a", registry.host());
    assert_eq!(pull(&client, &name).await?, pushed.id);
    assert_refused(pull(&client, &format!("{}/crowd", registry.host())).await, Code::ResourceExhausted, &["crowd/", "No space left"]);
    wait::until_true("nothing of it is left", || !left(&daemon).iter().any(|name| name.starts_with("tmp/"))).await?;
    // Somebody else takes the last inodes; what is there can be removed all the same.
    let others = daemon.root_dir().join("others");
    std::fs::create_dir(&others)?;
    let mut taken = 0;
    while std::fs::write(others.join(taken.to_string()), "").is_ok() {
        taken += 1;
    }
    daemon.kill_9()?;
    daemon.start_again().await.context("start without a free inode")?;
    assert!(status_of(&client, &name).await?.is_some());
    remove(&client, &name).await?;
    wait::until_true("all is removed", || left(&daemon).is_empty()).await?;
    Ok(())
}
