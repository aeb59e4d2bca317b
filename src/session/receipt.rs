//! The receipt: what a stop says it has left, and a resume that it has found. What the store's registry keeps of the
//! last is the witness: a database that is older, or another, is not taken for the session.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::status::{Replayed, uuid_text};
use crate::base::{SessionId, Txid};
use crate::format::Digest;
use crate::store::{Store, StoreError, Superblock};

/// A committed state of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which session database.
    pub uuid: String,
    /// The mount that committed it, or found it.
    pub epoch: u64,
    /// Last committed transaction.
    pub txid: u64,
    /// State digest, in hexadecimal.
    pub digest: String,
    /// Regular files.
    pub files: u64,
    /// Directories, the root among them.
    pub dirs: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
}

impl Receipt {
    /// What a superblock says.
    pub fn of(superblock: &Superblock) -> Receipt {
        Receipt {
            uuid: uuid_text(&superblock.uuid),
            epoch: superblock.epoch,
            txid: superblock.txid.0,
            digest: superblock.digest.to_string(),
            files: superblock.counts.files,
            dirs: superblock.counts.dirs,
            bytes: superblock.counts.bytes,
        }
    }

    /// Whether both name the same state. Every mount has another epoch.
    pub fn is_state_of(&self, other: &Receipt) -> bool {
        *self == Receipt { epoch: self.epoch, ..other.clone() }
    }
}

/// What a stop or a sync says of itself: the state that is now safe on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReport {
    /// The session.
    pub session: String,
    /// Its state.
    #[serde(flatten)]
    pub receipt: Receipt,
}

impl StopReport {
    /// What a superblock says.
    pub fn of(id: &SessionId, superblock: &Superblock) -> StopReport {
        StopReport { session: id.to_string(), receipt: Receipt::of(superblock) }
    }
}

/// A state that was seen to be safe on the disk, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The state.
    #[serde(flatten)]
    pub receipt: Receipt,
    /// When it was seen.
    pub at: Timestamp,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Receipt { txid, epoch, files, dirs, .. } = &self.receipt;
        write!(f, "transaction {txid} of mount {epoch}, with {files} files and {dirs} directories, on {}", self.at)
    }
}

/// How a session that was opened came to be what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// There was none.
    Created,
    /// Its last use ended in a stop.
    Resumed,
    /// Its last use did not; what the journal held is committed.
    Recovered,
    /// The store has never seen it stop: it was brought from elsewhere, or its first use died.
    Adopted,
    /// It begins empty for another version of what runs in it.
    Reset,
}

/// What a resume says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// How it went.
    pub how: How,
    /// The state that was loaded.
    #[serde(flatten)]
    pub receipt: Receipt,
    /// What the last stop left, as far as the store has seen one.
    pub last_stop: Option<Witness>,
    /// Whether that is what was loaded.
    pub as_stopped: bool,
    /// What was replayed of a journal.
    pub recovery: Option<Replayed>,
    /// Of what runs in the workspace, if that was ever stated.
    pub runtime_version: Option<String>,
}

/// What keeps a directory from being the session it should be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lacks {
    /// There is no session database.
    #[error("its session.db is missing: the store has seen {0}")]
    Database(Box<Witness>),
    /// Not all of the session database is there.
    #[error("{cause}; the store has seen {seen}")]
    Rest {
        /// How much there is.
        cause: StoreError,
        /// What should be there.
        seen: Box<Witness>,
    },
    /// The session database is older than what was seen of it.
    #[error("its session.db is at transaction {} of mount {}: what came after is missing, the store has seen {seen}", found.txid, found.epoch)]
    Newer {
        /// What is there.
        found: Receipt,
        /// What should be there.
        seen: Box<Witness>,
    },
    /// The session database is that of another session.
    #[error("its session.db is another session's ({}): the store has seen {} of {}", found.uuid, seen, seen.receipt.uuid)]
    Identity {
        /// What is there.
        found: Receipt,
        /// What should be there.
        seen: Box<Witness>,
    },
    /// The session database has never been in the state that was seen.
    #[error("its session.db has another transaction {}: the store has seen {seen}, digest {}", seen.receipt.txid, seen.receipt.digest)]
    History {
        /// What is there.
        found: Receipt,
        /// What should be there.
        seen: Box<Witness>,
    },
    /// Paths that were to be there.
    #[error("it has no {}", .0.join(", "))]
    Paths(Vec<String>),
}

impl Witness {
    /// What a session database lacks for being in this state or a later one. A witness that is read first and a database
    /// after it also fit beside a running server.
    pub fn missing_in(&self, store: &Store) -> Result<Option<Lacks>, StoreError> {
        self.missing_at(&Receipt::of(&store.superblock()?), |txid| store.digest_at(txid))
    }

    /// The same of a state; `digest_at` knows its past.
    fn missing_at(
        &self,
        found: &Receipt,
        digest_at: impl FnOnce(Txid) -> Result<Option<Digest>, StoreError>,
    ) -> Result<Option<Lacks>, StoreError> {
        let seen = &self.receipt;
        if found.uuid != seen.uuid {
            return Ok(Some(Lacks::Identity { found: found.clone(), seen: Box::new(self.clone()) }));
        }
        // Both only ever grow: a crash leaves more than was seen, never less.
        if found.txid < seen.txid || found.epoch < seen.epoch {
            return Ok(Some(Lacks::Newer { found: found.clone(), seen: Box::new(self.clone()) }));
        }
        let then = if found.txid == seen.txid {
            Some(found.digest.clone())
        } else {
            digest_at(Txid(seen.txid))?.map(|digest| digest.to_string())
        };
        // The log of commits does not go back for ever.
        let differs = then.is_some_and(|digest| digest != seen.digest);
        Ok(differs.then(|| Lacks::History { found: found.clone(), seen: Box::new(self.clone()) }))
    }

    /// Takes the place of what was seen before, unless that is newer.
    pub(super) fn supersedes(&self, before: Option<&Witness>) -> bool {
        before.is_none_or(|Witness { receipt: before, .. }| {
            before.uuid != self.receipt.uuid || (before.epoch, before.txid) <= (self.receipt.epoch, self.receipt.txid)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(epoch: u64, txid: u64, digest: u128) -> Receipt {
        Receipt { uuid: "u".into(), epoch, txid, digest: Digest(digest).to_string(), files: 1, dirs: 1, bytes: 1 }
    }

    #[test]
    fn what_is_as_new_or_newer_will_do_and_nothing_else() {
        let seen = Witness { receipt: receipt(5, 20, 7), at: Timestamp::UNIX_EPOCH };
        let look = |found: Receipt, past: Option<u128>| {
            seen.missing_at(&found, |txid| {
                assert_eq!(txid, Txid(20));
                Ok(past.map(Digest))
            })
        };
        for (found, past) in [
            (receipt(5, 20, 7), None),
            (receipt(6, 20, 7), None),
            (receipt(6, 21, 9), Some(7)),
            // So long ago that the log of commits does not have it.
            (receipt(9, 5_000, 9), None),
        ] {
            assert!(look(found.clone(), past).unwrap().is_none(), "{found:?}");
        }
        for (found, past) in [(receipt(4, 20, 7), None), (receipt(5, 19, 7), None), (receipt(9, 19, 9), Some(7))] {
            assert!(matches!(look(found.clone(), past).unwrap(), Some(Lacks::Newer { .. })), "{found:?}");
        }
        for (found, past) in [(receipt(5, 20, 8), None), (receipt(6, 21, 9), Some(8))] {
            assert!(matches!(look(found.clone(), past).unwrap(), Some(Lacks::History { .. })), "{found:?}");
        }
        let other = Receipt { uuid: "v".into(), ..receipt(5, 20, 7) };
        assert!(matches!(look(other, None).unwrap(), Some(Lacks::Identity { .. })));
    }

    #[test]
    fn a_witness_never_goes_back_by_itself() {
        let seen = |epoch, txid| Witness { receipt: receipt(epoch, txid, 0), at: Timestamp::UNIX_EPOCH };
        assert!(seen(5, 20).supersedes(None));
        assert!(seen(5, 20).supersedes(Some(&seen(5, 20))));
        assert!(seen(6, 20).supersedes(Some(&seen(5, 20))));
        assert!(!seen(5, 19).supersedes(Some(&seen(5, 20))));
        assert!(!seen(4, 30).supersedes(Some(&seen(5, 20))));
    }
}
