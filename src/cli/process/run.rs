//! `run`: the supervisor. One thread, no FUSE descriptor, no lock: it waits for the command and for the server.

use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::children::{Processes, reap};
use super::fork::{Child, fork_server, obituary, shell_status};
use super::messages::{Message, Ready};
use super::mount::{announcement, caution, wait_until_ready};
use super::mountpoint::{Missing, prepare};
use super::namespace;
use super::opening::{ephemeral, id_maps, open_options, resuming};
use super::preflight;
use super::server::Plan;
use super::signals::{Caught, SignalFile, Signals, poll, reset, send};
use crate::cli::args::RunArgs;
use crate::cli::commands::sync::described;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::session::How;

/// How long what got SIGKILL has for ending. A process that waits in the kernel, for a disk that is gone or a server that
/// hangs, ends when that wait does, if ever; and one of another user may not be ours to end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What is passed on to the command.
const FORWARDED: [i32; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

pub fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let id = context.session(&args.session)?;
    let config = context.config();
    let ids = id_maps(context, &args.opening)?;
    let ephemeral = ephemeral(&args.opening)?;
    reset(&[libc::SIGCHLD]);
    preflight::check(context, &id, args.opening.existing)?;
    namespace::enter()?;
    let plan = Plan {
        id,
        command: "run",
        options: open_options(context, &args.opening, &ids),
        resuming: resuming(context, &args.opening),
        ephemeral,
        ids,
        existing: args.opening.existing,
        mountpoint: prepare(args.mount.as_ref().unwrap_or(&config.mount), Missing::MakeInNamespace)?,
        allow_other: args.opening.allow_other.unwrap_or(config.allow_other),
        transport: args.opening.transport.unwrap_or(config.transport),
        ends_with_parent: true,
        foreground: false,
    };
    let mut all = FORWARDED.to_vec();
    all.push(libc::SIGCHLD);
    let signals = Signals::of(&all);
    let before = signals.block().map_err(Failure::io("signals"))?;
    let signal_file = signals.descriptor().map_err(Failure::io("signals"))?;
    // SAFETY: touches no memory. As PID 1 it changes nothing: everything ends up here anyway.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };

    let mut server = fork_server(context, &plan).map_err(Failure::io("the server cannot be started"))?;
    let ready = wait_until_ready(context, &plan, &mut server)?;
    caution(context, &ready);
    tell(context, &ready);
    let mut supervisor = Supervisor {
        context,
        server,
        signals: signal_file,
        command: 0,
        command_status: None,
        server_ended: None,
        grace: Duration::from_secs(args.grace.unwrap_or(config.grace)),
    };
    match spawn(&args, &ready, before) {
        Ok(pid) => supervisor.command = pid,
        Err(failure) => {
            supervisor.stop_server()?;
            return Err(failure);
        }
    }
    supervisor.watch()
}

/// `-v` only: standard error is the command's.
fn say(context: &Context, text: impl FnOnce() -> String) {
    if context.verbose > 0 {
        // Standard error may be closed: that is the caller's choice.
        let _ = writeln!(io::stderr(), "sessionfs: {}", text());
    }
}

/// The receipt, on standard error, for standard output is the command's: to programs and to people who look at it, and
/// to all when the session was not simply stopped and resumed.
fn tell(context: &Context, ready: &Ready) {
    if context.json {
        if let Ok(mut line) = serde_json::to_vec(ready) {
            line.push(b'\n');
            // It may be closed: that is the caller's choice.
            let _ = io::stderr().write_all(&line);
        }
    } else if context.verbose > 0
        || io::stderr().is_terminal()
        || !matches!(ready.resume.how, How::Created | How::Resumed)
    {
        context.warn(&announcement(ready));
    }
}

/// Starts the command in the workspace, with the signals as we were given them.
fn spawn(args: &RunArgs, ready: &Ready, mask: Signals) -> Result<libc::pid_t, Failure> {
    let supervisor = std::process::id() as libc::pid_t;
    let mut command = Command::new(&args.command[0]);
    command
        .args(&args.command[1..])
        .current_dir(&ready.mountpoint)
        .env("PWD", &ready.mountpoint)
        .env_remove("OLDPWD")
        .env("SESSIONFS_SESSION", &ready.session)
        .env("SESSIONFS_MOUNT", &ready.mountpoint);
    // SAFETY: between fork and exec only system calls are made, on memory that is already there.
    unsafe {
        command.pre_exec(move || {
            mask.restore();
            // Were we killed, nobody would end the command while its workspace goes away under it.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            if libc::getppid() != supervisor {
                libc::_exit(Exit::RunFailed as i32);
            }
            Ok(())
        });
    }
    match command.spawn() {
        // It is reaped with all the others: dropping the handle leaves it alone.
        Ok(child) => Ok(child.id() as libc::pid_t),
        Err(error) => {
            let exit = match error.raw_os_error() {
                Some(libc::ENOENT) => Exit::NotFound,
                Some(libc::EAGAIN | libc::ENOMEM) => Exit::RunFailed,
                _ => Exit::CannotExecute,
            };
            Err(Failure::new(exit, format!("{}: {error}", args.command[0].to_string_lossy())))
        }
    }
}

/// Whether this process is the leader of its session.
fn leads_session() -> bool {
    // SAFETY: touches no memory.
    unsafe { libc::getsid(0) == libc::getpid() }
}

struct Supervisor<'a> {
    context: &'a Context,
    server: Child,
    signals: SignalFile,
    command: libc::pid_t,
    /// As a shell says it.
    command_status: Option<i32>,
    /// The status of a server that has ended.
    server_ended: Option<i32>,
    grace: Duration,
}

impl Supervisor<'_> {
    /// From the start of the command to the end of everything.
    fn watch(mut self) -> Result<u8, Failure> {
        while self.command_status.is_none() && self.server_ended.is_none() {
            for caught in self.wait(None)? {
                // A key on the terminal went to the command as well: it is in the same process group. That the
                // terminal is gone, the kernel tells the leader of its session alone.
                let ours_alone = caught.signal == libc::SIGHUP && leads_session();
                if !caught.from_kernel || ours_alone {
                    send(self.command, caught.signal);
                }
            }
        }
        let died = self.server_ended.filter(|_| self.command_status.is_none());
        if let Some(status) = died {
            let failure = Failure::new(
                Exit::ServerDied,
                format!("the file system's server died ({}): ending the command", obituary(Some(status))),
            );
            failure
                .hint("the same command again: what the workspace acknowledged is recovered")
                .print(self.context.json);
        }
        self.end_processes()?;
        if died.is_some() || self.server_ended.is_some() {
            return self.without_server();
        }
        self.stop_server()?;
        Ok(self.exit())
    }

    /// The server was gone before we asked it to stop. It may have ended in order, when somebody unmounted.
    fn without_server(&mut self) -> Result<u8, Failure> {
        match (self.last_message(), self.command_status) {
            (Some(Message::Stopped(_)), Some(status)) => Ok(status as u8),
            (Some(Message::Failed(failure)), _) => {
                failure.print(self.context.json);
                Ok(Exit::ServerDied.code())
            }
            _ => Ok(Exit::ServerDied.code()),
        }
    }

    /// Waits for signals and for children that have ended, whom it reaps; returns the signals to be passed on.
    fn wait(&mut self, until: Option<Instant>) -> Result<Vec<Caught>, Failure> {
        let timeout = until.map_or(-1, |until| {
            let left = until.saturating_duration_since(Instant::now());
            i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1)
        });
        poll(&[self.signals.as_raw_fd()], timeout).map_err(Failure::io("waiting"))?;
        let mut caught = Vec::new();
        while let Some(signal) = self.signals.next() {
            if signal.signal != libc::SIGCHLD {
                caught.push(signal);
            }
        }
        // One SIGCHLD may stand for many.
        while let Some((pid, status)) = reap() {
            if pid == self.command {
                self.command_status = Some(shell_status(status));
            } else if pid == self.server.pid {
                self.server_ended = Some(shell_status(status));
            }
        }
        Ok(caught)
    }

    /// Ends what the command has left running: SIGTERM, the grace, SIGKILL. A second request to stop ends the grace.
    fn end_processes(&mut self) -> Result<(), Failure> {
        let processes = Processes::ours();
        if let Err(error) = &processes {
            say(self.context, || format!("no /proc of this PID namespace ({error}): ending the command alone"));
        }
        let processes = processes.ok();
        let mut until = Instant::now() + self.grace;
        let mut killed: Option<Instant> = None;
        self.signal_all(processes.as_ref(), libc::SIGTERM);
        loop {
            let left = self.left(processes.as_ref());
            if left.is_empty() {
                break;
            }
            if killed.is_some_and(|since| since.elapsed() > KILL_PATIENCE) {
                self.leave_behind(processes.as_ref(), &left);
                break;
            }
            if Instant::now() >= until {
                killed.get_or_insert_with(Instant::now);
                // Again and again, for what forks faster than we look; each round waits a little for its ends.
                self.signal_all(processes.as_ref(), libc::SIGKILL);
                until = Instant::now() + Duration::from_millis(20);
            }
            let stop = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
            if self.wait(Some(until))?.iter().any(|caught| stop.contains(&caught.signal)) {
                until = Instant::now();
            }
        }
        // Zombies of theirs are ours to reap.
        self.wait(Some(Instant::now())).map(drop)
    }

    /// Says which processes could not be ended. Their workspace goes all the same: what is in it is to be committed.
    fn leave_behind(&self, processes: Option<&Processes>, left: &[libc::pid_t]) {
        let describe = |pid: &libc::pid_t| processes.map_or(format!("process {pid}"), |known| known.describe(*pid));
        let named: Vec<String> = left.iter().take(10).map(describe).collect();
        let more =
            if left.len() > named.len() { format!(" and {} more", left.len() - named.len()) } else { String::new() };
        let text = format!("not ended by SIGKILL, and left behind: {}{more}", named.join(", "));
        Failure::new(Exit::Failure, text)
            .hint(format!("ps -o pid,stat,wchan:30,cmd {}", left[0]))
            .print_as(self.context.json, self.exit());
    }

    /// The command's status. One that even SIGKILL has not ended is reported as what it was sent.
    fn exit(&self) -> u8 {
        self.command_status.unwrap_or(128 + libc::SIGKILL) as u8
    }

    /// What is still running. Where processes cannot be seen, only the command is known; as PID 1, we leave the rest
    /// to the kernel, which ends it with us.
    fn left(&self, processes: Option<&Processes>) -> Vec<libc::pid_t> {
        match processes {
            Some(processes) => processes.descendants(self.server.pid),
            None => self.command_status.is_none().then_some(self.command).into_iter().collect(),
        }
    }

    fn signal_all(&self, processes: Option<&Processes>, signal: i32) {
        for pid in self.left(processes) {
            send(pid, signal);
            // One that is stopped would never get it.
            if signal == libc::SIGTERM {
                send(pid, libc::SIGCONT);
            }
        }
    }

    /// Stops the session and waits for everything to be committed.
    fn stop_server(&mut self) -> Result<(), Failure> {
        send(self.server.pid, libc::SIGTERM);
        let last = self.last_message();
        while self.server_ended.is_none() {
            self.wait(None)?;
        }
        match last {
            Some(Message::Stopped(report)) => {
                say(self.context, || described(&report));
                Ok(())
            }
            Some(Message::Failed(failure)) => Err(Failure { exit: Exit::StopFailed, ..failure }),
            _ => Err(Failure::new(
                Exit::StopFailed,
                format!("the file system's server died while it stopped ({})", obituary(self.server_ended)),
            )
            .hint("the same command again: what the workspace acknowledged is recovered")),
        }
    }

    /// What the server said last; blocks until it has ended.
    fn last_message(&mut self) -> Option<Message> {
        let mut last = None;
        loop {
            match Message::receive(&mut self.server.messages) {
                Ok(Some(message)) => last = Some(message),
                Ok(None) => return last,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return last,
            }
        }
    }
}
