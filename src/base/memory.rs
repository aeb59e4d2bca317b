//! What the allocator keeps. glibc's makes an arena for each of our threads, as far as there are processors, and what is
//! freed in one stays there: a burst left 260 MiB with a server that needed 8.

/// Arenas. With one, threads that serve wait for the one that compresses.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Has the allocator keep less. To be called before the first thread is started.
pub fn keep_little() {
    // SAFETY: the call takes only numbers. It fails only for parameters that there are not.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives back to the host what was freed.
pub fn give_back() {
    // SAFETY: the allocator's own locks make it sound beside any other use of it.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
