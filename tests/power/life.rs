//! A session on a recording disk: created, started, stopped.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sessionfs::fs::Fs;
use sessionfs::store::{CreateOptions, Omit, Store, StoreError, check};

use crate::disk::RecordingDisk;

pub const BYTES_LIMIT: u64 = 1 << 30;
pub const INODES_LIMIT: u64 = 100_000;

/// A directory for a session, in memory where there is enough of it: nothing here has to survive, and nothing shall wait.
pub fn directory() -> tempfile::TempDir {
    const MEMORY: &CStr = c"/dev/shm";
    const ENOUGH: u64 = 1 << 30;
    // SAFETY: all zeros are a statvfs; the call fills it in for a path that ends in a NUL.
    let (known, found) = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(MEMORY.as_ptr(), &mut found) == 0, found)
    };
    let made = match known && found.f_bavail * found.f_frsize >= ENOUGH {
        true => tempfile::tempdir_in(MEMORY.to_str().unwrap()),
        false => tempfile::tempdir(),
    };
    made.unwrap()
}

/// Where the session's files are: a directory with nothing else in it.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

impl Place {
    pub fn at(directory: &Path) -> Place {
        Place(directory.to_owned())
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("session.db")
    }

    pub fn create(&self, disk: &Arc<RecordingDisk>) -> Result<(), StoreError> {
        let options = CreateOptions { bytes_limit: BYTES_LIMIT, inodes_limit: INODES_LIMIT, uid: 0, gid: 0 };
        Store::create_on(&disk.as_disk(), &self.database(), &options)
    }

    /// Recovers what is there and serves it.
    pub fn start(&self, disk: &Arc<RecordingDisk>, omit: Omit) -> Result<Arc<Fs>, StoreError> {
        let journal = self.0.join("session.journal");
        Fs::start(Store::recover(&disk.as_disk(), &self.database(), &journal, omit)?)
    }

    /// What `check` has to say of the database.
    pub fn check(&self, disk: &Arc<RecordingDisk>) -> Result<(), String> {
        let findings = Store::open_read_only_on(&disk.as_disk(), &self.database())
            .and_then(|store| check(&store, &mut |_, _| {}))
            .map_err(|error| format!("check: {error}"))?;
        if findings.is_empty() { Ok(()) } else { Err(format!("check: {findings:?}")) }
    }
}
