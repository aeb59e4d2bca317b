//! Entering the workspace of a mounted session: where its server sees it, as somebody who may be there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::user::{User, ids};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::control::Visit;

/// The way into a workspace. It is known to be that of the session's server: not of a process that has its number since.
pub struct Door {
    /// The server's process.
    server: OwnedFd,
    /// Its namespaces that are not ours.
    namespaces: libc::c_int,
    /// Its root directory, where it has another mount namespace.
    root: Option<File>,
    /// Who mounted the session: without `--allow-other`, nobody else may be in it.
    owner: (u32, u32),
    /// Where it is mounted, as the server sees it.
    pub mountpoint: PathBuf,
}

impl Door {
    /// The way to where a visit is.
    pub fn of(session: &str, visit: &mut Visit) -> Result<Door, Failure> {
        let Some((pid, uid, gid)) = visit.server() else {
            let text = format!("session {session} is mounted in another container: its server has no number here");
            return Err(
                Failure::new(Exit::RunFailed, text).hint(format!("in that container: sessionfs exec {session} …"))
            );
        };
        let unknown = |error: io::Error| {
            Failure::new(Exit::RunFailed, format!("the server of session {session} (process {pid}): {error}"))
        };
        let server = pidfd_open(pid).map_err(unknown)?;
        let differs = |name: &str| -> io::Result<bool> {
            let (ours, its) =
                (fs::metadata(format!("/proc/self/ns/{name}"))?, fs::metadata(format!("/proc/{pid}/ns/{name}"))?);
            Ok((ours.dev(), ours.ino()) != (its.dev(), its.ino()))
        };
        let (mut namespaces, mut root) = (0, None);
        if differs("mnt").map_err(unknown)? {
            namespaces |= libc::CLONE_NEWNS;
            if differs("user").map_err(unknown)? {
                namespaces |= libc::CLONE_NEWUSER;
            }
            let path = format!("/proc/{pid}/root");
            root = Some(OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).map_err(unknown)?);
        }
        // It answers after we have looked: so it is its process that we have looked at.
        if !visit.is_alive() {
            return Err(Failure::new(Exit::ServerDied, format!("session {session}: its server has just gone"))
                .hint("the same command again: what the workspace acknowledged is recovered"));
        }
        Ok(Door { server, namespaces, root, owner: (uid, gid), mountpoint: visit.mountpoint.clone() })
    }

    /// Goes in: for a process with one thread that is about to become a command. `user` is looked up inside.
    pub fn enter(&self, user: Option<&str>) -> Result<(), Failure> {
        let refused = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Failure::new(Exit::RunFailed, format!("{what}: {error}"))
        };
        // Asked before: in another user namespace, who is not in it is shown as somebody else.
        let before = ids();
        if self.namespaces != 0 {
            // SAFETY: touches no memory; the descriptor is open.
            done(unsafe { libc::setns(self.server.as_raw_fd(), self.namespaces) })
                .map_err(refused("the workspace's namespace cannot be entered"))?;
        }
        if let Some(root) = &self.root {
            change_root(root).map_err(refused("the server's root directory"))?;
        }
        match user {
            // Who made the namespace decides what is looked up in it, by code that would run as us.
            Some(user) if self.namespaces & libc::CLONE_NEWUSER != 0 => User::by_number(user)?.become_them(before),
            Some(user) => User::find(user)?.become_them(before),
            // Root is let in by no one but itself.
            None => User::of_ids(self.owner.0, self.owner.1).become_them(before),
        }
    }
}

/// A mount namespace is entered at its own root, which need not be that of a server in it.
fn change_root(root: &File) -> io::Result<()> {
    let (wanted, there) = (root.metadata()?, fs::metadata("/")?);
    if (wanted.dev(), wanted.ino()) == (there.dev(), there.ino()) {
        return Ok(());
    }
    // SAFETY: the descriptor is open, and the path ends in NUL.
    unsafe {
        done(libc::fchdir(root.as_raw_fd()))?;
        done(libc::chroot(c".".as_ptr()))
    }
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    // SAFETY: just opened, and owned by nobody else.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }) }
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
