//! A stay in a session's workspace: of a session that is mounted, as a visitor; one that is not is mounted for as long as
//! somebody stays.

use std::path::Path;
use std::time::{Duration, Instant};

use super::enter::Door;
use super::fork::{Child, fork_server};
use super::mount::{announcement, caution, wait_until_ready};
use super::opening::{Resuming, id_maps};
use super::preflight;
use super::server::Plan;
use crate::base::SessionId;
use crate::cli::access::server;
use crate::cli::args::Opening;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::control::{ControlError, Visit};
use crate::session::{Changed, SessionDir};

/// How long a session is waited for that is just being opened or stopped.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// A stay in the workspace.
pub struct Stay {
    session: SessionId,
    visit: Visit,
    /// The way in.
    pub door: Door,
    /// The server, if we have started it; it notices when we die.
    server: Option<Child>,
}

impl Stay {
    /// Begins one, in a session that there is. `mount` is where one is mounted that is not, for `command`; of a process with
    /// one thread.
    pub fn begin(
        context: &Context,
        id: &SessionId,
        command: &'static str,
        mount: Option<&Path>,
    ) -> Result<Stay, Failure> {
        let dir = context.store.existing(id)?;
        let mount =
            std::path::absolute(mount.unwrap_or(&context.config().mount)).map_err(Failure::io("the mount point"))?;
        let until = Instant::now() + PATIENCE;
        let mut started = None;
        let (visit, door) = loop {
            let inside = come_in(context, &dir, (command, mount.as_path()), &mut started)
                .and_then(|mut visit| Door::of(id.as_str(), &mut visit).map(|door| (visit, door)));
            match inside {
                Ok(inside) => break inside,
                // Somebody else was faster and does not answer yet, or is just leaving.
                Err(failure)
                    if matches!(failure.exit, Exit::SessionInUse | Exit::ServerDied) && Instant::now() < until =>
                {
                    std::thread::sleep(PAUSE);
                }
                Err(failure) => return Err(failure),
            }
        };
        Ok(Stay { session: id.clone(), visit, door, server: started })
    }

    /// The server, if it is a child of this process.
    pub fn server(&self) -> Option<libc::pid_t> {
        self.server.as_ref().map(|server| server.pid)
    }

    /// Ends it: what was changed meanwhile. The last who leaves a session that was mounted for this has it committed.
    pub fn end(self) -> Result<Changed, Failure> {
        let session = self.session.as_str();
        self.visit.leave().map(|(changed, _)| changed).map_err(|error| match error {
            ControlError::Refused(fault) => Failure::new(Exit::StopFailed, fault.message)
                .hint(format!("sessionfs sync {session}   # what the workspace acknowledged is in the journal")),
            error => Failure::of_control(session, error),
        })
    }
}

/// Visits the session, mounted by whomever. One that cannot be visited just now is in use.
fn come_in(
    context: &Context,
    dir: &SessionDir,
    mount: (&'static str, &Path),
    started: &mut Option<Child>,
) -> Result<Visit, Failure> {
    let in_use = |text: String| Failure::new(Exit::SessionInUse, text).hint(format!("sessionfs status {}", dir.id()));
    loop {
        match server(context, dir)?.map(crate::control::Client::visit) {
            Some(Ok(visit)) => return Ok(visit),
            Some(Err(ControlError::Refused(fault))) if fault.errno == Some(libc::EAGAIN) => {
                return Err(in_use(format!("session {}: {}", dir.id(), fault.message)));
            }
            Some(Err(error @ ControlError::Lost(_))) => return Err(in_use(format!("session {}: {error}", dir.id()))),
            Some(Err(error)) => return Err(Failure::of_control(dir.id().as_str(), error)),
            None => *started = Some(start(context, dir, mount)?),
        }
    }
}

/// Mounts the session for as long as somebody stays.
fn start(context: &Context, dir: &SessionDir, (command, mountpoint): (&'static str, &Path)) -> Result<Child, Failure> {
    let (id, config) = (dir.id().clone(), context.config());
    preflight::check(context, &id, true)?;
    let plan = Plan {
        id,
        command,
        options: context.open_options(None, None),
        resuming: Resuming::default(),
        ephemeral: None,
        ids: id_maps(context, &Opening::default())?,
        existing: true,
        mountpoint: mountpoint.to_owned(),
        allow_other: config.allow_other,
        transport: config.transport,
        ends_with_parent: true,
        for_visits: true,
        foreground: false,
    };
    let mut server = fork_server(context, &plan).map_err(Failure::io("the server cannot be started"))?;
    let ready = wait_until_ready(context, &plan, &mut server)?;
    caution(context, &ready);
    log::info!("{}", announcement(&ready));
    Ok(server)
}
