//! `seccomp(2)`: taking a filter on.

use crate::SysError;
use crate::error::checked;

const SET_MODE_FILTER: libc::c_uint = 1;
const FLAG_TSYNC: libc::c_ulong = 1;
const FLAG_LOG: libc::c_ulong = 2;
const FLAG_SPEC_ALLOW: libc::c_ulong = 4;

/// One instruction of classic BPF, the kernel's `struct sock_filter`, as bytes.
pub type FilterInstruction = [u8; 8];

/// How a filter is taken on; all off is the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterFlags {
    /// Log all but what is allowed.
    pub log: bool,
    /// Leave speculative store bypass as it is.
    pub spec_allow: bool,
    /// All threads of the process.
    pub tsync: bool,
}

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const FilterInstruction,
}

/// Puts the calling thread, and what it will execute, under a filter for ever. It adds to those that are there.
///
/// # Errors
/// What `seccomp(2)` says: `EACCES` without `CAP_SYS_ADMIN` and `no_new_privs`, `EINVAL` for a program that the kernel finds fault with
/// or that is empty or too long, `ENOMEM` where filters together are.
pub fn load_filter(instructions: &[FilterInstruction], flags: FilterFlags) -> Result<(), SysError> {
    // One that is longer than a number can tell is empty to the kernel, and refused.
    let length = u16::try_from(instructions.len()).unwrap_or(0);
    let program = Program { length, instructions: instructions.as_ptr() };
    let bits = [(flags.tsync, FLAG_TSYNC), (flags.log, FLAG_LOG), (flags.spec_allow, FLAG_SPEC_ALLOW)];
    let bits: libc::c_ulong = bits.into_iter().filter(|(wanted, _)| *wanted).map(|(_, bit)| bit).sum();
    // SAFETY: the structure has the layout that the command reads and points to as many instructions of eight bytes as it says; the kernel
    // copies the bytes one by one, so that they need no alignment, only reads, and keeps no pointer.
    checked("seccomp", unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, bits, &raw const program) })?;
    Ok(())
}
