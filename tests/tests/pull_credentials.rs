//! Credentials of PullImage: where they come from, in which forms they are sent, and who never sees them.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_tests::pulls::{OTHER_PORT, PORT, Scene, noisy_image, password, pull, pull_as, remove};
use podbox_tests::registry::{Answer, Asked};
use podbox_tests::{Content, Daemon, DaemonOptions, HostileRegistry, TestImage, assert_refused};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tonic::Code;

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
    content.push("a", "latest", &noisy_image())?;
    let storage = HostileRegistry::start(scene.daemon.shared_network(), OTHER_PORT, content, |_, _| None)?;
    let auth = password("alice", "secret");
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
    let auth = password("alice", "secret");
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

/// Who wants such a token.
fn wants_token(asked: &Asked) -> Option<Answer> {
    let challenge = format!("Bearer realm=\"http://127.0.0.1:{PORT}/token\",service=\"the service\",scope=\"repository:a:pull\"");
    let is_known = asked.header("authorization") == Some("Bearer short-lived");
    (!is_known).then(|| Answer::status(401).with("www-authenticate", &challenge))
}

#[tokio::test]
async fn tokens_are_fetched_for_passwords_and_identity_tokens_and_sent_as_they_are() -> Result<()> {
    let scene = Scene::new("", |asked, _, _| token_server(asked).or_else(|| wants_token(asked))).await?;
    let client = scene.daemon.client();
    let auth = v1::AuthConfig::default;
    for accepted in [
        v1::AuthConfig { username: "alice".to_owned(), password: "secret".to_owned(), ..auth() },
        v1::AuthConfig { identity_token: "long-lived".to_owned(), ..auth() },
        v1::AuthConfig { registry_token: "short-lived".to_owned(), ..auth() },
    ] {
        assert_eq!(pull_as(&client, &scene.name(), Some(accepted)).await?, scene.pushed.id);
        remove(&client, &scene.name()).await?;
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

/// Writes a program, by another process: nobody who is being started meanwhile has it open for writing.
fn write_program(path: &Path, text: &str) -> Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"]).arg(path);
    let mut child = shell.stdin(Stdio::piped()).spawn().context("run a shell")?;
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes()).context("write a program")?;
    ensure!(child.wait().context("wait for a shell")?.success(), "{} cannot be written", path.display());
    Ok(())
}

/// Programs that keep credentials: one that knows [`PORT`], one that has identity tokens, one that has nothing, one that fails. All tell
/// what they were asked for.
fn write_helpers(folder: &Path) -> Result<()> {
    for (name, answer) in [
        ("known", r#"[ "$server" = 127.0.0.1:5000 ] && printf '{"ServerURL":"%s","Username":"alice","Secret":"secret"}' "$server""#),
        ("tokens", r#"echo '{"ServerURL":"","Username":"<token>","Secret":"long-lived"}'"#),
        ("nothing", "echo credentials not found in native keychain; exit 1"),
        ("fails", "echo the-secret-of-it; exit 7"),
    ] {
        let text = format!("#!/bin/sh\nserver=$(cat)\necho \"{name} $1 $server\" >> {}\n{answer}\n", folder.join("asked").display());
        write_program(&folder.join(format!("docker-credential-{name}")), &text)?;
    }
    Ok(())
}

#[tokio::test]
async fn programs_that_keep_credentials_are_asked_in_dockers_order() -> Result<()> {
    let files = tempfile::tempdir()?;
    let auth_file = files.path().join("config.json");
    write_helpers(files.path())?;
    let path = format!("{}:{}", files.path().display(), std::env::var("PATH")?);
    let environment = vec![("PATH".to_owned(), path)];
    let more_config = format!("[image]\nauth_file = {auth_file:?}\n");
    let daemon = Daemon::start(DaemonOptions { show_log: true, more_config, environment, ..DaemonOptions::default() }).await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("a", "latest", &TestImage::default())?;
    let registry =
        HostileRegistry::start(daemon.shared_network(), PORT, content, |asked, _| token_server(asked).or_else(|| wants_token(asked)))?;
    let (host, name) = (registry.host(), format!("{}/a", registry.host()));
    let asked = || std::fs::read_to_string(files.path().join("asked")).unwrap_or_default();

    let good = json!({ &host: {"auth": "YWxpY2U6c2VjcmV0"} });
    let wrong = json!({ &host: {"auth": "YWxpY2U6d3Jvbmc="} });
    for (what, config, expected) in [
        (
            "a registry's own",
            json!({"credHelpers": { &host: "known" }, "credsStore": "fails", "auths": wrong}),
            "known get 127.0.0.1:5000\n",
        ),
        ("the store", json!({"credHelpers": {"other.test": "fails"}, "credsStore": "tokens"}), "tokens get 127.0.0.1:5000\n"),
        ("the file", json!({"credHelpers": { &host: "" }, "credsStore": "fails", "auths": good}), ""),
    ] {
        std::fs::write(&auth_file, config.to_string())?;
        assert_eq!(pull(&client, &name).await.expect(what), pushed.id);
        remove(&client, &name).await?;
        assert_eq!(asked(), expected, "{what}");
        let _ = std::fs::remove_file(files.path().join("asked"));
    }
    for (name_of_it, code, words) in [
        ("nothing", Code::PermissionDenied, &["401"][..]),
        ("fails", Code::FailedPrecondition, &["docker-credential-fails", "127.0.0.1:5000", "exit status: 7"]),
        ("absent", Code::FailedPrecondition, &["docker-credential-absent", "127.0.0.1:5000", "No such file"]),
        ("../known", Code::FailedPrecondition, &["../known"]),
    ] {
        std::fs::write(&auth_file, json!({"credsStore": name_of_it, "auths": good}).to_string())?;
        let error = pull(&client, &name).await.expect_err(name_of_it);
        assert!(!error.message().contains("the-secret"), "{error:?}");
        assert_refused(Err::<(), _>(error), code, words);
    }
    let _ = std::fs::remove_file(files.path().join("asked"));
    assert_eq!(pull_as(&client, &name, password("alice", "secret")).await?, pushed.id);
    assert_eq!(asked(), "", "who brings credentials needs none");
    let log = daemon.log();
    assert!(!log.contains("the-secret") && !log.contains("long-lived"), "no secret is logged");
    Ok(())
}
