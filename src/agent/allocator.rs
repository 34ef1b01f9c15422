//! What the C library's allocator is told: to give large buffers back.
//!
//! glibc maps what is large and unmaps it when it is freed; but with each large block that is freed
//! it raises the limit of what counts as large, up to 32 MiB. Bodies of batches then lie in its
//! heaps, where what is still in use keeps the holes between resident. With the limit fixed,
//! resident memory at rest is 15 MiB after each of 8 GiB of logs, where it went from 30 to 54, and
//! its peak 42 MiB, not 62 (`benches/README.md`, `--flat`). The CPU's work is the same without
//! compression, and a twentieth more with it. Of the 18 MiB that it is by now, some are what is kept
//! because it is soon used again: the end of a heap, and buffers of long records.
//! Other C libraries have no such limit that moves; with them nothing is done.

/// Blocks of as much or more are mapped each on its own. glibc's own limit before it raises it.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 128 * 1024;

/// How much may be free at a heap's end before it is given back. At glibc's own 128 KiB each answer
/// of the output would be read into pages that the kernel has to map and clear again.
#[cfg(target_env = "gnu")]
const TRIMMED_BYTES: libc::c_int = 1 << 20;

/// Fixes these limits for the whole process.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "half the memory at rest; see the module")]
pub(super) fn set_limits() {
    let limits = [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, TRIMMED_BYTES)];
    for (limit, bytes) in limits {
        // SAFETY: mallopt takes two numbers, may be called by any thread at any time, and changes
        // nothing about memory that was handed out.
        let is_set = unsafe { libc::mallopt(limit, bytes) } == 1;
        if !is_set {
            tracing::debug!("the allocator keeps limits of its own");
        }
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn set_limits() {}
