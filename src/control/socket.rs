//! Addresses and credentials of the control socket.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::session::SessionDir;

/// The socket's address by way of an open descriptor of its directory: a session's name may be 255 bytes long, a
/// socket address 108.
fn short_path(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()))
}

/// Binds the socket. One that is there is a dead server's: the caller holds the session's lock.
pub(super) fn bind(dir: &SessionDir) -> io::Result<UnixListener> {
    match fs::remove_file(dir.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let open = dir.open()?;
    let listener = UnixListener::bind(short_path(&open))?;
    // The directory is 0700, so nobody got in between.
    fs::set_permissions(dir.socket(), fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects.
pub(super) fn connect(dir: &SessionDir) -> io::Result<UnixStream> {
    let open = dir.open()?;
    UnixStream::connect(short_path(&open))
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its process by our numbers; 0 when it is in a PID namespace that we do not see.
    pub(super) pid: i32,
}

/// Asks the kernel who connected.
pub(super) fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `cred` and `length` are valid for the call to fill; the descriptor is an open socket.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut cred).cast(), &mut length)
    };
    if result == 0 { Ok(Peer { uid: cred.uid, gid: cred.gid, pid: cred.pid }) } else { Err(io::Error::last_os_error()) }
}

/// Whether this peer may give orders: the server's own user, and the superuser.
pub(super) fn allowed(peer: Peer) -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    peer.uid == 0 || peer.uid == unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::StoreDir;

    #[test]
    fn the_longest_session_name_has_a_socket() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StoreDir::at(temp.path()).unwrap().session(&"x".repeat(255).parse().unwrap());
        fs::create_dir(dir.path()).unwrap();
        drop(bind(&dir).unwrap());
        // A dead server's socket refuses, and gives way to the next one's.
        assert_eq!(connect(&dir).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listener = bind(&dir).unwrap();
        assert_eq!(fs::metadata(dir.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        let stream = connect(&dir).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(allowed(peer(&accepted).unwrap()));
        drop(stream);
    }
}
