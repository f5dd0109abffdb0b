//! `bpf(2)`: the programs that decide on a cgroup's use of devices.

use crate::SysError;
use crate::error::checked;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One instruction, the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct BpfInstruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl BpfInstruction {
    /// What to do, on which registers (0 to 10), how many instructions to pass over, and with which number: each as far as `code` uses it.
    #[must_use]
    pub const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        let (destination, source) = (destination & 0xf, source & 0xf);
        // Two bit fields of the C structure, which lie the other way round where the highest byte comes first.
        let registers = if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
        Self { code, registers, offset, immediate }
    }
}

/// How often loading is tried. Each signal to the calling thread, also one that changes nothing (a stop and its end), can cost one.
const LOADS_MAX: u32 = 100;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: programs of the cgroups above, and others of this one, are asked as well; all must agree.
const ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` as `BPF_PROG_LOAD` reads it; what is left out is zero.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` as `BPF_PROG_ATTACH` reads it.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program; the kernel verifies it. It lives as long as the descriptor or a cgroup that it is attached to.
///
/// # Errors
/// `EINVAL` and `EACCES` for a program that the kernel finds fault with, `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`, `E2BIG` for one
/// that is too long to verify (`bpf(2)`). `EAGAIN` only where signals come without end: the verifier gives up when one is pending, and is
/// asked again.
pub fn load_device_filter(instructions: &[BpfInstruction]) -> Result<OwnedFd, SysError> {
    let license = c"Apache-2.0";
    let attributes = LoadAttributes {
        program_type: TYPE_CGROUP_DEVICE,
        // One that is longer than a number can tell is refused by the kernel for being too long.
        instruction_count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    let load = || {
        // SAFETY: the structure has the size that is given and the command's layout. It points to a NUL-terminated string and to as many
        // instructions as it says (or to more than the kernel reads); all outlive the call, and the kernel only reads.
        checked("bpf", unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>()) })
    };
    let mut left = LOADS_MAX;
    let program = loop {
        left -= 1;
        match load() {
            Err(error) if error.errno() == Errno::AGAIN && left > 0 => {}
            loaded => break loaded?,
        }
    };
    let program = RawFd::try_from(program).expect("a descriptor's number is an int");
    // SAFETY: BPF_PROG_LOAD gives a new descriptor, close-on-exec, that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Attaches a loaded program to the cgroup whose directory in the cgroup2 hierarchy is open: it decides on every use of a device by a process
/// in the cgroup or below, as do all that are attached already.
///
/// # Errors
/// What `bpf(2)` says: `EPERM` where a cgroup above forbids further programs.
pub fn attach_device_filter(cgroup: impl AsFd, program: impl AsFd) -> Result<(), SysError> {
    let number = |descriptor: RawFd| u32::try_from(descriptor).expect("an open descriptor's number is not negative");
    let attributes = AttachAttributes {
        target: number(cgroup.as_fd().as_raw_fd()),
        program: number(program.as_fd().as_raw_fd()),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure has the size that is given and the command's layout, it is this function's, and the kernel only reads; both
    // descriptors are borrowed for the call.
    checked("bpf", unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size_of::<AttachAttributes>()) })?;
    Ok(())
}
