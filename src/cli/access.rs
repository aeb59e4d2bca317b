//! Reaching a session's tree: through the server of its mount, or in this process when it is not mounted.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::exit::Exit;
use super::failure::Failure;
use super::output::{Context, human_bytes};
use super::process::mounts;
use crate::base::SessionId;
use crate::control::{Client, ControlError};
use crate::fs::Caller;
use crate::session::{Holder, OpenOptions, Session, SessionDir, SessionError};
use crate::store::StoreError;

/// How long a command waits for another command that has the session open, or a server that is just coming or going.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// How long a healthy server takes at most to say how it is.
const ANSWER: Duration = Duration::from_secs(2);
/// Of <linux/sched.h>.
const PF_EXITING: u64 = 4;

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
            Some(holder) if holder.mountpoint.is_some() => match connect(&context.store.session(id)) {
                Ok(client) => return Ok(Access::Served(client)),
                Err(error) => Failure::of_control(id.as_str(), error),
            },
            _ => match context.store.lock(id, create.is_none(), &Holder::current(command, None)) {
                Ok(locked) => return Ok(Access::Ours(Box::new(locked.open(&create.clone().unwrap_or_default())?))),
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

/// Connects to a server, unless it is being killed: its socket takes connections until the last of its threads has ended.
fn connect(dir: &SessionDir) -> Result<Client, ControlError> {
    let client = Client::connect(dir)?;
    match client.server_pid() {
        Some(pid) if is_ending(pid) => Err(ControlError::NoAnswer(ErrorKind::ConnectionRefused.into())),
        _ => Ok(client),
    }
}

/// The server of a mounted session; `None` when it is not mounted.
pub fn server(context: &Context, dir: &SessionDir) -> Result<Option<Client>, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let Some(holder) = context.store.holder(dir.id())?.filter(|holder| holder.mountpoint.is_some()) else {
            return Ok(None);
        };
        match connect(dir) {
            Ok(client) => return Ok(Some(client)),
            // It has ended since, or is about to: then the lock is free, or will be.
            Err(ControlError::NoAnswer(_)) if context.store.holder(dir.id())?.is_none() => return Ok(None),
            Err(ControlError::NoAnswer(_)) if Instant::now() < until && is_leaving(context, dir.id(), &holder) => {
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(Failure::of_control(dir.id().as_str(), error)),
        }
    }
}

/// Whether the session will be free in a moment: its holder says so, or is being killed. A lock outlives a `kill -9` by
/// as long as the kernel takes to end the last thread, and a server that is asked to stop has to commit.
pub fn is_leaving(context: &Context, id: &SessionId, holder: &Holder) -> bool {
    // One that has not said its name yet is just coming, or saying that it goes.
    if holder.leaving || holder.pid == 0 {
        return true;
    }
    let Some(mountpoint) = &holder.mountpoint else { return is_ending(holder.pid) };
    // Who answers is alive, whatever /proc says: in another PID namespace its number is another's, or nobody's.
    let connected = connect(&context.store.session(id));
    // umount(2) has returned before the server knows: nobody can use the session there, and it will stop. (The socket
    // comes after the mount, so one that is just coming is not meant.)
    let server = connected.as_ref().ok().and_then(Client::server_pid);
    if server.and_then(|pid| mounts::seen_by(pid, id.as_str(), mountpoint)) == Some(false) {
        return true;
    }
    let asked = connected.and_then(|client| client.patience(ANSWER)?.status());
    let going = match asked {
        Err(ControlError::NoAnswer(_)) => {
            // Between the two there is an instant at which neither shows.
            is_ending(holder.pid) || {
                std::thread::sleep(PAUSE);
                is_ending(holder.pid)
            }
        }
        // Slow is not dead; a connection that breaks off is.
        Err(ControlError::Lost(error)) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        _ => false,
    };
    // Or it has gone on its way while it was asked: then the lock says something else by now.
    going || context.store.holder(id).is_ok_and(|now| now.as_ref() != Some(holder))
}

/// Whether a process has ended, is ending, or has been sent the SIGKILL that it will end by.
fn is_ending(pid: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    // In this order: a signal is pending first, and then the process is ending by it.
    let (Ok(status), Ok(stat)) = (read("status"), read("stat")) else { return true };
    // Behind the name in parentheses come the state and five numbers, then the flags.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ended = fields.next().is_some_and(|state| ["Z", "X"].contains(&state));
    let exiting = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|set| set & PF_EXITING != 0);
    let pending = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    let killed = |set: &str| u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & 1 << (libc::SIGKILL - 1) != 0);
    ended || exiting || pending.into_iter().any(killed)
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

/// What there is to say about a cap that was asked for and is below what the session holds already: it is taken, and
/// nothing new fits until enough has gone.
pub fn cap_below_use(id: &SessionId, options: &OpenOptions, bytes_used: u64, inodes_used: u64) -> Option<String> {
    let bytes = options.bytes_limit.filter(|&limit| limit < bytes_used);
    let inodes = options.inodes_limit.filter(|&limit| limit < inodes_used);
    let over = match (bytes, inodes) {
        (Some(limit), _) => format!("{} of {}", human_bytes(bytes_used), human_bytes(limit)),
        (None, Some(limit)) => format!("{inodes_used} inodes of {limit}"),
        (None, None) => return None,
    };
    Some(format!("session {id} uses {over}: nothing new fits until something is removed"))
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
