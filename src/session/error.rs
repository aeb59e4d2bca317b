//! What can go wrong with a session as a whole, and what to type next.

use std::io;
use std::path::PathBuf;

use super::lock::Holder;
use super::receipt::Lacks;
use super::retention::ClockJump;
use super::status::rfc3339;
use crate::base::{SessionId, Timestamp};
use crate::fs::GlobError;
use crate::store::StoreError;

/// A failure to find, lock, open, stop or remove a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No session of that name, and creating one was not wanted.
    #[error("there is no session {id} in {}", store.display())]
    Unknown {
        /// Its name.
        id: SessionId,
        /// Where it was looked for.
        store: PathBuf,
    },
    /// Another process has the session's lock.
    #[error("session {id} is in use by {holder}")]
    InUse {
        /// Its name.
        id: SessionId,
        /// Who says it has it.
        holder: Box<Holder>,
    },
    /// A session that is mounted cannot be removed.
    #[error("session {id} is mounted: {holder}")]
    Mounted {
        /// Its name.
        id: SessionId,
        /// Who has it mounted.
        holder: Box<Holder>,
    },
    /// The store cannot be made, read or written.
    #[error("the store at {} cannot be {what}: {source}", path.display())]
    Store {
        /// The directory or file.
        path: PathBuf,
        /// `created`, `read`, `written`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not the session as it was last seen, nor a later state of it: RESUME_INCOMPLETE.
    #[error("session {id} is not what it was: {lacks}")]
    Incomplete {
        /// Its name.
        id: SessionId,
        /// What is missing.
        lacks: Box<Lacks>,
    },
    /// What the store's registry has on a session cannot be read.
    #[error("{} is not what sessionfs writes there: {why}", path.display())]
    Registry {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: serde_json::Error,
    },
    /// The clock is not to be believed, and sessions go by it.
    #[error("nothing is removed, because the clock may be wrong: {}", clock(*now, jump))]
    Clock {
        /// What it says, in seconds since 1970.
        now: i64,
        /// What speaks against it.
        jump: ClockJump,
    },
    /// No directory for the store is known.
    #[error("no store is known: neither --store nor SESSIONFS_STORE, XDG_DATA_HOME or HOME is set")]
    NoStore,
    /// The session database cannot be used.
    #[error("session {id}: {source}")]
    Database {
        /// The session.
        id: SessionId,
        /// The directory that holds it.
        dir: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
    /// A pattern of ephemeral directories that is none.
    #[error("--ephemeral: {0}")]
    Ephemeral(#[from] GlobError),
    /// A cap that nothing fits under.
    #[error("a session {}, not {given}", limit(*given, *least, unit))]
    Limit {
        /// What was asked for.
        given: u64,
        /// What is the least.
        least: u64,
        /// `bytes` or `inodes`.
        unit: &'static str,
    },
}

fn limit(given: u64, least: u64, unit: &str) -> String {
    if given < least { format!("needs at least {least} {unit}") } else { format!("has at most {} {unit}", i64::MAX) }
}

fn clock(now: i64, jump: &ClockJump) -> String {
    let text = |secs| rfc3339(Timestamp::new(secs, 0));
    match jump {
        ClockJump::Back { seen } => format!("it says {}, and something happened here at {}", text(now), text(*seen)),
        ClockJump::Ahead { seen } => {
            format!("it says {}, and the last that happened here was at {}", text(now), text(*seen))
        }
    }
}

impl SessionError {
    /// The next command to type, or the next thing to do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            SessionError::Unknown { .. } => "sessionfs ls".to_owned(),
            SessionError::InUse { id, holder } if holder.mountpoint.is_none() => {
                format!("sessionfs status {id}   # it is used by a command that ends by itself")
            }
            SessionError::InUse { id, .. } | SessionError::Mounted { id, .. } => format!("sessionfs umount {id}"),
            SessionError::Store { path, source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => format!("df {}", path.display()),
                _ => format!("ls -ld {}   # or another store: --store DIR, SESSIONFS_STORE", path.display()),
            },
            SessionError::Registry { path, .. } => {
                format!("mv {0} {0}.bad   # gives up the session's settings, and what was seen of it", path.display())
            }
            SessionError::Incomplete { id, lacks } => match **lacks {
                Lacks::Database(_) | Lacks::Rest { .. } => {
                    format!("put its session.db back; or give it up and begin anew: sessionfs rm {id}")
                }
                Lacks::Newer { .. } | Lacks::Identity { .. } | Lacks::History { .. } => {
                    format!("put its session.db back; or go on with the one that is there: sessionfs accept {id}")
                }
                Lacks::Paths(_) => "the same without --expect   # goes on with what is there".to_owned(),
            },
            SessionError::NoStore => "sessionfs --store DIR ...".to_owned(),
            SessionError::Database { id, dir, source } => match source {
                StoreError::Full => {
                    format!("df {}   # nothing is lost: with room there again the next use goes on", dir.display())
                }
                StoreError::Permission(_) | StoreError::NotOrdinary(_) => format!("ls -l {}", dir.display()),
                StoreError::Schema { path, .. } => {
                    format!(
                        "sqlite3 {} .schema   # shows all of it; a copy of which you know whence it is can take its place",
                        path.display()
                    )
                }
                StoreError::Leads(path) => format!("mv {0} {0}.bad   # what it was to undo stays done", path.display()),
                StoreError::Newer { .. } | StoreError::Features { .. } | StoreError::Unsupported { .. } => {
                    "sessionfs --version   # then use the version that wrote the session".to_owned()
                }
                StoreError::Journal(_) => {
                    format!("sessionfs discard-journal {id}   # goes back to the last commit; sets the journal aside")
                }
                StoreError::NotOurs(path) => format!("file {}", path.display()),
                _ => format!("sessionfs check {id}"),
            },
            SessionError::Ephemeral(_) => {
                "--ephemeral target/ --ephemeral '/web/*/dist/'   # or: --ephemeral none".to_owned()
            }
            SessionError::Clock { .. } => "date   # and when it is right, the same with --clock-is-right".to_owned(),
            SessionError::Limit { .. } => return None,
        })
    }
}
