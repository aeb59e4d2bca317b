//! POSIX semantics over memory: the namespace and the files of one session, with no kernel and no SQL in it.
//!
//! One lock guards all metadata ([`state`]); the store is read outside it ([`load`]). An operation edits under the lock,
//! is in the journal before its caller is told, and waits in a transaction ([`sealed`]) for the one thread that commits
//! ([`committer`]). The operations stand by family: [`names`], [`rename`], [`attr`], [`data`], [`allocate`],
//! [`copy`], [`xattr`]. What callers have is a [`view`], which translates ids where a mount says so, and goes by way of
//! [`lanes`], which knows what is the session's and what on [`scratch`].

mod acl;
mod allocate;
mod attr;
mod blockmap;
mod committer;
mod copy;
mod create;
mod data;
mod globs;
mod inode;
mod lanes;
mod load;
mod names;
mod observe;
mod operations;
mod readdir;
mod rename;
mod resize;
mod scratch;
mod sealed;
mod state;
mod trace;
mod types;
mod view;
mod xattr;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

pub use self::globs::{GlobError, Globs};
use self::inode::Inode;
use self::operations::Operations;
pub use self::operations::{KindCounts, OpKind, OperationCounts};
use self::state::{Contents, Look, Op, Refusal, State, Step, Stop};
use self::trace::Watchers;
pub use self::trace::{Filter, Operation, Place, Refused, Watch, asked_by, asker};
pub use self::types::{
    Activity, Attr, Caller, DirEntry, Health, RenameMode, Seek, SetAttr, SetTime, Usage, WriteFlags, XattrMode,
};
pub use self::view::Fs;
use crate::base::limits::{FORGET_STEP, ORPHAN_DRAIN_MS, PIECE_SIZE, pieces};
use crate::base::{Cookie, Errno, Histogram, Ino, Map, Seq, failpoint};
use crate::format::Transaction;
use crate::format::journal::Records;
use crate::store::{Journal, Opened, Recovery, Store, StoreError, Superblock};

/// One session at work, with the ids of users and groups as they are stored. It is used as an [`Fs`]. Every method can be
/// called from any thread.
///
/// Each successful lookup, create, mknod, mkdir, symlink, link and tmpfile, and each readdir entry that carried
/// attributes, counts one reference on the inode, which [`Core::forget`] gives back; an inode without a name lives until
/// then.
#[derive(Debug)]
pub struct Core {
    store: Arc<Store>,
    journal: Journal,
    recovery: Recovery,
    /// Taken inside the journal's locks, so the journal is never called while holding it.
    state: Mutex<State>,
    /// Held by whoever loads from the store into `state`, so that nothing is loaded twice. Taken before `state`, never
    /// while holding it.
    loading: Mutex<()>,
    /// The committer waits here for work.
    work: Condvar,
    /// Everybody else waits here: for a commit, for room in the journal, for orphans to go.
    progress: Condvar,
    throttled: AtomicU64,
    operations: Operations,
    watchers: Arc<Watchers>,
    /// How long commits took, with the packing of their content.
    commits: Histogram,
    /// Whether `state` has some; set while holding it.
    has_unseen_modes: AtomicBool,
    committer: Mutex<Option<JoinHandle<()>>>,
    usage_watcher: UsageWatcher,
    outcome: Mutex<Option<Result<Superblock, StoreError>>>,
}

/// Who is told what is in use.
#[derive(Default)]
struct UsageWatcher(OnceLock<Box<dyn Fn(Usage) + Send + Sync>>);

impl std::fmt::Debug for UsageWatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UsageWatcher")
    }
}

impl Core {
    /// Starts serving a session: reaps the orphans of its last life, loads the root, starts the committer.
    fn start(opened: Opened) -> Result<Arc<Core>, StoreError> {
        let Opened { store, mut writer, journal, recovery } = opened;
        failpoint::passed("the journal is replayed and orphans are still there");
        writer.reap_orphans()?;
        failpoint::passed("the orphans are gone and nothing is served yet");
        let superblock = store.superblock()?;
        let root = store.inode(Ino::ROOT)?.ok_or_else(|| StoreError::Damaged("the root directory is gone".into()))?;
        let mut inodes = Map::default();
        inodes.insert(Ino::ROOT, Inode::stored(root, Ino::ROOT, Cookie(0)));
        let state = State {
            inodes,
            running: Transaction::default(),
            first_seq: superblock.next.seq,
            first_data: superblock.next.data,
            sealed: VecDeque::new(),
            records: Records::default(),
            recorded_bytes: 0,
            journaled: journal.is_kept(),
            next: superblock.next,
            pieces_used: superblock.counts.pieces,
            pieces_limit: superblock.bytes_limit / PIECE_SIZE as u64,
            inodes_used: superblock.counts.inodes,
            inodes_limit: superblock.inodes_limit,
            orphans: 0,
            forgotten: Vec::new(),
            unseen_modes: Vec::new(),
            deleted: 0,
            resizes: VecDeque::new(),
            observations: Vec::new(),
            refusal: None,
            starved: false,
            committed: Seq(superblock.next.seq.0.saturating_sub(1)),
            txid: superblock.txid,
            dirty_since: None,
            prepare_wanted: false,
            commit_wanted: false,
            stopping: false,
            ended: false,
            abandoned: false,
        };
        let fs = Arc::new(Core {
            store,
            journal,
            recovery,
            state: Mutex::new(state),
            loading: Mutex::new(()),
            work: Condvar::new(),
            progress: Condvar::new(),
            throttled: AtomicU64::new(0),
            operations: Operations::default(),
            watchers: Arc::default(),
            commits: Histogram::default(),
            has_unseen_modes: AtomicBool::new(false),
            committer: Mutex::new(None),
            usage_watcher: UsageWatcher::default(),
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

    /// Has somebody told what is in use: after every commit, and when caps change. From the committer's thread, which
    /// must not be kept; only the first who asks is told.
    pub fn on_usage(&self, tell: impl Fn(Usage) + Send + Sync + 'static) {
        let _ = self.usage_watcher.0.set(Box::new(tell));
    }

    fn tell_usage(&self) {
        if let Some(tell) = self.usage_watcher.0.get() {
            tell(self.usage());
        }
    }

    /// Whether it refuses changes because the disk under the store is full: ENOSPC that is not the session's cap.
    pub fn is_disk_full(&self) -> bool {
        self.state.lock().is_disk_full()
    }

    /// How it is doing, for `status`.
    pub fn health(&self) -> Health {
        let (usage, mut journal) = (self.usage(), self.journal.usage());
        let state = self.state.lock();
        if state.committed >= state.last_seq() {
            // The seal of the last transaction is written with the next operation.
            journal.waiting = 0;
        }
        Health {
            usage,
            journal,
            recovery: self.recovery,
            txid: state.txid,
            dirty_bytes: state.dirty_bytes() as u64,
            memory_bytes: state.dirty_memory() as u64,
            throttled: self.throttled.load(Ordering::Relaxed),
            failed: match &state.refusal {
                Some(Refusal::Failed(why)) => Some(why.clone()),
                _ if state.is_disk_full() => Some(StoreError::Full.to_string()),
                _ => None,
            },
        }
    }

    /// What it has done since it was started.
    pub fn activity(&self) -> Activity {
        let lag = {
            let state = self.state.lock();
            let oldest = state.sealed.front().map(|sealed| sealed.since).or(state.dirty_since);
            oldest.map(|since| since.elapsed()).unwrap_or_default()
        };
        Activity {
            operations: self.operations.counts(),
            commits: self.commits.tally(),
            commit_lag: lag,
            syncs: self.journal.sync_times(),
            packs: self.store.pack_counts(),
        }
    }

    /// When the mount was first used: something in it was read or changed, and not only looked at.
    pub fn first_used(&self) -> Option<Instant> {
        self.operations.first_used()
    }

    /// Tells of the operations of the mount from here on, as they end, until the session is stopped.
    ///
    /// # Errors
    /// Too many watch already, or it is being stopped.
    pub fn watch(&self, filter: Filter) -> Result<Watch, Refused> {
        self.watchers.watch(filter)
    }

    /// Gives back references that the kernel held. With the last one an unlinked inode is gone.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut state = self.state.lock();
        let Some(inode) = state.inodes.get_mut(&ino) else { return };
        debug_assert!(inode.lookups >= count, "more references given back than were taken");
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups == 0 && inode.row.is_orphan() {
            state.forgotten.push(ino);
            self.delete_forgotten(state);
        }
    }

    /// Deletes the orphans that the kernel has given back, if there is room to record it. Nobody waits for that: the
    /// committer looks again after each commit, and a stop reaps what is left.
    fn delete_forgotten<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let contents = Contents::default();
        loop {
            let frozen = matches!(state.refusal, Some(Refusal::Stopping | Refusal::Failed(_)));
            if state.forgotten.is_empty() || frozen || !self.has_room(&state) {
                return;
            }
            let mut op = Op::new(Look { state, contents: &contents });
            let kept = op.forgotten.len().saturating_sub(FORGET_STEP);
            for ino in op.forgotten.split_off(kept) {
                if op.inodes.get(&ino).is_some_and(|inode| inode.lookups == 0 && inode.row.is_orphan()) {
                    op.delete(ino);
                }
            }
            // Who waits for space may go on as soon as it is there; a failed append has latched.
            let _ = self.end(op);
            self.progress.notify_all();
            state = self.state.lock();
        }
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
            let mut op = Op::new(Look { state: self.lock_with_room()?, contents: loaded.contents() });
            match run(&mut op) {
                Ok(value) => {
                    self.end(op)?;
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

    /// Ends an operation: returns once the journal has it and all before it.
    fn end(&self, op: Op<'_>) -> Result<(), Errno> {
        if !op.unseen_modes.is_empty() {
            self.has_unseen_modes.store(true, Ordering::Release);
        }
        let Some(finished) = op.finish() else { return Ok(()) };
        if finished.wake {
            self.work.notify_one();
        }
        self.append(finished.seq).map_err(|failure| failure.errno())?;
        if finished.sealed {
            self.state.lock().spill(self.journal.appended());
        }
        Ok(())
    }

    /// Has the journal hold everything up to this operation.
    fn append(&self, upto: Seq) -> Result<(), StoreError> {
        let fetch = |spare: &mut Records| std::mem::swap(spare, &mut self.state.lock().records);
        self.journal.append(upto, fetch).inspect_err(|failure| self.fail(failure))
    }

    /// The store failed for good: what is acknowledged stays, nothing more is.
    fn fail(&self, failure: &StoreError) {
        let mut state = self.state.lock();
        if !state.is_failed() {
            log::error!("{failure}: nothing can be changed any more; reads go on");
            state.refusal = Some(Refusal::Failed(failure.to_string()));
        }
        self.progress.notify_all();
        self.work.notify_one();
    }

    /// Whether the journal has room for one more operation, whatever it is.
    fn has_room(&self, state: &State) -> bool {
        self.journal.has_room(state.recorded_bytes)
    }

    /// Locks the state for an operation: once begun, it cannot fail for want of room in the journal. A full disk under
    /// the store is ENOSPC here, before anything is changed.
    fn lock_with_room(&self) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.state.lock();
        let mut waited = false;
        loop {
            if let Some(refusal) = &state.refusal {
                return Err(refusal.errno());
            }
            if self.has_room(&state) {
                state.starved = false;
                return Ok(state);
            }
            let (last, recorded) = (state.last_seq(), state.recorded_bytes);
            let more = MutexGuard::unlocked(&mut state, || {
                self.append(last)?;
                if self.journal.has_room(recorded) { Ok(true) } else { self.journal.grow() }
            });
            match more {
                Ok(true) => {}
                Ok(false) => {
                    if !std::mem::replace(&mut waited, true) {
                        self.throttled.fetch_add(1, Ordering::Relaxed);
                    }
                    // Between the look and the wait a commit may have made room.
                    if state.refusal.is_none() && !self.has_room(&state) {
                        state.commit_wanted = true;
                        self.wait_for_commit(&mut state);
                    }
                }
                Err(StoreError::Full) => {
                    state.starved = true;
                    return Err(Errno::NoSpc);
                }
                Err(failure) => {
                    MutexGuard::unlocked(&mut state, || self.fail(&failure));
                }
            }
        }
    }

    /// After ENOSPC: the kernel gives unlinked inodes back in its own time, so wait a moment for the space of those.
    /// Returns whether some came back.
    fn drain_orphans(&self, op: Op<'_>, until: &mut Option<Instant>) -> bool {
        if op.orphans == 0 {
            return false;
        }
        if !op.forgotten.is_empty() {
            // There was no room to record it when they were given back; now there is.
            self.delete_forgotten(op.into_state());
            return true;
        }
        let before = op.deleted;
        let until = *until.get_or_insert_with(|| Instant::now() + Duration::from_millis(ORPHAN_DRAIN_MS));
        let mut state = op.into_state();
        while state.deleted == before {
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
        // One more piece, by which a directory may grow.
        let full = |bytes| state.orphans > 0 && state.room(1, pieces(bytes) + 1).is_err();
        !self.has_room(&state) || space.is_some_and(full)
    }

    fn wait_for_commit(&self, state: &mut MutexGuard<'_, State>) {
        self.work.notify_one();
        self.progress.wait(state);
    }
}
