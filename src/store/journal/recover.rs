//! Recovery: what a mount does first, whether the last one ended in a stop or in a crash.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::scan::{Position, Scan, headers};
use super::{Disk, DiskFile, Identity, Journal, Omit};
use crate::base::limits::{DIRTY_COMMIT, DIRTY_ROWS_COMMIT};
use crate::base::{Cookie, DataId, Ino, Seq, failpoint};
use crate::format::journal::{RecordError, RecordKind, changes};
use crate::format::{Change, Transaction};
use crate::store::open;
use crate::store::{NextIds, Store, StoreError, Superblock, Writer};

/// Bytes of content that a recovery holds at a time. A transaction is sealed when it has [`DIRTY_COMMIT`], and what is
/// replayed is committed at the first seal behind as much; more comes from no program of ours.
const CONTENT_MAX: usize = 4 * DIRTY_COMMIT;

/// A session that is open for writing, with everything in its database that was acknowledged.
#[derive(Debug)]
pub struct Opened {
    /// To read from.
    pub store: Arc<Store>,
    /// The one that writes.
    pub writer: Writer,
    /// An empty journal.
    pub journal: Journal,
    /// What the last journal held.
    pub recovery: Recovery,
}

/// What a recovery found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records replayed: operations, and ends of transactions.
    pub records: u64,
    /// Operations replayed.
    pub operations: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// How long all of it took.
    pub took: Duration,
}

impl Recovery {
    /// Whether the last mount left anything to be replayed.
    pub fn was_needed(&self) -> bool {
        self.operations > 0
    }
}

impl Store {
    /// Opens a session for writing. What the journal of its last mount holds beyond the last commit is committed first;
    /// then a new journal takes its place. The caller holds the session's lock.
    ///
    /// Nothing is written before it is certain that journal and database belong together.
    pub fn recover(disk: &Arc<dyn Disk>, database: &Path, journal: &Path, omit: Omit) -> Result<Opened, StoreError> {
        let started = Instant::now();
        let before = Store::open_read_only_on(disk, database)?.superblock()?;
        let last = last_journal(disk, journal, &before, omit)?;
        let identity = Identity { uuid: before.uuid, epoch: before.epoch + 1 };
        let fresh = |next: Seq| Journal::create(disk, journal, identity, next, omit);
        // Either the last journal or, at once, a new one: a database that is marked as open has a journal.
        let last = match last {
            Some(last) => Ok(last),
            None => Err(fresh(before.next.seq)?),
        };
        failpoint::passed("journal and database belong together and nothing is changed");
        let (store, mut writer) = Store::open_on(disk, database)?;
        let mut recovery = Recovery::default();
        let journal = match last {
            Err(journal) => journal,
            Ok(Last { file, identity, start }) => {
                let scan = Scan::new(&*file, identity, omit, start);
                let end = Replay::new(&store, &mut writer, &mut recovery).run(scan)?;
                warn_of_rest(&*file, journal, end)?;
                failpoint::passed("everything is replayed and the old journal is still there");
                fresh(end)?
            }
        };
        recovery.took = started.elapsed();
        if recovery.was_needed() {
            log::info!(
                "recovered {} operations ({} bytes) from the journal in {:.1?}",
                recovery.operations,
                recovery.bytes,
                recovery.took
            );
        }
        Ok(Opened { store, writer, journal, recovery })
    }

    /// The mount whose journal this is; `None` when there is no journal.
    pub fn journal_epoch(disk: &Arc<dyn Disk>, journal: &Path) -> Result<Option<u64>, StoreError> {
        match disk.open_read_only(journal) {
            Ok(file) => Ok(headers(&*file)?.iter().map(|(_, header)| header.epoch).max()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::from_io(journal, &error)),
        }
    }

    /// Gives up what a journal holds that cannot be replayed: the session goes back to its last commit. The journal is
    /// set aside; its new name is returned, if there was one.
    pub fn discard_journal(
        disk: &Arc<dyn Disk>,
        database: &Path,
        journal: &Path,
    ) -> Result<(Superblock, Option<PathBuf>), StoreError> {
        let (_store, writer) = Store::open_on(disk, database)?;
        let aside = open::beside(journal, &format!(".discarded-{}-{}", writer.txid(), writer.epoch()));
        let renamed = match disk.rename(journal, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            renamed => renamed.and_then(|()| disk.sync_directory(open::directory_of(journal))).map(|()| Some(aside)),
        };
        let aside = renamed.map_err(|error| StoreError::from_io(journal, &error))?;
        Ok((writer.close()?, aside))
    }

    /// What [`Store::recover`] would replay, found out without changing anything.
    pub fn inspect_journal(&self, journal: &Path) -> Result<Recovery, StoreError> {
        let started = Instant::now();
        let superblock = self.superblock()?;
        let mut found = Recovery::default();
        if let Some(Last { file, identity, start }) = last_journal(self.disk(), journal, &superblock, Omit::default())?
        {
            let mut scan = Scan::new(&*file, identity, Omit::default(), start);
            while let Some(record) = scan.next()? {
                if record.kind == RecordKind::Operation && record.seq >= superblock.next.seq {
                    changes(record.payload, |_| Ok::<_, RecordError>(()))?;
                    found.count(record.kind, record.payload.len());
                }
            }
        }
        found.took = started.elapsed();
        Ok(found)
    }
}

impl Journal {
    /// Reads a transaction back that was sealed: its first and its last operation. `base` finds content that is not in
    /// it. Fails when its segments are given back meanwhile.
    pub fn transaction(
        &self,
        (first, last): (Seq, Seq),
        base: impl Fn(DataId) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Transaction, StoreError> {
        let gone = || StoreError::Journal(format!("{}: operations {first} to {last} are gone", self.path.display()));
        let start = self.appender.lock().mark(first).ok_or_else(gone)?;
        let mut scan = Scan::new(&*self.file, self.identity, self.omit, start);
        let mut txn = Transaction::default();
        while let Some(record) = scan.next()? {
            match record.kind {
                RecordKind::Operation => apply_operation(&mut txn, record.seq, record.payload, &base, |_| ())?,
                RecordKind::Seal if record.seq == last => return Ok(txn),
                RecordKind::Seal => break,
            }
        }
        Err(gone())
    }
}

/// The journal that the last mount left.
struct Last {
    file: Box<dyn DiskFile>,
    identity: Identity,
    start: Position,
}

/// Finds the last journal and where to begin in it; `None` when there is none, and need not be one.
fn last_journal(
    disk: &Arc<dyn Disk>,
    path: &Path,
    database: &Superblock,
    omit: Omit,
) -> Result<Option<Last>, StoreError> {
    let file = match disk.open_read_only(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && (database.clean || omit.append) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::Journal(format!(
                "{}: it is missing, and the session was not stopped",
                path.display()
            )));
        }
        Err(error) => return Err(StoreError::from_io(path, &error)),
    };
    let headers = headers(&*file)?;
    let Some(epoch) = headers.iter().map(|(_, header)| header.epoch).max() else {
        return Err(StoreError::Journal(format!("{}: no segment of it is readable", path.display())));
    };
    let stranger = headers.iter().any(|(_, header)| header.uuid != database.uuid);
    // It is made just before the epoch is raised.
    if stranger || epoch > database.epoch + 1 {
        let whose = if stranger { "of another session" } else { "of a later mount than the database" };
        return Err(StoreError::Journal(format!(
            "{}: journal and database do not belong together: it is {whose}",
            path.display()
        )));
    }
    let expected = database.next.seq;
    let of_last = headers.iter().filter(|(_, header)| header.epoch == epoch);
    let first = of_last.clone().map(|(_, header)| header.first).min().unwrap_or_default();
    let Some(&(segment, header)) = of_last.filter(|(_, h)| h.first <= expected).max_by_key(|(_, h)| h.first) else {
        return Err(StoreError::Journal(format!(
            "{}: journal and database do not belong together: it begins with operation {first}, the database expects {expected}",
            path.display()
        )));
    };
    let start = Position::behind(&header, segment);
    Ok(Some(Last { file, identity: Identity { uuid: header.uuid, epoch }, start }))
}

impl Recovery {
    fn count(&mut self, kind: RecordKind, payload: usize) {
        self.records += 1;
        self.operations += u64::from(kind == RecordKind::Operation);
        self.bytes += (crate::format::journal::HEADER + payload) as u64;
    }
}

/// Says so when segments behind the end could not be reached. After a power cut that is as it should be: what was not
/// synced may be there without what came before it. After anything else it is damage.
fn warn_of_rest(file: &dyn DiskFile, path: &Path, end: Seq) -> Result<(), StoreError> {
    if let Some(first) = headers(file)?.iter().map(|(_, header)| header.first).filter(|&first| first > end).max() {
        log::warn!(
            "{}: ends before operation {end}, but has had operation {first}: unless the power was cut, it is damaged",
            path.display()
        );
    }
    Ok(())
}

/// Commits what a journal holds.
struct Replay<'a> {
    store: &'a Store,
    writer: &'a mut Writer,
    recovery: &'a mut Recovery,
    txn: Transaction,
    next: NextIds,
}

impl<'a> Replay<'a> {
    fn new(store: &'a Store, writer: &'a mut Writer, recovery: &'a mut Recovery) -> Replay<'a> {
        let next = writer.next_ids();
        Replay { store, writer, recovery, txn: Transaction::default(), next }
    }

    /// Returns the operation that comes next.
    fn run(mut self, mut scan: Scan<'_>) -> Result<Seq, StoreError> {
        let first = self.next.seq;
        while let Some(record) = scan.next()? {
            // What is committed already is only gone through, for its checksums.
            if record.kind == RecordKind::Operation && record.seq >= first {
                self.recovery.count(record.kind, record.payload.len());
                failpoint::passed("an operation of the journal is not replayed yet");
                let (store, next) = (self.store, &mut self.next);
                apply_operation(
                    &mut self.txn,
                    record.seq,
                    record.payload,
                    |id| Ok(store.data(id)?.map(|content| content.to_vec())),
                    |change| raise(next, change),
                )?;
                if self.txn.data_bytes > CONTENT_MAX {
                    return Err(StoreError::Journal(format!("operation {} is in no transaction's bounds", record.seq)));
                }
                self.next.seq = record.seq.next();
            } else if record.kind == RecordKind::Seal && record.seq >= first {
                self.recovery.count(record.kind, 0);
                // Only here: within a transaction content is changed in place.
                if self.txn.data_bytes >= DIRTY_COMMIT || self.txn.changes >= DIRTY_ROWS_COMMIT {
                    self.commit()?;
                }
            }
        }
        self.commit()?;
        Ok(self.next.seq)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        failpoint::passed("a replayed transaction is not committed yet");
        self.writer.commit(&self.txn, self.next)?;
        failpoint::passed("a replayed transaction is committed");
        self.txn = Transaction::default();
        Ok(())
    }
}

/// Merges a recorded operation into a transaction, as it was when it happened. `base` finds content that is not in the
/// transaction; `seen` gets every change.
pub(super) fn apply_operation(
    txn: &mut Transaction,
    seq: Seq,
    payload: &[u8],
    base: impl Fn(DataId) -> Result<Option<Vec<u8>>, StoreError>,
    mut seen: impl FnMut(&Change<'_>),
) -> Result<(), StoreError> {
    changes(payload, |change| {
        seen(&change);
        let Change::NewData { id, base: old, keep, .. } = change else {
            txn.apply(change);
            return Ok(());
        };
        let bytes = match txn.data.get(&old) {
            _ if old == DataId::ZEROS => Vec::new(),
            Some(buffer) => buffer.to_vec(),
            None => base(old)?.ok_or_else(|| {
                StoreError::Damaged(format!("content {old}, which the journal builds on, is not there"))
            })?,
        };
        txn.apply(Change::NewData { id, base: old, keep, bytes: &bytes });
        Ok::<_, StoreError>(())
    })?;
    txn.last_seq = seq;
    Ok(())
}

/// Keeps the ids to be given next above all that an operation used.
fn raise(next: &mut NextIds, change: &Change<'_>) {
    match change {
        Change::Inode(row) => next.ino = next.ino.max(Ino(row.ino.0.saturating_add(1))),
        Change::Dentry(row) => next.cookie = next.cookie.max(Cookie(row.cookie.0.saturating_add(1))),
        Change::NewData { id, .. } | Change::Fill { id, .. } => {
            next.data = next.data.max(DataId(id.0.saturating_add(1)))
        }
        _ => {}
    }
}
