//! A command as it is started in a workspace, whoever starts it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::signals::Signals;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

/// What a command's workspace is.
pub struct Workspace<'a> {
    /// The session.
    pub session: &'a str,
    /// Where it is mounted.
    pub mountpoint: &'a Path,
    /// Where in it the command begins.
    pub dir: &'a Path,
}

/// A command that begins in its workspace and knows which one that is, with this signal mask, and that ends with `starter`,
/// its parent.
pub fn command(argv: &[OsString], at: &Workspace<'_>, mask: Signals, starter: libc::pid_t) -> Command {
    let mut command = Command::new(&argv[0]);
    command
        .args(&argv[1..])
        .current_dir(at.dir)
        .env("PWD", at.dir)
        .env_remove("OLDPWD")
        .env("SESSIONFS_SESSION", at.session)
        .env("SESSIONFS_MOUNT", at.mountpoint);
    // SAFETY: between fork and exec only system calls are made, on memory that is already there.
    unsafe {
        command.pre_exec(move || {
            mask.restore();
            die_with(starter);
            Ok(())
        });
    }
    command
}

/// Were its starter killed, nobody would end the command while its workspace goes away under it. Only system calls.
fn die_with(starter: libc::pid_t) {
    // SAFETY: touch no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::getppid() != starter {
            libc::_exit(Exit::RunFailed as i32);
        }
    }
}

/// Why a command did not start, as a shell says it.
pub fn not_started(name: &OsString, error: &io::Error) -> Failure {
    let exit = match error.raw_os_error() {
        Some(libc::ENOENT) => Exit::NotFound,
        Some(libc::EAGAIN | libc::ENOMEM) => Exit::RunFailed,
        _ => Exit::CannotExecute,
    };
    Failure::new(exit, format!("{}: {error}", name.to_string_lossy()))
}
