//! Texts of requests and images that try to be more than they are: real line ends, NULs, separators, and paths that climb. And secrets,
//! which stand in many texts and must stand in none of podbox's own.
//!
//! Each says how it was seen to fail with its defence switched off, where it was.

use anyhow::{Context, Result, ensure};
use podbox_proto::v1;
use podbox_tests::{ContainerSpec, Daemon, Pod, PodSpec, TestImage, assert_refused};
use tonic::Code;

async fn environment(pod: &Pod, spec: &ContainerSpec) -> Result<Vec<String>> {
    let container = pod.run(spec).await?;
    let text = std::fs::read_to_string(format!("/proc/{}/environ", container.pid().await?))?;
    container.remove().await?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// Seen to fail: without the look at what `/etc/passwd` calls a home, `HOME` had the carriage return in it; without that at names, `A=B` set
/// another variable than the one that was named.
#[tokio::test]
async fn one_variable_is_never_two() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let passwd = b"eve:x:77:77:Eve:/home/eve\rLD_PRELOAD=/evil:/bin/sh\nmallory:x:78:78::relative/home:/bin/sh\n";
    let mut image = TestImage::named("homes").file("etc/passwd", 0o644, passwd);
    image.env =
        vec!["PATH=/bin".to_owned(), "OF_IMAGE=one\nLD_PRELOAD=/evil".to_owned(), "=nameless".to_owned(), "NUL=a\0LD_PRELOAD=b".to_owned()];
    daemon.import(&image)?;
    let pod = daemon.run_pod(&PodSpec::new("variables")).await?;
    let spec = |name: &str| ContainerSpec::sleeper(name).image(&image.name);
    for name in ["eve", "mallory"] {
        let user = spec(name).security(|security| name.clone_into(&mut security.run_as_username));
        let variables = environment(&pod, &user.env("OF_REQUEST", b"two\nLD_PRELOAD=/evil\r\n+,=")).await?;
        let mut wanted =
            ["PATH=/bin", "HOSTNAME=variables", "HOME=/", "OF_IMAGE=one\nLD_PRELOAD=/evil", "OF_REQUEST=two\nLD_PRELOAD=/evil\r\n+,="];
        wanted.sort_unstable();
        let mut variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        variables.sort_unstable();
        assert_eq!(variables, wanted, "{name}");
    }
    for (key, value) in [("A=B", &b"c"[..]), ("", b"c"), ("A\0B", b"c"), ("A", b"b\0LD_PRELOAD=/evil")] {
        assert_refused(pod.create(&spec("refused").env(key, value)).await, Code::InvalidArgument, &["envs"]);
    }
    Ok(())
}

/// Labels and annotations are texts and come back byte for byte; those of an image say nothing to podbox; what becomes a name, a path or a
/// line of a file may hold no such thing.
///
/// Seen to fail: with hostnames taken as they are, a second line stood in the pod's `/etc/hosts`.
#[tokio::test]
async fn labels_are_texts_and_names_are_names() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let evil = "a\nio.podbox.privileged=true\r\n\u{1b}[2J+,=\"'";
    let pod = daemon
        .run_pod(&PodSpec::new("labels").label("key", evil).with(|config| {
            config.annotations.insert("io.kubernetes.cri.container-type".to_owned(), evil.to_owned());
        }))
        .await?;
    let container = pod.run(&ContainerSpec::sleeper("a").label("key", evil)).await?;
    assert_eq!(pod.status().await?.status.context("a status")?.labels["key"], evil);
    assert_eq!(container.status().await?.labels["key"], evil);
    assert_eq!(daemon.log().lines().filter(|line| line.starts_with("io.podbox")).count(), 0, "a line of the log is one of podbox's");
    for hostname in ["a\nb", "a\0b", "a b", "127.0.0.1 evil", "../x"] {
        let spec = PodSpec::new("host").with(|config| hostname.clone_into(&mut config.hostname));
        assert_refused(daemon.run_pod(&spec).await, Code::InvalidArgument, &["hostname"]);
    }
    for dns in ["1.1.1.1\noptions evil", "not an address", "1.1.1.1 evil"] {
        let spec = PodSpec::new("dns").with(|config| config.dns_config.get_or_insert_default().servers = vec![dns.to_owned()]);
        assert_refused(daemon.run_pod(&spec).await, Code::InvalidArgument, &["dns_config"]);
    }
    for search in ["a\nnameserver 6.6.6.6", "a b\0"] {
        let spec = PodSpec::new("dns").with(|config| config.dns_config.get_or_insert_default().searches = vec![search.to_owned()]);
        assert_refused(daemon.run_pod(&spec).await, Code::InvalidArgument, &["dns_config"]);
    }
    Ok(())
}

/// Seen to fail: with `..` let through, the log stood beside the canary.
#[tokio::test]
async fn a_log_stays_in_its_folder() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("logs")).await?;
    let before = std::fs::read_dir(daemon.directory())?.count();
    for path in ["../escaped.log", "a/../../escaped.log", "/tmp/escaped.log", "..", "a\0b"] {
        let spec = ContainerSpec::sleeper("a").with(|config| path.clone_into(&mut config.log_path));
        assert_refused(pod.create(&spec).await, Code::InvalidArgument, &["log_path"]);
    }
    for folder in ["relative/folder", "/a/../b", "/a\0b"] {
        let spec = PodSpec::new("folder").with(|config| folder.clone_into(&mut config.log_directory));
        assert_refused(daemon.run_pod(&spec).await, Code::InvalidArgument, &["log_directory"]);
    }
    assert_eq!(std::fs::read_dir(daemon.directory())?.count(), before);
    Ok(())
}

/// Secrets come by the environment of a container, by mounts, and with pulls. They are in no line of podbox's log, not even when what
/// they came with fails; and nothing of the daemon's own environment is in a container.
///
/// Seen to fail: with requests to create containers logged as they are, the variable stood in the log, byte for byte as numbers.
#[tokio::test]
async fn secrets_are_in_no_log_and_no_error() -> Result<()> {
    const SECRET: &str = "hunter2-is-the-canary";
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("secrets")).await?;
    let spec = |name: &str, command: &[&str]| ContainerSpec::command(name, command).env("PASSWORD", SECRET.as_bytes());
    let container = pod.run(&spec("a", &["/bin/sleep", "1000000"])).await?;
    container.exec(&["/bin/sh", "-c", "echo $PASSWORD >/dev/null"]).await?;
    let broken = pod.create(&spec("b", &["/no/such/program"])).await?;
    let mut said = vec![broken.start().await.err().context("it cannot start")?.message().to_owned()];
    let auth = v1::AuthConfig { username: "user".to_owned(), password: SECRET.to_owned(), ..Default::default() };
    for image in ["127.0.0.1:1/a/b:c", "localhost:1/\u{0}"] {
        let request = v1::PullImageRequest {
            image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
            auth: Some(auth.clone()),
            sandbox_config: None,
        };
        said.push(daemon.images().pull_image(request).await.err().context("nobody is there")?.message().to_owned());
    }
    said.push(daemon.log());
    let numbers = SECRET.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    for text in said {
        ensure!(!text.contains(SECRET) && !text.contains(&numbers), "{text}");
    }
    let own = std::fs::read_to_string(format!("/proc/{}/environ", daemon.pid()?))?;
    let theirs = std::fs::read_to_string(format!("/proc/{}/environ", container.pid().await?))?;
    let names = |text: &str| text.split('\0').filter_map(|variable| Some(variable.split_once('=')?.0.to_owned())).collect::<Vec<_>>();
    let allowed = ["PATH", "HOME", "HOSTNAME", "PASSWORD"];
    ensure!(names(&own).iter().any(|name| !allowed.contains(&name.as_str())), "the daemon has variables of its own: {own}");
    ensure!(names(&theirs).iter().all(|name| allowed.contains(&name.as_str())), "{theirs}");
    Ok(())
}
