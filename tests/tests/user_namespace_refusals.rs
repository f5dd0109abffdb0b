//! Users of a pod's own that cannot be, or are not what the pod has: refused by name, before anything is made.

use anyhow::Result;
use podbox_proto::v1;
use podbox_proto::v1::NamespaceMode;
use podbox_tests::spec::own_users;
use podbox_tests::{Census, ContainerSpec, Daemon, DaemonOptions, PodSpec, TestImage, assert_refused, wait};
use std::path::Path;
use tonic::Code;

fn mapping(host_id: u32, container_id: u32, length: u32) -> v1::IdMapping {
    v1::IdMapping { host_id, container_id, length }
}

fn users(uids: &[v1::IdMapping], gids: &[v1::IdMapping]) -> v1::UserNamespace {
    v1::UserNamespace { mode: NamespaceMode::Pod.into(), uids: uids.to_vec(), gids: gids.to_vec() }
}

#[tokio::test]
async fn a_pod_with_users_that_cannot_be_is_refused() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let before = daemon.warm_up().await?;
    let good = mapping(100_000, 0, 65536);
    let pod = |users| PodSpec::new("refused").users(Some(users));
    let mode = |mode: NamespaceMode| v1::UserNamespace { mode: mode.into(), ..own_users() };
    let (uids, gids) = ("userns_options.uids", "userns_options.gids");
    for (spec, words) in [
        (pod(users(&[], &[good])), [uids, "exactly one"]),
        (pod(users(&[good], &[])), [gids, "exactly one"]),
        (pod(users(&[good, mapping(300_000, 65536, 10)], &[good])), [uids, "exactly one"]),
        (pod(users(&[good], &[good, mapping(300_000, 65536, 10)])), [gids, "exactly one"]),
        (pod(users(&[mapping(100_000, 1, 65536)], &[good])), [uids, "id 0 of the container"]),
        (pod(users(&[good], &[mapping(100_000, 1, 65536)])), [gids, "id 0 of the container"]),
        (pod(users(&[mapping(100_000, 0, 0)], &[good])), [uids, "length"]),
        (pod(users(&[mapping(0, 0, 65536)], &[good])), [uids, "the node's"]),
        (pod(users(&[mapping(u32::MAX - 9, 0, 10)], &[good])), [uids, "there are no"]),
        (pod(users(&[good], &[mapping(4_294_950_000, 0, 65536)])), [gids, "there are no"]),
        (pod(users(&[good], &[mapping(100_000, 0, 5)])), [gids, "group 5"]),
        (pod(mode(NamespaceMode::Container)), ["userns_options", "POD or NODE"]),
        (pod(mode(NamespaceMode::Target)), ["userns_options", "POD or NODE"]),
        (pod(mode(NamespaceMode::Node)), ["userns_options", "NODE takes no"]),
        (pod(v1::UserNamespace { mode: 17, ..own_users() }), ["userns_options", "17"]),
        (pod(own_users()).pid(NamespaceMode::Node), ["namespace_options.pid", "exclude each other"]),
        (pod(own_users()).ipc(NamespaceMode::Node), ["namespace_options.ipc", "exclude each other"]),
    ] {
        assert_refused(daemon.run_pod(&spec).await, Code::InvalidArgument, &words);
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

#[tokio::test]
async fn a_container_that_is_at_odds_with_its_pods_users_is_refused() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    daemon.import(&TestImage { user: "70000".to_owned(), ..TestImage::named("stranger") })?;
    let of_node = daemon.run_pod(&PodSpec::new("of-node")).await?;
    let Ok(mapped) = daemon.run_pod(&PodSpec::new("mapped").users(Some(own_users()))).await else {
        podbox_tests::host::lacks("mounts with mapped ids");
        return Ok(());
    };
    // The folders of their containers stay.
    of_node.create(&ContainerSpec::sleeper("first")).await?.remove().await?;
    mapped.create(&ContainerSpec::sleeper("first").users(Some(own_users()))).await?.remove().await?;
    let before = Census::at_rest(&daemon).await?;
    let container = || ContainerSpec::sleeper("refused");
    let own = || container().users(Some(own_users()));
    let node = v1::UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() };
    let other = users(&[mapping(200_000, 0, 65536)], &[mapping(200_000, 0, 65536)]);
    let shorter = users(&[mapping(100_000, 0, 1000)], &[mapping(100_000, 0, 65536)]);
    let (users_field, not_the_pods) = ("userns_options", "not the pod's");
    let mounted = |spec: ContainerSpec, uids: &[v1::IdMapping], gids: &[v1::IdMapping]| {
        spec.mount_with(Path::new("/tmp"), "/volume", |mount| {
            (mount.uid_mappings, mount.gid_mappings) = (uids.to_vec(), gids.to_vec());
        })
    };
    let good = own_users().uids;
    let propagation = v1::MountPropagation::PropagationBidirectional;
    let id = |value| Some(v1::Int64Value { value });
    for (pod, spec, words) in [
        (&mapped, container(), [users_field, not_the_pods]),
        (&mapped, container().users(Some(node)), [users_field, not_the_pods]),
        (&mapped, container().users(Some(other.clone())), [users_field, not_the_pods]),
        (&mapped, container().users(Some(shorter)), [users_field, not_the_pods]),
        (&of_node, own(), [users_field, not_the_pods]),
        (&mapped, own().pid(NamespaceMode::Node), ["namespace_options.pid", "NODE"]),
        (&of_node, mounted(container(), &good, &good), ["/volume", "not the pod's userns_options"]),
        (&mapped, mounted(own(), &other.uids, &other.gids), ["/volume", "not the pod's userns_options"]),
        (&mapped, mounted(own(), &good, &[]), ["config.mounts.gid_mappings", "is required"]),
        (&mapped, mounted(own(), &[], &good), ["config.mounts.uid_mappings", "is required"]),
        (&mapped, mounted(own(), &[good[0], good[0]], &good), ["config.mounts.uid_mappings", "exactly one"]),
        (
            &mapped,
            own().mount_with(Path::new("/tmp"), "/volume", |mount| mount.propagation = propagation.into()),
            ["/volume", "not for the node"],
        ),
        (&mapped, own().security(|security| security.run_as_user = id(65536)), ["user 65536", "65535"]),
        (&mapped, own().security(|security| (security.run_as_user, security.run_as_group) = (id(1), id(65536))), ["group 65536", "65535"]),
        (&mapped, own().security(|security| security.supplemental_groups = vec![5, 70000]), ["group 70000", "65535"]),
        (&mapped, own().image("localhost/podbox-test/stranger:latest"), ["user 70000", "65535"]),
    ] {
        assert_refused(pod.create(&spec).await.map(|container| container.id), Code::InvalidArgument, &words);
    }
    Census::settle(&daemon, &before, wait::DEADLINE).await
}

/// A file system whose ids cannot be mapped: what is mounted there is named, and nothing is changed in its stead.
#[tokio::test]
async fn a_volume_whose_ids_cannot_be_mapped_is_named() -> Result<()> {
    let daemon = Daemon::for_test_with(DaemonOptions::default().on_disk()).await?;
    let Ok(pod) = daemon.run_pod(&PodSpec::new("mapped").users(Some(own_users()))).await else {
        podbox_tests::host::lacks("mounts with mapped ids");
        return Ok(());
    };
    let spec = ContainerSpec::sleeper("a").users(Some(own_users())).mount_with(Path::new("/proc/sys"), "/volume", |mount| {
        (mount.uid_mappings, mount.gid_mappings) = (own_users().uids, own_users().gids);
    });
    let container = pod.create(&spec).await?;
    assert_refused(container.start().await, Code::FailedPrecondition, &["/proc/sys", "does not support"]);
    Ok(pod.end().await?)
}
