//! The node itself: versions, readiness, configuration.

use super::{Cri, info, status};
use crate::chain::Chain;
use crate::request::RequestError;
use ipnetwork::IpNetwork;
use podbox_cgroup::Driver;
use podbox_proto::v1;
use tonic::Status;

/// The version that the kubelet's client asks for and expects.
const KUBELET_API_VERSION: &str = "0.1.0";
const RUNTIME_API_VERSION: &str = "v1";

/// The answer to Version.
pub(super) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "podbox".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: RUNTIME_API_VERSION.to_owned(),
    }
}

fn condition(name: &str, failure: Option<String>) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: name.to_owned(),
        status: failure.is_none(),
        reason: if failure.is_some() { format!("{name}Failed") } else { String::new() },
        message: failure.unwrap_or_default(),
    }
}

/// The answer to Status. Whoever can ask finds the runtime ready; the network is once its bridge is there.
pub(super) async fn status(cri: &Cri, verbose: bool) -> v1::StatusResponse {
    let user_namespaces = cri.node.facts.no_user_namespaces.is_none();
    let (network, warnings) = network_condition(cri).await;
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions: vec![condition("RuntimeReady", None), network] }),
        info: if verbose { info::of_node(&cri.node, &warnings) } else { Default::default() },
        runtime_handlers: vec![v1::RuntimeHandler {
            name: String::new(),
            features: Some(v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces }),
        }],
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: user_namespaces,
            mount_options: true,
        }),
    }
}

/// A network that stands is ready, whatever another firewall keeps from it: pods run, and reach each other. What it keeps is in the message, and
/// beside it.
async fn network_condition(cri: &Cri) -> (v1::RuntimeCondition, Vec<String>) {
    const NAME: &str = "NetworkReady";
    let network = &cri.node.network;
    if let Err(error) = network.open().await {
        return (condition(NAME, Some(Chain(&error).to_string())), Vec::new());
    }
    let unknown = |error| vec![format!("whether another firewall drops what pods send is unknown: {}", Chain(&error))];
    let warnings = network.warnings().await.unwrap_or_else(unknown);
    (v1::RuntimeCondition { message: warnings.join("; "), ..condition(NAME, None) }, warnings)
}

/// The answer to RuntimeConfig: the kubelet follows the driver that it names.
pub(super) fn runtime_config(driver: Driver) -> v1::RuntimeConfigResponse {
    let cgroup_driver = match driver {
        Driver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        Driver::Systemd => v1::CgroupDriver::Systemd,
    };
    v1::RuntimeConfigResponse { linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: cgroup_driver.into() }) }
}

/// UpdateRuntimeConfig: the node's pod CIDRs, separated by commas. An empty one changes nothing: that is how the kubelet says
/// that it knows none yet.
pub(super) async fn update_runtime_config(cri: &Cri, config: Option<v1::RuntimeConfig>) -> Result<(), Status> {
    const FIELD: &str = "runtime_config.network_config.pod_cidr";
    let cidrs = config.and_then(|config| config.network_config).map(|network| network.pod_cidr).unwrap_or_default();
    let parse = |text: &str| {
        text.trim()
            .parse::<IpNetwork>()
            .map_err(|_| RequestError::invalid(FIELD, format!("{:?} is no CIDR", text.chars().take(64).collect::<String>())))
    };
    let subnets = cidrs.split(',').filter(|text| !text.trim().is_empty()).map(parse).collect::<Result<Vec<_>, _>>();
    let subnets = subnets.map_err(status::of_request)?;
    if subnets.is_empty() || subnets == cri.node.network.subnets() {
        return Ok(());
    }
    cri.pods.set_subnets(&subnets).await.map_err(status::of_pod)
}
