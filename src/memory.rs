//! How the allocator behaves: what was large is given back to the system.

/// Blocks of at least this size are mapped one by one, and unmapped when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 128 << 10;

/// Keeps glibc from raising its threshold for mapped blocks once a large one was freed: without this, a few large
/// webhook bodies would leave their memory with the process for ever. Source: mallopt(3), `M_MMAP_THRESHOLD`.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "the allocator has no safe interface")]
    // SAFETY: mallopt only sets a parameter, and is called before other threads exist.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
