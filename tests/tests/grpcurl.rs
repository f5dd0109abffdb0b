//! `docs/grpcurl.md` as somebody would follow it: its blocks are one script, which the real `grpcurl` runs on a real daemon.

use anyhow::{Context, Result, ensure};
use podbox_tests::pulls::PORT;
use podbox_tests::{Content, Daemon, DaemonOptions, Registry, RegistryOptions, TestImage, host, programs};
use serde_json::{Deserializer, Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// Got from the page as the page says.
fn script() -> Result<String> {
    const BLOCKS: &str = "/^```sh$/,/^```$/{/^```/!p}";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grpcurl.md");
    let says = format!("    sed -n '{BLOCKS}' docs/grpcurl.md >walk.sh\n");
    ensure!(std::fs::read_to_string(&page)?.contains(&says), "the page does not say {says}");
    let output = Command::new("sed").args(["-n", BLOCKS]).arg(page).output().context("run sed")?;
    Ok(String::from_utf8(output.stdout)?)
}

/// What the script printed, in order: JSON documents as what they are, other lines as text.
struct Printed(Vec<Value>);

impl Printed {
    fn read(text: &str) -> Self {
        let mut items = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let mut documents = Deserializer::from_str(rest).into_iter::<Value>();
            if rest.starts_with('{')
                && let Some(Ok(document)) = documents.next()
            {
                items.push(document);
                rest = rest[documents.byte_offset()..].trim_start_matches('\n');
                continue;
            }
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            items.push(json!(line));
            rest = after;
        }
        Self(items)
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(Value::as_str)
    }

    /// What follows a line's first word, which is this.
    fn after(&self, word: &str) -> Result<&str> {
        let found = self.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        found.with_context(|| format!("{word}: {:?}", self.0))
    }

    /// Answers that have a value at a path.
    fn answers_with<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter_map(move |item| item.pointer(path))
    }
}

struct Walked {
    daemon: Daemon,
    image: String,
    id: String,
    printed: Printed,
    errors: String,
}

/// Runs the script on a daemon of its own; `None`: there is nothing to build grpcurl with.
async fn walk() -> Result<Option<Walked>> {
    let daemon = Daemon::start(DaemonOptions { show_log: true, ..DaemonOptions::default() }).await?;
    let Some(program) = programs::grpcurl()? else {
        host::lacks("Go, to build grpcurl with");
        return Ok(None);
    };
    let mut content = Content::default();
    let id = content.push("walk", "v1", &TestImage::default())?.id;
    let registry = Registry::start(daemon.network(), PORT, RegistryOptions::default(), &content).await?;
    let image = format!("{}/walk:v1", registry.host());
    let programs = program.parent().context("a folder of programs")?.to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script()?).current_dir(daemon.directory()).stdin(Stdio::null());
    command.env("PATH", path).env("SOCKET", daemon.socket()).env("LOGS", daemon.logs()).env("IMAGE", &image);
    let output = command.output().context("run a shell")?;
    let (text, errors) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "the script ended with {}: {text}\n{errors}", output.status);
    Ok(Some(Walked { daemon, image, id, printed: Printed::read(&text), errors }))
}

fn events(directory: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(directory.join("events.json")).context("the events")?;
    // The last one may be cut off.
    Ok(Deserializer::from_str(&text).into_iter::<Value>().map_while(Result::ok).collect())
}

#[tokio::test]
async fn the_page_leads_through_a_pods_whole_life() -> Result<()> {
    let Some(Walked { daemon, image, id, printed, errors }) = walk().await? else { return Ok(()) };
    for service in
        ["grpc.health.v1.Health", "runtime.v1.RuntimeService", "runtime.v1.ImageService", "runtime.v1.RuntimeService.RunPodSandbox"]
    {
        assert!(printed.lines().any(|line| line == service), "{service}: {:?}", printed.0);
    }
    assert!(printed.lines().any(|line| line.contains("RunPodSandboxRequest ) returns ( .runtime.v1.RunPodSandboxResponse")));
    assert!(printed.lines().any(|line| line.trim() == "int64 memory_limit_in_bytes = 4;"), "a message is described");
    assert!(printed.answers_with("/memoryLimitInBytes").next().is_some(), "and shown to be filled in");
    assert!(printed.answers_with("/runtimeName").eq([&json!("podbox")]));
    assert!(printed.answers_with("/status").any(|status| status == "SERVING"));
    let info = printed.answers_with("/info/info").next().and_then(Value::as_str).context("a verbose status")?;
    let info: Value = serde_json::from_str(info)?;
    assert!(info["limits"].is_array() && info["config"]["socket"] == *daemon.socket().to_string_lossy(), "{info}");

    assert!(printed.answers_with("/imageRef").any(|reference| *reference == id), "the pull");
    assert!(printed.answers_with("/images/0/repoTags/0").eq([&json!(image)]));
    let (pod, container) = (printed.after("pod")?, printed.after("container")?);
    assert_eq!((pod.len(), container.len()), (64, 64));
    assert!(printed.answers_with("/status/id").eq([&json!(pod), &json!(container)]));
    assert!(printed.answers_with("/status/network/ip").next().is_some());
    assert!(printed.answers_with("/items/0/id").eq([&json!(pod)]), "there while it lives, and then not");
    assert!(printed.answers_with("/status/state").eq([&json!("CONTAINER_RUNNING")]));
    assert_eq!(printed.after("stdout")?, "hello from walk, exit code 3");
    assert!(printed.answers_with("/stats/cpu/usageCoreNanoSeconds/value").next().is_some());
    assert!(printed.answers_with("/url").count() > 0, "no URL of a stream was printed");
    assert!(printed.answers_with("/url").all(|url| url.as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:"))));
    assert_eq!(printed.after("CONTAINER_EXITED")?, "with 7");
    assert!(printed.lines().any(|line| line.ends_with(" stdout F up")), "the log");
    assert_eq!(printed.after("grpcurl")?, "ended with 69");
    assert!(errors.contains("Code: NotFound") && errors.contains(container), "{errors}");
    assert_eq!(printed.0.last(), Some(&json!({})), "the image's removal");

    // What came first may have been told before grpcurl listened.
    let told = events(daemon.directory())?;
    for whose in [pod, container] {
        let stopped = told.iter().any(|event| event["containerId"] == whose && event["containerEventType"] == "CONTAINER_STOPPED_EVENT");
        assert!(stopped, "{whose}: {told:?}");
    }
    Ok(())
}
