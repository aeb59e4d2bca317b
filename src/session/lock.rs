//! The session lock: held by the process that has the session open, for as long as it lives.
//!
//! It is an open-file-description lock on `<session>/lock`: the kernel gives it back when the process dies, however
//! it dies, and asking who holds it does not take it. What the file says is for people and for finding the mount.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::open_ordinary;

/// Bytes of what a lock file says that are read: a path is the longest of it.
const HOLDER_MAX: u64 = 64 << 10;

/// Who holds a lock, as the holder itself wrote it down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process, as it sees itself (inside a container: the container's numbering).
    pub pid: u32,
    /// What it does: `mount`, `run`, `cp`, …
    #[serde(default)]
    pub command: String,
    /// Where it has the session mounted, if it has.
    pub mountpoint: Option<PathBuf>,
    /// On which host.
    pub host: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Whether it is at its end: it will give the lock back by itself.
    #[serde(default)]
    pub leaving: bool,
}

impl Holder {
    /// This process, now.
    pub fn current(command: &str, mountpoint: Option<&Path>) -> Holder {
        Holder {
            pid: std::process::id(),
            command: command.to_owned(),
            mountpoint: mountpoint.map(Path::to_owned),
            host: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
            since: super::status::rfc3339(crate::base::Timestamp::now()),
            leaving: false,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return write!(f, "another process, which has not said its name yet");
        }
        write!(f, "process {}", self.pid)?;
        if !self.command.is_empty() {
            write!(f, " (sessionfs {})", self.command)?;
        }
        if let Some(mountpoint) = &self.mountpoint {
            write!(f, " at {}", mountpoint.display())?;
        }
        write!(f, " on {} since {}", self.host, self.since)
    }
}

/// A held session lock. Dropping it, or dying, gives it back.
#[derive(Debug)]
pub struct Lock {
    file: File,
    holder: Holder,
}

/// What taking a lock came to.
pub(super) enum Taken {
    /// It is ours.
    Ours(Lock),
    /// It is someone else's.
    Theirs(Holder),
}

impl Lock {
    /// Takes the lock at `path`, which is made when missing, without waiting.
    pub(super) fn take(path: &Path, holder: &Holder) -> io::Result<Taken> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let mut file = open_ordinary(&mut options, path)?;
            if !lock(&file)? {
                return Ok(Taken::Theirs(read_holder(&mut file)));
            }
            // Between opening and locking, the session may have been removed and made again: then this is the lock
            // of a file that no one else will ever look at.
            let (held, there) = (file.metadata()?, fs::metadata(path));
            if !there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
                continue;
            }
            let lock = Lock { file, holder: holder.clone() };
            lock.describe(holder)?;
            return Ok(Taken::Ours(lock));
        }
    }

    /// Who holds the lock at `path`; `None` when nobody does.
    pub fn holder(path: &Path) -> io::Result<Option<Holder>> {
        let mut file = match open_ordinary(OpenOptions::new().read(true), path) {
            Ok(file) => file,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(is_locked(&file)?.then(|| read_holder(&mut file)))
    }

    /// Who holds it, as it was taken.
    pub(super) fn taken_by(&self) -> &Holder {
        &self.holder
    }

    /// Whether such locks work on the file system of `path`, where a file is made: one that is held is refused to others.
    pub fn works_at(path: &Path) -> io::Result<()> {
        let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let (first, second) = (open()?, open()?);
        match (lock(&first)?, lock(&second)?) {
            (true, false) => Ok(()),
            _ => Err(io::Error::other("the same lock is given twice")),
        }
    }

    /// Writes down that whoever wants it will have it soon.
    pub(super) fn leaving(&self) -> io::Result<()> {
        self.describe(&Holder { leaving: true, ..self.holder.clone() })
    }

    /// Writes down who holds it.
    fn describe(&self, holder: &Holder) -> io::Result<()> {
        let mut text = serde_json::to_vec(holder)?;
        text.push(b'\n');
        let mut file = &self.file;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&text)
    }
}

/// A holder that has locked but not yet written is reported as unknown: it is at it.
fn read_holder(file: &mut File) -> Holder {
    let mut text = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(HOLDER_MAX).read_to_end(&mut text));
    read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn whole_file(kind: i32) -> libc::flock {
    // SAFETY: flock is a plain C struct, for which all zeros is a value (and l_pid must be 0 for these commands).
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range
}

/// Takes the lock; false when someone else has it.
fn lock(file: &File) -> io::Result<bool> {
    let range = whole_file(libc::F_WRLCK);
    // SAFETY: the descriptor is open and `range` is a valid flock for the call to read.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether anybody holds the lock, without touching it.
fn is_locked(file: &File) -> io::Result<bool> {
    let mut range = whole_file(libc::F_WRLCK);
    // SAFETY: the descriptor is open and `range` is a valid flock for the call to read and fill.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut range) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(range.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_no_file_is_refused_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let (fifo, link) = (temp.path().join("fifo"), temp.path().join("link"));
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let target = temp.path().join("target");
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for path in [&fifo, &link] {
            assert!(Lock::holder(path).is_err(), "{}", path.display());
            assert!(Lock::take(path, &Holder::default()).is_err(), "{}", path.display());
        }
        assert_eq!(fs::read(&target).unwrap(), b"kept");
    }

    #[test]
    fn a_second_taker_learns_who_has_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let holder = Holder::current("mount", Some(Path::new("/mnt/x")));
        let Taken::Ours(first) = Lock::take(&path, &holder).unwrap() else { panic!("free lock not taken") };
        let Taken::Theirs(seen) = Lock::take(&path, &Holder::default()).unwrap() else { panic!("taken twice") };
        assert_eq!(seen, holder);
        assert_eq!(Lock::holder(&path).unwrap(), Some(holder.clone()));
        assert!(seen.to_string().contains("at /mnt/x"), "{seen}");
        first.leaving().unwrap();
        assert!(Lock::holder(&path).unwrap().unwrap().leaving);
        drop(first);
        assert_eq!(Lock::holder(&path).unwrap(), None);
        assert!(matches!(Lock::take(&path, &Holder::default()).unwrap(), Taken::Ours(_)));
    }
}
