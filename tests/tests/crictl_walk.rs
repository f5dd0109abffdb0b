//! A walk through all that `crictl` can do, on one node: images, a pod from its making to its removal, numbers, events. What is
//! looked at is what `crictl` shows; sessions over both transports are in `crictl.rs`.

use anyhow::{Context, Result, ensure};
use podbox_tests::crictl::Row;
use podbox_tests::pulls::PORT;
use podbox_tests::registry::{PASSWORD, Pushed, USER};
use podbox_tests::{Content, Crictl, Daemon, DaemonOptions, Registry, RegistryOptions, TestImage, host, wait};
use serde_json::{Deserializer, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What its container does until it is asked to end: it serves a page, and answers each line it reads.
const SCRIPT: &str = "trap 'echo asked to end; exit 3' TERM
    httpd -p 8080 -h /www; echo ready; echo an error >&2
    while read line; do echo said $line; done
    while :; do sleep 0.05; done";
const MEBIBYTE: i64 = 1 << 20;

/// A node with an image in its registry, and files for `crictl`.
struct Walk {
    // Before the daemon: its network is taken down with the last who holds it.
    crictl: Crictl,
    _registry: Registry,
    daemon: Daemon,
    image: String,
    pushed: Pushed,
    pod_file: String,
    container_file: String,
}

impl Walk {
    /// `None`: there is nothing to build crictl with.
    async fn begin(name: &str) -> Result<Option<Self>> {
        let daemon = Daemon::start(DaemonOptions { show_log: true, ..DaemonOptions::default() }).await?;
        let Some(crictl) = Crictl::of(&daemon)? else { return Ok(None) };
        let mut content = Content::default();
        let pushed = content.push("walk", "v1", &TestImage::default().file("www/index.html", 0o644, b"a page\n"))?;
        let options = RegistryOptions { basic_auth: true, ..RegistryOptions::default() };
        let registry = Registry::start(daemon.network(), PORT, options, &content).await?;
        let image = format!("{}/walk:v1", registry.host());
        let pod = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "namespace": "walks", "attempt": 0},
            "hostname": name,
            "log_directory": daemon.logs().join(name),
            "labels": {"walk": name},
            "annotations": {"podbox.test/why": "to be seen"},
        });
        // The kubelet says by labels whose a container is, and `crictl ps` shows that.
        let container = json!({
            "metadata": {"name": "server", "attempt": 1},
            "image": {"image": image},
            "command": ["/bin/sh", "-c", SCRIPT],
            "stdin": true,
            "stdin_once": true,
            "log_path": "server/1.log",
            "labels": {"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "walks"},
            "annotations": {"podbox.test/port": "8080"},
        });
        let pod_file = write(&daemon.directory().join("pod.json"), &pod)?;
        let container_file = write(&daemon.directory().join("container.json"), &container)?;
        Ok(Some(Self { daemon, crictl, _registry: registry, image, pushed, pod_file, container_file }))
    }

    fn pull(&self) -> Result<String> {
        self.crictl.line(&["pull", "--creds", &format!("{USER}:{PASSWORD}"), &self.image])
    }

    /// A pod and its container, which runs. Gives their ids.
    fn run(&self) -> Result<(String, String)> {
        let pod = self.crictl.line(&["runp", &self.pod_file])?;
        let container = self.crictl.line(&["create", &pod, &self.container_file, &self.pod_file])?;
        assert_eq!(self.crictl.line(&["start", &container])?, container);
        Ok((pod, container))
    }
}

fn write(path: &Path, value: &Value) -> Result<String> {
    std::fs::write(path, value.to_string()).with_context(|| path.display().to_string())?;
    Ok(path.to_string_lossy().into_owned())
}

/// What `crictl` makes of an id in tables, and takes in its place.
fn short(id: &str) -> &str {
    &id.trim_start_matches("sha256:")[..13]
}

/// A value of the CRI's wrapped numbers, which JSON has as text.
fn number(value: &Value) -> u64 {
    value["value"].as_str().unwrap_or_default().parse().unwrap_or_default()
}

fn assert_row(rows: &[Row], expected: &[(&str, &str)]) {
    assert_eq!(rows.len(), 1, "{rows:?}");
    for (column, cell) in expected {
        assert_eq!(rows[0].get(*column).map(String::as_str), Some(*cell), "{column} in {rows:?}");
    }
}

#[tokio::test]
async fn the_node_tells_what_it_is() -> Result<()> {
    let Some(walk) = Walk::begin("node").await? else { return Ok(()) };
    let crictl = &walk.crictl;
    let version = crictl.text(&["version"])?;
    for line in ["RuntimeName:  podbox", "RuntimeApiVersion:  v1", concat!("RuntimeVersion:  ", env!("CARGO_PKG_VERSION"))] {
        assert!(version.lines().any(|said| said == line), "{line}: {version}");
    }
    let info = crictl.json(&["info"])?;
    let conditions = info["status"]["conditions"].as_array().context("conditions")?;
    let ready: BTreeMap<_, _> = conditions.iter().map(|condition| (condition["type"].as_str(), condition["status"].as_bool())).collect();
    assert_eq!(ready, BTreeMap::from([(Some("RuntimeReady"), Some(true)), (Some("NetworkReady"), Some(true))]), "{info}");
    assert_eq!(info["features"]["supplemental_groups_policy"], true, "{info}");
    assert_eq!(info["runtimeHandlers"][0]["features"]["recursive_read_only_mounts"], true, "{info}");
    assert_eq!(info["info"]["config"]["socket"], walk.daemon.socket().to_string_lossy().into_owned(), "the verbose part, {info}");
    assert!(crictl.json(&["info", "--quiet"])?.get("info").is_none());
    let ready = crictl.line(&["info", "-o", "go-template", "--template", "{{range .status.conditions}}{{.status}} {{end}}"])?;
    assert_eq!(ready, "true true");
    let driver = crictl.line(&["runtime-config"])?;
    assert_eq!(driver, format!("cgroup driver:   {}", DaemonOptions::default().cgroup_driver.to_uppercase()));
    crictl.text(&["update-runtime-config", "--pod-cidr", "10.244.0.0/16"])?;
    for command in [&["pods"][..], &["ps", "-a"], &["images"], &["stats"], &["statsp"]] {
        assert_eq!(crictl.table(command)?, [], "{command:?}");
    }
    Ok(())
}

/// Of crictl's own list, which the next version of it may have more in.
#[tokio::test]
async fn no_command_of_crictls_is_left_out() -> Result<()> {
    const TESTS: &str = concat!(include_str!("crictl_walk.rs"), include_str!("crictl.rs"));
    let daemon = Daemon::for_test().await?;
    let Some(crictl) = Crictl::of(&daemon)? else { return Ok(()) };
    let help = crictl.text(&["help"])?;
    let (_, listed) = help.split_once("COMMANDS:\n").context("a list of commands")?;
    let names = listed.lines().map_while(|line| line.split_whitespace().next()).map(|name| name.trim_end_matches(','));
    let left_out: Vec<_> = names.clone().filter(|name| !TESTS.contains(&format!("&[\"{name}\""))).collect();
    assert!(names.count() > 30 && left_out.is_empty(), "{left_out:?} of {help}");
    // What it keeps for itself is how it finds a runtime.
    let file = daemon.directory().join("crictl.yaml");
    File::create(&file)?;
    let with_file = |words: &[&str]| {
        let mut command = Command::new(crictl.program());
        daemon.network().run(|| Ok(command.arg("--config").arg(&file).args(words).output()?))
    };
    let endpoint = format!("runtime-endpoint=unix://{}", daemon.socket().display());
    for words in [&["config", "--set", &endpoint][..], &["config", "--set", "timeout=60"], &["version"]] {
        let output = with_file(words)?;
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(String::from_utf8_lossy(&with_file(&["config", "--get", "timeout"])?.stdout).trim_end(), "60");
    let completion = crictl.text(&["completion", "bash"])?;
    assert!(completion.contains("runp"), "{completion}");
    Ok(())
}

#[tokio::test]
async fn images_are_pulled_shown_and_removed() -> Result<()> {
    let Some(walk) = Walk::begin("images").await? else { return Ok(()) };
    let (crictl, id) = (&walk.crictl, walk.pushed.id.as_str());
    let refused = crictl.refused(&["pull", "--creds", "alice:wrong", &walk.image])?;
    assert!(refused.contains("PermissionDenied") && refused.contains("401"), "{refused}");
    assert_eq!(walk.pull()?, format!("Image is up to date for {id}"));

    let repository = walk.image.trim_end_matches(":v1");
    let rows = crictl.table(&["images", "--digests", "--pinned"])?;
    let digest = short(&walk.pushed.manifest);
    assert_row(&rows, &[("IMAGE", repository), ("TAG", "v1"), ("DIGEST", digest), ("IMAGE ID", short(id)), ("PINNED", "false")]);
    assert!(rows[0]["SIZE"].ends_with('B'), "{rows:?}");
    assert_eq!(crictl.line(&["images", "-q"])?, id);
    let by_digest = format!("{repository}@{}", walk.pushed.manifest);
    let image = &crictl.json(&["images", "-o", "json"])?["images"][0];
    assert_eq!((&image["id"], &image["repoTags"], &image["repoDigests"]), (&json!(id), &json!([walk.image]), &json!([by_digest])));
    for name in [walk.image.as_str(), id, short(id), &by_digest] {
        let status = crictl.json(&["inspecti", name])?;
        assert_eq!(status["status"]["id"], id, "by {name}");
        assert_eq!(status["info"]["imageSpec"]["config"]["Cmd"], json!(["/bin/sh"]), "by {name}");
    }
    let table = crictl.text(&["inspecti", "-q", "-o", "table", id])?;
    for line in [format!("ID: {id}"), format!("Tag: {}", walk.image), format!("Digest: {by_digest}")] {
        assert!(table.lines().any(|said| said == line), "{line}: {table}");
    }

    let usage = crictl.json(&["imagefsinfo"])?;
    let images = &usage["status"]["imageFilesystems"][0];
    assert!(number(&images["usedBytes"]) > 0 && number(&images["inodesUsed"]) > 0, "{usage}");
    assert_eq!(images["fsId"]["mountpoint"], walk.daemon.root_dir().to_string_lossy().into_owned());
    assert!(crictl.text(&["imagefsinfo", "-o", "table"])?.contains("Mountpoint[0]: "));

    assert_eq!(crictl.line(&["rmi", &walk.image])?, format!("Deleted: {}", walk.image));
    assert_eq!(crictl.table(&["images"])?, []);
    assert!(crictl.refused(&["inspecti", &walk.image])?.contains("no such image"));
    assert!(crictl.refused(&["rmi", &walk.image])?.contains("no such image"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_runp_to_rmp() -> Result<()> {
    let Some(walk) = Walk::begin("pod").await? else { return Ok(()) };
    let crictl = &walk.crictl;
    walk.pull()?;
    let pod = crictl.line(&["runp", &walk.pod_file])?;
    shows_the_pod(&walk, &pod)?;
    let container = crictl.line(&["create", &pod, &walk.container_file, &walk.pod_file])?;
    assert_row(&crictl.table(&["ps", "-a"])?, &[("CONTAINER", short(&container)), ("STATE", "Created"), ("ATTEMPT", "1")]);
    assert_eq!(crictl.table(&["ps"])?, [], "none runs");
    assert_eq!(crictl.line(&["start", &container])?, container);
    shows_the_container(&walk, &pod, &container)?;
    runs_commands_and_sessions(&walk, &pod, &container).await?;
    updates(&walk, &container)?;

    let archive = walk.daemon.directory().join("checkpoint.tar");
    let refused = crictl.refused(&["checkpoint", "--export", &archive.to_string_lossy(), &container])?;
    assert!(refused.contains("Unimplemented") && refused.contains("CheckpointContainer is not served"), "{refused}");
    assert!(crictl.refused(&["rm", &container])?.contains("is running"));
    assert!(crictl.refused(&["rmp", &pod])?.contains("is running"));

    assert_eq!(crictl.line(&["stop", "--timeout", "30", &container])?, container);
    assert_row(&crictl.table(&["ps", "-a", "--state", "exited"])?, &[("CONTAINER", short(&container)), ("STATE", "Exited")]);
    let template = ["inspect", "-o", "go-template", "--template", "{{.status.state}} {{.status.exitCode}} {{.status.reason}}", &container];
    assert_eq!(crictl.line(&template)?, "CONTAINER_EXITED 3 Error");
    assert_eq!(crictl.text(&["logs", &container])?, "asked to end\n", "what came since the log was opened anew");
    assert!(crictl.refused(&["exec", "-s", &container, "true"])?.contains("FailedPrecondition"));
    assert_eq!(crictl.line(&["rm", &container])?, container);
    assert_eq!(crictl.table(&["ps", "-a"])?, []);

    assert_eq!(crictl.line(&["stopp", &pod])?, format!("Stopped sandbox {pod}"));
    assert_row(&crictl.table(&["pods", "--state", "notready"])?, &[("POD ID", short(&pod)), ("STATE", "NotReady")]);
    assert_eq!(crictl.line(&["rmp", &pod])?, format!("Removed sandbox {pod}"));
    assert_eq!(crictl.table(&["pods"])?, []);
    for command in [&["inspectp", &pod][..], &["inspect", &container], &["start", &container], &["logs", &container]] {
        let said = crictl.refused(command)?;
        assert!(said.contains("NotFound") && said.contains("is not there"), "{command:?}: {said}");
    }
    Ok(())
}

fn shows_the_pod(walk: &Walk, pod: &str) -> Result<()> {
    let crictl = &walk.crictl;
    assert!(pod.len() == 64 && pod.bytes().all(|byte| byte.is_ascii_hexdigit()), "{pod}");
    let row =
        [("POD ID", short(pod)), ("STATE", "Ready"), ("NAME", "pod"), ("NAMESPACE", "walks"), ("ATTEMPT", "0"), ("RUNTIME", "(default)")];
    for filter in [&[][..], &["--id", short(pod)], &["--name", "^pod$"], &["--label", "walk=pod"], &["--state", "ready"], &["--latest"]] {
        assert_row(&crictl.table(&[&["pods"], filter].concat())?, &row);
    }
    for filter in [["--name", "other"], ["--label", "walk=other"], ["--state", "notready"], ["--namespace", "default"]] {
        assert_eq!(crictl.table(&[&["pods"][..], &filter[..]].concat())?, [], "{filter:?}");
    }
    assert_eq!(crictl.line(&["pods", "-q"])?, pod);
    let item = &crictl.json(&["pods", "-o", "json"])?["items"][0];
    assert_eq!((&item["id"], &item["state"], &item["labels"]), (&json!(pod), &json!("SANDBOX_READY"), &json!({"walk": "pod"})));
    let status = crictl.json(&["inspectp", short(pod)])?;
    assert_eq!(status["status"]["id"], pod);
    assert_eq!(status["status"]["metadata"], json!({"name": "pod", "uid": "uid-pod", "namespace": "walks", "attempt": 0}));
    assert_eq!(status["status"]["annotations"], json!({"podbox.test/why": "to be seen"}));
    let ip = status["status"]["network"]["ip"].as_str().context("an address")?;
    assert!(ip.starts_with("10.200."), "{ip}");
    let pause = i32::try_from(status["info"]["pid"].as_i64().context("a pid")?)?;
    assert!(host::runs(pause), "{status}");
    let table = crictl.text(&["inspectp", "-q", "-o", "table", pod])?;
    for line in [format!("ID: {pod}"), "Status: SANDBOX_READY".to_owned(), format!("IP Addresses: {ip}")] {
        assert!(table.lines().any(|said| said == line), "{line}: {table}");
    }
    Ok(())
}

fn shows_the_container(walk: &Walk, pod: &str, container: &str) -> Result<()> {
    let crictl = &walk.crictl;
    let row = [("CONTAINER", short(container)), ("STATE", "Running"), ("NAME", "server"), ("POD ID", short(pod)), ("POD", "pod")];
    let image = walk.image.as_str();
    for filter in
        [&[][..], &["--id", short(container)], &["--pod", short(pod)], &["--image", image], &["--state", "running"], &["--latest"]]
    {
        let rows = crictl.table(&[&["ps"], filter].concat())?;
        assert_row(&rows, &row);
        assert_row(&rows, &[("IMAGE", image), ("NAMESPACE", "walks")]);
    }
    let listed = &crictl.json(&["ps", "-o", "json"])?["containers"][0];
    assert_eq!((&listed["id"], &listed["podSandboxId"]), (&json!(container), &json!(pod)));
    assert_eq!((&listed["state"], &listed["imageId"]), (&json!("CONTAINER_RUNNING"), &json!(walk.pushed.id)));
    let inspected = crictl.json(&["inspect", container])?;
    let (status, info) = (&inspected["status"], &inspected["info"]);
    assert_eq!((&status["id"], &status["state"]), (&json!(container), &json!("CONTAINER_RUNNING")));
    assert_eq!(status["logPath"], walk.daemon.logs().join("pod/server/1.log").to_string_lossy().into_owned());
    assert_eq!(status["metadata"], json!({"name": "server", "attempt": 1}));
    assert_eq!(info["runtimeSpec"]["process"]["args"][0], "/bin/sh");
    assert!(host::runs(i32::try_from(info["pid"].as_i64().context("a pid")?)?), "{info}");
    let table = crictl.text(&["inspect", "-q", "-o", "table", container])?;
    for line in [format!("ID: {container}"), "State: CONTAINER_RUNNING".to_owned(), "Attempt: 1".to_owned()] {
        assert!(table.lines().any(|said| said == line), "{line}: {table}");
    }
    Ok(())
}

async fn runs_commands_and_sessions(walk: &Walk, pod: &str, container: &str) -> Result<()> {
    let crictl = &walk.crictl;
    assert_eq!(crictl.line(&["exec", container, "/bin/hostname"])?, "pod");
    assert_eq!(crictl.line(&["exec", "-s", container, "/bin/cat", "/www/index.html"])?, "a page");
    assert!(crictl.refused(&["exec", "-s", container, "/bin/sh", "-c", "exit 9"])?.contains("exited with 9"));
    let timed_out = crictl.refused(&["exec", "-s", "--timeout", "1", container, "/bin/sleep", "1000"])?;
    assert!(timed_out.contains("DeadlineExceeded"), "{timed_out}");

    let (mut following, mut followed) = lines_of(walk, &["logs", "-f", container], Stdio::null())?;
    assert_eq!(next(&mut followed)?, "ready\n");
    let (mut attached, mut answers) = lines_of(walk, &["attach", "-i", container], Stdio::piped())?;
    let mut input = attached.stdin.take().context("input")?;
    input.write_all(b"hello\n")?;
    assert_eq!((next(&mut answers)?, next(&mut followed)?), ("said hello\n".to_owned(), "said hello\n".to_owned()));
    // Other than a session that ends with its container, this one is broken off; its input was the container's only one.
    drop(input);
    attached.kill()?;
    attached.wait()?;
    following.kill()?;
    following.wait()?;
    assert_eq!(crictl.text(&["logs", container])?, "ready\nsaid hello\n", "standard error goes to standard error");
    assert_eq!(String::from_utf8_lossy(&crictl.output(&["logs", container])?.stderr), "an error\n");
    assert_eq!(crictl.text(&["logs", "--tail", "1", container])?, "said hello\n");
    let log = walk.daemon.logs().join("pod/server/1.log");
    std::fs::rename(&log, log.with_extension("old"))?;
    crictl.text(&["logs", "--reopen", container])?;
    assert!(log.exists(), "a log that was moved away is opened anew");

    let (mut forwarding, mut said) = lines_of(walk, &["port-forward", pod, "18080:8080"], Stdio::null())?;
    assert!(next(&mut said)?.contains("127.0.0.1:18080 -> 8080"));
    let page = walk.daemon.network().run(|| {
        let mut connection = TcpStream::connect("127.0.0.1:18080")?;
        connection.set_read_timeout(Some(wait::scaled(wait::DEADLINE)))?;
        connection.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        connection.read_to_string(&mut page)?;
        Ok(page)
    })?;
    assert!(page.starts_with("HTTP/1.") && page.ends_with("\r\n\r\na page\n"), "{page}");
    forwarding.kill()?;
    forwarding.wait()?;
    Ok(())
}

/// Starts a command that goes on, and reads its output line by line.
fn lines_of(walk: &Walk, arguments: &[&str], input: Stdio) -> Result<(Child, BufReader<std::process::ChildStdout>)> {
    let mut command = walk.crictl.command(arguments);
    command.stdin(input).stderr(Stdio::null());
    let mut child = walk.crictl.spawn(command)?;
    let output = BufReader::new(child.stdout.take().context("output")?);
    Ok((child, output))
}

fn next(lines: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    Ok(line)
}

fn updates(walk: &Walk, container: &str) -> Result<()> {
    let bytes = (96 * MEBIBYTE).to_string();
    let limits = ["--memory", &bytes, "--cpu-period", "100000", "--cpu-quota", "50000", "--cpu-share", "512"];
    assert_eq!(walk.crictl.line(&[&["update"][..], &limits, &[container]].concat())?, container);
    let inspected = walk.crictl.json(&["inspect", container])?;
    let linux = &inspected["status"]["resources"]["linux"];
    assert_eq!((&linux["memoryLimitInBytes"], &linux["cpuQuota"]), (&json!(bytes), &json!("50000")), "{linux}");
    let cgroup = inspected["info"]["cgroup"].as_str().context("a cgroup")?;
    let limit = host::cgroup_file(cgroup, "memory.max").or_else(|_| host::cgroup_file(cgroup, "memory.limit_in_bytes"))?;
    assert_eq!(limit, bytes, "in the kernel");
    Ok(())
}

#[tokio::test]
async fn numbers_of_a_pod_and_its_container() -> Result<()> {
    let Some(walk) = Walk::begin("numbers").await? else { return Ok(()) };
    walk.pull()?;
    let crictl = &walk.crictl;
    let (pod, container) = walk.run()?;
    let rows = crictl.table(&["stats"])?;
    assert_row(&rows, &[("CONTAINER", short(&container)), ("NAME", "server")]);
    assert!(rows[0]["CPU %"].parse::<f64>().is_ok() && rows[0]["MEM"].ends_with('B') && rows[0]["MEM"] != "0B", "{rows:?}");
    let rows = crictl.table(&["statsp", short(&pod)])?;
    assert_row(&rows, &[("POD ID", short(&pod)), ("POD", "numbers")]);
    assert!(rows[0]["CPU %"].parse::<f64>().is_ok() && rows[0]["MEM"] != "0B", "{rows:?}");

    // Writable layers are counted in the background.
    let stats = wait::until("the writable layer is counted", || {
        let stats = crictl.json(&["stats", "-o", "json", "--id", short(&container)]).map(|stats| stats["stats"][0].clone());
        std::future::ready(stats.ok().filter(|stats| number(&stats["writableLayer"]["inodesUsed"]) > 0))
    })
    .await?;
    assert_eq!(stats["attributes"]["id"], container.as_str());
    for value in [&stats["cpu"]["usageCoreNanoSeconds"], &stats["memory"]["workingSetBytes"]] {
        assert!(number(value) > 0, "{stats}");
    }
    let stats = crictl.json(&["statsp", "-o", "json"])?;
    let stats = &stats["stats"][0];
    assert_eq!((&stats["attributes"]["id"], &stats["linux"]["network"]["defaultInterface"]["name"]), (&json!(pod), &json!("eth0")));
    assert_eq!(stats["linux"]["containers"][0]["attributes"]["id"], container.as_str());
    assert!(number(&stats["linux"]["process"]["processCount"]) >= 2, "pause and the container's, {stats}");

    let descriptors = crictl.json(&["metricdescs"])?;
    let descriptors = descriptors["descriptors"].as_array().context("descriptors")?;
    let keys: BTreeMap<_, _> =
        descriptors.iter().map(|descriptor| (descriptor["name"].as_str(), values(&descriptor["labelKeys"]))).collect();
    let metrics = crictl.json(&["metricsp"])?;
    let metrics = &metrics["podMetrics"][0];
    assert_eq!((&metrics["podSandboxId"], &metrics["containerMetrics"][0]["containerId"]), (&json!(pod), &json!(container)));
    let all =
        [&metrics["metrics"], &metrics["containerMetrics"][0]["metrics"]].map(|metrics| metrics.as_array().cloned().unwrap_or_default());
    assert!(all.iter().all(|metrics| !metrics.is_empty()), "{metrics}");
    for metric in all.iter().flatten() {
        assert_eq!(
            keys.get(&metric["name"].as_str()),
            Some(&values(&metric["labelValues"])),
            "each has the labels that it is described with: {metric}"
        );
    }
    Ok(())
}

fn values(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn run_does_it_all_at_once_and_events_tell_of_it() -> Result<()> {
    let Some(walk) = Walk::begin("events").await? else { return Ok(()) };
    let crictl = &walk.crictl;
    let events = walk.daemon.directory().join("events");
    let mut command = crictl.command(&["events"]);
    command.stdout(File::create(&events)?);
    let mut listener = crictl.spawn(command)?;
    wait::until_true("crictl is told of events", || walk.daemon.log().contains("GetContainerEvents")).await?;

    let credentials = format!("{USER}:{PASSWORD}");
    crictl.text(&["run", "--creds", &credentials, &walk.container_file, &walk.pod_file])?;
    let (pod, container) = (crictl.line(&["pods", "-q"])?, crictl.line(&["ps", "-q"])?);
    assert_eq!(crictl.line(&["images", "-q"])?, walk.pushed.id, "it was pulled first");
    assert_eq!(crictl.text(&["rmi", "--prune"])?, "", "nothing is removed that is used");
    assert_eq!(crictl.line(&["rm", "-f", "-a"])?.lines().last(), Some(container.as_str()));
    crictl.text(&["rmp", "-f", "-a"])?;
    assert_eq!(crictl.line(&["rmi", "--prune"])?, format!("Deleted: {}", walk.image));

    let kinds = ["CREATED", "STARTED", "STOPPED", "DELETED"].map(|kind| format!("CONTAINER_{kind}_EVENT"));
    let expected: BTreeSet<_> = [&pod, &container].into_iter().flat_map(|id| kinds.iter().map(|kind| (id.clone(), kind.clone()))).collect();
    let told = wait::until("all events are told", || {
        let told = read_events(&events).ok().filter(|told| told.len() >= expected.len());
        std::future::ready(told)
    })
    .await?;
    listener.kill()?;
    listener.wait()?;
    assert_eq!(told.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(told.len(), expected.len(), "each once: {told:?}");
    for id in [&pod, &container] {
        assert_eq!(told.iter().filter(|(whose, _)| whose == id).map(|(_, kind)| kind.clone()).collect::<Vec<_>>(), kinds, "in order");
    }
    Ok(())
}

/// Whose and of what kind.
fn read_events(file: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file)?;
    let events = Deserializer::from_str(&text).into_iter::<Value>().map_while(Result::ok);
    let told = events.map(|event| {
        let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        ensure!(event["podSandboxStatus"]["metadata"]["name"] == "events", "{event}");
        Ok((word("containerId"), word("containerEventType")))
    });
    told.collect()
}

#[tokio::test]
async fn what_cannot_be_is_said_and_leaves_nothing() -> Result<()> {
    let Some(walk) = Walk::begin("refused").await? else { return Ok(()) };
    let crictl = &walk.crictl;
    let unknown = "0".repeat(64);
    for (command, word) in [
        (&["create", &unknown, &walk.container_file, &walk.pod_file][..], "NotFound"),
        (&["runp", "--runtime", "kata", &walk.pod_file], "kata"),
        (&["exec", &unknown, "true"], "NotFound"),
        (&["attach", &unknown], "NotFound"),
        (&["port-forward", &unknown, "18081:80"], "NotFound"),
        (&["update", "--memory", "1048576", &unknown], "NotFound"),
    ] {
        let said = crictl.refused(command)?;
        assert!(said.contains(word), "{command:?}: {said}");
    }
    let pod = crictl.line(&["runp", &walk.pod_file])?;
    let said = crictl.refused(&["create", &pod, &walk.container_file, &walk.pod_file])?;
    assert!(said.contains("NotFound") && said.contains(&walk.image), "the image was not pulled: {said}");
    assert_eq!(crictl.table(&["ps", "-a"])?, []);
    crictl.text(&["rmp", "-f", &pod])?;
    Ok(())
}
