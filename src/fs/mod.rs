//! POSIX semantics over memory: the namespace and the files of one session, with no kernel and no SQL in it.
//!
//! One lock guards all metadata ([`state`]); the store is read outside it ([`load`]); one thread commits
//! ([`committer`]). The operations stand by family: [`names`], [`rename`], [`attr`], [`data`], [`allocate`],
//! [`copy`], [`xattr`].

mod acl;
mod allocate;
mod attr;
mod blockmap;
mod committer;
mod copy;
mod create;
mod data;
mod inode;
mod load;
mod names;
mod readdir;
mod rename;
mod state;
mod types;
mod xattr;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use self::inode::Inode;
use self::state::{Contents, Look, Op, Refusal, State, Step, Stop};
pub use self::types::{
    Attr, Caller, DirEntry, Health, RenameMode, Seek, SetAttr, SetTime, Usage, WriteFlags, XattrMode,
};
use crate::base::limits::{DIRTY_MAX, DIRTY_ROWS_MAX, ORPHAN_DRAIN_MS, PIECE_SIZE, pieces};
use crate::base::{Errno, Ino, Map};
use crate::format::Transaction;
use crate::store::{Store, StoreError, Superblock, Writer};

/// One mounted session. Every method can be called from any thread.
///
/// Each successful lookup, create, mknod, mkdir, symlink, link and tmpfile, and each readdir entry that carried
/// attributes, counts one reference on the inode, which [`Fs::forget`] gives back; an inode without a name lives until
/// then.
#[derive(Debug)]
pub struct Fs {
    store: Arc<Store>,
    state: Mutex<State>,
    /// Held by whoever loads from the store into `state`, so that nothing is loaded twice. Taken before `state`, never
    /// while holding it.
    loading: Mutex<()>,
    /// The committer waits here for work.
    work: Condvar,
    /// Everybody else waits here: for a commit, for memory, for orphans to go.
    progress: Condvar,
    throttled: AtomicU64,
    committer: Mutex<Option<JoinHandle<()>>>,
    outcome: Mutex<Option<Result<Superblock, StoreError>>>,
}

impl Fs {
    /// Starts serving a session: reaps the orphans of its last life, loads the root, starts the committer.
    pub fn start(store: Arc<Store>, mut writer: Writer) -> Result<Arc<Fs>, StoreError> {
        writer.reap_orphans()?;
        let superblock = store.superblock()?;
        let root = store.inode(Ino::ROOT)?.ok_or_else(|| StoreError::Damaged("the root directory is gone".into()))?;
        let mut inodes = Map::default();
        inodes.insert(Ino::ROOT, Inode::stored(root, Ino::ROOT));
        let state = State {
            inodes,
            running: Transaction::default(),
            sealed: None,
            first_data: superblock.next.data,
            next: superblock.next,
            pieces_used: superblock.counts.pieces,
            pieces_limit: superblock.bytes_limit / PIECE_SIZE as u64,
            inodes_used: superblock.counts.inodes,
            inodes_limit: superblock.inodes_limit,
            orphans: 0,
            refusal: None,
            committed: crate::base::Seq(superblock.next.seq.0.saturating_sub(1)),
            txid: superblock.txid,
            dirty_since: None,
            commit_wanted: false,
            stopping: false,
            ended: false,
            abandoned: false,
        };
        let fs = Arc::new(Fs {
            store,
            state: Mutex::new(state),
            loading: Mutex::new(()),
            work: Condvar::new(),
            progress: Condvar::new(),
            throttled: AtomicU64::new(0),
            committer: Mutex::new(None),
            outcome: Mutex::new(None),
        });
        *fs.committer.lock() = Some(committer::spawn(fs.clone(), writer)?);
        Ok(fs)
    }

    /// Bytes and inodes in use, and their caps.
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        Usage {
            bytes: state.bytes_used(),
            bytes_limit: state.pieces_limit * PIECE_SIZE as u64,
            inodes: state.inodes_used,
            inodes_limit: state.inodes_limit,
        }
    }

    /// How it is doing, for `status`.
    pub fn health(&self) -> Health {
        let usage = self.usage();
        let state = self.state.lock();
        Health {
            usage,
            txid: state.txid,
            dirty_bytes: state.dirty_bytes() as u64,
            throttled: self.throttled.load(Ordering::Relaxed),
            failed: match &state.refusal {
                Some(Refusal::Failed(why)) => Some(why.clone()),
                Some(Refusal::DiskFull) => Some(StoreError::Full.to_string()),
                Some(Refusal::Stopping) | None => None,
            },
        }
    }

    /// Gives back references that the kernel held. With the last one an unlinked inode is gone.
    pub fn forget(&self, ino: Ino, count: u64) {
        let contents = Contents::default();
        let mut op = Op::new(Look { state: self.state.lock(), contents: &contents });
        let Some(inode) = op.inodes.get_mut(&ino) else { return };
        debug_assert!(inode.lookups >= count, "more references given back than were taken");
        inode.lookups = inode.lookups.saturating_sub(count);
        let frozen = matches!(op.refusal, Some(Refusal::Stopping | Refusal::Failed(_)));
        if op.inodes.get(&ino).is_none_or(|inode| inode.lookups > 0 || !inode.row.is_orphan()) || frozen {
            return; // A stop reaps the orphans that are left.
        }
        op.delete(ino);
        if op.finish() {
            self.work.notify_one();
        }
        self.progress.notify_all();
    }

    /// Runs an operation that reads. The closure may be run several times.
    fn look<T>(&self, mut run: impl FnMut(&Look<'_>) -> Step<T>) -> Result<T, Errno> {
        let mut loaded = load::Loaded::default();
        loop {
            let step = run(&Look { state: self.state.lock(), contents: loaded.contents() });
            match step {
                Ok(value) => return Ok(value),
                Err(Stop::Errno(errno)) => return Err(errno),
                Err(Stop::Need(need)) => self.load(need, &mut loaded)?,
            }
        }
    }

    /// Runs an operation that changes something. The closure may be run several times; it must not edit before it has
    /// looked at everything it needs.
    fn change<T>(&self, mut run: impl FnMut(&mut Op<'_>) -> Step<T>) -> Result<T, Errno> {
        let mut loaded = load::Loaded::default();
        let mut drain_until = None;
        loop {
            let mut state = self.state.lock();
            while state.refusal.is_none() && state.running.changes >= DIRTY_ROWS_MAX {
                self.wait_for_commit(&mut state);
            }
            if let Some(refusal) = &state.refusal {
                return Err(refusal.errno());
            }
            let mut op = Op::new(Look { state, contents: loaded.contents() });
            match run(&mut op) {
                Ok(value) => {
                    if op.finish() {
                        self.work.notify_one();
                    }
                    return Ok(value);
                }
                Err(Stop::Errno(errno)) => {
                    if errno != Errno::NoSpc || !self.drain_orphans(op, &mut drain_until) {
                        return Err(errno);
                    }
                }
                Err(Stop::Need(need)) => {
                    drop(op);
                    self.load(need, &mut loaded)?;
                }
            }
        }
    }

    /// After ENOSPC: the kernel gives unlinked inodes back in its own time, so wait a moment for the space of those.
    /// Returns whether some came back.
    fn drain_orphans(&self, op: Op<'_>, until: &mut Option<Instant>) -> bool {
        let before = op.orphans;
        if before == 0 {
            return false;
        }
        let until = *until.get_or_insert_with(|| Instant::now() + Duration::from_millis(ORPHAN_DRAIN_MS));
        let mut state = op.into_state();
        while state.orphans >= before {
            if self.progress.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// Whether a change may have to wait: for the committer or, in a full session, for unlinked files to be given back.
    /// Such a change belongs on a thread that may wait, and not on the one that would be told of the files. `space` is
    /// the content it brings or allocates; 0 for a name, `None` for what makes nothing larger.
    pub fn would_wait(&self, space: Option<u64>) -> bool {
        let state = self.state.lock();
        if state.refusal.is_some() {
            return false;
        }
        let many_bytes = state.dirty_bytes() >= DIRTY_MAX && space.is_some_and(|bytes| bytes > 0);
        let many_rows = state.running.changes >= DIRTY_ROWS_MAX;
        // One more piece, by which a directory may grow.
        let full = |bytes| state.orphans > 0 && state.room(1, pieces(bytes) + 1).is_err();
        many_bytes || many_rows || space.is_some_and(full)
    }

    /// Waits until content may become dirty again.
    fn wait_for_memory(&self) {
        let mut state = self.state.lock();
        if state.dirty_bytes() >= DIRTY_MAX {
            self.throttled.fetch_add(1, Ordering::Relaxed);
        }
        while state.dirty_bytes() >= DIRTY_MAX && state.refusal.is_none() {
            self.wait_for_commit(&mut state);
        }
    }

    fn wait_for_commit(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        self.work.notify_one();
        self.progress.wait(state);
    }
}
