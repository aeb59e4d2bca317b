//! What can be wrong with a session database, in words for a person. The file system turns them into an errno.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

use crate::base::{Errno, is_not_ordinary};
use crate::format::journal::RecordError;

/// A failure of the session database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no file.
    #[error("{0}: no session database there")]
    Missing(PathBuf),
    /// Some other file.
    #[error("{0}: not a session database")]
    NotOurs(PathBuf),
    /// Its place is taken by a link, a FIFO or the like. What stands there was put there by nobody of ours.
    #[error("{0}: not an ordinary file")]
    NotOrdinary(PathBuf),
    /// Its tables are not those of a session database, or not only those.
    #[error("{path}: damaged: its schema is not that of a session database: {what}")]
    Schema {
        /// The file.
        path: PathBuf,
        /// The first thing that is different.
        what: String,
    },
    /// A rollback journal that has SQLite look at, and remove, other files than those of this database.
    #[error("{0}: damaged: it names other files, which no journal of a session database does")]
    Leads(PathBuf),
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
    /// Laid out in a way this program was not built for: another block size, another hash.
    #[error("{path}: {what}, which this program cannot read")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is different.
        what: String,
    },
    /// Not all of the file is there.
    #[error("{path}: truncated, it has {found} bytes{}", expected.map_or(String::new(), |bytes| format!(" of {bytes}")))]
    Cut {
        /// The file.
        path: PathBuf,
        /// Bytes it has.
        found: u64,
        /// Bytes its header speaks of, if that much is there.
        expected: Option<u64>,
    },
    /// Something in it is not what was written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The journal cannot be replayed onto the database.
    #[error("journal: {0}")]
    Journal(String),
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

    /// What a failed system call on `path` means.
    pub(super) fn from_io(path: &Path, error: &io::Error) -> StoreError {
        match error.raw_os_error() {
            Some(code) if is_full(code) => StoreError::Full,
            _ if is_not_ordinary(error) => StoreError::NotOrdinary(path.to_owned()),
            _ => match error.kind() {
                io::ErrorKind::NotFound => StoreError::Missing(path.to_owned()),
                io::ErrorKind::PermissionDenied => StoreError::Permission(path.to_owned()),
                _ => StoreError::Io(format!("{}: {error}", path.display())),
            },
        }
    }

    /// What a failure of SQLite means while `path` is being opened, when the file itself is still in doubt.
    pub(super) fn opening(path: &Path, error: rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => StoreError::NotOurs(path.to_owned()),
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => StoreError::Permission(path.to_owned()),
            Some(ErrorCode::CannotOpen) => match std::fs::metadata(path) {
                Err(error) => StoreError::from_io(path, &error),
                Ok(_) => StoreError::Permission(path.to_owned()),
            },
            _ => error.into(),
        }
    }

    /// A failure on this connection, told apart by the system call below it. SQLite itself says "full" only of a
    /// failed write; the shared-memory file, a sync and a quota it reports as I/O errors.
    pub(super) fn on(self, sql: &Connection) -> StoreError {
        match self {
            // SAFETY: the handle is live as long as `sql` is borrowed, and the call only reads a field of it.
            StoreError::Io(_) if is_full(unsafe { rusqlite::ffi::sqlite3_system_errno(sql.handle()) }) => {
                StoreError::Full
            }
            other => other,
        }
    }
}

fn is_full(code: i32) -> bool {
    code == libc::ENOSPC || code == libc::EDQUOT
}

impl From<RecordError> for StoreError {
    fn from(error: RecordError) -> Self {
        StoreError::Journal(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{Error, ffi};
        let damaged = match (&error, error.sqlite_error_code()) {
            (_, Some(ErrorCode::DiskFull)) => return StoreError::Full,
            (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => true,
            // The general error is what a statement gets whose table or column is not there.
            (Error::SqliteFailure(code, _) | Error::SqlInputError { error: code, .. }, _) => {
                matches!(code.extended_code, ffi::SQLITE_ERROR | ffi::SQLITE_IOERR_SHORT_READ)
            }
            (
                Error::InvalidColumnType(..)
                | Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::Utf8Error(..),
                _,
            ) => true,
            _ => false,
        };
        if damaged { StoreError::Damaged(error.to_string()) } else { StoreError::Io(error.to_string()) }
    }
}
