//! What can be wrong with a session database, in words for a person. The file system turns them into an errno.

use std::path::PathBuf;

use crate::base::Errno;

/// A failure of the session database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no file.
    #[error("{0}: no session database there")]
    Missing(PathBuf),
    /// Some other file.
    #[error("{0}: not a session database")]
    NotOurs(PathBuf),
    /// Written by a later version, in a way this one cannot read.
    #[error("{path}: format version {found} is newer than this program, which knows up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest we know.
        known: u32,
    },
    /// Needs a feature this version does not have.
    #[error("{path}: needs features this program does not know (incompatible flags {flags:#x})")]
    Features {
        /// The file.
        path: PathBuf,
        /// The unknown flags.
        flags: u64,
    },
    /// Something in it is not what was written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The disk under the store is full.
    #[error("the disk under the store is full")]
    Full,
    /// May not be read or written.
    #[error("{0}: permission denied")]
    Permission(PathBuf),
    /// Anything else that SQLite or the disk reported.
    #[error("session database: {0}")]
    Io(String),
}

impl StoreError {
    /// The errno of a file operation that met this.
    pub fn errno(&self) -> Errno {
        match self {
            StoreError::Full => Errno::NoSpc,
            _ => Errno::Io,
        }
    }
}
