//! `close_range(2)`.

use crate::SysError;
use crate::error::checked;
use std::sync::atomic::{AtomicBool, Ordering};

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// What `close_range(2)` says.
pub fn close_on_exec_from(first: u32) -> Result<(), SysError> {
    // SAFETY: with this flag the call closes nothing and touches no memory.
    checked("close_range", unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Closes what a process was started with, from descriptor `first` on: the first act of a `main` that inherits from a careless
/// parent.
///
/// # Panics
/// On a second call, and with `first` below 3: by then somebody may own what would be closed.
///
/// # Errors
/// What `close_range(2)` says.
pub fn close_from(first: u32) -> Result<(), SysError> {
    static DONE: AtomicBool = AtomicBool::new(false);
    assert!(first >= 3, "the standard streams are the standard library's");
    assert!(!DONE.swap(true, Ordering::Relaxed), "inherited descriptors are closed once, at the start");
    // SAFETY: closing is sound as long as no object owns a descriptor of the range. At the start of `main` none does; that it is
    // called there is the caller's part, and that it is not called again is checked above.
    checked("close_range", unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}
