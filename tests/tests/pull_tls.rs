//! PullImage over TLS: whom podbox believes, to whom it shows a certificate, and that what is said of one host is not taken for another.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_tests::pulls::{OTHER_PORT, PORT, daemon_with, password, pull, pull_as, remove, write_hosts};
use podbox_tests::registry::{Answer, Asked, Authority, Proxy};
use podbox_tests::{Content, Daemon, HostileRegistry, Registry, RegistryOptions, TestImage, assert_refused};
use std::net::SocketAddr;
use std::process::Command;
use tempfile::TempDir;
use tonic::{Code, Status};

#[tokio::test]
async fn tls_is_verified_against_the_authority_of_the_hosts_file() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("secure", "latest", &TestImage::named("secure"))?;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions { tls: true, ..RegistryOptions::default() }, &content).await?;
    let name = format!("{}/secure", registry.host());
    let folder = hosts.path().join("127.0.0.1_5000_");
    std::fs::create_dir(&folder)?;
    let file = folder.join("hosts.toml");
    let server = "server = \"https://127.0.0.1:5000\"\n";

    std::fs::write(&file, server)?;
    assert_unavailable(pull(&client, &name).await, "nobody knows its authority");
    std::fs::write(&file, format!("{server}ca = \"absent.pem\"\n"))?;
    assert_refused(pull(&client, &name).await, Code::FailedPrecondition, &["absent.pem"]);
    std::fs::write(&file, format!("{server}ca = {:?}\n", registry.authority()?.file()))?;
    assert_eq!(pull(&client, &name).await?, pushed.id);
    remove(&client, &name).await?;
    std::fs::write(&file, format!("{server}skip_verify = true\n"))?;
    assert_eq!(pull(&client, &name).await?, pushed.id);
    remove(&client, &name).await?;
    // As docker has it: no file, but the authority in the folder.
    std::fs::remove_file(&file)?;
    std::fs::copy(registry.authority()?.file(), folder.join("ca.crt"))?;
    assert_eq!(pull(&client, &name).await?, pushed.id);
    Ok(())
}

fn assert_unavailable(pulled: Result<String, Status>, why: &str) {
    let error = pulled.expect_err(why);
    assert!(error.message().starts_with("RegistryUnavailable: "), "{why}: {error:?}");
}

#[tokio::test]
async fn a_registry_that_wants_a_certificate_is_shown_the_one_of_its_hosts_file() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    let client = daemon.client();
    let mut content = Content::default();
    let pushed = content.push("secure", "latest", &TestImage::named("secure"))?;
    let options = RegistryOptions { tls: true, client_certificates: true, ..RegistryOptions::default() };
    let registry = Registry::start(daemon.network(), PORT, options, &content).await?;
    let (host, authority) = (registry.host(), registry.authority()?);
    let name = format!("{host}/secure");
    let own = authority.issue("own", "DNS:podbox.test")?;
    let stranger = Authority::new()?;
    let foreign = stranger.issue("foreign", "DNS:podbox.test")?;
    let text = format!("server = \"https://{host}\"\nca = {:?}\n", authority.file());
    write_hosts(hosts.path(), &host, &text)?;
    assert_unavailable(pull(&client, &name).await, "it shows none");
    write_hosts(hosts.path(), &host, &format!("{text}client = [[{:?}, {:?}]]\n", foreign.certificate, foreign.key))?;
    assert_unavailable(pull(&client, &name).await, "it is a stranger's");
    write_hosts(hosts.path(), &host, &format!("{text}client = {:?}\n", own.certificate))?;
    assert_refused(pull(&client, &name).await, Code::FailedPrecondition, &[&host, "set up"]);
    write_hosts(hosts.path(), &host, &format!("{text}client = [[{:?}, {:?}]]\n", own.certificate, own.key))?;
    assert_eq!(pull(&client, &name).await?, pushed.id);
    remove(&client, &name).await?;
    let both = [std::fs::read(&own.certificate)?, std::fs::read(&own.key)?].concat();
    std::fs::write(hosts.path().join("both.pem"), both)?;
    write_hosts(hosts.path(), &host, &format!("{text}client = \"../both.pem\"\n"))?;
    assert_eq!(pull(&client, &name).await?, pushed.id);
    Ok(())
}

/// A daemon, and an authority that it knows for [`PORT`] of loopback alone, where a test has a registry with one image.
struct Secure {
    hosts: TempDir,
    daemon: Daemon,
    authority: Authority,
    content: Content,
    id: String,
    name: String,
}

impl Secure {
    async fn new() -> Result<Self> {
        let hosts = tempfile::tempdir()?;
        let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
        let mut content = Content::default();
        let id = content.push("a", "latest", &TestImage::named("secure"))?.id;
        let secure = Self { hosts, daemon, authority: Authority::new()?, content, id, name: format!("127.0.0.1:{PORT}/a") };
        secure.settings_of(PORT, &format!("ca = {:?}", secure.authority.file()))?;
        Ok(secure)
    }

    fn settings_of(&self, port: u16, text: &str) -> Result<()> {
        let host = format!("127.0.0.1:{port}");
        write_hosts(self.hosts.path(), &host, &format!("server = \"https://{host}\"\n{text}\n"))
    }

    fn serve(&self, port: u16, behaviour: impl Fn(&Asked, &Content) -> Option<Answer> + Send + Sync + 'static) -> Result<HostileRegistry> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        HostileRegistry::start_at(self.daemon.shared_network(), address, Some(&self.authority), self.content.clone(), behaviour)
    }
}

/// Sends whoever asks for a blob to another origin.
fn redirects(asked: &Asked, scheme: &str) -> Option<Answer> {
    let elsewhere = format!("{scheme}://127.0.0.1:{OTHER_PORT}{}", asked.path);
    asked.path.contains("/blobs/").then(|| Answer::status(307).with("location", &elsewhere))
}

#[tokio::test]
async fn nothing_is_asked_in_plain_http_that_was_asked_over_tls() -> Result<()> {
    let secure = Secure::new().await?;
    let _registry = secure.serve(PORT, |asked, _| {
        if asked.header("authorization").is_none() {
            return Some(Answer::status(401).with("www-authenticate", "Basic realm=\"test\""));
        }
        redirects(asked, "http")
    })?;
    let plain = HostileRegistry::start(secure.daemon.shared_network(), OTHER_PORT, secure.content.clone(), |_, _| None)?;
    let refused = pull_as(&secure.daemon.client(), &secure.name, password("alice", "secret")).await.expect_err("it is not HTTPS");
    assert!(refused.message().contains("from HTTPS to plain HTTP"), "{refused:?}");
    assert_eq!(plain.asked(), []);
    Ok(())
}

#[tokio::test]
async fn what_a_hosts_file_says_of_tls_holds_for_its_host_alone() -> Result<()> {
    let secure = Secure::new().await?;
    let client = secure.daemon.client();
    let registry = secure.serve(PORT, |asked, _| redirects(asked, "https"))?;
    let storage = secure.serve(OTHER_PORT, |_, _| None)?;
    let own = secure.authority.issue("own", "DNS:podbox.test")?;
    let (ca, identity) = (format!("ca = {:?}", secure.authority.file()), format!("client = [[{:?}, {:?}]]", own.certificate, own.key));
    secure.settings_of(PORT, &format!("skip_verify = true\n{identity}"))?;
    let refused = pull(&client, &secure.name).await.expect_err("nothing is said of the storage");
    assert!(refused.message().starts_with("RegistryUnavailable: ") && refused.message().contains("certificate"), "{refused:?}");
    assert_eq!(storage.asked(), []);
    for text in [ca.clone(), "skip_verify = true".to_owned()] {
        secure.settings_of(OTHER_PORT, &format!("{text}\n{identity}"))?;
        assert_eq!(pull(&client, &secure.name).await?, secure.id, "{text}");
        remove(&client, &secure.name).await?;
    }
    secure.settings_of(OTHER_PORT, "")?;
    secure.settings_of(PORT, &format!("{ca}\n{identity}"))?;
    assert_eq!(pull(&client, &secure.name).await?, secure.id, "the registry's authority vouches for its storage as well");
    assert!(registry.asked().iter().all(|asked| asked.is_certified), "the registry is shown a certificate");
    assert!(!storage.asked().is_empty() && storage.asked().iter().all(|asked| !asked.is_certified), "and whom it names is not");
    Ok(())
}

#[tokio::test]
async fn an_identity_token_goes_to_the_token_server_over_tls_that_is_verified() -> Result<()> {
    let secure = Secure::new().await?;
    let client = secure.daemon.client();
    let registry = secure.serve(PORT, |asked, _| {
        let challenge = format!("Bearer realm=\"https://127.0.0.1:{OTHER_PORT}/token\",service=\"s\"");
        let is_known = asked.header("authorization") == Some("Bearer short-lived");
        (!is_known).then(|| Answer::status(401).with("www-authenticate", &challenge))
    })?;
    let tokens = secure.serve(OTHER_PORT, |asked, _| {
        let is_known = asked.method == "POST" && asked.body.contains("refresh_token=long-lived");
        Some(if is_known { Answer::ok(r#"{"access_token": "short-lived"}"#) } else { Answer::status(401) })
    })?;
    let auth = || Some(v1::AuthConfig { identity_token: "long-lived".to_owned(), ..Default::default() });
    // Whoever stands between us and the token server would learn what opens the registry.
    secure.settings_of(PORT, "skip_verify = true")?;
    let refused = pull_as(&client, &secure.name, auth()).await.expect_err("nothing is said of the token server");
    assert!(refused.message().starts_with("RegistryUnavailable: ") && refused.message().contains("certificate"), "{refused:?}");
    assert_eq!(tokens.asked(), []);
    secure.settings_of(PORT, &format!("ca = {:?}", secure.authority.file()))?;
    assert_eq!(pull_as(&client, &secure.name, auth()).await?, secure.id);
    assert_eq!(tokens.asked().len(), 1, "{:?}", tokens.asked());
    let all = registry.asked();
    assert!(all.iter().all(|asked| !format!("{asked:?}").contains("long-lived")), "the registry never sees it");
    Ok(())
}

#[tokio::test]
async fn registries_over_tls_are_asked_through_the_tunnel_of_a_proxy_but_for_those_of_no_proxy() -> Result<()> {
    let hosts = tempfile::tempdir()?;
    let daemon = daemon_with(&format!("hosts_dir = {:?}", hosts.path())).await?;
    // No proxy is asked for loopback addresses.
    daemon.network().run(|| {
        let status = Command::new("/bin/busybox").args(["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"]).status()?;
        ensure!(status.success(), "an address for the registry");
        Ok(())
    })?;
    let authority = Authority::new()?;
    let mut content = Content::default();
    content.push("a", "latest", &TestImage::named("proxied"))?;
    let address = SocketAddr::from(([192, 0, 2, 1], PORT));
    let registry = HostileRegistry::start_at(daemon.shared_network(), address, Some(&authority), content, |_, _| None)?;
    let proxy = Proxy::start(daemon.shared_network(), OTHER_PORT)?;
    write_hosts(hosts.path(), &registry.host(), &format!("ca = {:?}\n", authority.file()))?;
    let pull = |no_proxy: &str| -> Result<(usize, usize)> {
        let before = (proxy.asked().len(), registry.asked().len());
        let mut command = daemon.command(&["image", "pull", &format!("{}/a", registry.host())]);
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("HTTPS_PROXY", proxy.url()).env("NO_PROXY", no_proxy);
        let output = daemon.network().run(|| Ok(command.output()?)).context("pull")?;
        ensure!(output.status.success(), "{output:?}");
        Ok((proxy.asked().len() - before.0, registry.asked().len() - before.1))
    };
    let (by_proxy, by_registry) = pull("other.test,192.0.2.2")?;
    assert!(by_proxy > 0 && by_proxy == by_registry, "{by_proxy} tunnels for {by_registry} requests");
    assert!(proxy.asked().iter().all(|line| line == "CONNECT 192.0.2.1:5000 HTTP/1.1"), "{:?}", proxy.asked());
    for no_proxy in ["192.0.2.1", "192.0.2.0/24", "*"] {
        let (by_proxy, by_registry) = pull(no_proxy)?;
        assert!(by_proxy == 0 && by_registry > 0, "{no_proxy}: {by_proxy} tunnels for {by_registry} requests");
    }
    Ok(())
}
