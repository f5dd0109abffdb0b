//! Limits of huge pages are kept by the kernel; where it has none, they are refused by name.

use anyhow::Result;
use podbox_proto::v1;
use podbox_tests::host::lacks;
use podbox_tests::limits::{Limits, content, kept_by_kernel, prepared, update};
use podbox_tests::{ContainerSpec, assert_refused};
use std::path::{Path, PathBuf};
use tonic::Code;

/// A file system of huge pages, and pages for it, for as long as the test runs.
struct HugePages {
    mounted: PathBuf,
    surplus: Option<String>,
}

const SURPLUS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";
const SURPLUS_OF_TEST: &str = "8";

impl HugePages {
    /// None where the kernel has no such pages.
    fn new(at: &Path) -> Result<Option<Self>> {
        let Ok(surplus) = std::fs::read_to_string(SURPLUS) else { return Ok(None) };
        std::fs::create_dir(at)?;
        let options = Some("pagesize=2M");
        if nix::mount::mount(Some("none"), at, Some("hugetlbfs"), nix::mount::MsFlags::empty(), options).is_err() {
            return Ok(None);
        }
        let mut pages = Self { mounted: at.to_owned(), surplus: None };
        // Pages that come when they are used and go with the file: nobody else loses any.
        if surplus.trim() == "0" {
            std::fs::write(SURPLUS, SURPLUS_OF_TEST)?;
            pages.surplus = Some(surplus);
        }
        Ok(Some(pages))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _best_effort = nix::mount::umount2(&self.mounted, nix::mount::MntFlags::MNT_DETACH);
        if let Some(surplus) = &self.surplus {
            let _best_effort = std::fs::write(SURPLUS, surplus.trim());
        }
    }
}

#[tokio::test]
async fn huge_pages_beyond_the_limit_cannot_be_had() -> Result<()> {
    let (daemon, pod) = prepared("huge").await?;
    let limit = |bytes: u64| {
        move |limits: &mut Limits| limits.hugepage_limits.push(v1::HugepageLimit { page_size: "2MB".to_owned(), limit: bytes })
    };
    // The kubelet names every size, with 0 where nothing was asked for: any kernel keeps that.
    let none = pod.run(&ContainerSpec::sleeper("none").resources(limit(0))).await?;
    let kept = kept_by_kernel(&pod, &["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"]).await?;
    if kept.is_empty() {
        let refused = pod.run(&ContainerSpec::sleeper("some").resources(limit(4 << 20))).await;
        assert_refused(refused, Code::FailedPrecondition, &["huge"]);
        lacks("limit of huge pages of 2 MB in its cgroups");
        return Ok(());
    }
    let Some(pages) = HugePages::new(&daemon.directory().join("huge"))? else {
        lacks("huge pages of 2 MB");
        return Ok(());
    };
    let spec = ContainerSpec::sleeper("some").mount(&pages.mounted, "/huge").resources(limit(4 << 20));
    let container = pod.run(&spec).await?;
    assert_eq!(content(&none, &kept).await?, "0");
    assert_eq!(content(&container, &["hugetlb.2MB.rsvd.max", "hugetlb.2MB.rsvd.limit_in_bytes"]).await?, (4 << 20).to_string());
    let take = |mebibytes: u32| format!("fallocate -l {} /huge/file", mebibytes << 20);
    assert_eq!(container.exec(&["/bin/sh", "-c", &take(4)]).await?.code, 0, "two pages are within the limit");
    container.sh("rm /huge/file").await?;
    assert_ne!(container.exec(&["/bin/sh", "-c", &take(6)]).await?.code, 0, "three are not");
    container.sh("rm -f /huge/file").await?;
    update(&daemon, &container, limit(8 << 20)).await?;
    assert_eq!(container.exec(&["/bin/sh", "-c", &take(6)]).await?.code, 0, "and are once the limit is higher");
    container.sh("rm -f /huge/file").await?;
    container.remove().await?;
    Ok(())
}

#[tokio::test]
async fn huge_pages_of_a_size_that_is_not_there_are_refused_by_name() -> Result<()> {
    let (_daemon, pod) = prepared("huge-size").await?;
    let limit = |bytes: u64| {
        move |limits: &mut Limits| limits.hugepage_limits.push(v1::HugepageLimit { page_size: "3MB".to_owned(), limit: bytes })
    };
    pod.create(&ContainerSpec::sleeper("zero").resources(limit(0))).await?;
    let refused = pod.create(&ContainerSpec::sleeper("some").resources(limit(3 << 20))).await;
    assert_refused(refused, Code::FailedPrecondition, &["huge"]);
    Ok(())
}
