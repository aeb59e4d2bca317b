//! Forking the server off.

use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::Message;
use super::mountpoint::{Missing, prepare};
use super::namespace;
use super::server::{Plan, serve};
use super::signals::{poll, send};
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
    let settled = if plan.for_visits { in_own_namespace(plan) } else { Ok(plan.clone()) };
    match settled.and_then(|plan| serve(context, &plan, Some(&mut to_parent), alive)) {
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

/// The same where nobody but those who visit sees the mount.
fn in_own_namespace(plan: &Plan) -> Result<Plan, Failure> {
    namespace::enter()?;
    Ok(Plan { mountpoint: prepare(&plan.mountpoint, Missing::MakeInNamespace)?, ..plan.clone() })
}

/// Does something in a process of its own, whose namespaces and the like end with it. This process must have one thread.
/// A child that has not ended in time is killed, and not waited for: it may wait for a mount that hangs.
pub fn in_child<T: Serialize + DeserializeOwned>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (mut result, mut to_parent) = io::pipe().map_err(Failure::io("pipe"))?;
    // SAFETY: this process has a single thread (see above), so the child may go on like any other program.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(Failure::io("fork")(io::Error::last_os_error())),
        0 => {
            // Nothing may unwind, or return, into the code that belongs to the parent.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let done = done.unwrap_or_else(|_| Err(Failure::new(Exit::Failure, "internal error")));
            let text = serde_json::to_vec(&done).unwrap_or_default();
            let told = to_parent.write_all(&text);
            // SAFETY: ends the process at once, without what the parent would have done at its own end.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
        pid => pid,
    };
    drop(to_parent);
    let until = Instant::now() + patience;
    let mut text = Vec::new();
    loop {
        let left = i32::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i32::MAX);
        if !poll(&[result.as_raw_fd()], left).map_err(Failure::io("waiting"))?[0] {
            send(pid, libc::SIGKILL);
            let text = format!("not done in {} s: process {pid} is given up", patience.as_secs());
            return Err(Failure::new(Exit::ServerDied, text));
        }
        let mut part = [0; 4096];
        match result.read(&mut part).map_err(Failure::io("waiting"))? {
            0 => break,
            read => text.extend_from_slice(&part[..read]),
        }
    }
    let status = wait(pid).ok();
    let died = |_| Failure::new(Exit::ServerDied, format!("the process that tried it died ({})", obituary(status)));
    serde_json::from_slice::<Result<T, Failure>>(&text).map_err(died)?
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
