//! The private mount namespace of `run`.

use std::fs;
use std::io;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::fixes;

/// Moves this process, which must have one thread, into a mount namespace that nobody else sees. Who may not make
/// one gets it in a user namespace of their own, in which every id keeps its number: so the session stores the same
/// owners either way.
pub fn enter() -> Result<(), Failure> {
    // SAFETY: these cannot fail and touch no memory.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if let Err(error) = unshare(libc::CLONE_NEWNS) {
        if error.raw_os_error() != Some(libc::EPERM) {
            return Err(refused(&error));
        }
        unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).map_err(|error| refused(&error))?;
        map_ids(uid, gid).map_err(|error| refused(&error))?;
    }
    // What is mounted here stays here.
    // SAFETY: strings end in NUL; null is allowed for what is not used.
    let private = unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    };
    if private == 0 { Ok(()) } else { Err(refused(&io::Error::last_os_error())) }
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: touches no memory of ours; this process has one thread, as CLONE_NEWUSER asks for.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn map_ids(uid: u32, gid: u32) -> io::Result<()> {
    // An ordinary user may map a group only after giving up setgroups.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

fn refused(error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::MountNotPermitted, format!("a private mount namespace is not permitted: {error}"));
    failure.hint(fixes::namespace(error.raw_os_error()).hint())
}
