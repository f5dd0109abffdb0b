//! PullImage from a real registry: names, formats, passwords, mirrors, and what an image is called afterwards.

use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_tests::pulls::{PORT, daemon_with, password, pull, pull_as, remove, status_of};
use podbox_tests::registry::{Answer, Asked, Compression, Format, PASSWORD, USER, digest_of};
use podbox_tests::{ContainerSpec, Content, HostileRegistry, PodSpec, Registry, RegistryOptions, TestImage, assert_refused};
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn a_pulled_image_has_exactly_the_names_it_was_pulled_by_and_one_id_everywhere() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let mut content = Content::default();
    let image = TestImage::named("pulled").file("marker", 0o644, b"pulled");
    let pushed = content.push("a/b", "latest", &image)?;
    content.tag("a/b", "v2", &pushed.manifest);
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    let name = format!("{}/a/b", registry.host());
    let by_digest = format!("{name}@{}", pushed.manifest);

    assert_eq!(pull(&client, &by_digest).await?, pushed.id);
    let found = status_of(&client, &by_digest).await?.context("pulled")?;
    assert_eq!((found.repo_tags.as_slice(), found.repo_digests.as_slice()), (&[][..], std::slice::from_ref(&by_digest)), "no tag was said");
    assert_eq!(pull(&client, &format!("{name}:v9@{}", pushed.manifest)).await?, pushed.id, "beside a digest a tag means nothing");
    assert_eq!(status_of(&client, &pushed.id).await?.context("pulled")?.repo_tags, [""; 0]);

    assert_eq!(pull(&client, &name).await?, pushed.id, "latest is meant");
    assert_eq!(pull(&client, &format!("{name}:v2")).await?, pushed.id);
    let found = status_of(&client, &pushed.id).await?.context("pulled")?;
    let mut tags = found.repo_tags.clone();
    tags.sort();
    assert_eq!(tags, [format!("{name}:latest"), format!("{name}:v2")]);
    assert_eq!(found.repo_digests, [by_digest]);
    assert_eq!(found.id, image.id()?);

    let pod = daemon.run_pod(&PodSpec::new("pulled")).await?;
    let container = pod.run(&ContainerSpec::sleeper("a").image(&name)).await?;
    assert_eq!(container.sh("cat /marker").await?, "pulled");
    assert_eq!(container.status().await?.image_id, pushed.id);
    let listed = client.containers().await?;
    assert_eq!(listed[0].image_id, pushed.id);
    pod.end().await?;
    Ok(())
}

#[tokio::test]
async fn every_form_of_an_image_can_be_pulled() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let mut content = Content::default();
    let mut expected = Vec::new();
    for (tag, compression, format) in [
        ("plain", Compression::None, Format::Oci),
        ("gzip", Compression::Gzip, Format::Oci),
        ("zstd", Compression::Zstd, Format::Oci),
        ("docker", Compression::Gzip, Format::Docker),
    ] {
        let image = TestImage::named(tag).file("form", 0o644, tag.as_bytes());
        expected.push((tag, content.push_as("forms", tag, &image, compression, format)?.id));
    }
    let (ours, other) = (TestImage::named("index").file("form", 0o644, b"index"), TestImage::named("other-platform"));
    let (ours, other) = (content.push("forms", "index-1", &ours)?, content.push("forms", "index-2", &other)?);
    let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let images = [("unknown/unknown", &other), ("linux/s390x", &other), (platform, &ours), ("windows/amd64", &other)];
    let index = content.push_index("forms", "index", &images);
    content.push_index("forms", "elsewhere", &[("plan9/mips", &other)]);
    expected.push(("index", ours.id.clone()));
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    let name = format!("{}/forms", registry.host());
    let pod = daemon.run_pod(&PodSpec::new("forms")).await?;
    for (tag, id) in expected {
        let image = format!("{name}:{tag}");
        assert_eq!(pull(&client, &image).await?, id, "{tag}");
        assert_eq!(pod.output_of(&ContainerSpec::command(tag, &["/bin/cat", "/form"]).image(&image)).await?, tag);
    }
    let found = status_of(&client, &format!("{name}:index")).await?.context("pulled")?;
    assert_eq!(found.repo_digests, [format!("{name}@{index}")], "what the tag points to is the index");
    assert_refused(pull(&client, &format!("{name}:elsewhere")).await, Code::Internal, &["linux/"]);
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_and_what_cannot_be_reached_are_told_apart() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let mut content = Content::default();
    content.push("a", "latest", &TestImage::default())?;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    let host = registry.host();
    assert_refused(pull(&client, &format!("{host}/a:absent")).await, Code::NotFound, &["absent"]);
    assert_refused(pull(&client, &format!("{host}/nowhere")).await, Code::NotFound, &["nowhere"]);
    assert_refused(pull(&client, &format!("{host}/a@{}", digest_of(b"other"))).await, Code::NotFound, &["sha256:"]);
    let error = pull(&client, "127.0.0.1:5999/a").await.expect_err("nobody listens there");
    assert_eq!(error.code(), Code::Unknown, "{error:?}");
    assert!(error.message().starts_with("RegistryUnavailable: ") && error.message().contains("127.0.0.1:5999"), "{error:?}");
    for malformed in ["", "x/UPPER", "a b", "x@sha256:12"] {
        assert_refused(pull(&client, malformed).await, Code::InvalidArgument, &["image"]);
    }
    Ok(())
}

#[tokio::test]
async fn short_names_are_of_the_configured_registry() -> Result<()> {
    let daemon = daemon_with("default_registry = \"127.0.0.1:5000\"").await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("short", "latest", &TestImage::named("short"))?;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    assert_eq!(pull(&client, "short").await?, pushed.id);
    let found = status_of(&client, "short").await?.context("pulled")?;
    assert_eq!(found.repo_tags, [format!("{}/short:latest", registry.host())]);
    Ok(())
}

#[tokio::test]
async fn passwords_are_taken_in_every_form_and_wrong_ones_are_refused() -> Result<()> {
    let files = tempfile::tempdir()?;
    let auth_file = files.path().join("config.json");
    let daemon = daemon_with(&format!("auth_file = {auth_file:?}")).await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("private", "latest", &TestImage::named("private"))?;
    let options = RegistryOptions { basic_auth: true, ..RegistryOptions::default() };
    let registry = Registry::start(daemon.network(), PORT, options, &content).await?;
    let name = format!("{}/private", registry.host());
    assert_refused(pull(&client, &name).await, Code::PermissionDenied, &["private", "401"]);
    let wrong = pull_as(&client, &name, password(USER, "not her password")).await.expect_err("a wrong password");
    assert_eq!(wrong.code(), Code::PermissionDenied, "{wrong:?}");
    assert!(!wrong.message().contains("not her password"), "{wrong:?}");
    let basic = "YWxpY2U6Y29ycmVjdCBob3JzZQ==";
    let auth = |server: &str| Some(v1::AuthConfig { auth: basic.to_owned(), server_address: server.to_owned(), ..Default::default() });
    assert_refused(pull_as(&client, &name, auth("elsewhere.test")).await, Code::PermissionDenied, &["private"]);
    for auth in [password(USER, PASSWORD), auth(""), auth(&registry.host()), auth("http://127.0.0.1:5000/v2/")] {
        assert_eq!(pull_as(&client, &name, auth).await?, pushed.id);
        remove(&client, &name).await?;
    }
    // Who has no credentials is refused what is there already, too: it is asked for anew.
    assert_eq!(pull_as(&client, &name, password(USER, PASSWORD)).await?, pushed.id);
    for name in [&name, &format!("{name}@{}", pushed.manifest)] {
        assert_refused(pull(&client, name).await, Code::PermissionDenied, &["private"]);
    }
    std::fs::write(&auth_file, format!("{{\"auths\": {{\"127.0.0.1:5000\": {{\"auth\": \"{basic}\"}}}}}}"))?;
    assert_eq!(pull(&client, &name).await?, pushed.id, "what the file has is used without a restart");
    let log = daemon.log();
    assert!(!log.contains(PASSWORD) && !log.contains(basic), "no secret is logged");
    Ok(())
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order_and_the_name_stays_the_registrys() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("library/mirrored", "v1", &TestImage::named("mirrored"))?;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    let folder = hosts.path().join("docker.io");
    std::fs::create_dir(&folder)?;
    let host = |port: u16, more: &str| format!("[host.\"http://127.0.0.1:{port}\"]\n{more}\n");
    // Nobody listens on the first; the registry itself must not be needed.
    let text = format!("server = \"http://127.0.0.1:5998\"\n{}{}", host(5999, ""), host(PORT, "capabilities = [\"pull\", \"resolve\"]"));
    std::fs::write(folder.join("hosts.toml"), text)?;
    assert_eq!(pull(&client, "mirrored:v1").await?, pushed.id);
    let found = status_of(&client, "mirrored:v1").await?.context("pulled")?;
    assert_eq!(found.repo_tags, ["docker.io/library/mirrored:v1"]);
    assert_eq!(found.repo_digests, [format!("docker.io/library/mirrored@{}", pushed.manifest)]);
    assert!(registry.log().contains("ns=docker.io"), "a mirror of several is told which one is meant");
    // A mirror that may not say what a tag means is not asked for that.
    std::fs::write(folder.join("hosts.toml"), format!("server = \"http://127.0.0.1:5998\"\n{}", host(PORT, "capabilities = [\"pull\"]")))?;
    remove(&client, "mirrored:v1").await?;
    let error = pull(&client, "mirrored:v1").await.expect_err("only the registry may resolve");
    assert!(error.message().starts_with("RegistryUnavailable: "), "{error:?}");
    assert_eq!(pull(&client, &format!("mirrored@{}", pushed.manifest)).await?, pushed.id);
    Ok(())
}

#[tokio::test]
async fn a_mirror_that_lies_is_passed_over_and_learns_no_credentials() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::named("lied-about").file("x", 0o644, &[7; 4096]))?;
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content.clone(), |asked, _| {
        let is_known = asked.header("authorization").is_some();
        (!is_known).then(|| Answer::status(401).with("www-authenticate", "Basic realm=\"registry\""))
    })?;
    let (manifest, layer) = (pushed.manifest.clone(), pushed.layers[1].clone());
    let mirror = HostileRegistry::start(daemon.shared_network(), PORT + 1, content, move |asked, content| {
        // Its manifests are other ones, its second layer is broken, and it would like to know who asks.
        let mut bytes = match asked.path.split('?').next().and_then(|path| path.rsplit('/').next()) {
            Some(digest) if digest == manifest => content.manifests[digest].1.clone(),
            Some(digest) if digest == layer => content.blobs[digest].clone(),
            Some("latest") => return Some(Answer::status(401).with("www-authenticate", "Basic realm=\"mirror\"")),
            _ => return None,
        };
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Some(Answer::ok(bytes))
    })?;
    let folder = hosts.path().join("127.0.0.1_5000_");
    std::fs::create_dir(&folder)?;
    let text = "server = \"http://127.0.0.1:5000\"\n[host.\"http://127.0.0.1:5001\".header]\nx-key = \"for the mirror\"\n";
    std::fs::write(folder.join("hosts.toml"), text)?;
    assert_eq!(pull_as(&daemon.client(), &format!("{}/a", registry.host()), password(USER, PASSWORD)).await?, pushed.id);
    let (to_mirror, to_registry) = (mirror.asked(), registry.asked());
    assert!(to_mirror.iter().all(|asked| asked.header("authorization").is_none() && asked.header("x-key") == Some("for the mirror")));
    assert!(to_registry.iter().all(|asked| asked.header("x-key").is_none()));
    let got = |asked: &[Asked], digest: &str| asked.iter().filter(|asked| asked.method == "GET" && asked.path.contains(digest)).count();
    for (what, digest, by_mirror, by_registry) in
        [("manifest", &pushed.manifest, 1, 1), ("broken layer", &pushed.layers[1], 1, 1), ("whole layer", &pushed.layers[0], 1, 0)]
    {
        let times = got(&to_registry, digest);
        assert_eq!(got(&to_mirror, digest), by_mirror, "{what}");
        // With the name comes a challenge first.
        assert!(if by_registry == 0 { times == 0 } else { times >= 1 }, "{what}: {times}");
    }
    Ok(())
}

#[tokio::test]
async fn one_image_of_two_registries_goes_with_any_of_its_names_even_if_five_remove_it() -> Result<()> {
    let daemon = daemon_with("").await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::named("twice"))?;
    content.push("b/c", "v1", &TestImage::named("twice"))?;
    let first = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    let second = Registry::start(daemon.network(), PORT + 1, RegistryOptions::default(), &content).await?;
    let names = [format!("{}/a:latest", first.host()), format!("{}/b/c:v1", second.host())];
    for by in [&names[0], &names[1], &pushed.id, &format!("{}/a@{}", first.host(), pushed.manifest)] {
        for name in &names {
            assert_eq!(pull(&client, name).await?, pushed.id);
        }
        let found = status_of(&client, &pushed.id).await?.context("pulled")?;
        assert_eq!((found.repo_tags.as_slice(), found.repo_digests.len()), (&names[..], 2));
        let removed = tokio::join!(remove(&client, by), remove(&client, by), remove(&client, by), remove(&client, by), remove(&client, by));
        for removed in [removed.0, removed.1, removed.2, removed.3, removed.4] {
            removed?;
        }
        assert_eq!(status_of(&client, &names[0]).await?, None);
        let left = |folder: &str| std::fs::read_dir(daemon.root_dir().join(folder)).map(Iterator::count).unwrap_or_default();
        assert_eq!((left("images"), left("layers"), left("tmp")), (0, 0, 0), "removed by {by}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tag_that_moved_is_the_new_images_and_the_old_one_keeps_its_digest() -> Result<()> {
    let daemon = daemon_with("pinned = [\"127.0.0.1:5000/a:latest\"]").await?;
    let client = daemon.client();
    let (mut before, mut after) = (Content::default(), Content::default());
    let old = before.push("a", "latest", &TestImage::named("old"))?;
    let new = after.push("a", "latest", &TestImage::named("new"))?;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &before).await?;
    let name = format!("{}/a:latest", registry.host());
    assert_eq!(pull(&client, &name).await?, old.id);
    drop(registry);
    let _registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &after).await?;
    assert_eq!(pull(&client, &name).await?, new.id);
    let (old, new) = (status_of(&client, &old.id).await?.context("stays")?, status_of(&client, &name).await?.context("pulled")?);
    assert_eq!((old.repo_tags.len(), old.repo_digests.len(), old.pinned), (0, 1, false));
    assert_eq!((new.repo_tags, new.pinned), (vec![name], true), "what the configuration names is pinned");
    Ok(())
}

#[tokio::test]
async fn people_pull_list_and_remove_with_the_command() -> Result<()> {
    let daemon = daemon_with("").await?;
    let mut content = Content::default();
    let pushed = content.push("people", "v1", &TestImage::named("people"))?;
    let options = RegistryOptions { basic_auth: true, ..RegistryOptions::default() };
    let registry = Registry::start(daemon.network(), PORT, options, &content).await?;
    let name = format!("{}/people:v1", registry.host());
    let run = |arguments: &[&str]| -> Result<std::process::Output> {
        let mut command = daemon.command(arguments);
        let input = std::fs::File::open(daemon.directory().join("password"))?;
        daemon.network().run(|| Ok(command.stdin(input).output()?))
    };
    std::fs::write(daemon.directory().join("password"), format!("{PASSWORD}\n"))?;
    let refused = run(&["image", "pull", &name])?;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("401"), "{refused:?}");
    let pulled = run(&["image", "pull", &name, "--username", USER, "--output", "json"])?;
    assert!(pulled.status.success(), "{pulled:?}");
    let shown: serde_json::Value = serde_json::from_slice(&pulled.stdout)?;
    assert_eq!((shown[0]["id"].as_str(), shown[0]["repoTags"][0].as_str()), (Some(&*pushed.id), Some(&*name)));
    let told = String::from_utf8_lossy(&pulled.stderr).into_owned();
    assert!(told.contains("downloading") && told.contains("unpacked") && !told.contains('\x1b'), "{told}");
    assert!(status_of(&daemon.client(), &name).await?.is_some(), "the daemon sees it at once");
    let removed = run(&["image", "remove", &name, "--output", "json"])?;
    let shown: serde_json::Value = serde_json::from_slice(&removed.stdout)?;
    assert_eq!(shown[0]["id"].as_str(), Some(&*pushed.id));
    Ok(())
}

#[tokio::test]
async fn a_terminal_shows_bars_and_a_pipe_lists_plain_lines() -> Result<()> {
    let daemon = daemon_with("").await?;
    let mut content = Content::default();
    let pushed = content.push("slow", "v1", &TestImage::named("slow").file("slow", 0o644, b"slow"))?;
    let slow = pushed.layers[1].clone();
    let registry = HostileRegistry::start(daemon.shared_network(), PORT, content, move |asked, content| {
        let is_slow = asked.method == "GET" && asked.path.contains(&slow);
        // It is under way for long enough to be drawn more than once.
        is_slow.then(|| Answer { trickle: Duration::from_millis(5), ..Answer::ok(content.blobs[&slow].clone()) })
    })?;
    let name = format!("{}/slow:v1", registry.host());
    let words = daemon.command(&["image", "pull", &name]);
    let words: Vec<String> =
        std::iter::once(words.get_program()).chain(words.get_args()).map(|word| format!("'{}'", word.to_string_lossy())).collect();
    // What it executes has a terminal of its own.
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]).stdin(std::process::Stdio::null());
    let pulled = daemon.network().run(|| Ok(script.output()?))?;
    let shown = String::from_utf8_lossy(&pulled.stdout).into_owned();
    assert!(pulled.status.success(), "{shown}");
    for part in ["━", "MB/s", "2/2 layers", "\x1b[", &pushed.id[7..19]] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let listed = daemon.command(&["image", "list"]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    assert!(listed.contains(&name) && listed.contains("MB") && !listed.contains('\x1b'), "{listed}");
    Ok(())
}

#[tokio::test]
async fn a_large_image_takes_no_more_memory_than_a_small_one() -> Result<()> {
    const LAYER_BYTES: usize = 20 << 20;
    const MEMORY_KB_MAX: u64 = 64 << 10;
    let daemon = daemon_with("").await?;
    let mut content = Content::default();
    let pushed = content.push_large("large", "latest", 10, LAYER_BYTES)?;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    let name = format!("{}/large", registry.host());
    let begun = std::time::Instant::now();
    assert_eq!(pull(&daemon.client(), &name).await?, pushed.id);
    let first = begun.elapsed();
    assert_eq!(pull(&daemon.client(), &name).await?, pushed.id);
    let second = begun.elapsed() - first;
    let peak = podbox_tests::host::status_field(daemon.pid()?, "VmHWM")?;
    println!("first pull {first:?}, second {second:?}, peak {peak}");
    let kilobytes: u64 = peak.trim_end_matches("kB").trim().parse()?;
    assert!(kilobytes < MEMORY_KB_MAX, "the daemon took {peak} of memory");
    Ok(())
}
