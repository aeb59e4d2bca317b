//! The journal: the file beside the session database that holds every operation from its reply to its commit.
//!
//! [`Journal::append`] makes records safe from the death of this process, [`Journal::sync`] from a power cut. Once their
//! transaction is committed, [`Journal::recycle`] gives their segments back. [`recover`] is the other end.
//!
//! Lock order: `growing` before `syncing` before `appender`. Nothing is locked outside while holding one,
//! except what `append` is given to fetch the records with.

mod append;
mod recover;
mod scan;
mod segment;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use self::append::Appender;
pub use self::recover::{Opened, Recovery};
use self::scan::Position;
use self::segment::place;
use super::disk::{Disk, DiskFile};
use super::{StoreError, open};
use crate::base::limits::{RECORD_MAX, UNAPPENDED_MAX};
use crate::base::{Histogram, Seq, Tally, failpoint};
use crate::format::journal::{Records, SegmentHeader};

/// What operations that are not appended yet may lose to alignment: a page for each thread that may be at it.
const ALIGNMENTS: u64 = 32 * segment::SYNC_UNIT;

/// What a positive control leaves out, so that the tests are seen to find what is then lost. Nothing, in
/// production, but the syncs of what is scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omit {
    /// Records are not written.
    pub append: bool,
    /// Nothing is waited for when a sync is asked for.
    pub sync: bool,
    /// Checksums are not looked at.
    pub chain: bool,
}

/// Whose journal it is: in every segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    uuid: [u8; 16],
    epoch: u64,
}

/// How much the journal holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalUsage {
    /// Bytes of records that no commit has yet.
    pub waiting: u64,
    /// Bytes its file has taken from the disk.
    pub allocated: u64,
    /// Times the disk was waited for.
    pub syncs: u64,
}

/// The journal of a mounted session. Every method can be called from any thread.
#[derive(Debug)]
pub struct Journal {
    file: Box<dyn DiskFile>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: Identity,
    omit: Omit,
    appender: Mutex<Appender>,
    /// Held while the disk is waited for; holds the last operation that is safe from a power cut.
    syncing: Mutex<Seq>,
    /// Held while a segment is added.
    growing: Mutex<()>,
    /// The last operation appended.
    appended: AtomicU64,
    /// Bytes of records appended.
    bytes: AtomicU64,
    /// Bytes left in the segment that is being written.
    left: AtomicU64,
    /// Segments that the appender can go on to.
    ready: AtomicUsize,
    syncs: Histogram,
    /// The first failure of a write or a sync. It stays: nobody knows what is on the disk after it.
    failure: Mutex<Option<StoreError>>,
}

impl Journal {
    /// Makes the journal at `path`, in the place of one that is no longer needed. Returns once it is there, also after
    /// a power cut. `next` is the operation it will begin with.
    fn create(
        disk: &Arc<dyn Disk>,
        path: &Path,
        identity: Identity,
        next: Seq,
        omit: Omit,
    ) -> Result<Journal, StoreError> {
        let building = open::beside(path, ".new");
        let failed = |error| StoreError::from_io(path, &error);
        let header = SegmentHeader::new(identity.uuid, identity.epoch, generation()?, next, 0);
        failpoint::passed("the new journal is not begun yet");
        let make = || {
            let file = disk.create(&building)?;
            let first = place(0);
            let mut written = header.encode();
            written.resize(first.end as usize, 0);
            file.write_at(&written, first.start)?;
            let second = place(1);
            // Without it the session can be read, and changed as soon as there is room.
            let has_second = match file.allocate(second.start, second.end - second.start) {
                Err(error) if !matches!(StoreError::from_io(path, &error), StoreError::Full) => return Err(error),
                allocated => allocated.is_ok(),
            };
            file.sync_data()?;
            failpoint::passed("the new journal is written and has no name");
            disk.rename(&building, path)?;
            failpoint::passed("the new journal has its name and its directory is not synced");
            disk.sync_directory(open::directory_of(path))?;
            Ok((file, has_second))
        };
        let (file, has_second) = make().map_err(failed)?;
        failpoint::passed("the new journal is in place");
        file.will_write(place(0));
        let start = Position::behind(&header, 0);
        Ok(Journal {
            file,
            disk: Arc::clone(disk),
            path: path.to_owned(),
            identity,
            omit,
            appender: Mutex::new(Appender::new(start, has_second)),
            syncing: Mutex::new(Seq(next.0.saturating_sub(1))),
            growing: Mutex::new(()),
            appended: AtomicU64::new(next.0.saturating_sub(1)),
            bytes: AtomicU64::new(0),
            left: AtomicU64::new(start.left()),
            ready: AtomicUsize::new(has_second.into()),
            syncs: Histogram::default(),
            failure: Mutex::new(None),
        })
    }

    /// Whether records are written at all.
    pub fn is_kept(&self) -> bool {
        !self.omit.append
    }

    /// The last operation that is safe from the death of this process.
    pub fn appended(&self) -> Seq {
        Seq(self.appended.load(Ordering::Acquire))
    }

    /// Whether the record of one more operation will find room, whatever it is, when `recorded` bytes of records were
    /// made in this life: in what is left of this segment, or in a whole one behind it.
    pub fn has_room(&self, recorded: u64) -> bool {
        // In this order: an append takes from what is left before it counts as done.
        let unappended = recorded.saturating_sub(self.bytes.load(Ordering::Acquire));
        let left = self.left.load(Ordering::Acquire);
        let fits = unappended + RECORD_MAX as u64 + ALIGNMENTS <= left || self.ready.load(Ordering::Acquire) > 0;
        self.omit.append || unappended <= UNAPPENDED_MAX && fits
    }

    /// Appends records up to the operation `upto` at least; whoever comes first does it for all. `fetch` swaps the
    /// records to be written in for the empty list that it is given, and is called at most once.
    pub fn append(&self, upto: Seq, fetch: impl FnOnce(&mut Records)) -> Result<(), StoreError> {
        if self.omit.append || self.appended() >= upto {
            return Ok(());
        }
        let mut appender = self.appender.lock();
        if self.appended() >= upto {
            return Ok(());
        }
        self.whole()?;
        let mut records = appender.take_spare();
        fetch(&mut records);
        let written = appender.write(self, records.bytes_mut());
        let bytes = records.len() as u64;
        appender.give_back(records);
        match written {
            Ok(()) => {
                self.bytes.fetch_add(bytes, Ordering::Release);
                self.appended.store(appender.last().0, Ordering::Release);
                failpoint::passed("the record is written and nobody was told");
                Ok(())
            }
            Err(failure) => Err(self.latch(failure)),
        }
    }

    /// Returns once everything appended before is safe from a power cut. Those who wait together are served together.
    pub fn sync(&self) -> Result<(), StoreError> {
        if self.omit.append {
            return Ok(());
        }
        let target = self.appended();
        let mut synced = self.syncing.lock();
        self.whole()?;
        if *synced >= target {
            return Ok(());
        }
        let reached = self.appender.lock().begin_sync();
        failpoint::passed("the journal is not synced yet");
        let begun = Instant::now();
        if !self.omit.sync {
            self.file.sync_data().map_err(|error| self.latch(StoreError::from_io(&self.path, &error)))?;
        }
        self.syncs.record(begun.elapsed());
        failpoint::passed("the journal is synced and nobody was told");
        *synced = reached;
        Ok(())
    }

    /// Adds a segment; false when the journal has all it may have. Nothing is lost when the disk has no room.
    pub fn grow(&self) -> Result<bool, StoreError> {
        let _growing = self.growing.lock();
        if self.ready.load(Ordering::Acquire) > 0 {
            return Ok(true);
        }
        self.add_segment(false)
    }

    /// Whether the next segment is written already: a sync of what overwrites it is cheaper by a commit of the disk's
    /// own journal.
    pub fn is_prepared(&self) -> bool {
        let appender = self.appender.lock();
        self.omit.append || appender.has_written_segment() || appender.segments() == segment::SEGMENTS_MAX
    }

    /// Adds a segment that is written already, unless one is waiting.
    pub fn prepare(&self) -> Result<(), StoreError> {
        let _growing = self.growing.lock();
        if self.is_prepared() {
            return Ok(());
        }
        self.add_segment(true).map(|_| ())
    }

    fn add_segment(&self, written: bool) -> Result<bool, StoreError> {
        let index = self.appender.lock().segments();
        if index >= segment::SEGMENTS_MAX {
            return Ok(false);
        }
        let place = place(index);
        let fill = || {
            self.file.allocate(place.start, place.end - place.start)?;
            if !written {
                return Ok(());
            }
            let zeros = vec![0; 1 << 20];
            for at in place.clone().step_by(zeros.len()) {
                self.file.write_at(&zeros[..zeros.len().min((place.end - at) as usize)], at)?;
            }
            Ok(())
        };
        let failed = |error| StoreError::from_io(&self.path, &error);
        fill().map_err(failed)?;
        if written {
            // Nobody says whose bytes a failed sync has lost: they may be those of records, and no later one tells. So
            // an fsync must not get between its failure and the latch.
            let _syncing = self.syncing.lock();
            self.file.sync_data().map_err(|error| self.latch(failed(error)))?;
        }
        failpoint::passed("a further segment has its room and is not in use");
        self.appender.lock().add(written);
        self.ready.fetch_add(1, Ordering::Release);
        Ok(true)
    }

    /// Gives back the segments whose operations are all committed.
    ///
    /// Nothing has to be synced for that. Recovery begins in the last segment on the disk that begins at or before the
    /// first operation that is not committed. The first segment, synced when it was made and never used again, always
    /// does; and what was synced since has its own segment's header synced with it.
    pub fn recycle(&self, committed: Seq) {
        failpoint::passed("the transaction is committed and its segments are not free");
        let freed = self.appender.lock().free(committed);
        self.ready.fetch_add(freed, Ordering::Release);
    }

    /// Gives room back to the disk that a burst took and nothing needs now.
    ///
    /// It needs no sync: what is cut off held only committed operations, and is believed as little if it comes back.
    pub fn shrink(&self, committed: Seq) -> Result<(), StoreError> {
        let _growing = self.growing.lock();
        let end = {
            let mut appender = self.appender.lock();
            appender.go_back(segment::SEGMENTS_KEPT, self).map_err(|failure| self.latch(failure))?;
            self.ready.fetch_add(appender.free(committed), Ordering::Release);
            let surplus = appender.forget_last(segment::SEGMENTS_KEPT);
            if surplus == 0 {
                return Ok(());
            }
            self.ready.fetch_sub(surplus, Ordering::AcqRel);
            place(appender.segments() - 1).end
        };
        self.file.cut(end).map_err(|error| StoreError::from_io(&self.path, &error))
    }

    /// Takes the journal away. The session database has everything that was in it.
    pub fn remove(&self) -> Result<(), StoreError> {
        failpoint::passed("the database is closed and the journal is still there");
        let removed = self.disk.remove(&self.path).and_then(|()| {
            failpoint::passed("the journal is removed and its directory is not synced");
            self.disk.sync_directory(open::directory_of(&self.path))
        });
        removed.map_err(|error| StoreError::from_io(&self.path, &error))
    }

    /// How much it holds.
    pub fn usage(&self) -> JournalUsage {
        let appender = self.appender.lock();
        JournalUsage {
            waiting: self.bytes.load(Ordering::Acquire).saturating_sub(appender.committed_bytes()),
            allocated: place(appender.segments() - 1).end,
            syncs: self.syncs.tally().count(),
        }
    }

    /// The times that the disk was waited for, and how long each took.
    pub fn sync_times(&self) -> Tally {
        self.syncs.tally()
    }

    fn whole(&self) -> Result<(), StoreError> {
        self.failure.lock().clone().map_or(Ok(()), Err)
    }

    /// Remembers the first failure for good. A disk that is full after space was taken from it is not full in the way
    /// that passes, so it counts as any other failure.
    fn latch(&self, failure: StoreError) -> StoreError {
        let failure = match failure {
            StoreError::Full => StoreError::Io(format!("{}: the disk broke its promise of room", self.path.display())),
            other => other,
        };
        self.failure.lock().get_or_insert(failure).clone()
    }
}

/// A new segment's generation: no older content of the place can carry it.
fn generation() -> Result<u64, StoreError> {
    let random = u128::from_le_bytes(open::random()?);
    Ok(random as u64)
}
