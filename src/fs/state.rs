//! Everything behind the one lock, and the two ways to it: [`Look`] to read, [`Op`] to change.
//!
//! An operation is a closure that first looks at all it needs, then edits. Where something is not in memory it returns
//! [`Stop::Need`]; the driver loads that with the lock released and starts the closure over. So no I/O happens under
//! the lock, and an edit, once begun, cannot fail half-way.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use parking_lot::MutexGuard;

use super::data::Bytes;
use super::inode::{Dir, Inode};
use super::observe::Observation;
use super::resize::Resize;
use super::sealed::Sealed;
use crate::base::limits::{DIRTY_COMMIT, DIRTY_ROWS_COMMIT, PIECE_SIZE};
use crate::base::{DataId, Errno, Ino, Map, Seq, Timestamp, Txid};
use crate::format::journal::Records;
use crate::format::{Change, Transaction};
use crate::store::NextIds;

/// Why an operation's closure did not finish.
#[derive(Debug)]
pub(super) enum Stop {
    /// It fails.
    Errno(Errno),
    /// It has to be run again with this in memory.
    Need(Need),
}

/// What an operation found missing from memory.
#[derive(Debug)]
pub(super) enum Need {
    /// A directory's names.
    Dir(Ino),
    /// A file's block map.
    Blocks(Ino),
    /// An inode's xattrs.
    Xattrs(Ino),
    /// The content of blocks, for this one operation.
    Contents(Vec<DataId>),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Errno(errno)
    }
}

/// What an operation's closure returns.
pub(super) type Step<T> = Result<T, Stop>;

/// Content loaded for one operation.
pub(super) type Contents = Map<DataId, Bytes>;

/// Why nothing may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The session is being stopped.
    Stopping,
    /// The disk under the store is full; passes when there is room again.
    DiskFull,
    /// The store failed. Stays.
    Failed(String),
}

impl Refusal {
    pub fn errno(&self) -> Errno {
        match self {
            Refusal::Stopping => Errno::RoFs,
            Refusal::DiskFull => Errno::NoSpc,
            Refusal::Failed(_) => Errno::Io,
        }
    }
}

/// The state of a mounted session.
#[derive(Debug)]
pub(super) struct State {
    pub inodes: Map<Ino, Inode>,
    /// Collects what operations change.
    pub running: Transaction,
    /// The first operation in it, or to come.
    pub first_seq: Seq,
    /// Data ids below this one are sealed or committed: their content must not change any more.
    pub first_data: DataId,
    /// Waiting for their commit, oldest first.
    pub sealed: VecDeque<Sealed>,
    /// On their way to the journal.
    pub records: Records,
    /// Bytes of all records ever made here.
    pub recorded_bytes: u64,
    /// Whether records are made.
    pub journaled: bool,
    pub next: NextIds,
    pub pieces_used: u64,
    pub pieces_limit: u64,
    pub inodes_used: u64,
    pub inodes_limit: u64,
    /// Inodes without a name that the kernel still refers to.
    pub orphans: usize,
    /// Orphans that the kernel has given back while there was no room in the journal to say so.
    pub forgotten: Vec<Ino>,
    /// Inodes whose mode is another than the one that a kernel was told.
    pub unseen_modes: Vec<Ino>,
    /// How many orphans were deleted so far.
    pub deleted: u64,
    /// Caps that are to be changed.
    pub resizes: VecDeque<Resize>,
    /// Who wants to know what is changed.
    pub observations: Vec<Observation>,
    pub refusal: Option<Refusal>,
    /// The journal found no room when it last asked the disk for some.
    pub starved: bool,
    /// The last operation and transaction committed.
    pub committed: Seq,
    pub txid: Txid,
    /// When the running transaction got its first change.
    pub dirty_since: Option<Instant>,
    /// The journal is to get a segment ready for those who sync.
    pub prepare_wanted: bool,
    /// Someone waits for a commit of all there is.
    pub commit_wanted: bool,
    /// The committer is to finish.
    pub stopping: bool,
    /// The committer has finished: what is not committed by now will not be.
    pub ended: bool,
    /// The committer is to finish as a crash would.
    pub abandoned: bool,
}

impl State {
    /// The inode, or ESTALE: the kernel names an inode that does not exist any more.
    pub fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::Stale)
    }

    pub fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::Stale)
    }

    /// A directory with its names loaded.
    pub fn dir(&self, ino: Ino) -> Step<(&Inode, &Dir)> {
        let inode = self.inode(ino)?;
        let dir = inode.dir().ok_or(Errno::NotDir)?;
        if dir.loaded { Ok((inode, dir)) } else { Err(Stop::Need(Need::Dir(ino))) }
    }

    /// Whether this many more inodes and pieces fit under the caps.
    pub fn room(&self, inodes: u64, pieces: u64) -> Result<(), Errno> {
        let fits = |used: u64, more: u64, limit: u64| more == 0 || used.saturating_add(more) <= limit;
        if fits(self.inodes_used, inodes, self.inodes_limit) && fits(self.pieces_used, pieces, self.pieces_limit) {
            Ok(())
        } else {
            Err(Errno::NoSpc)
        }
    }

    /// Pieces that are still free.
    pub fn pieces_free(&self) -> u64 {
        self.pieces_limit.saturating_sub(self.pieces_used)
    }

    /// Content bytes that wait for a commit or are in one.
    pub fn dirty_bytes(&self) -> usize {
        self.running.data_bytes + self.sealed.iter().map(|sealed| sealed.data_bytes).sum::<usize>()
    }

    /// The last operation there was.
    pub fn last_seq(&self) -> Seq {
        Seq(self.next.seq.0.saturating_sub(1))
    }

    /// Whether the store failed for good.
    pub fn is_failed(&self) -> bool {
        matches!(self.refusal, Some(Refusal::Failed(_)))
    }

    /// Whether changes are refused for want of room on the disk under the store.
    pub fn is_disk_full(&self) -> bool {
        self.starved || self.refusal == Some(Refusal::DiskFull)
    }

    /// Bytes charged against the cap.
    pub fn bytes_used(&self) -> u64 {
        self.pieces_used * PIECE_SIZE as u64
    }
}

/// The state locked for reading, with what was loaded for this operation.
pub(super) struct Look<'a> {
    pub(super) state: MutexGuard<'a, State>,
    pub(super) contents: &'a Contents,
}

impl Deref for Look<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

/// The state locked for one operation that changes it.
pub(super) struct Op<'a> {
    pub(super) look: Look<'a>,
    /// The time of this operation: one for all it touches.
    pub now: Timestamp,
    changed: bool,
    /// Bytes of records before it.
    records_before: usize,
}

/// An operation that has its place in the order.
pub(super) struct Finished {
    pub seq: Seq,
    /// It ended a transaction.
    pub sealed: bool,
    /// The committer has something to do.
    pub wake: bool,
}

impl Deref for Op<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.look.state
    }
}

impl DerefMut for Op<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.look.state
    }
}

impl<'a> Op<'a> {
    pub fn new(look: Look<'a>) -> Op<'a> {
        let records_before = look.state.records.len();
        Op { look, now: Timestamp::now(), changed: false, records_before }
    }

    /// Merges a row change into the running transaction; from here on the operation cannot fail.
    pub fn record(&mut self, change: Change<'_>) {
        self.changed = true;
        let State { records, running, journaled, observations, .. } = &mut *self.look.state;
        note(*journaled, records, running, observations, change);
    }

    /// Records an inode's row as it now is in memory.
    pub fn record_inode(&mut self, ino: Ino) {
        let State { inodes, records, running, journaled, observations, .. } = &mut *self.look.state;
        if let Some(inode) = inodes.get(&ino) {
            self.changed = true;
            note(*journaled, records, running, observations, Change::Inode(&inode.row));
        }
    }

    /// Edits an inode's row, stamps its ctime, keeps the byte cap's account, and records the row.
    pub fn update(&mut self, ino: Ino, edit: impl FnOnce(&mut Inode)) {
        let now = self.now;
        let state = &mut *self.look.state;
        let Some(inode) = state.inodes.get_mut(&ino) else {
            debug_assert!(false, "an edit must look at its inode first");
            return;
        };
        let before = inode.row.pieces;
        inode.row.ctime = now;
        edit(inode);
        // Where the superblock has counted less than there is, the commit says so.
        state.pieces_used = (state.pieces_used + inode.row.pieces).saturating_sub(before);
        self.record_inode(ino);
    }

    /// Brings a new inode into the session.
    pub fn insert(&mut self, inode: Inode) {
        let ino = inode.row.ino;
        self.inodes_used += 1;
        self.pieces_used += inode.row.pieces;
        self.orphans += usize::from(inode.row.is_orphan());
        self.inodes.insert(ino, inode);
        self.record_inode(ino);
    }

    /// Takes `links` off an inode's count. With the last one it becomes an orphan, or is deleted at once when the
    /// kernel does not refer to it.
    pub fn drop_links(&mut self, ino: Ino, links: u32) {
        self.update(ino, |inode| inode.row.nlink -= links);
        let Some(inode) = self.inodes.get(&ino) else { return };
        if inode.row.is_orphan() {
            let referenced = inode.lookups > 0;
            self.orphans += 1;
            if !referenced {
                self.delete(ino);
            }
        }
    }

    /// Deletes an orphan: its pieces and its inode are free again.
    pub fn delete(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.remove(&ino) {
            debug_assert!(inode.row.is_orphan());
            self.inodes_used = self.inodes_used.saturating_sub(1);
            self.pieces_used = self.pieces_used.saturating_sub(inode.row.pieces);
            self.orphans = self.orphans.saturating_sub(1);
            self.deleted += 1;
            self.record(Change::DropInode(ino));
        }
    }

    /// Ends an operation that changed nothing, keeping the lock.
    pub fn into_state(self) -> MutexGuard<'a, State> {
        debug_assert!(!self.changed);
        self.look.state
    }

    /// Ends the operation: gives it its place in the order, and its transaction an end when it is large. `None` when it
    /// changed nothing.
    pub fn finish(mut self) -> Option<Finished> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let before = self.records_before;
        let state = &mut *self.look.state;
        let seq = state.next.seq;
        state.next.seq = seq.next();
        state.running.last_seq = seq;
        state.records.finish(seq);
        state.recorded_bytes += (state.records.len() - before) as u64;
        let first = state.dirty_since.is_none();
        state.dirty_since.get_or_insert_with(Instant::now);
        let sealed = state.running.data_bytes >= DIRTY_COMMIT || state.running.changes >= DIRTY_ROWS_COMMIT;
        if sealed {
            state.seal();
        }
        Some(Finished { seq, sealed, wake: first || sealed || state.commit_wanted })
    }
}

/// Makes a row change part of the operation that is under way: of its record, and of its transaction.
fn note(
    journaled: bool,
    records: &mut Records,
    running: &mut Transaction,
    observations: &mut [Observation],
    change: Change<'_>,
) {
    observations.iter_mut().for_each(|one| one.see(&change));
    if journaled {
        records.change(&change);
    }
    running.apply(change);
}
