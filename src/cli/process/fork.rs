//! Forking the server off.

use std::io::{self, BufReader, PipeReader, PipeWriter};
use std::os::fd::AsRawFd;

use super::messages::Message;
use super::server::{Plan, serve};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;

/// The server, to the process that started it.
pub struct Child {
    /// Its process.
    pub pid: libc::pid_t,
    /// What it says.
    pub messages: BufReader<PipeReader>,
    /// The server of `run` sees the end of this when its supervisor dies, and stops.
    pub _alive: PipeWriter,
}

/// Forks a server. This process must have one thread: what another one holds at the fork, the child would hold for
/// ever.
pub fn fork_server(context: &Context, plan: &Plan) -> io::Result<Child> {
    let (messages, to_parent) = io::pipe()?;
    let (parent_alive, alive) = io::pipe()?;
    // SAFETY: this process has a single thread (see above), so the child may go on like any other program.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop((messages, alive));
            // Nothing may unwind, or return, into the code that belongs to the parent.
            let run = std::panic::AssertUnwindSafe(|| child(context, plan, to_parent, parent_alive));
            let code = std::panic::catch_unwind(run).unwrap_or(Exit::Failure.code());
            std::process::exit(code.into());
        }
        pid => Ok(Child { pid, messages: BufReader::new(messages), _alive: alive }),
    }
}

fn child(context: &Context, plan: &Plan, mut to_parent: PipeWriter, parent_alive: PipeReader) -> u8 {
    if let Err(error) = detach() {
        let failure = Failure::new(Exit::Failure, format!("the server cannot be detached: {error}"));
        Message::Failed(failure).send(&mut to_parent);
        return Exit::Failure.code();
    }
    let alive = plan.ends_with_parent.then_some(parent_alive);
    match serve(context, plan, Some(&mut to_parent), alive) {
        Ok(report) => {
            Message::Stopped(report).send(&mut to_parent);
            0
        }
        Err(failure) => {
            let code = failure.exit.code();
            Message::Failed(failure).send(&mut to_parent);
            code
        }
    }
}

/// Away from the terminal, its signals, and every file of who started us.
fn detach() -> io::Result<()> {
    // SAFETY: setsid and umask touch no memory. A process just forked is no group leader, so setsid succeeds.
    unsafe {
        libc::setsid();
        libc::umask(0o077);
    }
    std::env::set_current_dir("/")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for standard in 0..3 {
        // SAFETY: both descriptors are valid numbers, and nothing here holds 0 to 2 but the standard streams.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits for the end of a process; its status as a shell would say it.
pub fn wait(pid: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for the call to fill.
        if unsafe { libc::waitpid(pid, &mut status, 0) } == pid {
            return Ok(shell_status(status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A wait status as a shell says it: the exit status, or 128 + the signal.
pub fn shell_status(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// How a server that said nothing ended, for people.
pub fn obituary(status: Option<i32>) -> String {
    match status {
        Some(status) if status > 128 => format!("killed by signal {}", status - 128),
        Some(status) => format!("exit status {status}"),
        None => "unknown".to_owned(),
    }
}
