//! `run`: the supervisor. One thread, no FUSE descriptor, no lock: it waits for the command and for the server.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::children::{Process, Processes, end_all, reap};
use super::fork::{Child, fork_server, obituary, shell_status};
use super::messages::{Message, Ready};
use super::mount::{announcement, caution, wait_until_ready};
use super::mountpoint::{Missing, prepare};
use super::namespace;
use super::opening::{ephemeral, id_maps, open_options, resuming};
use super::preflight;
use super::server::Plan;
use super::signals::{Caught, SignalFile, Signals, poll, reset, send};
use super::workspace::{Workspace, command, not_started};
use crate::base::{SessionId, Set};
use crate::cli::args::RunArgs;
use crate::cli::commands::sync::described;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::control::{Client, Visit};
use crate::session::{CommandRecord, How};

/// What is passed on to the command.
pub const FORWARDED: [i32; 7] =
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
        for_visits: false,
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
        id: plan.id.clone(),
        argv: args.command.clone(),
        begun: Instant::now(),
        took: None,
        visit: Client::connect(&context.store.session(&plan.id)).and_then(Client::visit).ok(),
        command_status: None,
        server_ended: None,
        unreaped: false,
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
    let starter = std::process::id() as libc::pid_t;
    let at = Workspace { session: &ready.session, mountpoint: &ready.mountpoint, dir: &ready.mountpoint };
    match command(&args.command, &at, mask, starter).spawn() {
        // It is reaped with all the others: dropping the handle leaves it alone.
        Ok(child) => Ok(child.id() as libc::pid_t),
        Err(error) => Err(not_started(&args.command[0], &error)),
    }
}

struct Supervisor<'a> {
    context: &'a Context,
    server: Child,
    signals: SignalFile,
    command: libc::pid_t,
    id: SessionId,
    argv: Vec<OsString>,
    begun: Instant,
    /// How long it ran.
    took: Option<Duration>,
    /// For the server to count what is changed.
    visit: Option<Visit>,
    /// As a shell says it.
    command_status: Option<i32>,
    /// The status of a server that has ended.
    server_ended: Option<i32>,
    /// There may be more children that have ended.
    unreaped: bool,
    grace: Duration,
}

impl Supervisor<'_> {
    /// From the start of the command to the end of everything.
    fn watch(mut self) -> Result<u8, Failure> {
        while self.command_status.is_none() && self.server_ended.is_none() {
            for caught in self.wait(None)? {
                if caught.is_ours_alone() {
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
        self.record();
        if died.is_some() || self.server_ended.is_some() {
            return self.without_server();
        }
        self.stop_server()?;
        Ok(self.exit())
    }

    /// Writes down what was run and what came of it.
    fn record(&mut self) {
        let changed = self.visit.take().and_then(|visit| visit.leave().ok()).map(|(changed, _)| changed);
        let took = self.took.unwrap_or_else(|| self.begun.elapsed());
        let exit = i32::from(self.exit());
        let record = CommandRecord { exit, changed, ..CommandRecord::ended_now("run", &self.argv, took) };
        self.context.store.record_command(&self.id, &record);
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
        let until = if self.unreaped { Some(Instant::now()) } else { until };
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
        self.unreaped = reap(|pid, status| {
            if pid == self.command {
                self.command_status = Some(shell_status(status));
                self.took = Some(self.begun.elapsed());
            } else if pid == self.server.pid {
                self.server_ended = Some(shell_status(status));
            }
        });
        Ok(caught)
    }

    /// Ends what the command has left running, and what others have brought into its workspace. A second request to stop
    /// ends the grace.
    fn end_processes(&mut self) -> Result<(), Failure> {
        let processes = Processes::ours();
        if let Err(error) = &processes {
            say(self.context, || format!("no /proc of this PID namespace ({error}): ending the command alone"));
        }
        let processes = processes.ok();
        let grace = self.grace;
        let stop = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
        let wait =
            |this: &mut Self, until| Ok(this.wait(Some(until))?.iter().any(|caught| stop.contains(&caught.signal)));
        let left = end_all(self, grace, |this| this.left(processes.as_ref()), wait)?;
        if !left.is_empty() {
            self.leave_behind(processes.as_ref(), &left);
        }
        Ok(())
    }

    /// Says which processes could not be ended. Their workspace goes all the same: what is in it is to be committed.
    fn leave_behind(&self, processes: Option<&Processes>, left: &[Process]) {
        let describe =
            |one: &Process| processes.map_or(format!("process {}", one.pid), |known| known.describe(one.pid));
        let named: Vec<String> = left.iter().take(10).map(describe).collect();
        let more =
            if left.len() > named.len() { format!(" and {} more", left.len() - named.len()) } else { String::new() };
        let text = format!("not ended by SIGKILL, and left behind: {}{more}", named.join(", "));
        Failure::new(Exit::Failure, text)
            .hint(format!("ps -o pid,stat,wchan:30,cmd {}", left[0].pid))
            .print_as(self.context.json, self.exit());
    }

    /// The command's status. One that even SIGKILL has not ended is reported as what it was sent.
    fn exit(&self) -> u8 {
        self.command_status.unwrap_or(128 + libc::SIGKILL) as u8
    }

    /// What is still running. Where processes cannot be seen, only the command is known; as PID 1, we leave the rest
    /// to the kernel, which ends it with us.
    fn left(&self, processes: Option<&Processes>) -> Vec<Process> {
        match processes {
            Some(processes) => {
                let mut left = processes.descendants(self.server.pid);
                let server = self.server.pid;
                let known: Set<_> = left.iter().map(|one| one.pid).collect();
                left.extend(
                    processes.inside().into_iter().filter(|one| one.pid != server && !known.contains(&one.pid)),
                );
                left
            }
            None => self.command_status.is_none().then_some(Process::alone(self.command)).into_iter().collect(),
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
