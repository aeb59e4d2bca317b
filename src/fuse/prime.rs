//! The kernel stops sending OPEN, OPENDIR and FLUSH once it has seen ENOSYS in reply to one of each. So that no caller
//! meets the slow path, we open and close a file ourselves before anyone else does: one that exists only for this.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::base::{FileKind, Ino, Timestamp};
use crate::fs::Attr;

/// The number of the file that exists only for priming: out of the reach of real ones, which stay below 2^63.
pub(super) const PRIME_INO: Ino = Ino(1 << 63);

/// A file in the root under a name nobody can guess, from the mount's first request to the end of [`Prime::run`].
pub(super) struct Prime {
    name: String,
    active: AtomicBool,
    owner: (u32, u32),
}

impl Prime {
    /// How long the kernel may believe in the file: enough to open it.
    pub(super) const TTL: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Prime {
        let random = RandomState::new().hash_one(std::process::id());
        // SAFETY: these two only read the process's own ids.
        let owner = unsafe { (libc::geteuid(), libc::getegid()) };
        Prime { name: format!(".sessionfs-{random:016x}"), active: AtomicBool::new(true), owner }
    }

    /// The file's attributes, when it is what this LOOKUP is after.
    pub(super) fn answers(&self, parent: Ino, name: &[u8]) -> Option<Attr> {
        if parent != Ino::ROOT || !self.active.load(Ordering::Relaxed) || name != self.name.as_bytes() {
            return None;
        }
        let (uid, gid) = self.owner;
        let (kind, never) = (FileKind::Regular, Timestamp::default());
        Some(Attr {
            ino: PRIME_INO,
            kind,
            mode: kind.mode_bits() | 0o400,
            uid,
            gid,
            nlink: 1,
            rdev: 0,
            size: 0,
            pieces: 0,
            atime: never,
            mtime: never,
            ctime: never,
            btime: never,
        })
    }

    /// Has the kernel send one OPENDIR, one OPEN and one FLUSH. Returns the mount's device number.
    ///
    /// The mount must already be served by other threads.
    pub(super) fn run(&self, mountpoint: &Path) -> io::Result<libc::dev_t> {
        let asked = self.ask(mountpoint);
        self.active.store(false, Ordering::Relaxed);
        asked
    }

    fn ask(&self, mountpoint: &Path) -> io::Result<libc::dev_t> {
        let device = fs::metadata(mountpoint)?.dev();
        fs::read_dir(mountpoint)?;
        File::open(mountpoint.join(&self.name))?;
        Ok(device)
    }
}
