//! What confines a process from its `execve(2)` on, and the ops by which it comes about.
//!
//! Files of the host and its `/proc` are read first of all, before anything is joined or left. The filter is loaded as late as can be:
//! with `no_new_privs` right before the program, without it before the process gives up what loading takes (`CAP_SYS_ADMIN`), so that the
//! steps in between are done under it, as with other runtimes.

use super::ContainerPlan;
use oci_spec::runtime::Spec;
use podbox_plan::{Op, SecurityModule};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A seccomp filter that was compiled, and where it stands: what was compiled once holds for all that is executed, whatever becomes of
/// the profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompFilter {
    /// Its instructions.
    pub file: PathBuf,
    /// `runtime/default` or the profile's path.
    pub profile: String,
    /// How many instructions it has.
    pub instructions: usize,
    /// `SECCOMP_FILTER_FLAG_LOG`
    pub log: bool,
    /// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`
    pub spec_allow: bool,
    /// `SECCOMP_FILTER_FLAG_TSYNC`
    pub tsync: bool,
}

/// What confines a process; the default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessConfinement {
    /// System calls.
    pub seccomp: Option<SeccompFilter>,
    /// The name of an AppArmor profile.
    pub apparmor: Option<String>,
    /// An SELinux context.
    pub selinux: Option<String>,
}

impl ProcessConfinement {
    /// Puts its ops where they belong among those of a launch, which are all there.
    pub fn apply(&self, ops: &mut Vec<Op>) {
        if let Some(filter) = &self.seccomp {
            let has_no_new_privileges = ops.contains(&Op::NoNewPrivileges);
            let is_behind = |op: &Op| match op {
                Op::Exec { .. } => true,
                Op::Credentials { .. } => !has_no_new_privileges,
                _ => false,
            };
            let at = ops.iter().position(is_behind).unwrap_or(ops.len());
            let SeccompFilter { log, spec_allow, tsync, .. } = *filter;
            ops.insert(at, Op::LoadSeccompFilter { log, spec_allow, tsync });
        }
        let label = |module, label: &String| Op::SetExecLabel { module, label: label.clone() };
        let apparmor = self.apparmor.iter().map(|name| label(SecurityModule::AppArmor, name));
        let selinux = self.selinux.iter().map(|context| label(SecurityModule::Selinux, context));
        let filter = self.seccomp.iter().map(|filter| Op::ReadSeccompFilter { path: filter.file.clone() });
        ops.splice(0..0, apparmor.chain(selinux).chain(filter));
        if let Some(label) = self.file_label() {
            ops.iter_mut().for_each(|op| label_files(op, &label));
        }
    }

    /// What files are to be for a process of this SELinux context: a container's, of its level.
    fn file_label(&self) -> Option<String> {
        let level = self.selinux.as_ref()?.splitn(4, ':').nth(3)?;
        Some(format!("system_u:object_r:container_file_t:{level}"))
    }
}

/// Every file of a mount that is the process's alone. Volumes are labelled as the host has them.
///
/// Message queues have what the node's policy gives them: the pod's are one file system, which the kernel makes with the IPC namespace, and
/// which cannot be mounted with another label than it has (`EINVAL`). Of file systems that belong to a user namespace, the kernel lets tmpfs,
/// ramfs and devpts (newer kernels overlayfs, too) say what their files are, and refuses all others (`EACCES`, `selinux_set_mnt_opts()`): the
/// overlays of such pods are put together before the namespace is entered, and belong to the node's.
fn label_files(op: &mut Op, label: &str) {
    match op {
        Op::OverlayRoot { overlay, .. } | Op::OpenOverlay { overlay, .. } => overlay.context = Some(label.to_owned()),
        Op::OpenImage(layers) => layers.context = Some(label.to_owned()),
        Op::Mount { fs, .. } if matches!(fs.kind.as_str(), "tmpfs" | "devpts") => {
            fs.options.push(("context".to_owned(), Some(label.to_owned())));
        }
        _ => {}
    }
}

impl ContainerPlan {
    /// Confines the container; the labels also stand in its spec, for people.
    pub fn confine(&mut self, confinement: ProcessConfinement) {
        if let Some(process) = self.spec.process_mut() {
            process.set_apparmor_profile(confinement.apparmor.clone());
            process.set_selinux_label(confinement.selinux.clone());
        }
        self.confinement = confinement;
    }
}

/// Capabilities that a container's processes can have, as `CAP_NAME`.
#[must_use]
pub fn capability_names(spec: &Spec) -> BTreeSet<String> {
    let sets = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let bounding = sets.and_then(|sets| sets.bounding().as_ref());
    let mask = bounding.map_or(0, super::capability::mask_of);
    super::capability::missing(!mask).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use podbox_plan::{CapabilitySets, Program};

    fn names(no_new_privileges: bool) -> Vec<String> {
        let mut ops = vec![Op::LeaveHostMounts, Op::PivotRoot];
        ops.extend(no_new_privileges.then_some(Op::NoNewPrivileges));
        ops.push(Op::Credentials { uid: 0, gid: 0, groups: vec![], capabilities: CapabilitySets::default() });
        ops.push(Op::Exec { program: Program::FromArguments, arguments: vec!["a".into()], environment: vec![] });
        let filter = SeccompFilter {
            file: "/f".into(),
            profile: "runtime/default".to_owned(),
            instructions: 1,
            log: false,
            spec_allow: false,
            tsync: false,
        };
        let all = ProcessConfinement { seccomp: Some(filter), apparmor: Some("p".to_owned()), selinux: None };
        all.apply(&mut ops);
        ops.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_have_the_level_of_their_process() {
        let of = |kind: &str| Op::Mount {
            target: "/x".into(),
            fs: podbox_plan::FileSystem { kind: kind.to_owned(), options: vec![], attributes: podbox_plan::MountAttributes::default() },
        };
        let mut ops = vec![of("tmpfs"), of("mqueue"), of("proc"), of("devpts")];
        let confinement =
            ProcessConfinement { selinux: Some("system_u:system_r:container_t:s0:c1,c2".to_owned()), ..ProcessConfinement::default() };
        confinement.apply(&mut ops);
        let label = ("context".to_owned(), Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned()));
        let is_labelled: Vec<bool> = ops
            .iter()
            .filter_map(|op| if let Op::Mount { fs, .. } = op { Some(fs.options == std::slice::from_ref(&label)) } else { None })
            .collect();
        assert_eq!(is_labelled, [true, false, false, true]);
    }

    #[test]
    fn the_filter_comes_as_late_as_it_can() {
        let first = ["ask for the AppArmor profile \"p\"", "read the seccomp filter", "leave the host's mounts", "enter the root"];
        let (filter, user, program) = ("load the seccomp filter", "become user 0 and group 0", "execute \"a\"");
        assert_eq!(names(true), [first.as_slice(), &["set no_new_privs", user, filter, program]].concat());
        assert_eq!(names(false), [first.as_slice(), &[filter, user, program]].concat());
    }
}
