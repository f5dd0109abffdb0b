//! PullImage from a registry that fails, lies or attacks: each ends with an error that says so or with the right image, nothing
//! of it is left, and the next pull works.

use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_tests::registry::{Answer, Asked, Compression, Format, Pushed, digest_of};
use podbox_tests::{Client, Content, Daemon, DaemonOptions, HostileRegistry, TestImage, assert_refused, wait};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::{Code, Status};

const PORT: u16 = 5000;
const OTHER_PORT: u16 = 5001;

async fn pull_as(client: &Client, image: &str, auth: Option<v1::AuthConfig>) -> Result<String, Status> {
    let image = Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() });
    let request = v1::PullImageRequest { image, auth, sandbox_config: None };
    Ok(client.images().pull_image(request).await?.into_inner().image_ref)
}

async fn pull(client: &Client, image: &str) -> Result<String, Status> {
    pull_as(client, image, None).await
}

async fn daemon_with(image_config: &str) -> Result<Daemon> {
    let patience = format!("progress_timeout_seconds = {}", wait::slowness());
    let patience = if image_config.contains("progress_timeout_seconds") { "" } else { patience.as_str() };
    let more_config = format!("[image]\n{patience}\n{image_config}\n");
    Daemon::start(DaemonOptions { show_log: true, more_config, ..DaemonOptions::default() }).await
}

/// What is in the store, but for locks.
fn left(daemon: &Daemon) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["images", "layers", "tmp"] {
        let entries = std::fs::read_dir(daemon.root_dir().join(folder)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())));
    }
    found
}

/// A daemon, a registry with one image `a:latest` of two layers, and its name.
struct Scene {
    daemon: Daemon,
    registry: HostileRegistry,
    pushed: Pushed,
}

impl Scene {
    async fn new(
        image_config: &str,
        behaviour: impl Fn(&Asked, &Content, &Pushed) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let daemon = daemon_with(image_config).await?;
        let mut content = Content::default();
        // The second layer is incompressible, and so is large on the wire.
        let noise: Vec<u8> = (0..40_000_u32).flat_map(|number| digest_of(&number.to_le_bytes()).into_bytes()).collect();
        let pushed = content.push("a", "latest", &TestImage::named("hostile").file("noise", 0o644, &noise))?;
        let expected = pushed.clone();
        let registry =
            HostileRegistry::start(daemon.shared_network(), PORT, content, move |asked, content| behaviour(asked, content, &expected))?;
        Ok(Self { daemon, registry, pushed })
    }

    fn name(&self) -> String {
        format!("{}/a", self.registry.host())
    }

    async fn pull(&self) -> Result<String, Status> {
        pull(&self.daemon.client(), &self.name()).await
    }

    /// The pull fails with a message that begins and goes on like this, and leaves nothing.
    async fn refused(&self, beginning: &str, words: &[&str]) -> Result<()> {
        let error = self.pull().await.expect_err("the registry is not to be trusted");
        assert!(error.message().starts_with(beginning), "{error:?}");
        for word in words {
            assert!(error.message().contains(word), "{word}: {error:?}");
        }
        self.left_nothing().await
    }

    async fn left_nothing(&self) -> Result<()> {
        // A thread that was unpacking notices a little later that nobody waits.
        wait::until_true("nothing is left", || left(&self.daemon).is_empty()).await.with_context(|| format!("{:?}", left(&self.daemon)))
    }
}

fn is_layer(asked: &Asked, pushed: &Pushed, number: usize) -> bool {
    asked.method == "GET" && asked.path.contains(&pushed.layers[number])
}

fn blob<'a>(content: &'a Content, pushed: &Pushed, number: usize) -> &'a [u8] {
    &content.blobs[&pushed.layers[number]]
}

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
async fn lies_about_digests_are_found_out() -> Result<()> {
    for part in ["manifest", "config", "layer"] {
        let scene = Scene::new("", move |asked, content, pushed| {
            let mut answer = match part {
                "manifest" if asked.method == "GET" && asked.path.contains(&pushed.manifest) => {
                    Answer::ok(content.manifests[&pushed.manifest].1.clone())
                }
                "config" if asked.path.contains(&pushed.id) => Answer::ok(content.blobs[&pushed.id].clone()),
                "layer" if is_layer(asked, pushed, 1) => Answer::ok(blob(content, pushed, 1)),
                _ => return None,
            };
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
            Some(answer)
        })
        .await?;
        let error = scene.pull().await.expect_err(part);
        // A layer may be found out by its checksum before its digest is due.
        assert!(error.message().starts_with("SignatureValidationFailed: ") || part == "layer", "{part}: {error:?}");
        scene.left_nothing().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_that_is_another_one_is_refused() -> Result<()> {
    let scene = Scene::new("", |asked, content, pushed| {
        // As long as it should be: the other layer, filled up.
        let due = blob(content, pushed, 1).len();
        let mut bytes = blob(content, pushed, 0).to_vec();
        bytes.resize(due, 0);
        is_layer(asked, pushed, 1).then(|| Answer::ok(bytes))
    })
    .await?;
    scene.pull().await.expect_err("it is another layer");
    scene.left_nothing().await
}

#[tokio::test]
async fn lies_about_sizes_are_found_out() -> Result<()> {
    let longer = Scene::new("", |asked, content, pushed| {
        is_layer(asked, pushed, 1).then(|| Answer::ok([blob(content, pushed, 1), b"more"].concat()))
    })
    .await?;
    longer.refused("SignatureValidationFailed: ", &["size"]).await?;
    let shorter = Scene::new("", |asked, content, pushed| {
        let bytes = blob(content, pushed, 1);
        is_layer(asked, pushed, 1).then(|| Answer::ok(&bytes[..bytes.len() - 1]))
    })
    .await?;
    shorter.refused("SignatureValidationFailed: ", &["size"]).await
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

/// The storage that a registry redirects to is somebody else's, whoever says so.
#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_origin() -> Result<()> {
    let scene = Scene::new("", |asked, _, _| {
        if asked.header("authorization").is_none() {
            return Some(Answer::status(401).with("www-authenticate", "Basic realm=\"test\""));
        }
        let elsewhere = format!("http://127.0.0.1:{OTHER_PORT}{}", asked.path);
        asked.path.contains("/blobs/").then(|| Answer::status(307).with("location", &elsewhere))
    })
    .await?;
    let mut content = Content::default();
    let noise: Vec<u8> = (0..40_000_u32).flat_map(|number| digest_of(&number.to_le_bytes()).into_bytes()).collect();
    content.push("a", "latest", &TestImage::named("hostile").file("noise", 0o644, &noise))?;
    let storage = HostileRegistry::start(scene.daemon.shared_network(), OTHER_PORT, content, |_, _| None)?;
    let auth = Some(v1::AuthConfig { username: "alice".to_owned(), password: "secret".to_owned(), ..Default::default() });
    assert_eq!(pull_as(&scene.daemon.client(), &scene.name(), auth.clone()).await?, scene.pushed.id);
    let asked = storage.asked();
    assert_eq!(asked.len(), 3, "two layers and the configuration");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
    Ok(())
}

#[tokio::test]
async fn another_origin_that_asks_who_is_there_is_told_nothing() -> Result<()> {
    let scene = Scene::new("", |asked, _, _| {
        let elsewhere = format!("http://127.0.0.1:{OTHER_PORT}{}", asked.path);
        Some(Answer::status(307).with("location", &elsewhere))
    })
    .await?;
    let thief = HostileRegistry::start(scene.daemon.shared_network(), OTHER_PORT, Content::default(), |_, _| {
        Some(Answer::status(401).with("www-authenticate", "Basic realm=\"please\""))
    })?;
    let auth = Some(v1::AuthConfig { username: "alice".to_owned(), password: "secret".to_owned(), ..Default::default() });
    assert_refused(pull_as(&scene.daemon.client(), &scene.name(), auth).await, Code::PermissionDenied, &["401"]);
    assert!(!thief.asked().is_empty() && thief.asked().iter().all(|asked| asked.header("authorization").is_none()));
    Ok(())
}

/// One who serves a token for whom it knows, and what it was shown.
fn token_server(asked: &Asked) -> Option<Answer> {
    asked.path.starts_with("/token").then(|| {
        let knows = asked.header("authorization") == Some("Basic YWxpY2U6c2VjcmV0") || asked.body.contains("refresh_token=long-lived");
        if knows { Answer::ok(r#"{"token": "short-lived"}"#) } else { Answer::status(401) }
    })
}

#[tokio::test]
async fn tokens_are_fetched_for_passwords_and_identity_tokens_and_sent_as_they_are() -> Result<()> {
    let scene = Scene::new("", |asked, _, _| {
        if let Some(answer) = token_server(asked) {
            return Some(answer);
        }
        if asked.header("authorization") == Some("Bearer short-lived") {
            return None;
        }
        let challenge = format!("Bearer realm=\"http://127.0.0.1:{PORT}/token\",service=\"the service\",scope=\"repository:a:pull\"");
        Some(Answer::status(401).with("www-authenticate", &challenge))
    })
    .await?;
    let client = scene.daemon.client();
    let auth = v1::AuthConfig::default;
    for accepted in [
        v1::AuthConfig { username: "alice".to_owned(), password: "secret".to_owned(), ..auth() },
        v1::AuthConfig { identity_token: "long-lived".to_owned(), ..auth() },
        v1::AuthConfig { registry_token: "short-lived".to_owned(), ..auth() },
    ] {
        assert_eq!(pull_as(&client, &scene.name(), Some(accepted)).await?, scene.pushed.id);
        let image = Some(v1::ImageSpec { image: scene.name(), ..Default::default() });
        client.images().remove_image(v1::RemoveImageRequest { image }).await?;
    }
    let asked = scene.registry.asked();
    let tokens: Vec<&Asked> = asked.iter().filter(|asked| asked.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 2, "one for each that has to be exchanged: {tokens:?}");
    assert!(tokens[0].path.contains("service=the+service&scope=repository%3Aa%3Apull"), "{:?}", tokens[0]);
    assert!(tokens[1].method == "POST" && tokens[1].body.contains("grant_type=refresh_token"), "{:?}", tokens[1]);
    for refused in
        [v1::AuthConfig { registry_token: "forged".to_owned(), ..auth() }, v1::AuthConfig { identity_token: "other".to_owned(), ..auth() }]
    {
        assert_refused(pull_as(&client, &scene.name(), Some(refused)).await, Code::PermissionDenied, &["401"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_manifest_of_a_hundred_megabytes_is_not_read() -> Result<()> {
    let scene = Scene::new("", |asked, _, _| {
        let is_manifest = asked.path.contains("/manifests/");
        is_manifest.then(|| Answer { times: 100, ..Answer::ok(vec![b' '; 1_000_000]) })
    })
    .await?;
    scene.refused("pull ", &["more than"]).await
}

/// A registry's documents that no image is made of, each with a word of its error.
fn nonsense() -> Vec<(&'static str, Content, &'static str)> {
    let oci = |content: &mut Content, config: Vec<u8>, layers: Vec<Vec<u8>>| {
        content.push_parts("a", "latest", config, layers, Compression::Gzip, Format::Oci).expect("in memory");
    };
    let mut cases = Vec::new();
    let mut content = Content::default();
    oci(&mut content, b"no JSON at all".to_vec(), vec![]);
    cases.push(("a config that is no JSON", content, "parse"));
    let mut content = Content::default();
    let layers: Vec<Vec<u8>> = (0..1000_u32).map(|number| number.to_le_bytes().to_vec()).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
    oci(&mut content, json!({"os": "linux", "rootfs": {"diff_ids": diff_ids}}).to_string().into_bytes(), layers);
    cases.push(("a thousand layers", content, "1000 layers"));
    let mut content = Content::default();
    oci(&mut content, json!({"os": "linux", "rootfs": {"diff_ids": []}}).to_string().into_bytes(), vec![vec![0; 1024]]);
    cases.push(("a layer that the config does not know", content, "layers in its manifest"));
    let mut content = Content::default();
    oci(&mut content, json!({"os": "linux", "rootfs": {"diff_ids": [digest_of(b"other")]}}).to_string().into_bytes(), vec![vec![0; 1024]]);
    cases.push(("a false diff ID", content, "diff ID"));
    let mut content = Content::default();
    let digest = content.manifest("a", "application/vnd.oci.image.manifest.v1+json", b"{\"schemaVersion\": 1, \"fsLayers\": []}".to_vec());
    content.tag("a", "latest", &digest);
    cases.push(("schema 1", content, "media type"));
    let mut content = Content::default();
    let digest = content.manifest("a", "application/vnd.oci.image.manifest.v1+json", b"[".to_vec());
    content.tag("a", "latest", &digest);
    cases.push(("half a manifest", content, "parse"));
    cases
}

#[tokio::test]
async fn documents_that_are_no_image_are_refused_and_the_next_pull_works() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    for (what, content, word) in nonsense() {
        let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
        let error = pull(&client, &format!("{}/a", registry.host())).await.expect_err(what);
        assert!(error.message().contains(word), "{what}: {error:?}");
        wait::until_true("nothing is left", || left(&daemon).is_empty()).await.with_context(|| what)?;
    }
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::default())?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    assert_eq!(pull(&client, &format!("{}/a", registry.host())).await?, pushed.id);
    Ok(())
}

/// A file system of so many bytes over a daemon's store, until the value goes. The daemon must not run when it is made.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn over(daemon: &Daemon, bytes: u64) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        let root = daemon.root_dir();
        std::fs::create_dir_all(&root)?;
        mount(Some("podbox-test"), &root, Some("tmpfs"), MsFlags::empty(), Some(&*format!("size={bytes},mode=700")))?;
        Ok(Self(root))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A layer with one file of ten gigabytes of zeros, ten megabytes on the wire.
fn bomb() -> Result<Vec<u8>> {
    use std::io::Write;
    const MEMBERS: u64 = 100;
    const MEMBER_BYTES: u64 = 100_000_000;
    let pack = |head: &[u8]| -> Result<Vec<u8>> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(head)?;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), MEMBER_BYTES), &mut encoder)?;
        Ok(encoder.finish()?)
    };
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros")?;
    header.set_size(MEMBERS * MEMBER_BYTES);
    header.set_mode(0o644);
    header.set_cksum();
    let mut packed = pack(header.as_bytes())?;
    let member = pack(&[])?;
    for _ in 1..MEMBERS {
        packed.extend_from_slice(&member);
    }
    Ok(packed)
}

#[tokio::test]
async fn a_bomb_of_ten_gigabytes_fills_a_small_disk_and_leaves_it_empty() -> Result<()> {
    let options = DaemonOptions { show_log: true, ..DaemonOptions::default() };
    let mut daemon = Daemon::prepare(&options)?;
    let _disk = SmallDisk::over(&daemon, 64 << 20)?;
    daemon.start_again().await?;
    let client = daemon.client();
    let mut content = Content::default();
    let config = json!({"os": "linux", "rootfs": {"diff_ids": [digest_of(b"never reached")]}}).to_string().into_bytes();
    // It is packed already.
    content.push_parts("bomb", "latest", config, vec![bomb()?], Compression::None, Format::Oci)?;
    let pushed = content.push("a", "latest", &TestImage::default())?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, |_, _| None)?;
    assert_refused(pull(&client, &format!("{}/bomb", registry.host())).await, Code::ResourceExhausted, &["zeros", "No space left"]);
    wait::until_true("nothing is left", || left(&daemon).is_empty()).await?;
    let peak = podbox_tests::host::status_field(daemon.pid()?, "VmHWM")?;
    let kilobytes: u64 = peak.trim_end_matches("kB").trim().parse()?;
    assert!(kilobytes < 128 << 10, "the daemon took {peak} of memory");
    assert_eq!(pull(&client, &format!("{}/a", registry.host())).await?, pushed.id, "the disk has room again");
    Ok(())
}

#[tokio::test]
async fn proxies_of_the_environment_are_used_and_not_for_this_machine() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
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
