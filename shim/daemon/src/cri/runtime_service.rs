//! `RuntimeService`: what each call is made of.

use super::stream::{Pieces, pieces};
use super::{Cri, containers, events, node, sandboxes, stats, status, streaming};
use crate::request::{ContainerConfig, RequestError, Resources, SandboxConfig, Subject, required};
use crate::store::{ContainerRecord, SandboxRecord};
use podbox_proto::v1;
use podbox_proto::v1::runtime_service_server::RuntimeService;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

impl Cri {
    /// The sandbox that an id, or a unique beginning of one, means.
    pub(super) fn sandbox(&self, id: &str) -> Result<Arc<SandboxRecord>, Status> {
        id_given("pod_sandbox_id", id)?;
        self.store.sandbox(id).map_err(status::of_lookup)
    }

    /// The container that an id, or a unique beginning of one, means.
    pub(super) fn container(&self, id: &str) -> Result<Arc<ContainerRecord>, Status> {
        id_given("container_id", id)?;
        self.store.container(id).map_err(status::of_lookup)
    }
}

fn id_given(field: &'static str, id: &str) -> Result<(), Status> {
    if id.is_empty() { Err(status::of_request(RequestError::invalid(field, "is required"))) } else { Ok(()) }
}

/// What is gone is stopped and removed.
fn unless_absent<T>(found: Result<T, Status>) -> Result<Option<T>, Status> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Seconds of a request: negative ones are nonsense.
fn seconds(field: &'static str, value: i64) -> Result<Duration, Status> {
    let value = u64::try_from(value).map_err(|_| status::of_request(RequestError::invalid(field, format!("{value} s is negative"))))?;
    // A year is for ever, and still a time that clocks can reach.
    Ok(Duration::from_secs(value.min(365 * 24 * 3600)))
}

#[tonic::async_trait]
impl RuntimeService for Cri {
    type StreamPodSandboxesStream = Pieces<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Pieces<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Pieces<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Pieces<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Pieces<v1::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Pieces<v1::ContainerEventResponse>;

    async fn version(&self, _request: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(node::version()))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(node::status(self, request.into_inner().verbose).await))
    }

    async fn runtime_config(&self, _request: Request<v1::RuntimeConfigRequest>) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        Ok(Response::new(node::runtime_config(self.node.facts.cgroup_driver)))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        node::update_runtime_config(self, request.into_inner().runtime_config).await?;
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        let request = request.into_inner();
        let subject = Subject::of_sandbox(request.config.as_ref());
        let made = async {
            let config = SandboxConfig::try_from(request).map_err(status::of_request)?;
            self.pods.run_sandbox(config).await.map_err(status::of_pod)
        };
        let id = made.await.map_err(|status| status::about(&subject, &status))?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: id.to_string() }))
    }

    async fn stop_pod_sandbox(&self, request: Request<v1::StopPodSandboxRequest>) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        if let Some(record) = unless_absent(self.sandbox(&request.into_inner().pod_sandbox_id))? {
            self.pods.stop_sandbox(&record.id).await.map_err(status::of_pod)?;
        }
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        if let Some(record) = unless_absent(self.sandbox(&request.into_inner().pod_sandbox_id))? {
            self.pods.remove_sandbox(&record.id).await.map_err(status::of_pod)?;
        }
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        sandboxes::status(self, &request.into_inner()).map(Response::new)
    }

    async fn list_pod_sandbox(&self, request: Request<v1::ListPodSandboxRequest>) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        Ok(Response::new(v1::ListPodSandboxResponse { items: sandboxes::list(self, request.into_inner().filter) }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let list = sandboxes::list(self, request.into_inner().filter);
        Ok(pieces(list, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let request = request.into_inner();
        let subject = Subject::of_container(&request);
        let made = async {
            let config = required("config", request.config).and_then(ContainerConfig::try_from).map_err(status::of_request)?;
            let sandbox = self.sandbox(&request.pod_sandbox_id)?;
            self.pods.create_container(&sandbox.id, config).await.map_err(status::of_pod)
        };
        let id = made.await.map_err(|status| status::about(&subject, &status))?;
        Ok(Response::new(v1::CreateContainerResponse { container_id: id.to_string() }))
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Result<Response<v1::StartContainerResponse>, Status> {
        let record = self.container(&request.into_inner().container_id)?;
        self.pods.start_container(&record.sandbox_id, &record.id).await.map_err(status::of_pod)?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Result<Response<v1::StopContainerResponse>, Status> {
        let request = request.into_inner();
        // Some callers say "at once" with a negative number.
        let grace = seconds("timeout", request.timeout.max(0))?;
        if let Some(record) = unless_absent(self.container(&request.container_id))? {
            self.pods.stop_container(&record.sandbox_id, &record.id, grace).await.map_err(status::of_pod)?;
        }
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        if let Some(record) = unless_absent(self.container(&request.into_inner().container_id))? {
            self.pods.remove_container(&record.sandbox_id, &record.id).await.map_err(status::of_pod)?;
        }
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Result<Response<v1::ListContainersResponse>, Status> {
        Ok(Response::new(v1::ListContainersResponse { containers: containers::list(self, request.into_inner().filter) }))
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let list = containers::list(self, request.into_inner().filter);
        Ok(pieces(list, |containers| v1::StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        containers::status(self, &request.into_inner()).map(Response::new)
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Result<Response<v1::ExecSyncResponse>, Status> {
        let request = request.into_inner();
        let command = streaming::command("cmd", request.cmd)?;
        let timeout = Some(seconds("timeout", request.timeout)?).filter(|timeout| !timeout.is_zero());
        let record = self.container(&request.container_id)?;
        let output = self.pods.exec_sync(&record.sandbox_id, &record.id, command, timeout).await.map_err(status::of_pod)?;
        Ok(Response::new(v1::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        let record = self.container(&request.into_inner().container_id)?;
        self.pods.reopen_log(&record.sandbox_id, &record.id).await.map_err(status::of_pod)?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let list = stats::containers(self, request.into_inner().filter).await?;
        Ok(pieces(list, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let list = stats::sandboxes(self, request.into_inner().filter).await?;
        Ok(pieces(list, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let list = stats::metrics(self).await?;
        Ok(pieces(list, |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        let request = request.into_inner();
        let asked = Resources::of_container("linux", request.linux).map_err(status::of_request)?;
        let record = self.container(&request.container_id)?;
        self.pods.update_container(&record.sandbox_id, &record.id, asked).await.map_err(status::of_pod)?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        let request = request.into_inner();
        let overhead = Resources::of_pod("overhead", request.overhead).map_err(status::of_request)?;
        let resources = Resources::of_pod("resources", request.resources).map_err(status::of_request)?;
        let record = self.sandbox(&request.pod_sandbox_id)?;
        self.pods.update_sandbox(&record.id, overhead, resources).await.map_err(status::of_pod)?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<v1::ExecResponse>, Status> {
        streaming::exec(self, request.into_inner()).map(Response::new)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachResponse>, Status> {
        streaming::attach(self, &request.into_inner()).map(Response::new)
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Result<Response<v1::PortForwardResponse>, Status> {
        streaming::port_forward(self, &request.into_inner()).map(Response::new)
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        let stats = stats::container(self, &request.into_inner().container_id).await?;
        Ok(Response::new(v1::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        let stats = stats::containers(self, request.into_inner().filter).await?;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        let stats = stats::sandbox(self, &request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(v1::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        let stats = stats::sandboxes(self, request.into_inner().filter).await?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn checkpoint_container(
        &self,
        _request: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        Err(status::unimplemented("CheckpointContainer"))
    }

    async fn checkpoint_pod(&self, _request: Request<v1::CheckpointPodRequest>) -> Result<Response<v1::CheckpointPodResponse>, Status> {
        Err(status::unimplemented("CheckpointPod"))
    }

    async fn restore_pod(&self, _request: Request<v1::RestorePodRequest>) -> Result<Response<v1::RestorePodResponse>, Status> {
        Err(status::unimplemented("RestorePod"))
    }

    async fn get_container_events(
        &self,
        _request: Request<v1::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        events::subscribe(self).map(Response::new)
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Result<Response<v1::ListMetricDescriptorsResponse>, Status> {
        Ok(Response::new(v1::ListMetricDescriptorsResponse { descriptors: stats::descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<v1::ListPodSandboxMetricsResponse>, Status> {
        Ok(Response::new(v1::ListPodSandboxMetricsResponse { pod_metrics: stats::metrics(self).await? }))
    }
}
