//! Capabilities: names, numbers and the default set (`capabilities(7)`).

use crate::request::Capabilities;
use oci_spec::runtime::Capability;
use podbox_plan::CapabilitySets;
use std::collections::HashSet;

/// A capability cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// A name that no kernel knows.
    #[error("there is no capability {name:?}")]
    Unknown {
        /// The name, without `CAP_`.
        name: String,
    },
    /// It was asked for by name, and the daemon does not have it itself.
    #[error("the capability {name} cannot be added: this host does not let podbox have it")]
    NotOurs {
        /// The name, without `CAP_`.
        name: String,
    },
}

/// In the kernel's order: the index is the number.
const ALL: [(&str, Capability); 41] = [
    ("CHOWN", Capability::Chown),
    ("DAC_OVERRIDE", Capability::DacOverride),
    ("DAC_READ_SEARCH", Capability::DacReadSearch),
    ("FOWNER", Capability::Fowner),
    ("FSETID", Capability::Fsetid),
    ("KILL", Capability::Kill),
    ("SETGID", Capability::Setgid),
    ("SETUID", Capability::Setuid),
    ("SETPCAP", Capability::Setpcap),
    ("LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("NET_BIND_SERVICE", Capability::NetBindService),
    ("NET_BROADCAST", Capability::NetBroadcast),
    ("NET_ADMIN", Capability::NetAdmin),
    ("NET_RAW", Capability::NetRaw),
    ("IPC_LOCK", Capability::IpcLock),
    ("IPC_OWNER", Capability::IpcOwner),
    ("SYS_MODULE", Capability::SysModule),
    ("SYS_RAWIO", Capability::SysRawio),
    ("SYS_CHROOT", Capability::SysChroot),
    ("SYS_PTRACE", Capability::SysPtrace),
    ("SYS_PACCT", Capability::SysPacct),
    ("SYS_ADMIN", Capability::SysAdmin),
    ("SYS_BOOT", Capability::SysBoot),
    ("SYS_NICE", Capability::SysNice),
    ("SYS_RESOURCE", Capability::SysResource),
    ("SYS_TIME", Capability::SysTime),
    ("SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("MKNOD", Capability::Mknod),
    ("LEASE", Capability::Lease),
    ("AUDIT_WRITE", Capability::AuditWrite),
    ("AUDIT_CONTROL", Capability::AuditControl),
    ("SETFCAP", Capability::Setfcap),
    ("MAC_OVERRIDE", Capability::MacOverride),
    ("MAC_ADMIN", Capability::MacAdmin),
    ("SYSLOG", Capability::Syslog),
    ("WAKE_ALARM", Capability::WakeAlarm),
    ("BLOCK_SUSPEND", Capability::BlockSuspend),
    ("AUDIT_READ", Capability::AuditRead),
    ("PERFMON", Capability::Perfmon),
    ("BPF", Capability::Bpf),
    ("CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What a container has that asks for nothing: containerd's set. Between MKNOD and the node's disks stands the device filter.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn number_of(name: &str) -> Result<u32, CapabilityError> {
    let index = ALL.iter().position(|(known, _)| *known == name);
    index.and_then(|index| u32::try_from(index).ok()).ok_or_else(|| CapabilityError::Unknown { name: name.to_owned() })
}

/// Every capability.
pub(super) fn all() -> u64 {
    (1 << ALL.len()) - 1
}

/// The sets of a request: the default one, or all and none for `ALL`, then what is added, then what is dropped; never more than
/// `ours`, what the daemon has itself. All means all there are; one that is asked for by name and cannot be had is an error.
/// What is to be ambient is added like the rest: the kernel lets nothing be ambient that is not permitted.
pub(super) fn requested(request: &Capabilities, privileged: bool, ours: u64) -> Result<CapabilitySets, CapabilityError> {
    let is_all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let mask_of =
        |names: &[String]| names.iter().filter(|name| *name != "ALL").try_fold(0_u64, |mask, name| Ok(mask | 1 << number_of(name)?));
    let (named_ambient, dropped) = (mask_of(&request.ambient)?, mask_of(&request.drop)?);
    let added = mask_of(&request.add)? | named_ambient;
    let all_ambient = is_all(&request.ambient);
    let sets =
        |mask: u64| CapabilitySets { bounding: mask, permitted: mask, ambient: mask & if all_ambient { all() } else { named_ambient } };
    if privileged {
        return Ok(sets(all() & ours));
    }
    let missing = added & !dropped & !ours;
    if let Some((_, (name, _))) = ALL.iter().enumerate().find(|(number, _)| missing & (1 << number) != 0) {
        return Err(CapabilityError::NotOurs { name: (*name).to_owned() });
    }
    let default = DEFAULT.iter().try_fold(0_u64, |mask, name| Ok::<_, CapabilityError>(mask | 1 << number_of(name)?))?;
    let base = match (is_all(&request.add) || all_ambient, is_all(&request.drop)) {
        (true, _) => all(),
        (false, true) => 0,
        (false, false) => default,
    };
    // Dropping ALL and adding some leaves the added; dropping one by name always wins.
    Ok(sets((base | added) & !dropped & ours))
}

/// The names of what is not in a mask.
pub(super) fn missing(mask: u64) -> Vec<String> {
    let absent = ALL.iter().enumerate().filter(|(number, _)| mask & (1 << number) == 0);
    absent.map(|(_, (name, _))| format!("CAP_{name}")).collect()
}

/// The set of a mask, as the OCI spec has it.
pub(super) fn names_of(mask: u64) -> HashSet<Capability> {
    ALL.iter().enumerate().filter(|(number, _)| mask & (1 << number) != 0).map(|(_, (_, capability))| *capability).collect()
}

/// The mask of a set.
pub(super) fn mask_of(set: &HashSet<Capability>) -> u64 {
    ALL.iter().enumerate().filter(|(_, (_, capability))| set.contains(capability)).fold(0, |mask, (number, _)| mask | 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(add: &[&str], drop: &[&str]) -> u64 {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let sets = requested(&Capabilities { add: names(add), drop: names(drop), ambient: Vec::new() }, false, all()).expect("known names");
        assert_eq!((sets.bounding, sets.ambient), (sets.permitted, 0));
        sets.permitted
    }

    #[test]
    fn add_and_drop_act_on_the_default_set() {
        let default = mask(&[], &[]);
        assert_eq!(default.count_ones(), 14);
        assert_eq!(mask(&["NET_ADMIN"], &[]), default | 1 << 12);
        assert_eq!(mask(&[], &["CHOWN"]), default & !1);
        assert_eq!(mask(&[], &["ALL"]), 0);
        assert_eq!(mask(&["SYS_TIME"], &["ALL"]), 1 << 25);
        assert_eq!(mask(&["ALL"], &[]), all());
        assert_eq!(mask(&["ALL"], &["CHOWN"]), all() & !1);
        assert!(requested(&Capabilities { add: vec!["NONE".to_owned()], ..Capabilities::default() }, false, all()).is_err());
    }

    #[test]
    fn what_the_host_withholds_is_left_out_of_all_and_refused_by_name() {
        let ours = all() & !(1 << 24);
        let ask = |add: &[&str], privileged| {
            let add = add.iter().map(|name| (*name).to_owned()).collect();
            requested(&Capabilities { add, ..Capabilities::default() }, privileged, ours).map(|sets| sets.permitted)
        };
        assert_eq!(ask(&["ALL"], false), Ok(ours));
        assert_eq!(ask(&[], true), Ok(ours));
        assert_eq!(ask(&["SYS_RESOURCE"], false), Err(CapabilityError::NotOurs { name: "SYS_RESOURCE".to_owned() }));
    }

    #[test]
    fn what_is_ambient_is_in_every_set_and_what_is_dropped_in_none() {
        let ask = |ambient: &[&str], drop: &[&str], privileged| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let request = Capabilities { add: Vec::new(), drop: names(drop), ambient: names(ambient) };
            requested(&request, privileged, all()).expect("known names")
        };
        let net_admin = 1 << 12;
        assert_eq!(ask(&["NET_ADMIN"], &["ALL"], false), CapabilitySets { bounding: net_admin, permitted: net_admin, ambient: net_admin });
        assert_eq!(ask(&["NET_ADMIN"], &["NET_ADMIN"], false).ambient, 0);
        assert_eq!(ask(&["ALL"], &["CHOWN"], false).ambient, all() & !1);
        assert_eq!(ask(&["CHOWN"], &[], true), CapabilitySets { bounding: all(), permitted: all(), ambient: 1 });
        assert_eq!(ask(&[], &[], true).ambient, 0);
    }

    #[test]
    fn masks_and_names_are_the_same_thing() {
        for mask in [0, 1, all(), 0b1010_0000_0001] {
            assert_eq!(mask_of(&names_of(mask)), mask);
        }
    }
}
