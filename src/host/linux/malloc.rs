//! Settings of the C library's allocator.

/// Makes memory of large requests go back to the system, and worker threads share one arena.
///
/// The defaults raise their thresholds with the first large buffer and give each thread an arena of
/// its own: an agent that once moved a file would keep tens of megabytes for ever.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
        /// Above this a buffer is mapped by itself and unmapped when it is freed; pieces of
        /// streamed replies stay below, so that they are not mapped again and again.
        const LARGE: i32 = 1 << 20;
        // SAFETY: mallopt only sets numbers, and no other thread runs yet.
        #[expect(unsafe_code, reason = "C library call")]
        unsafe {
            mallopt(M_ARENA_MAX, 1);
            mallopt(M_MMAP_THRESHOLD, LARGE);
            mallopt(M_TRIM_THRESHOLD, LARGE);
        }
    }
}
