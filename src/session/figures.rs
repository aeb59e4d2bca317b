//! The figures of a mounted session: how it is doing, and what it has done since it was mounted. `docs/metrics.md` says
//! what each means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::SessionDir;
use super::stats::History;
use super::status::Status;
use crate::base::Tally;
use crate::fs::{Fs, KindCounts};
use crate::store::Store;

/// What the server of a mount says of itself. All that counts begins at 0 with the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// As `status` has it.
    pub status: Status,
    /// Operations by what they are called; those that there were.
    pub operations: BTreeMap<String, OperationFigures>,
    /// Bytes given to readers, beyond what the kernel had cached.
    pub bytes_read: u64,
    /// Bytes taken from writers.
    pub bytes_written: u64,
    /// Commits.
    pub commits: Times,
    /// Age of the oldest change that no commit has, in nanoseconds; 0 when there is none.
    pub commit_lag_nanos: u64,
    /// Syncs of the journal.
    pub syncs: Times,
    /// Reads that found their pack decoded in memory.
    pub pack_hits: u64,
    /// Reads that had to fetch and decode it.
    pub pack_misses: u64,
    /// Packs written by commits, the bytes of content in them, and the bytes that they take.
    pub packs_written: u64,
    #[allow(missing_docs)]
    pub pack_raw_bytes: u64,
    #[allow(missing_docs)]
    pub pack_stored_bytes: u64,
    /// What the store's logs say of the session; the server leaves it empty.
    #[serde(default)]
    pub history: History,
}

/// The operations of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationFigures {
    /// How long they took in the file system.
    pub times: Times,
    /// How many failed, by errno(3)'s name.
    pub errors: BTreeMap<String, u64>,
}

/// How long things took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// How many took at most 2^i µs and more than half of that; the last: longer than all others.
    pub steps: Vec<u64>,
    /// What all took together.
    pub nanos: u64,
}

impl From<&Tally> for Times {
    fn from(tally: &Tally) -> Times {
        Times { steps: tally.steps.to_vec(), nanos: tally.nanos }
    }
}

impl Times {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.steps.iter().sum()
    }
}

impl Figures {
    /// The figures of a running file system, as its server sees it.
    pub fn live(dir: &SessionDir, fs: &Fs, store: &Store) -> Result<Figures, SessionError> {
        let status = Status::live(dir, fs, store)?;
        let activity = fs.activity();
        let (done, packs) = (&activity.operations, activity.packs);
        let kind = |of: &KindCounts| {
            let errors = of.errors.iter().map(|&(error, count)| (error.name().to_owned(), count)).collect();
            (of.kind.name().to_owned(), OperationFigures { times: (&of.took).into(), errors })
        };
        Ok(Figures {
            status,
            operations: done.kinds.iter().map(kind).collect(),
            bytes_read: done.bytes_read,
            bytes_written: done.bytes_written,
            commits: (&activity.commits).into(),
            commit_lag_nanos: u64::try_from(activity.commit_lag.as_nanos()).unwrap_or(u64::MAX),
            syncs: (&activity.syncs).into(),
            pack_hits: packs.hits,
            pack_misses: packs.misses,
            packs_written: packs.written,
            pack_raw_bytes: packs.raw_bytes,
            pack_stored_bytes: packs.stored_bytes,
            history: History::default(),
        })
    }
}
