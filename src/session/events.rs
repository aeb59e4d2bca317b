//! What has happened to a session: `<store>/.registry/<session>/events.jsonl`. It outlives the session, so that an
//! expected reset or removal is not taken for a loss later.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::StoreDir;
use super::lines::{Lines, now};
use super::receipt::{Receipt, Resume, Witness};
use super::soft_limits::Passed;
use super::verify::Verification;
use super::version::VersionChange;
use crate::base::SessionId;

const EVENTS: Lines = Lines { name: "events.jsonl", before: "events.1.jsonl", max: 1 << 20 };

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
        /// How long opening it took.
        #[serde(default)]
        opening_millis: Option<u64>,
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
        /// How long after its opening somebody first read or changed something in it, if anybody did.
        #[serde(default)]
        first_used_millis: Option<u64>,
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
    /// It was not opened, or did not have what was asked for.
    Refused {
        /// By which command.
        by: String,
        /// Whether it had been opened when that was found.
        #[serde(default)]
        opened: bool,
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
    /// It fills up.
    SoftLimit {
        /// Which limit was passed.
        #[serde(flatten)]
        passed: Passed,
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
    /// A step of its set-up was done, or not.
    SetUp {
        /// What it is called.
        step: String,
        /// What it depends on.
        key: String,
        /// Why it was not passed over.
        why: SetUpReason,
        /// How long it took.
        millis: u64,
        /// Its exit status; -1 when its time was up. Only 0 is done.
        exit: i32,
    },
    /// A step of its set-up had been done before.
    SetUpSkipped {
        /// What it is called.
        step: String,
        /// What it depends on.
        key: String,
        /// How long it took when it was done.
        saved_millis: u64,
    },
    /// It was removed.
    Removed {
        /// By whom: `rm`, `gc`, `rm --all-idle`.
        by: String,
        /// Bytes given back to the disk.
        freed: u64,
    },
    /// Something that a newer version wrote down.
    #[serde(other)]
    Other,
}

/// Why a step of a set-up is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetUpReason {
    /// The session has no trace of it.
    First,
    /// What it depends on is not what it was.
    KeyChanged,
}

impl StoreDir {
    /// Writes down that something has happened, now.
    pub fn record(&self, id: &SessionId, what: What) {
        if let Err(error) = EVENTS.append(self, id, &Event { at: now(), what }) {
            log::warn!("session {id}: an event could not be written down: {error}");
        }
    }

    /// What has happened to a session, the oldest first, as far back as it is known.
    pub fn events(&self, id: &SessionId) -> Result<Vec<Event>, SessionError> {
        EVENTS.read(self, id)
    }

    /// When something was last written down, in seconds since 1970; of no log: long ago.
    pub(super) fn newest_event(&self, id: &SessionId) -> Result<i64, SessionError> {
        EVENTS.newest(self, id)
    }

    /// Takes away the logs of a session that is long gone. A directory that got something new meanwhile stays.
    pub(super) fn forget_events(&self, id: &SessionId) -> Result<(), SessionError> {
        EVENTS.forget(self, id)?;
        self.forget_commands(id)?;
        let dir = self.registry_of(id);
        match fs::remove_dir(&dir) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTEMPTY)) => {
                Err(SessionError::Store { path: dir, what: "written", source: error })
            }
            _ => Ok(()),
        }
    }
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
        let path = store.registry_of(&id).join(EVENTS.name);
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
