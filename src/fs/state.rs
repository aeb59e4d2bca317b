//! Everything behind the one lock, and the two ways to it: [`Look`] to read, [`Op`] to change.
//!
//! An operation is a closure that first looks at all it needs, then edits. Where something is not in memory it returns
//! [`Stop::Need`]; the driver loads that with the lock released and starts the closure over. So no I/O happens under
//! the lock, and an edit, once begun, cannot fail half-way.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::inode::{Dir, Inode};
use crate::base::limits::{DIRTY_COMMIT, DIRTY_ROWS_COMMIT, PIECE_SIZE};
use crate::base::{DataId, Errno, Ino, Map, Seq, Timestamp, Txid};
use crate::format::{Change, SealedTransaction, Transaction};
use crate::store::{Content, NextIds};

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
pub(super) type Contents = Map<DataId, Content>;

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
    /// Being committed.
    pub sealed: Option<SealedTransaction>,
    /// Data ids below this one are sealed or committed: their content must not change any more.
    pub first_data: DataId,
    pub next: NextIds,
    pub pieces_used: u64,
    pub pieces_limit: u64,
    pub inodes_used: u64,
    pub inodes_limit: u64,
    /// Inodes without a name that the kernel still refers to.
    pub orphans: usize,
    pub refusal: Option<Refusal>,
    /// The last operation and transaction committed.
    pub committed: Seq,
    pub txid: Txid,
    /// When the running transaction got its first change.
    pub dirty_since: Option<Instant>,
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
        self.running.data_bytes + self.sealed.as_ref().map_or(0, |sealed| sealed.data_bytes)
    }

    /// Content that no finished commit has: in the running or the sealed transaction.
    pub fn uncommitted(&self, id: DataId) -> Option<&Arc<Vec<u8>>> {
        self.running.data.get(&id).or_else(|| self.sealed.as_ref()?.data.get(&id))
    }

    /// Whether the committer has something to do before its timer.
    pub fn commit_is_due(&self) -> bool {
        self.commit_wanted || self.running.data_bytes >= DIRTY_COMMIT || self.running.changes >= DIRTY_ROWS_COMMIT
    }

    /// Whether the store failed for good.
    pub fn is_failed(&self) -> bool {
        matches!(self.refusal, Some(Refusal::Failed(_)))
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
        Op { look, now: Timestamp::now(), changed: false }
    }

    /// Merges a row change into the running transaction; from here on the operation cannot fail.
    pub fn record(&mut self, change: Change<'_>) {
        self.changed = true;
        self.look.state.running.apply(change);
    }

    /// Records an inode's row as it now is in memory.
    pub fn record_inode(&mut self, ino: Ino) {
        self.changed = true;
        let state = &mut *self.look.state;
        if let Some(inode) = state.inodes.get(&ino) {
            state.running.apply(Change::Inode(&inode.row));
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
        state.pieces_used = state.pieces_used + inode.row.pieces - before;
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
            self.inodes_used -= 1;
            self.pieces_used -= inode.row.pieces;
            self.orphans -= 1;
            self.record(Change::DropInode(ino));
        }
    }

    /// Ends an operation that changed nothing, keeping the lock.
    pub fn into_state(self) -> MutexGuard<'a, State> {
        debug_assert!(!self.changed);
        self.look.state
    }

    /// Ends the operation: gives it its place in the order. Returns whether the committer should be woken.
    pub fn finish(mut self) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        let state = &mut *self.look.state;
        let seq = state.next.seq;
        state.next.seq = seq.next();
        state.running.last_seq = seq;
        let first = state.dirty_since.is_none();
        state.dirty_since.get_or_insert_with(Instant::now);
        first || state.commit_is_due()
    }
}
