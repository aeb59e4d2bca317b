//! What there is to say about a session, mounted or not.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::SessionDir;
use super::lock::Lock;
use super::receipt::Witness;
use super::registry::Entry;
use super::soft_limits::reached;
use super::verify::Verified;
use crate::base::Timestamp;
use crate::base::limits::PIECE_SIZE;
use crate::fs::Fs;
use crate::store::{Recovery, Store, Superblock};

/// One session, as `status` and `ls` show it. Field names are those of `--json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The names say it; README.md lists them.
pub struct Status {
    pub session: String,
    pub uuid: String,
    pub mounted: bool,
    /// The process that has the session open, mounted or not.
    pub pid: Option<u32>,
    pub mountpoint: Option<PathBuf>,
    pub host: Option<String>,
    pub since: Option<String>,
    pub bytes_used: u64,
    pub bytes_limit: u64,
    pub inodes_used: u64,
    pub inodes_limit: u64,
    pub files: u64,
    pub dirs: u64,
    /// The lengths of all files; `bytes_used` is what they are charged.
    pub content_bytes: u64,
    pub txid: u64,
    /// Counts the mounts.
    #[serde(default)]
    pub epoch: u64,
    pub digest: String,
    pub created: String,
    pub last_active: String,
    /// Whether the last use ended in a stop. A mounted session is not clean.
    pub clean: bool,
    pub database_bytes: u64,
    /// Content waiting to be committed.
    pub dirty_bytes: u64,
    /// Bytes of memory that what waits for its commit takes; the rest of it lies in the journal alone.
    pub memory_bytes: u64,
    /// Times a change waited for room in the journal.
    pub throttled: u64,
    /// Bytes of the journal's file, and of the records in it that no commit has yet.
    pub journal_bytes: u64,
    pub journal_waiting: u64,
    /// Times this mount has waited for the disk to make the journal durable.
    pub syncs: u64,
    /// What this mount has replayed of the last one's journal; of a session that was not stopped, what the next use
    /// will replay. `None` when there is nothing.
    pub recovery: Option<Replayed>,
    /// Patterns of the directories whose content is not kept.
    #[serde(default)]
    pub ephemeral: Vec<String>,
    /// Why the file system refuses changes, if it does; or what keeps the next use from recovering the session.
    pub failed: Option<String>,
    /// Of what runs in the workspace, if it was ever stated.
    #[serde(default)]
    pub runtime_version: Option<String>,
    /// What the last stop left, as far as the store has seen one.
    #[serde(default)]
    pub last_stop: Option<Witness>,
    /// Of this mount; of a session that is not mounted, the last one's.
    #[serde(default)]
    pub verified: Verified,
    /// Never removed for being idle, or for the store's budget.
    #[serde(default)]
    pub pinned: bool,
    /// Days without use after which it may be removed.
    #[serde(default)]
    pub idle_days: Option<u32>,
    /// When that is, if nobody uses it until then; `None` when it is pinned or in use.
    #[serde(default)]
    pub expires: Option<String>,
    /// The highest soft limits, in percent of the caps, that use is at or above; 0: none.
    #[serde(default)]
    pub soft_limit_bytes: u8,
    #[serde(default)]
    pub soft_limit_inodes: u8,
    /// Why this session could not be looked at, if it could not; then the figures are missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// What a recovery replays, or has replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The names say it.
pub struct Replayed {
    pub records: u64,
    pub operations: u64,
    pub bytes: u64,
    /// How long it took.
    pub millis: u64,
}

impl Replayed {
    pub(super) fn of(recovery: &Recovery) -> Option<Replayed> {
        let Recovery { records, operations, bytes, took } = *recovery;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        recovery.was_needed().then_some(Replayed { records, operations, bytes, millis })
    }
}

impl Status {
    /// Reads a session's status from its session database, which also works beside a running server: then it is
    /// the state of the last commit.
    pub fn read(dir: &SessionDir) -> Result<Status, SessionError> {
        let database = |source| dir.database_error(source);
        let store = Store::open_read_only(&dir.database()).map_err(database)?;
        let (mut status, witness) = Status::bare(dir)?;
        status.fill(&store.superblock().map_err(database)?);
        if let Some(lacks) = witness.map_or(Ok(None), |seen| seen.missing_in(&store)).map_err(database)? {
            status.failed = Some(lacks.to_string());
            return Ok(status);
        }
        // The journal of who has the session open changes under our eyes.
        if status.pid.is_none() && !status.clean {
            match store.inspect_journal(&dir.journal()) {
                Ok(found) => status.recovery = Replayed::of(&found),
                Err(error) => status.failed = Some(error.to_string()),
            }
        }
        Ok(status)
    }

    /// The status of a session whose database may be unreadable: then it says why.
    pub fn read_or_explain(dir: &SessionDir) -> Result<Status, SessionError> {
        match Status::read(dir) {
            Err(error @ SessionError::Database { .. }) => {
                Ok(Status { error: Some(error.to_string()), ..Status::bare(dir)?.0 })
            }
            other => other,
        }
    }

    /// The status of a running file system, as its server sees it.
    pub fn live(dir: &SessionDir, fs: &Fs, store: &Store) -> Result<Status, SessionError> {
        let superblock = store.superblock().map_err(|source| dir.database_error(source))?;
        let health = fs.health();
        let mut status = Status::bare(dir)?.0;
        status.fill(&superblock);
        status.txid = health.txid.0;
        status.bytes_used = health.usage.bytes;
        status.bytes_limit = health.usage.bytes_limit;
        status.inodes_used = health.usage.inodes;
        status.inodes_limit = health.usage.inodes_limit;
        status.dirty_bytes = health.dirty_bytes;
        status.memory_bytes = health.memory_bytes;
        status.throttled = health.throttled;
        status.journal_bytes = health.journal.allocated;
        status.journal_waiting = health.journal.waiting;
        status.syncs = health.journal.syncs;
        status.recovery = Replayed::of(&health.recovery);
        status.failed = health.failed.or(status.failed);
        Ok(status)
    }

    /// With the soft limits that are reached.
    pub fn filling(mut self, percentages: &[u8]) -> Status {
        self.soft_limit_bytes = reached(percentages, self.bytes_used, self.bytes_limit);
        self.soft_limit_inodes = reached(percentages, self.inodes_used, self.inodes_limit);
        self
    }

    /// What the directory and the registry say without the session database, and what was seen of that.
    fn bare(dir: &SessionDir) -> Result<(Status, Option<Witness>), SessionError> {
        // A registry that cannot be read keeps nobody from looking.
        let (entry, failed) = match dir.home().entry(dir.id()) {
            Ok(entry) => (entry, None),
            Err(error) => (Entry::default(), Some(error.to_string())),
        };
        let path = dir.lock_file();
        let holder = Lock::holder(&path).map_err(|source| SessionError::Store { path, what: "read", source })?;
        let status = Status {
            session: dir.id().to_string(),
            mounted: holder.as_ref().is_some_and(|holder| holder.mountpoint.is_some()),
            pid: holder.as_ref().map(|holder| holder.pid),
            host: holder.as_ref().map(|holder| holder.host.clone()),
            since: holder.as_ref().map(|holder| holder.since.clone()),
            mountpoint: holder.and_then(|holder| holder.mountpoint),
            database_bytes: dir.disk_bytes(),
            failed,
            pinned: entry.settings.pinned,
            idle_days: entry.settings.idle_days,
            ephemeral: entry.settings.ephemeral,
            runtime_version: entry.settings.runtime_version,
            last_stop: entry.last_stop,
            verified: entry.verified.as_ref().map(Verified::from).unwrap_or_default(),
            ..Status::default()
        };
        Ok((status, entry.witness))
    }

    fn fill(&mut self, superblock: &Superblock) {
        self.uuid = uuid_text(&superblock.uuid);
        self.bytes_used = superblock.counts.pieces * PIECE_SIZE as u64;
        self.bytes_limit = superblock.bytes_limit;
        self.inodes_used = superblock.counts.inodes;
        self.inodes_limit = superblock.inodes_limit;
        self.files = superblock.counts.files;
        self.dirs = superblock.counts.dirs;
        self.content_bytes = superblock.counts.bytes;
        self.txid = superblock.txid.0;
        self.epoch = superblock.epoch;
        self.digest = superblock.digest.to_string();
        self.created = rfc3339(superblock.created);
        self.last_active = rfc3339(superblock.last_active);
        self.clean = superblock.clean;
    }
}

/// A UUID as everyone writes it.
pub(super) fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A time as RFC 3339 has it, in UTC, to the microsecond.
pub(super) fn rfc3339_micros(time: Timestamp) -> String {
    let seconds = rfc3339(time);
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), time.nanos / 1_000)
}

/// A time as RFC 3339 has it, in UTC, to the second.
pub fn rfc3339(time: Timestamp) -> String {
    // Days to a date in the proleptic Gregorian calendar: Howard Hinnant's `civil_from_days`.
    let (days, seconds) = (time.secs.div_euclid(86_400), time.secs.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_365_510, "2026-11-22T16:38:30Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::new(secs, 5)), text);
        }
        assert_eq!(rfc3339_micros(Timestamp::new(-1, 12_345_678)), "1969-12-31T23:59:59.012345Z");
    }

    #[test]
    fn uuids_are_written_with_dashes() {
        assert_eq!(uuid_text(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
    }
}
