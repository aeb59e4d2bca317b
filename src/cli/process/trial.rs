//! A real mount of a session that is thrown away: the one check of `doctor` that cannot be wrong.

use std::fs;
use std::io;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::fork::{fork_server, in_child, wait};
use super::messages::Message;
use super::mount::wait_until_ready;
use super::mountpoint::{Missing, prepare};
use super::namespace;
use super::opening::Resuming;
use super::preflight;
use super::server::Plan;
use super::signals::{reset, send};
use crate::base::{IdMaps, SessionId, SessionIdError};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::session::{OpenOptions, StoreDir};

/// Where in the scratch directory it is mounted.
pub const MOUNTPOINT: &str = "mount";

/// How long all of it may take. A mount that hangs is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a mount that worked has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worked {
    /// How its requests came: `uring` or `device`.
    pub transport: String,
    /// The version of the protocol, and what the kernel does not have of what we ask for.
    pub fuse: String,
    pub lacks: Vec<String>,
    /// Whether it was in a namespace of its own.
    pub private: bool,
    /// How long it took, from the making of the session to the end of its stop.
    pub millis: u64,
}

/// What came of it.
pub struct Attempt {
    /// Why there was no private namespace, if there was none.
    pub namespace: Result<(), Failure>,
    /// Whether the mount worked: there, or in place where there is none.
    pub mount: Result<Worked, Failure>,
}

/// Mounts, writes, syncs, reads, stops; in a process of its own each time, with which all that it does to itself ends.
pub fn attempt(context: &Context, scratch: &Path) -> Attempt {
    reset(&[libc::SIGCHLD]);
    let namespace = in_child(PATIENCE, namespace::enter);
    let private = namespace.is_ok();
    let mount = in_child(PATIENCE, || {
        if private {
            namespace::enter()?;
        }
        Ok(Worked { private, ..mounted(context, scratch)? })
    });
    Attempt { namespace, mount }
}

fn mounted(context: &Context, scratch: &Path) -> Result<Worked, Failure> {
    let started = Instant::now();
    preflight::device()?;
    let id = "doctor".parse().map_err(|error: SessionIdError| Failure::new(Exit::Failure, error.to_string()))?;
    let context = context.with_store(StoreDir::at(&scratch.join("store"))?);
    let plan = plan(&context, id, prepare(&scratch.join(MOUNTPOINT), Missing::Make)?);
    let mut server = fork_server(&context, &plan).map_err(Failure::io("the server cannot be started"))?;
    let ready = wait_until_ready(&context, &plan, &mut server)?;
    let used = exercise(&ready.mountpoint)
        .map_err(|error| Failure::new(Exit::Failure, format!("it is mounted, and cannot be used: {error}")));
    send(server.pid, libc::SIGTERM);
    let last = Message::receive(&mut server.messages).map_err(Failure::io("the server"))?;
    wait(server.pid).map_err(Failure::io("the server"))?;
    used?;
    match last {
        Some(Message::Stopped(_)) => {}
        Some(Message::Failed(failure)) => return Err(failure),
        _ => return Err(Failure::new(Exit::ServerDied, "the server ended without a word as it was to stop")),
    }
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Worked { transport: ready.transport, fuse: ready.fuse, lacks: ready.lacks, private: false, millis })
}

fn plan(context: &Context, id: SessionId, mountpoint: std::path::PathBuf) -> Plan {
    let config = context.config();
    Plan {
        id,
        command: "doctor",
        options: OpenOptions::default(),
        resuming: Resuming::default(),
        ephemeral: None,
        ids: IdMaps::default(),
        existing: false,
        mountpoint,
        allow_other: config.allow_other,
        transport: config.transport,
        for_visits: false,
        ends_with_parent: true,
        foreground: false,
    }
}

/// What every program does to a workspace.
fn exercise(workspace: &Path) -> io::Result<()> {
    let written: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let (before, after) = (workspace.join("before"), workspace.join("after"));
    let mut file = fs::File::create(&before)?;
    file.write_all(&written)?;
    file.sync_all()?;
    fs::rename(&before, &after)?;
    let mut read = Vec::new();
    fs::File::open(&after)?.read_to_end(&mut read)?;
    if read != written {
        return Err(io::Error::other("what is read is not what was written"));
    }
    Ok(())
}
