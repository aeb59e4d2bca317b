//! The kernel stops sending OPEN, OPENDIR and FLUSH once it has seen ENOSYS in reply to one of each. So that no caller
//! meets the slow path, we open and close a file ourselves before anyone else does: one that exists only for this.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::{FileAttr, INodeNo};

use super::convert::bare_attr;
use crate::base::{FileKind, Ino};

/// The number of the file that exists only for priming: out of the reach of real ones, which stay below 2^63.
pub(super) const PRIME_INO: INodeNo = INodeNo(1 << 63);

/// A file in the root under a name nobody can guess, from the mount's first request to the end of [`Prime::run`].
pub(super) struct Prime {
    name: OsString,
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
        Prime { name: format!(".sessionfs-{random:016x}").into(), active: AtomicBool::new(true), owner }
    }

    /// The file's attributes, when it is what this LOOKUP is after.
    pub(super) fn answers(&self, parent: INodeNo, name: &OsStr) -> Option<FileAttr> {
        if parent != INodeNo::ROOT || !self.active.load(Ordering::Relaxed) || name != self.name {
            return None;
        }
        let (uid, gid) = self.owner;
        Some(FileAttr { perm: 0o400, uid, gid, ..bare_attr(Ino(PRIME_INO.0), FileKind::Regular) })
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
