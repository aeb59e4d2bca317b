//! A directory that is removed again, where the store is or would be: what holds there holds for the store.

use std::ffi::{CString, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::process::{MOUNTPOINT, mounts};
use crate::session::Lock;

/// Writes that are synced, one at a time.
const SYNCS: usize = 9;

/// The directory. Dropped, it is removed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one in the store, or in the nearest directory above it that is there.
    pub fn below(store: &Path) -> io::Result<Scratch> {
        let there = store.ancestors().find(|dir| dir.exists()).ok_or(io::ErrorKind::NotFound)?;
        // No name of a session: those begin otherwise.
        let template = CString::new(there.join(".sessionfs-doctor-XXXXXX").into_os_string().into_vec())?;
        let mut bytes = template.into_bytes_with_nul();
        // SAFETY: `bytes` ends in NUL and is ours to be changed in place.
        if unsafe { libc::mkdtemp(bytes.as_mut_ptr().cast()) }.is_null() {
            return Err(io::Error::last_os_error());
        }
        bytes.pop();
        Ok(Scratch { path: PathBuf::from(OsString::from_vec(bytes)) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether locks of open file descriptions, on which a session's own rests, work here.
    pub fn locks(&self) -> io::Result<()> {
        Lock::works_at(&self.path.join("lock"))
    }

    /// Microseconds of one write and `fdatasync`, the median.
    pub fn sync_micros(&self) -> io::Result<u64> {
        let file = OpenOptions::new().write(true).create_new(true).open(self.path.join("sync"))?;
        // As a journal is: written before, so that a sync is of data alone.
        file.write_all_at(&[0; 64 << 10], 0)?;
        file.sync_all()?;
        let mut took = Vec::with_capacity(SYNCS);
        for turn in 0..SYNCS {
            let started = Instant::now();
            file.write_all_at(&[1; 4096], turn as u64 * 4096)?;
            file.sync_data()?;
            took.push(started.elapsed());
        }
        took.sort_unstable();
        Ok(u64::try_from(took[SYNCS / 2].as_micros()).unwrap_or(u64::MAX))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is removed through a mount that would not go.
        let mountpoint = self.path.join(MOUNTPOINT);
        let clear = mounts::at(&mountpoint).is_none_or(|_| mounts::detach(&mountpoint).is_ok());
        if clear && let Err(error) = fs::remove_dir_all(&self.path) {
            log::warn!("{} stays: {error}", self.path.display());
        }
    }
}
