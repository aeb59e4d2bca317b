//! `exec`: a command in the workspace of a session that is mounted, or is mounted for it.

use std::io::{self, IsTerminal, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::children::{Processes, end_all, reap};
use super::fork::{shell_status, wait};
use super::run::FORWARDED;
use super::signals::{Caught, SignalFile, Signals, poll, reset, send};
use super::stay::Stay;
use super::streams::{Ends, Event, Passing, Pipes};
use super::workspace::{Workspace, command, not_started};
use crate::base::SessionId;
use crate::cli::args::{ExecArgs, InWorkspace};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::session::{CommandRecord, CommandStatus};

/// How long what has got SIGTERM, for its time is up, has until SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// How long the streams of a command that has ended may stay open: what it has left running may have them, too.
const LINGER: Duration = Duration::from_millis(200);

/// What asks us to stop, when there is no command that it would be passed on to.
const STOP: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

pub fn exec(context: &Context, args: ExecArgs) -> Result<u8, Failure> {
    let id = context.session(&args.session)?;
    let mut here = Here::prepare()?;
    let stay = Stay::begin(context, &id, "exec", args.at.mount.as_deref())?;
    // Not before: a server that was started logs to its own file.
    context.log_to_stderr();
    let done = here.run(&id, &stay, &args.at, context.json);
    let (ended, changed) = (done, stay.end());
    let ended = ended?;
    let code = ended.code();
    let record = CommandRecord { changed: changed.as_ref().ok().copied(), ..ended.record("exec", &args.at) };
    context.store.record_command(&id, &record);
    changed.map(|_| code)
}

/// This process, ready to run commands: it has one thread, takes its signals one by one, and orphans come to it.
pub struct Here {
    signals: SignalFile,
    /// What a command is given.
    mask: Signals,
}

/// A command that has ended.
pub struct Ended {
    /// As a shell says it.
    pub exit: i32,
    status: CommandStatus,
    took: Duration,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ended {
    /// Whether it did what it was to do.
    pub fn succeeded(&self) -> bool {
        self.status == CommandStatus::Completed && self.exit == 0
    }

    /// How long it ran.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX)
    }

    /// Our own exit status for it.
    pub fn code(&self) -> u8 {
        match self.status {
            CommandStatus::Completed => self.exit as u8,
            CommandStatus::TimedOut => Exit::TimedOut.code(),
        }
    }

    /// Its exit status as events have it: -1 when its time was up.
    pub fn status_code(&self) -> i32 {
        if self.status == CommandStatus::TimedOut { -1 } else { self.exit }
    }

    /// For the log of commands.
    pub fn record(&self, by: &str, args: &InWorkspace) -> CommandRecord {
        CommandRecord {
            cwd: args.cwd.as_ref().map(|dir| dir.to_string_lossy().into_owned()),
            user: args.user.clone(),
            exit: self.status_code(),
            status: self.status,
            stdout: CommandRecord::tail_of(&self.stdout),
            stderr: CommandRecord::tail_of(&self.stderr),
            ..CommandRecord::ended_now(by, &args.command, self.took)
        }
    }
}

/// A command that runs.
struct Running<'a> {
    signals: &'a mut SignalFile,
    pid: libc::pid_t,
    /// It has a session of its own, so that no terminal's keys reach it.
    apart: bool,
    /// A child of this process that is none of the command's.
    server: Option<libc::pid_t>,
    /// As a shell says it.
    status: Option<i32>,
    /// There may be more children that have ended.
    unreaped: bool,
    streams: Passing,
    streams_ended: bool,
}

impl Here {
    /// Takes over the signals.
    pub fn prepare() -> Result<Here, Failure> {
        reset(&[libc::SIGCHLD]);
        let mut all = FORWARDED.to_vec();
        all.push(libc::SIGCHLD);
        let signals = Signals::of(&all);
        let mask = signals.block().map_err(Failure::io("signals"))?;
        // SAFETY: touches no memory.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        Ok(Here { signals: signals.descriptor().map_err(Failure::io("signals"))?, mask })
    }

    /// Waits for a moment; the signal that asks this process to stop, if one has come.
    pub fn asked_to_stop(&mut self, moment: Duration) -> Result<Option<i32>, Failure> {
        let millis = i32::try_from(moment.as_millis()).unwrap_or(i32::MAX);
        poll(&[self.signals.as_raw_fd()], millis).map_err(Failure::io("waiting"))?;
        let asked = std::iter::from_fn(|| self.signals.next()).map(|caught| caught.signal);
        Ok(asked.filter(|signal| STOP.contains(signal)).last())
    }

    /// Runs a command to its end, and passes on what it writes.
    pub fn run(&mut self, id: &SessionId, stay: &Stay, args: &InWorkspace, json: bool) -> Result<Ended, Failure> {
        let (pipes, ends) = Pipes::open(json).map_err(Failure::io("pipes"))?;
        let begun = Instant::now();
        // Its process group is then all its own, and can be ended as one.
        let apart = !(io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal());
        let pid = start(id, stay, args, &ends, apart, self.mask)?;
        drop(ends);
        if json {
            let _ = Event::ContentStart {}.print(); // A reader that is gone is noticed with what comes next.
        }
        let streams = pipes.pass_on().map_err(|error| {
            send(pid, libc::SIGKILL);
            Failure::io("the command's output")(error)
        })?;
        let signals = &mut self.signals;
        let mut running = Running {
            signals,
            pid,
            apart,
            server: stay.server(),
            status: None,
            unreaped: false,
            streams,
            streams_ended: false,
        };
        let status = running.watch(begun + Duration::from_secs(args.timeout))?;
        let took = begun.elapsed();
        running.drain()?;
        let exit = running.status.unwrap_or(128 + libc::SIGKILL);
        let (stdout, stderr) = running.streams.tails();
        let ended = Ended { exit, status, took, stdout, stderr };
        if json {
            let _ = Event::ContentStop { exit_code: ended.status_code(), status }.print();
        }
        Ok(ended)
    }
}

/// Starts the command in a process that goes in first.
fn start(
    id: &SessionId,
    stay: &Stay,
    args: &InWorkspace,
    ends: &Ends,
    apart: bool,
    mask: Signals,
) -> Result<libc::pid_t, Failure> {
    let (mut said, tell) = io::pipe().map_err(Failure::io("pipe"))?;
    let starter = std::process::id() as libc::pid_t;
    // SAFETY: this process has a single thread, so the child may go on like any other program.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(Failure::io("fork")(io::Error::last_os_error())),
        0 => {
            // Nothing may unwind, or return, into the code that belongs to the parent.
            let become_it = AssertUnwindSafe(|| {
                if apart {
                    // SAFETY: touches no memory. A process just forked leads no group, so it succeeds.
                    unsafe { libc::setsid() };
                }
                become_command(id, stay, args, ends, mask, starter)
            });
            let failure = catch_unwind(become_it).unwrap_or_else(|_| Failure::new(Exit::RunFailed, "internal error"));
            report(tell, &failure);
            // SAFETY: ends the process at once, without what the parent would have done at its own end.
            unsafe { libc::_exit(Exit::RunFailed as i32) }
        }
        pid => pid,
    };
    drop(tell);
    let mut text = Vec::new();
    // The other end closes when the command is there.
    said.read_to_end(&mut text).map_err(Failure::io("pipe"))?;
    if text.is_empty() {
        return Ok(pid);
    }
    let _ = wait(pid);
    Err(serde_json::from_slice(&text).unwrap_or_else(|_| Failure::new(Exit::RunFailed, "the command did not start")))
}

fn report(mut to: PipeWriter, failure: &Failure) {
    if let Ok(text) = serde_json::to_vec(failure) {
        let _ = to.write_all(&text); // Who should hear it is gone: there is nobody else to tell.
    }
}

/// Returns only with what went wrong.
fn become_command(
    id: &SessionId,
    stay: &Stay,
    args: &InWorkspace,
    ends: &Ends,
    mask: Signals,
    starter: libc::pid_t,
) -> Failure {
    let mountpoint = &stay.door.mountpoint;
    let dir = args.cwd.as_ref().map_or_else(|| mountpoint.clone(), |dir| mountpoint.join(dir));
    let gone_in = stay.door.enter(args.user.as_deref()).and_then(|()| {
        std::env::set_current_dir(&dir).map_err(|error| cannot_be_in(&dir, args, &error))?;
        streams_are(ends).map_err(Failure::io("the command's streams"))
    });
    if let Err(failure) = gone_in {
        return failure;
    }
    let at = Workspace { session: id.as_str(), mountpoint, dir: &dir };
    let error =
        command(&args.command, &at, mask, starter).envs(args.env.iter().map(|one| (&one.name, &one.value))).exec();
    not_started(&args.command[0], &error)
}

fn cannot_be_in(dir: &Path, args: &InWorkspace, error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::RunFailed, format!("{}: {error}", dir.display()));
    match error.raw_os_error() {
        Some(libc::EACCES) if args.user.is_some() => {
            failure.hint("without --user; or mount the session with --allow-other")
        }
        _ => failure,
    }
}

fn streams_are(ends: &Ends) -> io::Result<()> {
    for (end, standard) in [(&ends.stdout, 1), (&ends.stderr, 2)] {
        let Some(end) = end else { continue };
        // SAFETY: both are descriptors of this process, which is about to become the command.
        if unsafe { libc::dup2(end.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl Running<'_> {
    /// From its start to its end, or until its time is up: then to the end of everything that it has started.
    fn watch(&mut self, until: Instant) -> Result<CommandStatus, Failure> {
        while self.status.is_none() {
            for caught in self.wait(Some(until))? {
                if self.apart || caught.is_ours_alone() {
                    send(self.pid, caught.signal);
                }
            }
            if self.status.is_none() && Instant::now() >= until {
                self.end_everything()?;
                return Ok(CommandStatus::TimedOut);
            }
        }
        Ok(CommandStatus::Completed)
    }

    fn end_everything(&mut self) -> Result<(), Failure> {
        let processes = Processes::ours().map_err(Failure::io("/proc"))?;
        let wait = |this: &mut Self, until| this.wait(Some(until)).map(|caught| !caught.is_empty());
        let left = end_all(self, GRACE, |this| processes.descendants(this.server.unwrap_or(0)), wait)?;
        for one in left {
            log::warn!("not ended by SIGKILL, and left behind: {}", processes.describe(one.pid));
        }
        Ok(())
    }

    /// Waits for the end of its streams. What it has left running may have them for ever, and is not waited for. A reader
    /// that is slow is; who has enough of that sends a signal.
    fn drain(&mut self) -> Result<(), Failure> {
        let linger = Instant::now() + LINGER;
        let mut until = Some(linger);
        while !self.streams_ended {
            if let Some(caught) = self.wait(until)?.iter().find(|caught| STOP.contains(&caught.signal)) {
                let text = format!("signal {}: not all of the command's output was taken", caught.signal);
                return Err(Failure::new(Exit::Pipe, text));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                self.streams.finish();
                until = None;
            }
        }
        Ok(())
    }

    /// Waits for signals, for children that have ended, whom it reaps, and for the end of the streams; returns the
    /// signals to be passed on.
    fn wait(&mut self, until: Option<Instant>) -> Result<Vec<Caught>, Failure> {
        let until = if self.unreaped { Some(Instant::now()) } else { until };
        let timeout = until.map_or(-1, |until| {
            let left = until.saturating_duration_since(Instant::now());
            i32::try_from(left.as_millis()).unwrap_or(i32::MAX - 1) + 1
        });
        let mut descriptors = vec![self.signals.as_raw_fd()];
        if !self.streams_ended {
            descriptors.push(self.streams.done());
        }
        let ready = poll(&descriptors, timeout).map_err(Failure::io("waiting"))?;
        self.streams_ended |= ready.get(1).is_some_and(|&ended| ended);
        let mut caught = Vec::new();
        while let Some(signal) = self.signals.next() {
            if signal.signal != libc::SIGCHLD {
                caught.push(signal);
            }
        }
        self.unreaped = reap(|pid, status| {
            if pid == self.pid {
                self.status = Some(shell_status(status));
            }
        });
        Ok(caught)
    }
}
