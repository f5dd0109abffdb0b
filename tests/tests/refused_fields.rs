//! A field that podbox does not honour yet is refused with an error that names it, never ignored.

use anyhow::Result;
use podbox_proto::v1;
use podbox_proto::v1::security_profile::ProfileType;
use podbox_tests::{Census, ContainerSpec, Daemon, PodSpec, assert_refused, wait};
use tonic::Code;

fn profile(kind: ProfileType) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: "/profile".to_owned() })
}

fn containers() -> Vec<(&'static str, ContainerSpec)> {
    let container = || ContainerSpec::sleeper("refused");
    let cdi = v1::CdiDevice { name: "vendor.com/class=name".to_owned() };
    vec![("cdi_devices", container().with(|config| config.cdi_devices = vec![cdi]))]
}

#[tokio::test]
async fn what_is_not_honoured_yet_is_refused_by_name() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    daemon.warm_up().await?;
    let pod = daemon.run_pod(&PodSpec::new("there")).await?;
    let before = Census::at_rest(&daemon).await?;
    for (field, spec) in containers() {
        assert_refused(pod.create(&spec).await, Code::Unimplemented, &[field, "podbox"]);
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// The node's namespace is had by way of the pod: a container that asks for more than its pod has would not get it.
#[tokio::test]
async fn a_namespace_that_contradicts_the_pods_is_refused_by_name() -> Result<()> {
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    let daemon = Daemon::for_test().await?;
    let with = |name: &str, change: &dyn Fn(&mut v1::NamespaceOption)| {
        ContainerSpec::sleeper(name).security(|security| change(security.namespace_options.get_or_insert_default()))
    };
    let own = daemon.run_pod(&PodSpec::new("own")).await?;
    let target = own.run(&ContainerSpec::sleeper("target")).await?;
    let before = Census::at_rest(&daemon).await?;
    let network = with("network", &|options| options.set_network(Node));
    let ipc = with("ipc", &|options| options.set_ipc(Node));
    let pid = with("pid", &|options| options.set_pid(Node));
    for (field, spec) in [("network", network), ("ipc", ipc), ("pid", pid)] {
        assert_refused(own.create(&spec).await, Code::InvalidArgument, &[&format!("namespace_options.{field}"), "NODE"]);
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await?;
    // What the kubelet sends, and what callers send that say nothing of the container: the pod's namespaces, whosever they are.
    own.create(&with("debugger", &|options| {
        options.set_pid(Target);
        target.id.clone_into(&mut options.target_id);
    }))
    .await?;
    own.create(&with("shared", &|options| options.set_pid(Pod))).await?;
    let node = daemon.run_pod(&PodSpec::new("node").network(Node).ipc(Node).pid(Node)).await?;
    node.create(&with("same", &|options| {
        options.set_network(Node);
        options.set_ipc(Node);
        options.set_pid(Node);
    }))
    .await?;
    node.create(&with("alone", &|options| options.set_pid(Container))).await?;
    node.create(&ContainerSpec::sleeper("silent").with(|config| config.linux = None)).await?;
    Ok(())
}

/// No id is there yet that a log could be searched for.
#[tokio::test]
async fn an_error_of_a_making_says_whose_request_it_was() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let pod = daemon.run_pod(&PodSpec::new("there")).await?;
    let port = v1::PortMapping { container_port: 80, host_port: 65_536, ..Default::default() };
    let senseless = PodSpec::new("culprit").with(|config| config.port_mappings = vec![port]);
    assert_refused(daemon.run_pod(&senseless).await, Code::InvalidArgument, &["sandbox default/culprit", "port_mappings"]);
    let cdi = v1::CdiDevice { name: "vendor.com/class=name".to_owned() };
    let unhonoured = ContainerSpec::sleeper("culprit").with(|config| config.cdi_devices = vec![cdi]);
    let of_pod = format!("container culprit of sandbox {}", pod.id);
    assert_refused(pod.create(&unhonoured).await, Code::Unimplemented, &[&of_pod, "cdi_devices"]);
    assert_refused(pod.create(&ContainerSpec::sleeper("culprit").image("absent")).await, Code::NotFound, &[&of_pod, "absent"]);
    Ok(())
}

/// The kubelet sends these whether or not a pod asked for anything.
#[tokio::test]
#[allow(deprecated)]
async fn what_asks_for_nothing_is_taken() -> Result<()> {
    let daemon = Daemon::for_test().await?;
    let port = v1::PortMapping { container_port: 80, ..Default::default() };
    let spec = PodSpec::new("plain")
        .security(|security| {
            security.seccomp = profile(ProfileType::Unconfined);
            security.apparmor = profile(ProfileType::Unconfined);
            security.selinux_options = Some(v1::SeLinuxOption::default());
            let node = v1::UserNamespace { mode: v1::NamespaceMode::Node.into(), ..Default::default() };
            security.namespace_options.get_or_insert_default().userns_options = Some(node);
        })
        .with(|config| config.port_mappings = vec![port]);
    let pod = daemon.run_pod(&spec).await?;
    let container = ContainerSpec::command("plain", &["/bin/true"]).security(|security| {
        security.seccomp = profile(ProfileType::Unconfined);
        security.apparmor = profile(ProfileType::Unconfined);
        "unconfined".clone_into(&mut security.seccomp_profile_path);
        "unconfined".clone_into(&mut security.apparmor_profile);
    });
    pod.output_of(&container).await?;
    // And this is a request with nothing in it but what must be there.
    let bare = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "bare".to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: podbox_tests::image::DEFAULT_NAME.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let container = pod.run(&ContainerSpec { config: bare }).await?;
    assert_eq!(container.exit_code().await?, 0);
    Ok(())
}
