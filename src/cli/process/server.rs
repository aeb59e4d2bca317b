//! The server of a mount, from the session's lock to the last word in its log.
//!
//! Its order of work is the promise: lock, open, mount, socket, ready; and backwards: have the kernel write back while
//! we still serve, unmount, commit, remove the socket, release the lock.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::children::end_namespace;
use super::messages::{Message, Ready};
use super::mountpoint;
use super::mounts;
use super::opening::Resuming;
use super::preflight::mount_failure;
use super::signals::{Signals, reset};
use super::writeback::write_back;
use crate::base::open_ordinary;
use crate::base::{IdMaps, SessionId};
use crate::cli::access::cap_below_use;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::cli::receipt::resumed;
use crate::control::{Ending, Hooks, Server, Stopping};
use crate::fuse::{MountOptions, Mounted, Transport};
use crate::session::tree::Touched;
use crate::session::{Holder, OpenOptions, Session, SessionError, StopReport};

/// How long a stop waits for the kernel to hand over what mapped memory still holds.
const WRITE_BACK: Duration = Duration::from_secs(20);
/// How long it waits for the serving threads after the mount is gone.
const LAST_REQUESTS: Duration = Duration::from_secs(10);
/// How long nothing was committed before a session is verified beside its use.
const VERIFY_WHEN_IDLE: Duration = Duration::from_secs(60);

/// Of <linux/prctl.h>; the libc crate does not have it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Bytes of a log after which the next server begins a new one.
const LOG_MAX: u64 = 1 << 20;

/// What to serve.
#[derive(Clone)]
pub struct Plan {
    /// The session.
    pub id: SessionId,
    /// `mount` or `run`, for the lock and the log.
    pub command: &'static str,
    /// How to open it.
    pub options: OpenOptions,
    /// What has to be so before it serves.
    pub resuming: Resuming,
    /// Patterns of what is not kept, from now on; `None`: those that the session has.
    pub ephemeral: Option<Vec<String>>,
    /// What ids are called on this host. Commands on the session, mounted or not, have them as they are stored.
    pub ids: IdMaps,
    /// Only one that is there.
    pub existing: bool,
    /// Where; a canonical path.
    pub mountpoint: PathBuf,
    /// For other users, too.
    pub allow_other: bool,
    pub transport: Transport,
    /// Whether it stops when the process that started it has ended.
    pub ends_with_parent: bool,
    /// Whether it is for those who visit: in a namespace of its own, and it stops when the last of them has left.
    pub for_visits: bool,
    /// Whether the log goes to standard error instead of the session's file.
    pub foreground: bool,
}

/// What makes a server act.
enum Event {
    Signal(i32),
    Stop(Stopping),
    /// The process that this mount is for has died.
    Orphaned,
    /// The mount is gone, whoever took it away.
    Gone,
}

/// Serves until it is stopped. `ready` hears when the mount serves; `alive` is the end of a pipe whose other end
/// only the process has that this mount is for.
pub fn serve(
    context: &Context,
    plan: &Plan,
    ready: Option<&mut PipeWriter>,
    alive: Option<PipeReader>,
) -> Result<StopReport, Failure> {
    // Before the first thread, so that all have them blocked.
    let signals = Signals::of(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT]);
    signals.block().map_err(Failure::io("signals"))?;
    // In the foreground, a SIGHUP that nohup has ignored stays ignored.
    let heard = [libc::SIGTERM, libc::SIGCHLD, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
    reset(if plan.foreground { &heard[..2] } else { &heard });

    let holder = Holder::current(plan.command, Some(&plan.mountpoint));
    let locked = context.store.lock(&plan.id, plan.existing, &holder)?;
    open_log(context, plan, &locked.dir().log_file())?;
    flush_without_ourselves();
    let told = match &plan.ephemeral {
        // A new session has what the settings say.
        None if !locked.dir().exists()? => Some(context.config().ephemeral.clone()),
        told => told.clone(),
    };
    let ephemeral = match &told {
        Some(told) => told.clone(),
        None => context.store.entry(&plan.id)?.settings.ephemeral,
    };
    let options = OpenOptions { ephemeral, ..plan.options.clone() };
    let session = plan.resuming.open(locked, &options).inspect_err(|error| log::error!("{error}"))?;
    session.warn_at(&context.config().soft_limits);
    // What is said of the mount is read before there is one: from then on nothing can fail that would leave it behind.
    let warning = state_of(plan, &session);
    let proved = plan.resuming.prove(&session).and_then(|()| remember(context, &plan.id, told));
    let started = proved.and_then(|()| Serving::start(plan, &session, &signals, alive));
    let serving = match started {
        Ok(started) => started,
        Err(failure) => {
            log::error!("{}", failure.message);
            session.leaving();
            let _ = session.stop_because(&failure.message);
            // A session that was never mounted is not left behind by a mount that was refused.
            if session.created() {
                let _ = context.store.remove_held(&session);
            }
            return Err(failure);
        }
    };
    if let Some(ready) = ready {
        announce(plan, &session, warning, &serving.mounted, ready);
    }
    if let Err(error) = session.watch(VERIFY_WHEN_IDLE) {
        log::warn!("the session will not be verified: {error}");
    }
    let fs = Arc::clone(session.fs());
    if let Err(error) = std::thread::Builder::new().name("warm".to_owned()).spawn(move || fs.warm()) {
        log::debug!("nothing is loaded ahead: {error}");
    }
    serving.until_stopped(plan, &session)
}

/// Keeps what the session is to be from now on.
fn remember(context: &Context, id: &SessionId, told: Option<Vec<String>>) -> Result<(), Failure> {
    if let Some(told) = told {
        context.store.update_entry(id, |entry| entry.settings.ephemeral = told)?;
    }
    Ok(())
}

/// Has the kernel not wait for us when one of our own threads needs memory. Reclaim may want to write back dirty pages of
/// the very mount that we serve, and would wait for an answer from the thread that is waiting for the memory:
/// PR_SET_IO_FLUSHER(2const) is "used by … a userspace process that is involved in the block layer or filesystem I/O
/// path, and can allocate memory while processing I/O requests", and names FUSE daemons. All threads inherit it.
fn flush_without_ourselves() {
    // SAFETY: touches no memory of ours.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } != 0 {
        // An ordinary user may not (CAP_SYS_RESOURCE), and Linux before 5.6 has no such thing.
        log::debug!("PR_SET_IO_FLUSHER: {}", std::io::Error::last_os_error());
    }
}

/// The log is appended to: what happened last time matters most when this time fails.
fn open_log(context: &Context, plan: &Plan, path: &Path) -> Result<(), Failure> {
    if plan.foreground {
        context.log_as_server(None);
        return Ok(());
    }
    // One old log is kept: a session that is used every minute for years has a bounded one.
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_MAX) {
        let _ = std::fs::rename(path, path.with_extension("log.1"));
    }
    let opened = open_ordinary(File::options().append(true).create(true).mode(0o600), path)
        .map_err(|source| SessionError::Store { path: path.to_owned(), what: "written", source })?;
    context.log_as_server(Some(opened));
    Ok(())
}

/// What the user of a mount should know about it.
fn state_of(plan: &Plan, session: &Session) -> Option<String> {
    let usage = session.fs().usage();
    let warning = cap_below_use(&plan.id, &plan.options, usage.bytes, usage.inodes);
    if let Some(warning) = &warning {
        log::warn!("{warning}");
    }
    warning
}

fn announce(plan: &Plan, session: &Session, warning: Option<String>, mounted: &Mounted, to: &mut PipeWriter) {
    let (fuse, lacks) = mounted.protocol();
    Message::Ready(Box::new(Ready {
        session: plan.id.to_string(),
        mountpoint: plan.mountpoint.clone(),
        pid: std::process::id(),
        created: session.created(),
        resume: session.resume().clone(),
        version_change: session.version_change().cloned(),
        transport: mounted.transport().to_string(),
        fuse,
        lacks,
        warning,
    }))
    .send(to);
}

/// A mount being served.
struct Serving {
    mounted: Arc<Mounted>,
    control: Server,
    events: Receiver<Event>,
}

/// Who waits for the answer to a stop.
type Answer = Box<dyn FnOnce(Result<StopReport, crate::control::Fault>) + Send>;

/// How a mount came to its end.
struct End {
    /// Who is to be told.
    answers: Vec<Answer>,
    /// Whether it is gone already.
    gone: bool,
    /// For the log of events.
    reason: String,
}

impl Serving {
    fn start(plan: &Plan, session: &Session, signals: &Signals, alive: Option<PipeReader>) -> Result<Serving, Failure> {
        // Until the mount is there for everyone to see.
        let _turn = mountpoint::turn(&plan.mountpoint)?;
        let fsname = mounts::source_of(plan.id.as_str());
        let options = MountOptions { allow_other: plan.allow_other, fsname, transport: plan.transport };
        let mounted = Mounted::start(session.fs().mapped(plan.ids.clone()), &plan.mountpoint, &options)
            .map_err(|error| mount_failure(&plan.mountpoint, &error))?;
        let mounted = Arc::new(mounted);
        log::info!(
            "session {} serves at {} (process {}, {}, {})",
            plan.id,
            plan.mountpoint.display(),
            std::process::id(),
            resumed(session.id().as_str(), session.resume()),
            if mounted.transport() == Transport::Uring { "io_uring" } else { "/dev/fuse" },
        );
        let (sender, events) = unbounded();
        let started = Self::threads(&mounted, signals, alive, &sender)
            .and_then(|()| Server::start(session, hooks(plan, &mounted, sender)))
            .map_err(|error| Failure::new(Exit::Failure, format!("the server cannot start its threads: {error}")));
        match started {
            Ok(control) => Ok(Serving { mounted, control, events }),
            Err(failure) => {
                let _ = mounted.unmount(true);
                Err(failure)
            }
        }
    }

    /// Each waits for one thing and says so. None of them uses any time meanwhile.
    fn threads(
        mounted: &Arc<Mounted>,
        signals: &Signals,
        alive: Option<PipeReader>,
        events: &Sender<Event>,
    ) -> std::io::Result<()> {
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
        };
        let (signals, sender) = (*signals, events.clone());
        spawn("signals", Box::new(move || while sender.send(Event::Signal(signals.wait())).is_ok() {}))?;
        let (waiting, sender) = (Arc::clone(mounted), events.clone());
        spawn(
            "unmounted",
            Box::new(move || {
                waiting.wait();
                let _ = sender.send(Event::Gone);
            }),
        )?;
        let Some(mut alive) = alive else { return Ok(()) };
        let sender = events.clone();
        spawn(
            "supervisor",
            Box::new(move || {
                // Nothing is ever written to it: this returns at its end.
                let _ = alive.read(&mut [0]);
                let _ = sender.send(Event::Orphaned);
            }),
        )
    }

    fn until_stopped(self, plan: &Plan, session: &Session) -> Result<StopReport, Failure> {
        let End { mut answers, gone, reason } = self.wait_for_stop(plan, session);
        session.leaving();
        if !gone {
            self.wait_until_gone(&mut answers);
        }
        let stopped = session.stop_because(&reason);
        // While the lock is held: afterwards the socket may be another server's.
        self.control.remove();
        // Whoever asked while we were at it gets the same answer.
        for event in self.events.try_iter() {
            if let Event::Stop(stopping) = event {
                answers.push(stopping.answer);
            }
        }
        match stopped {
            Ok(report) => {
                log::info!(
                    "session {} stopped: transaction {}, {} files, {} directories, {} bytes, digest {}",
                    report.session,
                    report.receipt.txid,
                    report.receipt.files,
                    report.receipt.dirs,
                    report.receipt.bytes,
                    report.receipt.digest
                );
                answers.into_iter().for_each(|answer| answer(Ok(report.clone())));
                Ok(report)
            }
            Err(error) => {
                log::error!("session {} could not be stopped: {error}", session.id());
                let failure = Failure::from(error);
                answers.into_iter().for_each(|answer| answer(Err(failure.to_fault())));
                Err(failure)
            }
        }
    }

    /// Handles events until the mount is gone or going.
    fn wait_for_stop(&self, plan: &Plan, session: &Session) -> End {
        let mut answers = Vec::new();
        loop {
            let why = match self.events.recv() {
                Ok(Event::Stop(Stopping { how: Ending::Deserted, answer })) => {
                    answers.push(answer);
                    // Nobody is left to end what the commands have left running, and their workspace goes.
                    end_namespace();
                    "the last command has ended".to_owned()
                }
                Ok(Event::Stop(stopping)) => match self.unmount_committed(session, stopping.how == Ending::Lazy) {
                    Ok(()) => return End { answers: vec![stopping.answer], gone: false, reason: "umount".to_owned() },
                    Err(failure) => {
                        log::warn!("not stopped: {}", failure.message);
                        (stopping.answer)(Err(failure.to_fault()));
                        continue;
                    }
                },
                Ok(Event::Gone) => {
                    let reason = "the mount is gone".to_owned();
                    log::info!("{reason}");
                    return End { answers: Vec::new(), gone: true, reason };
                }
                Ok(Event::Signal(signal)) => format!("signal {signal}"),
                // Who came in meanwhile has it for as long as they like.
                Ok(Event::Orphaned) if plan.for_visits && !self.control.close() => continue,
                Ok(Event::Orphaned) => {
                    // Nobody is left to end what the command has started, and its workspace goes.
                    end_namespace();
                    "the process it was mounted for has ended".to_owned()
                }
                // The threads hold senders for as long as they run, and they run as long as we do.
                Err(_) => "internal error".to_owned(),
            };
            log::info!("stopping: {why}");
            session.leaving();
            // Whoever says it with a signal means it: files that are open do not keep it.
            if let Err(failure) = self.unmount(false) {
                log::warn!("{}: detached all the same", failure.message);
                if let Err(failure) = self.unmount(true) {
                    log::error!("{}", failure.message);
                }
            }
            return End { answers, gone: false, reason: why };
        }
    }

    /// Commits before it unmounts: a store that is full, or fails, is said to who can do something about it while
    /// everything is still there and served.
    fn unmount_committed(&self, session: &Session, lazy: bool) -> Result<(), Failure> {
        session.commit()?;
        self.unmount(lazy)
    }

    fn unmount(&self, lazy: bool) -> Result<(), Failure> {
        let at = self.mounted.mountpoint();
        write_back(&at, WRITE_BACK);
        self.mounted.unmount(lazy).map_err(|error| {
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Failure::new(Exit::Failure, format!("{} cannot be unmounted: {error}", at.display()));
            }
            let users = mounts::users(&at);
            let by = if users.is_empty() { String::new() } else { format!(" by {}", users.join(", ")) };
            Failure::new(Exit::MountBusy, format!("{} is in use{by}", at.display()))
        })
    }

    /// The last requests are answered; who asks for a stop meanwhile is told with the others.
    fn wait_until_gone(&self, answers: &mut Vec<Answer>) {
        let until = std::time::Instant::now() + LAST_REQUESTS;
        loop {
            match self.events.recv_deadline(until) {
                Ok(Event::Gone) => return,
                Ok(Event::Stop(stopping)) => answers.push(stopping.answer),
                Ok(_) => {}
                Err(_) => {
                    log::warn!("requests are still being served after the mount is gone");
                    return;
                }
            }
        }
    }
}

/// What the control socket needs of the mount.
fn hooks(plan: &Plan, mounted: &Arc<Mounted>, events: Sender<Event>) -> Hooks {
    let (invalidator, mount) = (mounted.invalidator(), Arc::clone(mounted));
    Hooks {
        mountpoint: Box::new(move || mount.mountpoint()),
        for_visits: plan.for_visits,
        stop: Box::new(move |stopping| {
            // The loop outlives the socket; were it gone, so would be the process.
            let _ = events.send(Event::Stop(stopping));
        }),
        invalidate: Box::new(move |touched| match touched {
            Touched::Entry(parent, name) => invalidator.entry(*parent, name),
            Touched::Inode(ino) => invalidator.inode(*ino),
        }),
    }
}
