//! Numbers of system calls: libseccomp's, and those of calls that are younger than it.

use libseccomp::ScmpSyscall;

/// Calls that the oldest libseccomp in use does not know, by name and number, which is the same on every architecture since Linux 5.1.
const YOUNG: [(&str, u32); 19] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];
/// Calls of x86_64 alone that it does not know.
const YOUNG_OF_X86_64: [(&str, u32); 2] = [("uretprobe", 335), ("uprobe", 336)];

/// The newest call that a profile can mean: of Linux 6.17.
pub(crate) const NEWEST: u32 = 469;

/// A system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syscall {
    /// libseccomp has it, for some architecture at least.
    Known(ScmpSyscall),
    /// By number, on every architecture.
    Young(u32),
    /// By number, on the native architecture alone.
    YoungOfNative(u32),
}

/// `None` if nobody knows it.
pub(crate) fn resolve(name: &str) -> Option<Syscall> {
    if let Ok(known) = ScmpSyscall::from_name(name) {
        return Some(Syscall::Known(known));
    }
    let among = |table: &[(&str, u32)]| table.iter().find(|(other, _)| *other == name).map(|(_, number)| *number);
    if cfg!(target_arch = "x86_64")
        && let Some(number) = among(&YOUNG_OF_X86_64)
    {
        return Some(Syscall::YoungOfNative(number));
    }
    among(&YOUNG).map(Syscall::Young)
}
