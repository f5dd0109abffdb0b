//! Entry point and system calls of 64-bit Arm (`syscall(2)`).

use core::arch::{asm, global_asm};

/// Numbers of the system calls (`include/uapi/asm-generic/unistd.h`).
pub mod number {
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
    pub const WAIT4: usize = 260;
}

// The kernel enters with an aligned stack and nothing to return to.
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x30, xzr", "bl {pause}", "brk #0", pause = sym super::pause);

/// One system call of up to four arguments; negative results are error numbers.
///
/// # Safety
/// Arguments that the call takes as addresses must be valid for what the kernel does with them, for as long as it does.
pub unsafe fn syscall4(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: `svc` changes no register but x0, which is named; memory is the caller's promise.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            options(nostack),
        );
    }
    result
}
