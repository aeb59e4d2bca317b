//! Reaching a session's tree: through the server of its mount, or in this process when it is not mounted.

use std::time::{Duration, Instant};

use super::exit::Exit;
use super::failure::Failure;
use super::output::Context;
use crate::base::SessionId;
use crate::control::{Client, ControlError};
use crate::fs::Caller;
use crate::session::{Holder, OpenOptions, Session, SessionDir, SessionError};
use crate::store::StoreError;

/// How long a command waits for another command that has the session open, or a server that is just coming or going.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// A session within reach.
pub enum Access {
    /// Mounted: its server does the work.
    Served(Client),
    /// Not mounted: we have it open ourselves. Boxed, for it is large beside the other.
    Ours(Box<Session>),
}

/// Reaches a session; a new one only when `create` allows it.
pub fn reach(context: &Context, id: &SessionId, command: &str, create: Option<OpenOptions>) -> Result<Access, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let error = match context.store.holder(id)? {
            Some(holder) if holder.mountpoint.is_some() => match Client::connect(&context.store.session(id)) {
                Ok(client) => return Ok(Access::Served(client)),
                Err(error) => Failure::of_control(id.as_str(), error),
            },
            _ => match context.store.lock(id, create.is_none(), &Holder::current(command, None)) {
                Ok(locked) => return Ok(Access::Ours(Box::new(locked.open(&create.unwrap_or_default())?))),
                Err(error @ SessionError::InUse { .. }) => error.into(),
                Err(error) => return Err(error.into()),
            },
        };
        if Instant::now() > until {
            return Err(error);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The server of a mounted session; `None` when it is not mounted.
pub fn server(context: &Context, dir: &SessionDir) -> Result<Option<Client>, Failure> {
    match context.store.holder(dir.id())? {
        Some(holder) if holder.mountpoint.is_some() => match Client::connect(dir) {
            Ok(client) => Ok(Some(client)),
            // It has ended since; had it died, the lock would be free as well.
            Err(ControlError::NoAnswer(_)) if context.store.holder(dir.id())?.is_none() => Ok(None),
            Err(error) => Err(Failure::of_control(dir.id().as_str(), error)),
        },
        _ => Ok(None),
    }
}

/// Stops a session that this process had open (its lock goes when it is dropped); its failure counts when the work itself was done.
pub fn finish<T>(session: &Session, result: Result<T, Failure>) -> Result<T, Failure> {
    let disk_full = session.fs().is_disk_full();
    let stopped = session.stop();
    let value = result.map_err(|failure| match failure.exit {
        Exit::SessionFull if disk_full => {
            Failure::new(Exit::StoreFull, format!("{}: {}", failure.message, StoreError::Full))
        }
        _ => failure,
    })?;
    stopped?;
    Ok(value)
}

/// Who we are, to the file system.
pub fn caller() -> Caller {
    // SAFETY: neither call can fail or touches memory.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Caller { uid, gid, umask: 0o022 }
}

/// Splits `SESSION:/path`. `None` when it is a path of the host: no colon, or a slash before it.
pub fn split_target(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = target.iter().position(|&b| b == b':')?;
    (!target[..colon].contains(&b'/')).then(|| (&target[..colon], &target[colon + 1..]))
}

/// The session and the path that a `SESSION:/path` names.
pub fn target(context: &Context, text: &[u8]) -> Result<(SessionId, Vec<u8>), Failure> {
    let Some((session, path)) = split_target(text) else {
        let shown = String::from_utf8_lossy(text);
        return Err(Failure::new(Exit::Usage, format!("{shown}: not a path in a session"))
            .hint(format!("sessionfs ls {}:/", shown.trim_matches('/'))));
    };
    Ok((context.session(&String::from_utf8_lossy(session))?, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_after_a_slash_is_a_host_path() {
        assert_eq!(split_target(b"demo:/a:b"), Some((&b"demo"[..], &b"/a:b"[..])));
        assert_eq!(split_target(b"demo:"), Some((&b"demo"[..], &b""[..])));
        assert_eq!(split_target(b"./a:b"), None);
        assert_eq!(split_target(b"plain"), None);
    }
}
