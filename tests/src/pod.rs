//! Pods and containers that a test made: what one does with them, in a word each.

pub use crate::spec::{ContainerSpec, PodSpec, words};

use crate::client::Client;
use crate::wait;
use anyhow::{Context, Result};
use podbox_proto::v1;
use podbox_proto::v1::{ContainerState, PodSandboxState};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tonic::Status;

/// A pod that was run.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// As it was asked for.
    pub config: v1::PodSandboxConfig,
    client: Client,
}

impl Pod {
    /// Runs a pod; its logs go below `logs` unless it names a place itself.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn run_new(client: &Client, logs: &Path, spec: &PodSpec) -> Result<Self, Status> {
        let config = Self::request(logs, spec);
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = client.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        Ok(Self { id, config, client: client.clone() })
    }

    /// The configuration that [`Pod::run_new`] sends.
    #[must_use]
    pub fn request(logs: &Path, spec: &PodSpec) -> v1::PodSandboxConfig {
        let mut config = spec.config.clone();
        if config.log_directory.is_empty() {
            let uid = config.metadata.as_ref().map_or("", |metadata| &metadata.uid);
            config.log_directory = logs.join(uid).to_string_lossy().into_owned();
        }
        config
    }

    /// One that is there already.
    #[must_use]
    pub fn adopt(client: &Client, id: &str, config: v1::PodSandboxConfig) -> Self {
        Self { id: id.to_owned(), config, client: client.clone() }
    }

    /// The same pod through another client.
    #[must_use]
    pub fn through(&self, client: &Client) -> Self {
        Self { client: client.clone(), ..self.clone() }
    }

    /// The request that [`Pod::create`] sends.
    #[must_use]
    pub fn create_request(&self, spec: &ContainerSpec) -> v1::CreateContainerRequest {
        v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(spec.config.clone()),
            sandbox_config: Some(self.config.clone()),
        }
    }

    /// Creates a container.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<Container, Status> {
        let id = self.client.runtime().create_container(self.create_request(spec)).await?.into_inner().container_id;
        let log = Path::new(&self.config.log_directory).join(&spec.config.log_path);
        Ok(Container { id, log, client: self.client.clone() })
    }

    /// Creates a container and starts it.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn run(&self, spec: &ContainerSpec) -> Result<Container, Status> {
        let container = self.create(spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// Runs a script in a container of its own, waits for its end, removes it, and gives what it wrote to its log.
    ///
    /// # Errors
    /// It cannot be run, or does not end with code 0.
    pub async fn output_of(&self, spec: &ContainerSpec) -> Result<String> {
        let container = self.run(spec).await?;
        let code = container.exit_code().await?;
        let output = container.output()?;
        anyhow::ensure!(code == 0, "exit code {code}: {output}");
        container.remove().await?;
        Ok(output)
    }

    /// Stops it.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn stop(&self) -> Result<(), Status> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.client.runtime().stop_pod_sandbox(request).await.map(drop)
    }

    /// Removes it.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.client.runtime().remove_pod_sandbox(request).await.map(drop)
    }

    /// Stops and removes it.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn end(&self) -> Result<(), Status> {
        self.stop().await?;
        self.remove().await
    }

    /// Its verbose status.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn status(&self) -> Result<v1::PodSandboxStatusResponse, Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        Ok(self.client.runtime().pod_sandbox_status(request).await?.into_inner())
    }

    /// Its state.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn state(&self) -> Result<PodSandboxState, Status> {
        Ok(self.status().await?.status.unwrap_or_default().state())
    }

    /// The JSON of the status's `info`.
    ///
    /// # Errors
    /// There is none.
    pub async fn info(&self) -> Result<Value> {
        info_of(&self.status().await?.info)
    }

    /// Process id of pause.
    ///
    /// # Errors
    /// It is not in the status.
    pub async fn pause_pid(&self) -> Result<i32> {
        pid_of(&self.info().await?)
    }

    /// Its cgroup, above pause's and the containers', from the hierarchies' roots, whoever made it.
    ///
    /// # Errors
    /// It is not in the status.
    pub async fn cgroup(&self) -> Result<String> {
        cgroup_of(&self.info().await?)
    }

    /// Its addresses, the first one first.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn ips(&self) -> Result<Vec<String>, Status> {
        let network = self.status().await?.status.unwrap_or_default().network.unwrap_or_default();
        let first = (!network.ip.is_empty()).then_some(network.ip);
        Ok(first.into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect())
    }
}

/// A container that was created.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its log file.
    pub log: PathBuf,
    client: Client,
}

/// What a command wrote and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Container {
    /// One that is there already.
    #[must_use]
    pub fn adopt(client: &Client, id: &str, log: &Path) -> Self {
        Self { id: id.to_owned(), log: log.to_owned(), client: client.clone() }
    }

    /// Starts it.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn start(&self) -> Result<(), Status> {
        let request = v1::StartContainerRequest { container_id: self.id.clone() };
        self.client.runtime().start_container(request).await.map(drop)
    }

    /// Asks it to end and kills it after `grace_seconds`.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn stop(&self, grace_seconds: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest { container_id: self.id.clone(), timeout: grace_seconds };
        self.client.runtime().stop_container(request).await.map(drop)
    }

    /// Removes it.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = v1::RemoveContainerRequest { container_id: self.id.clone() };
        self.client.runtime().remove_container(request).await.map(drop)
    }

    /// Its verbose status with its `info`.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn status_and_info(&self) -> Result<v1::ContainerStatusResponse, Status> {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: true };
        Ok(self.client.runtime().container_status(request).await?.into_inner())
    }

    /// Its status.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn status(&self) -> Result<v1::ContainerStatus, Status> {
        Ok(self.status_and_info().await?.status.unwrap_or_default())
    }

    /// Its state.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn state(&self) -> Result<ContainerState, Status> {
        Ok(self.status().await?.state())
    }

    /// The JSON of the status's `info`.
    ///
    /// # Errors
    /// There is none.
    pub async fn info(&self) -> Result<Value> {
        info_of(&self.status_and_info().await?.info)
    }

    /// Process id of its init, on the host.
    ///
    /// # Errors
    /// It is not in the status.
    pub async fn pid(&self) -> Result<i32> {
        pid_of(&self.info().await?)
    }

    /// Its cgroup, from the hierarchies' roots, whoever made it.
    ///
    /// # Errors
    /// It is not in the status.
    pub async fn cgroup(&self) -> Result<String> {
        cgroup_of(&self.info().await?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not come.
    pub async fn exited(&self) -> Result<v1::ContainerStatus> {
        wait::until("the container ends", || async {
            let status = self.status().await.ok()?;
            (status.state() == ContainerState::ContainerExited).then_some(status)
        })
        .await
    }

    /// Waits for its end and gives its exit code.
    ///
    /// # Errors
    /// It does not end.
    pub async fn exit_code(&self) -> Result<i32> {
        Ok(self.exited().await?.exit_code)
    }

    /// Runs a command in it, with as much time as it takes.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn exec(&self, command: &[&str]) -> Result<ExecOutput, Status> {
        let response = self.exec_within(command, 0).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(ExecOutput { code: response.exit_code, stdout: text(response.stdout), stderr: text(response.stderr) })
    }

    /// Runs a command in it, for so many seconds at most; 0 is no limit.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn exec_within(&self, command: &[&str], timeout_seconds: i64) -> Result<v1::ExecSyncResponse, Status> {
        let request = v1::ExecSyncRequest { container_id: self.id.clone(), cmd: words(command), timeout: timeout_seconds };
        Ok(self.client.runtime().exec_sync(request).await?.into_inner())
    }

    /// Runs a script in it and gives its standard output, without the last line's end.
    ///
    /// # Errors
    /// As the daemon says, or the script ended with another code than 0.
    pub async fn sh(&self, script: &str) -> Result<String> {
        let output = self.exec(&["/bin/sh", "-c", script]).await?;
        anyhow::ensure!(output.code == 0, "{script:?} ended with {output:?}");
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// Has its log opened anew.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn reopen_log(&self) -> Result<(), Status> {
        let request = v1::ReopenContainerLogRequest { container_id: self.id.clone() };
        self.client.runtime().reopen_container_log(request).await.map(drop)
    }

    /// The lines of its log.
    ///
    /// # Errors
    /// The log cannot be read, or holds a line that is none of the CRI's.
    pub fn log_lines(&self) -> Result<Vec<LogLine>> {
        let bytes = std::fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        LogLine::parse_all(&bytes)
    }

    /// What it wrote, both streams in the order of the log.
    ///
    /// # Errors
    /// As [`Container::log_lines`].
    pub fn output(&self) -> Result<String> {
        let lines = self.log_lines()?;
        let text: Vec<u8> = lines.iter().flat_map(|line| line.text.iter().chain((!line.partial).then_some(&b'\n'))).copied().collect();
        Ok(String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned())
    }
}

/// A line of a container's log, in the CRI's format: `TIME STREAM TAGS TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line goes on in the next one of the stream (`P`), or ends here (`F`).
    pub partial: bool,
    /// What was written.
    pub text: Vec<u8>,
}

impl LogLine {
    /// All lines of a log.
    ///
    /// # Errors
    /// Names the first line that is malformed.
    pub fn parse_all(bytes: &[u8]) -> Result<Vec<Self>> {
        let Some(bytes) = bytes.strip_suffix(b"\n") else {
            anyhow::ensure!(bytes.is_empty(), "the log's last line has no end");
            return Ok(Vec::new());
        };
        let line = |line: &[u8]| Self::parse(line).with_context(|| format!("malformed: {:?}", String::from_utf8_lossy(line)));
        bytes.split(|byte| *byte == b'\n').map(line).collect()
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let mut word = || String::from_utf8(parts.next()?.to_owned()).ok();
        let (time, stream, tags) = (word()?, word()?, word()?);
        let well_formed = time.len() >= 20 && time.contains('T') && matches!(&*stream, "stdout" | "stderr") && matches!(&*tags, "P" | "F");
        well_formed.then(|| Self { time, stream, partial: tags == "P", text: parts.next().unwrap_or_default().to_owned() })
    }
}

fn info_of(info: &std::collections::BTreeMap<String, String>) -> Result<Value> {
    serde_json::from_str(info.get("info").context("the status has no info")?).context("the status's info is no JSON")
}

fn cgroup_of(info: &Value) -> Result<String> {
    Ok(info["cgroup"].as_str().with_context(|| format!("no cgroup in {info}"))?.to_owned())
}

fn pid_of(info: &Value) -> Result<i32> {
    let pid = info["pid"].as_i64().with_context(|| format!("no pid in {info}"))?;
    i32::try_from(pid).context("a process id")
}
