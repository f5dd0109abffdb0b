//! What a container sees of its cgroup on v1: below `/sys/fs/cgroup` a directory for each hierarchy that it has a cgroup in, and in
//! that its own cgroup. Nothing above is in sight: no other container's, and no `release_agent`, which stands in a hierarchy's root.

use podbox_plan::{BindPropagation, BindSource, DeviceNode, FileSystem, MountAttributes, NodeKind, Op, Slot, TargetKind};
use std::path::{Path, PathBuf};

/// The type of such a mount in the OCI spec.
pub(super) const CGROUP_V1: &str = "cgroup";

/// The cgroups of a container, one directory a hierarchy, where the container's own path in each is the same.
pub(super) struct Cgroups<'a> {
    /// `/sys/fs/cgroup/memory/PATH` and so on.
    pub(super) directories: &'a [PathBuf],
    /// `PATH`
    pub(super) path: &'a str,
}

/// The ops of the mount at `target`; the first to be used of the slots, the next ones follow it.
pub(super) struct CgroupOps {
    /// While the host is in sight.
    pub(super) opened: Vec<Op>,
    /// When the root is there.
    pub(super) attached: Vec<Op>,
}

impl Cgroups<'_> {
    pub(super) fn mount(&self, target: &Path, attributes: MountAttributes, first_slot: Slot) -> CgroupOps {
        let fs = FileSystem {
            kind: "tmpfs".to_owned(),
            options: [("mode", "755"), ("size", "64k")].map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into(),
            attributes: MountAttributes { read_only: false, ..attributes },
        };
        let mut ops = CgroupOps { opened: Vec::new(), attached: vec![Op::Mount { target: target.to_owned(), fs }] };
        for (slot, (name, source)) in (first_slot..).zip(self.hierarchies()) {
            let target = target.join(name);
            ops.opened.push(Op::OpenBind(BindSource {
                slot,
                source: source.clone(),
                recursive: false,
                attributes,
                recursive_attributes: MountAttributes::default(),
                id_mapped: false,
                propagation: BindPropagation::Private,
            }));
            ops.attached.push(Op::Attach { slot, target: target.clone(), kind: TargetKind::Directory });
            // As hosts have it where controllers share a hierarchy: `cpu` is `cpu,cpuacct`.
            let names = name.split(',').filter(|one| *one != name);
            let link = |one: &str| DeviceNode { path: target.with_file_name(one), kind: NodeKind::Symlink { to: name.into() } };
            ops.attached.extend(names.map(link).map(Op::MakeNode));
        }
        if attributes.read_only {
            ops.attached.push(Op::ReadOnlyMount { target: target.to_owned() });
        }
        ops
    }

    /// By name: the last part of where the hierarchy is mounted.
    fn hierarchies(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        let path = Path::new(self.path.trim_start_matches('/'));
        self.directories.iter().filter_map(move |directory| {
            let above = directory.ancestors().nth(path.components().count())?;
            let is_the_mount_point = directory.strip_prefix(above) == Ok(path);
            Some((above.file_name()?.to_str()?, directory)).filter(|_| is_the_mount_point)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_called_by_where_it_is_mounted_and_its_controllers_are_links() {
        let directories = ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/cpu,cpuacct/a/b", "/elsewhere/b"].map(PathBuf::from);
        let attributes = MountAttributes { read_only: true, ..MountAttributes::default() };
        let ops = Cgroups { directories: &directories, path: "/a/b" }.mount(Path::new("/sys/fs/cgroup"), attributes, 7);
        assert_eq!(ops.opened.len(), 2);
        let said: Vec<String> = ops.attached.iter().map(ToString::to_string).collect();
        let want = [
            "mount tmpfs on /sys/fs/cgroup",
            "attach the mount /sys/fs/cgroup/memory",
            "attach the mount /sys/fs/cgroup/cpu,cpuacct",
            "make /sys/fs/cgroup/cpu",
            "make /sys/fs/cgroup/cpuacct",
            "make the mount /sys/fs/cgroup read-only",
        ];
        assert_eq!(said, want);
    }
}
