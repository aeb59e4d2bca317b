//! What has happened to a session, a line of JSON each: `<store>/.registry/<session>/events.jsonl`.
//!
//! It outlives the session, so that an expected reset or removal is not taken for a loss later. Nothing depends on it:
//! what cannot be written is a warning. It is not synced either, so a power cut may take the last lines.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::StoreDir;
use super::receipt::{Receipt, Resume, Witness};
use super::verify::Verification;
use super::version::VersionChange;
use crate::base::SessionId;

const EVENTS: &str = "events.jsonl";
/// The one before, kept so that a log that begins anew is never empty.
const EVENTS_BEFORE: &str = "events.1.jsonl";
/// Bytes after which a new log begins.
const EVENTS_MAX: u64 = 1 << 20;

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was written down.
    pub at: Timestamp,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen to a session. Fields may be added, never changed; what a reader does not know is [`What::Other`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// It was opened.
    Started {
        /// By which command.
        by: String,
        /// Where it is mounted, if it is.
        mountpoint: Option<PathBuf>,
        /// How that went, and what was found.
        #[serde(flatten)]
        resume: Box<Resume>,
    },
    /// Everything is committed, and it is closed.
    Stopped {
        /// By which command.
        by: String,
        /// Why.
        reason: String,
        /// How long it was open.
        millis: u64,
        /// What it left.
        #[serde(flatten)]
        receipt: Receipt,
    },
    /// It could not be stopped with everything committed: the rest is in the journal.
    NotStopped {
        /// By which command.
        by: String,
        /// Why not.
        error: String,
    },
    /// It was not opened.
    Refused {
        /// By which command.
        by: String,
        /// Why.
        error: String,
    },
    /// What was refused is from now on taken for the session.
    Accepted {
        /// What was seen before.
        instead_of: Option<Witness>,
        /// What there is.
        #[serde(flatten)]
        receipt: Receipt,
    },
    /// It went back to its last commit.
    JournalDiscarded {
        /// Where the journal is now, if there was one.
        set_aside: Option<PathBuf>,
        /// What there is.
        #[serde(flatten)]
        receipt: Receipt,
    },
    /// All of it was read and held against its checksums.
    Verified {
        /// The outcome.
        #[serde(flatten)]
        verification: Verification,
        /// How long it took.
        millis: u64,
    },
    /// Another version of what runs in it was stated.
    VersionChanged {
        /// What was done about it.
        #[serde(flatten)]
        change: VersionChange,
    },
    /// It begins as what another session was before a change of the runtime version.
    SplitOff {
        /// The other session.
        from: String,
        /// The version that it is of.
        runtime_version: Option<String>,
        /// What there is.
        #[serde(flatten)]
        receipt: Receipt,
    },
    /// It was removed.
    Removed {
        /// By whom: `rm`, `gc`.
        by: String,
        /// Bytes given back to the disk.
        freed: u64,
    },
    /// Something that a newer version wrote down.
    #[serde(other)]
    Other,
}

impl StoreDir {
    /// Writes down that something has happened, now.
    pub fn record(&self, id: &SessionId, what: What) {
        if let Err(error) = self.append_event(id, what) {
            log::warn!("session {id}: an event could not be written down: {error}");
        }
    }

    /// What has happened to a session, the oldest first, as far back as it is known. Lines that cannot be read, as a
    /// power cut leaves them, are passed over.
    pub fn events(&self, id: &SessionId) -> Result<Vec<Event>, SessionError> {
        let mut all = Vec::new();
        for name in [EVENTS_BEFORE, EVENTS] {
            let path = self.registry_of(id).join(name);
            let text = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|source| SessionError::Store { path: path.clone(), what: "read", source })?,
            };
            for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line) {
                    Ok(event) => all.push(event),
                    Err(error) => log::warn!("{}: a line is not an event: {error}", path.display()),
                }
            }
        }
        Ok(all)
    }

    /// When something was last written down, in seconds since 1970; of no log: long ago.
    pub(super) fn newest_event(&self, id: &SessionId) -> Result<i64, SessionError> {
        let mut newest = 0;
        for name in [EVENTS_BEFORE, EVENTS] {
            let path = self.registry_of(id).join(name);
            match fs::metadata(&path) {
                Ok(meta) => newest = newest.max(meta.mtime()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(SessionError::Store { path, what: "read", source }),
            }
        }
        Ok(newest)
    }

    /// Takes away the log of a session that is long gone. A directory that got something new meanwhile stays.
    pub(super) fn forget_events(&self, id: &SessionId) -> Result<(), SessionError> {
        let dir = self.registry_of(id);
        for name in [EVENTS_BEFORE, EVENTS] {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SessionError::Store { path: dir.join(name), what: "written", source: error });
                }
                _ => {}
            }
        }
        match fs::remove_dir(&dir) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTEMPTY)) => {
                Err(SessionError::Store { path: dir, what: "written", source: error })
            }
            _ => Ok(()),
        }
    }

    fn append_event(&self, id: &SessionId, what: What) -> Result<(), SessionError> {
        let dir = self.make_registry_of(id)?;
        let path = dir.join(EVENTS);
        let append = || {
            begin_anew(&dir, &path)?;
            let mut line = serde_json::to_vec(&Event { at: now(), what })?;
            line.push(b'\n');
            // One write to a file opened for appending, so lines of two processes do not mix.
            let mut file =
                File::options().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            file.write_all(&line)?;
            self.give_to_owner(&path)
        };
        append().map_err(|source| SessionError::Store { path: path.clone(), what: "written", source })
    }
}

/// To the millisecond: nobody reads more.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Keeps the log bounded. Two who come here at once could each set aside a log; the second finds a short one, or none.
fn begin_anew(dir: &Path, path: &Path) -> io::Result<()> {
    if !fs::metadata(path).is_ok_and(|meta| meta.len() > EVENTS_MAX) {
        return Ok(());
    }
    let turn = File::open(dir)?;
    turn.lock()?;
    if fs::metadata(path).is_ok_and(|meta| meta.len() > EVENTS_MAX) {
        fs::rename(path, dir.join(EVENTS_BEFORE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(freed: u64) -> What {
        What::Removed { by: "rm".to_owned(), freed }
    }

    #[test]
    fn events_are_read_as_they_were_written_and_others_pass() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        let id: SessionId = "a".parse().unwrap();
        assert_eq!(store.events(&id).unwrap(), []);
        store.record(&id, removed(1));
        let path = store.registry_of(&id).join(EVENTS);
        let mut text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("{\"at\":\"20") && text.contains("\"event\":\"removed\""), "{text}");
        text += "{\"at\":\"2031-01-02T03:04:05Z\",\"event\":\"beamed_up\",\"to\":7}\n{\"at\":\"20";
        fs::write(&path, text).unwrap();
        let what: Vec<What> = store.events(&id).unwrap().into_iter().map(|event| event.what).collect();
        assert_eq!(what, [removed(1), What::Other]);
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        let id: SessionId = "a".parse().unwrap();
        let long = |freed| What::Removed { by: "x".repeat(400_000), freed };
        for freed in 0..20 {
            store.record(&id, long(freed));
        }
        let kept: Vec<u64> = store
            .events(&id)
            .unwrap()
            .into_iter()
            .map(|event| if let What::Removed { freed, .. } = event.what { freed } else { 99 })
            .collect();
        assert!((3..=6).contains(&kept.len()) && kept.last() == Some(&19), "{kept:?}");
    }
}
