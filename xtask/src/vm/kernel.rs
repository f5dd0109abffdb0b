//! The guests' kernel: Debian's for clouds, fetched as a package and unpacked, never installed.

use crate::packages::recreate;
use crate::setup;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that always depends on the newest one.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the guests need that is not built into the kernel; what these depend on comes with them. Nothing in a guest loads
/// modules later.
const MODULES: &[&str] = &[
    // The disks.
    "virtio_pci",
    "virtio_blk",
    // Containers' roots.
    "overlay",
    "fuse",
    "loop",
    // The pod network.
    "bridge",
    "veth",
    "nf_tables",
    "nf_conntrack",
    // By it flows are forgotten that a host port has made untrue.
    "nf_conntrack_netlink",
    "nf_nat",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_redir",
    "nft_fib_inet",
    "nft_reject_inet",
    "nft_limit",
    "ifb",
    "sch_tbf",
    "dummy",
    // What host ports carry, beside TCP and UDP.
    "sctp",
];

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// Each after those that it depends on.
    pub(super) modules: Vec<PathBuf>,
}

/// The kernel in `folder`, fetched if there is none.
///
/// # Errors
/// The package cannot be fetched or unpacked, or lacks a module.
pub(super) fn fetch(folder: &Path) -> Result<Kernel> {
    let unpacked = folder.join("kernel");
    if !unpacked.exists() {
        let package = newest().or_else(|_| setup::update_package_lists().and_then(|()| newest()))?;
        eprintln!("fetching the kernel: Debian package {package}, unpacked below {}", folder.display());
        let fetched = folder.join("kernel.new");
        recreate(&fetched)?;
        setup::command("apt-get", &["-q", "download", &package], &fetched)?;
        let archive = only_entry(&fetched)?;
        let contents = fetched.join("contents");
        setup::command("dpkg-deb", &["--extract", &archive.to_string_lossy(), &contents.to_string_lossy()], &fetched)?;
        fs::rename(&contents, &unpacked).context("move the kernel to its place")?;
        fs::remove_dir_all(&fetched).context("remove the kernel's package")?;
    }
    let release = only_entry(&unpacked.join("lib/modules"))?.file_name().context("a release")?.to_string_lossy().into_owned();
    let image = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    ensure!(image.exists(), "{} is not in the kernel's package", image.display());
    let modules = Modules::below(&unpacked.join("lib/modules").join(&release))?.in_order(MODULES)?;
    Ok(Kernel { release, image, modules })
}

/// The name of the package behind the one that only depends.
fn newest() -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", "--important", META_PACKAGE]).output().context("run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let depends = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    depends.map(str::to_owned).with_context(|| format!("the package lists have no {META_PACKAGE}"))
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let first = entries.next().with_context(|| format!("{} is empty", folder.display()))?;
    Ok(first.with_context(|| format!("list {}", folder.display()))?.path())
}

/// The files of a kernel's modules, by name.
struct Modules(HashMap<String, PathBuf>);

impl Modules {
    fn below(folder: &Path) -> Result<Self> {
        let mut found = HashMap::new();
        for path in podbox_tests::host::entries_below(folder) {
            if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
                found.insert(normal(name), path.clone());
            }
        }
        ensure!(!found.is_empty(), "no modules below {}", folder.display());
        Ok(Self(found))
    }

    /// Those named and all that they depend on, each after what it depends on.
    fn in_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in names {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let Some(path) = self.0.get(&normal(name)) else { bail!("the kernel's package has no module {name}") };
        if order.contains(path) {
            return Ok(());
        }
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// File names have dashes where the kernel's own names have underscores, or not.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// From a module's section `.modinfo`: texts `KEY=VALUE`, each ended by a zero, one of them `depends=A,B`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let text = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends=")).unwrap_or_default();
    String::from_utf8_lossy(text).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_depend_on_and_only_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let module = |name: &str, depends: &str| {
            let text = format!("\x7fELF\0license=GPL\0depends={depends}\0retpoline=Y\0");
            fs::write(folder.path().join(format!("{name}.ko")), text).expect("write");
        };
        module("llc", "");
        module("stp", "llc");
        module("bridge", "stp,llc");
        module("nf-tables", "");
        module("nft_masq", "nf_tables");
        let modules = Modules::below(folder.path()).expect("modules");
        let order = modules.in_order(&["bridge", "nft_masq", "stp"]).expect("all are there");
        let names: Vec<_> = order.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
        assert_eq!(names, ["llc", "stp", "bridge", "nf-tables", "nft_masq"]);
        assert!(modules.in_order(&["overlay"]).is_err());
    }
}
