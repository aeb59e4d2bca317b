//! `umount`

use std::path::Path;

use super::sync::described;
use crate::base::SessionId;
use crate::cli::access::server;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::cli::process::mounts::{self, Mount};
use crate::control::ControlError;
use crate::session::{SessionDir, What};

/// What there is to unmount.
enum Target {
    /// A session of this store.
    Session(SessionDir),
    /// A mount of ours whose session is not in this store.
    Elsewhere(Mount),
}

pub fn umount(context: &Context, target: &Path, lazy: bool) -> Result<u8, Failure> {
    let dir = match find(context, target)? {
        Target::Session(dir) => dir,
        Target::Elsewhere(mount) => return elsewhere(&mount),
    };
    let id = dir.id().clone();
    match server(context, &dir) {
        Ok(Some(client)) => match client.stop(lazy) {
            Ok(report) => {
                context.report(&report, || described(&report))?;
                Ok(0)
            }
            // It died after it had taken the connection; what it left behind is ours to clear.
            Err(ControlError::Lost(_)) if context.store.holder(&id)?.is_none() => dead(context, &dir),
            Err(error) => Err(explain(&id, error)),
        },
        Ok(None) => dead(context, &dir),
        Err(failure) => Err(failure),
    }
}

fn explain(id: &SessionId, error: ControlError) -> Failure {
    let failure = Failure::of_control(id.as_str(), error);
    match failure.exit {
        Exit::MountBusy => failure.hint(format!("sessionfs umount --lazy {id}   # open files on it get ENOTCONN")),
        _ => failure,
    }
}

/// A session by name or by mount point. A path has a slash in it, or is no session's name.
fn find(context: &Context, target: &Path) -> Result<Target, Failure> {
    let text = target.to_string_lossy();
    let by_name = if text.contains('/') { None } else { text.parse::<SessionId>().ok() };
    if let Some(id) = &by_name {
        let dir = context.store.session(id);
        if dir.exists()? {
            return Ok(Target::Session(dir));
        }
    }
    let path = mounts::canonical(target);
    if let Some(mount) = mounts::at(&path).filter(Mount::is_ours) {
        // What is mounted says of which session it is; the store may be another one that has a session of that name.
        let id = mount.session().and_then(|id| id.parse::<SessionId>().ok());
        let dir = id.map(|id| context.store.session(&id));
        return match dir {
            Some(dir) if dir.exists()? && is_mounted_at(context, &dir, &path)? != Some(false) => {
                Ok(Target::Session(dir))
            }
            _ => Ok(Target::Elsewhere(mount)),
        };
    }
    // In a namespace of its own, where only its server sees it.
    for dir in context.store.sessions()? {
        if is_mounted_at(context, &dir, &path)? == Some(true) {
            return Ok(Target::Session(dir));
        }
    }
    match by_name {
        Some(id) if !path.exists() => {
            Err(context.store.existing(&id).err().map_or_else(|| not_mounted(&path), Failure::from))
        }
        _ => Err(not_mounted(&path)),
    }
}

/// Whether the process that has the session mounted it at this path; `None` when nobody has it.
fn is_mounted_at(context: &Context, dir: &SessionDir, path: &Path) -> Result<Option<bool>, Failure> {
    let holder = context.store.holder(dir.id())?;
    Ok(holder.map(|holder| holder.mountpoint.is_some_and(|mountpoint| mountpoint == path)))
}

fn not_mounted(what: &Path) -> Failure {
    Failure::new(Exit::NotMounted, format!("{}: no session is mounted there", what.display())).hint("sessionfs ls")
}

/// Nobody serves the session. Its mount may still be there, if the server died.
fn dead(context: &Context, dir: &SessionDir) -> Result<u8, Failure> {
    // A session of that name in another store may have a dead mount, too: ours is where this store's was.
    let events = context.store.events(dir.id())?;
    let was_at = |path: &Path| {
        events.iter().any(|event| matches!(&event.what, What::Started { mountpoint: Some(at), .. } if at == path))
    };
    let mounts: Vec<Mount> =
        mounts::dead_of(dir.id().as_str()).into_iter().filter(|mount| was_at(&mount.path)).collect();
    for Mount { path, .. } in &mounts {
        detach(path)?;
        let said = serde_json::json!({ "session": dir.id().as_str(), "detached": path });
        context.report(&said, || {
            format!(
                "{}: its server had died; the dead mount at {} is detached, the next mount recovers the session",
                dir.id(),
                path.display()
            )
        })?;
    }
    if mounts.is_empty() {
        let text = format!("session {} is not mounted", dir.id());
        return Err(Failure::new(Exit::NotMounted, text).hint("sessionfs ls"));
    }
    Ok(0)
}

fn detach(path: &Path) -> Result<(), Failure> {
    mounts::detach(path).map_err(|error| {
        Failure::new(Exit::MountNotPermitted, format!("{} cannot be detached: {error}", path.display()))
            .hint(format!("umount -l {}   # as root", path.display()))
    })
}

/// Ours, but its session is in another store: only a dead one can be dealt with, since nobody is there to ask.
fn elsewhere(mount: &Mount) -> Result<u8, Failure> {
    if mounts::is_dead(&mount.path) {
        detach(&mount.path)?;
        return Ok(0);
    }
    let path = mount.path.display();
    Err(Failure::new(Exit::UnknownSession, format!("{path}: {} is a session of another store", mount.source))
        .hint(format!("sessionfs --store DIR umount {path}")))
}
