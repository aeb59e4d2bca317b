//! Having the kernel write back what mapped memory still holds, while we can still serve it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::signals;

/// Syncs the mount from a process of its own, bounded: were a thread of ours to wait for requests that we have to
/// serve, a request that hangs would hang us for good. A process can be killed.
pub fn write_back(mountpoint: &Path, patience: Duration) {
    let Ok(path) = CString::new(mountpoint.as_os_str().as_bytes()) else { return };
    // SAFETY: the child makes only async-signal-safe calls, on memory prepared before, until it ends.
    match unsafe { libc::fork() } {
        -1 => log::warn!("write-back before the stop: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: plain system calls; `path` ends in NUL. The FUSE descriptor and the session's lock are given up
            // first: a copy of either that outlived the server would keep a dead mount, or a free session.
            unsafe {
                libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32);
                let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
                let failed = fd < 0 || libc::syncfs(fd) != 0;
                libc::_exit(i32::from(failed));
            }
        }
        pid => {
            if !wait_for(pid, Instant::now() + patience) {
                log::warn!("write-back before the stop took longer than {} s", patience.as_secs());
                signals::send(pid, libc::SIGKILL);
                // Killed, it ends as soon as its request is answered or the connection is: it is not waited for
                // beyond a moment, for the stop must come to its end.
                wait_for(pid, Instant::now() + Duration::from_secs(1));
            }
        }
    }
}

/// Whether the process ended in time.
fn wait_for(pid: libc::pid_t, until: Instant) -> bool {
    let mut pause = Duration::from_micros(200);
    loop {
        // SAFETY: a null status pointer is allowed; WNOHANG returns at once.
        if unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) } != 0 {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
