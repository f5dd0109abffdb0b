//! The process that owns a pod's namespaces and, where the pod shares one PID namespace, is its PID 1.
//!
//! It blocks every signal, takes them one at a time, reaps whatever children it is given (orphans of the PID namespace, when it is
//! PID 1), and exits 0 on SIGTERM or SIGINT. It opens nothing, reads nothing and knows nothing of pods.
//!
//! No libc and no standard library: the whole program is one page of text, so that a pod costs one page of memory for it.
//!
//! What is shipped is compiled as `rustc-args.txt` says. cargo compiles it with the workspace's other programs, whose panics unwind, which no
//! program without a standard library can; that result is for compilers and linters to look at, and never run.
#![cfg_attr(panic = "abort", no_std)]
#![no_main]

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;

use arch::{number, syscall4};

const SIG_BLOCK: usize = 0;
const SIGINT: isize = 2;
const SIGTERM: isize = 15;
/// Bytes of the kernel's `sigset_t`.
const SIGSET_BYTES: usize = 8;
const ALL_SIGNALS: u64 = u64::MAX;
const WNOHANG: usize = 1;
const ANY_CHILD: usize = usize::MAX;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;
/// What `ps` shows: run from a memfd, the process would be called after a descriptor's number. A number and not a string, so
/// that the program has no page of data.
const NAME: u64 = u64::from_ne_bytes(*b"pause\0\0\0");

/// Where `_start` of the architecture's file leads, on an aligned stack.
#[unsafe(no_mangle)]
extern "C" fn pause() -> ! {
    let all = ALL_SIGNALS;
    let all_at = (&raw const all) as usize;
    let name = NAME;
    // SAFETY: the kernel reads the NUL-terminated `name` and the eight bytes of `all` during the calls, and both outlive them;
    // no other argument is an address.
    unsafe {
        // Processes of a shared PID namespace shall not look into this one.
        syscall4(number::PRCTL, PR_SET_DUMPABLE, 0, 0, 0);
        syscall4(number::PRCTL, PR_SET_NAME, (&raw const name) as usize, 0, 0);
        syscall4(number::RT_SIGPROCMASK, SIG_BLOCK, all_at, 0, SIGSET_BYTES);
    }
    loop {
        // Children may have ended before the mask was set, and several may stand behind one SIGCHLD.
        // SAFETY: no argument is an address: a null status and a null rusage are not written.
        while unsafe { syscall4(number::WAIT4, ANY_CHILD, 0, WNOHANG, 0) } > 0 {}
        // SAFETY: the kernel reads the eight bytes of `all`, which outlives the call; siginfo and timeout are null.
        let signal = unsafe { syscall4(number::RT_SIGTIMEDWAIT, all_at, 0, 0, SIGSET_BYTES) };
        if signal == SIGTERM || signal == SIGINT {
            // SAFETY: no argument is an address, and nothing of this process is left to be kept intact.
            unsafe { syscall4(number::EXIT_GROUP, 0, 0, 0, 0) };
        }
    }
}

/// Nothing here panics; the language asks for the function.
#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: no argument is an address; the call does not return.
        unsafe { syscall4(number::EXIT_GROUP, 255, 0, 0, 0) };
    }
}
