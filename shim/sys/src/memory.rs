//! How the C library's allocator deals with the kernel.

/// What is larger is mapped by itself, and unmapped when it is freed.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: libc::c_int = 128 * 1024;
/// Threads share so many heaps.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: libc::c_int = 2;

/// Has memory that is freed go back to the kernel, at the price of some calls: for a process that lives long and seldom needs much. By
/// itself glibc keeps ever larger blocks once such were freed (`mallopt(3)`, "dynamic mmap threshold"), in a heap for every other
/// thread. Other C libraries do not.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES), (libc::M_TRIM_THRESHOLD, OWN_MAPPING_BYTES), (libc::M_ARENA_MAX, HEAPS_MAX)]
    {
        // SAFETY: takes two numbers and changes the allocator's own settings under its lock; what it does not know it refuses.
        unsafe { libc::mallopt(parameter, value) };
    }
}
