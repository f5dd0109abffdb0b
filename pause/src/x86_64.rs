//! Entry point and system calls of x86-64 (the System V ABI, `syscall(2)`).

use core::arch::{asm, global_asm};

/// Numbers of the system calls (`arch/x86/entry/syscalls/syscall_64.tbl`).
pub mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const EXIT_GROUP: usize = 231;
}

// The kernel enters without a return address; a call restores the alignment that a function expects.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {pause}", "ud2", pause = sym super::pause);

/// One system call of up to four arguments; negative results are error numbers.
///
/// # Safety
/// Arguments that the call takes as addresses must be valid for what the kernel does with them, for as long as it does.
pub unsafe fn syscall4(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: `syscall` clobbers rcx and r11, which are named; memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
