//! The committer: one thread, the only writer of the session database. It commits sealed transactions in their order,
//! with the state unlocked, gives their journal segments back, and tells those who wait. It waits for nobody who serves
//! a request.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use parking_lot::MutexGuard;

use super::Core;
use super::resize::Resize;
use super::sealed::Reloaded;
use super::state::{Refusal, State};
use crate::base::limits::{
    COLD_AFTER_MS, COMMIT_INTERVAL_MS, DISK_FULL_RETRY_MS, MAINTAIN_STEP_MS, PACK_LEVEL, PACK_LEVEL_BURST,
};
use crate::base::{Errno, failpoint, memory};
use crate::format::{SealedTransaction, Transaction};
use crate::store::{NextIds, StoreError, Superblock, Writer};

/// Starts the committer of a session.
pub(super) fn spawn(fs: Arc<Core>, writer: Writer) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new()
        .name("committer".into())
        .spawn(move || {
            Committer { fs, writer, maintenance_waits: false, cold_at: Some(Instant::now() + COLD_AFTER) }.run()
        })
        .map_err(|failure| StoreError::Io(format!("cannot start the committer: {failure}")))
}

/// Its nice value: a third of the share of those it competes with.
const COMMITTER_NICE: i32 = 5;
/// How long a stop waits at its end for those who watch to have written down what they were told.
const LAST_TOLD: Duration = Duration::from_millis(500);

/// How long nothing must have changed before cold packs are made.
const COLD_AFTER: Duration = Duration::from_millis(COLD_AFTER_MS);

/// Transactions in the queue above which there is a burst.
const BURST: usize = 4;

struct Committer {
    fs: Arc<Core>,
    writer: Writer,
    /// Housekeeping to be done when nothing else is.
    maintenance_waits: bool,
    /// When what is stored will be cold, and may be packed again. `None`: it was. Set when a mount begins, for what the
    /// one before has left, and by every commit.
    cold_at: Option<Instant>,
}

impl Committer {
    fn run(mut self) {
        give_way();
        loop {
            let work = self.wait_for_work(&mut self.fs.state.lock());
            match work {
                Work::Commit => {
                    if !self.commit_oldest() {
                        break;
                    }
                    self.fs.tell_usage();
                }
                Work::Prepare => self.prepare(),
                Work::Resize(resize) => {
                    resize.run(&self.fs, &mut self.writer);
                    self.fs.tell_usage();
                }
                Work::Maintain => self.maintain(),
                Work::PackCold => self.pack_cold(),
                Work::Stop => break,
            }
        }
        self.stop();
    }

    /// Sleeps until there is something to do; not at all when there is, and for ever when nothing changes.
    fn wait_for_work(&self, state: &mut MutexGuard<'_, State>) -> Work {
        loop {
            if state.abandoned || state.stopping && state.is_failed() {
                return Work::Stop;
            }
            if let Some(resize) = state.resizes.pop_front() {
                return Work::Resize(resize);
            }
            if state.is_failed() {
                self.fs.work.wait(state);
                continue;
            }
            if std::mem::take(&mut state.prepare_wanted) {
                return Work::Prepare;
            }
            if !state.sealed.is_empty() {
                return Work::Commit;
            }
            let due = state.dirty_since.map(|since| since + Duration::from_millis(COMMIT_INTERVAL_MS));
            if state.running.is_empty() {
                if state.stopping {
                    return Work::Stop;
                }
                state.commit_wanted = false;
            } else if state.stopping || state.commit_wanted || due.is_some_and(|due| due <= Instant::now()) {
                state.seal();
                // Who still waits asks again.
                state.commit_wanted = false;
                return Work::Commit;
            }
            match due {
                Some(due) => {
                    self.fs.work.wait_until(state, due);
                }
                None if self.maintenance_waits => return Work::Maintain,
                None => match self.cold_at {
                    Some(cold_at) if cold_at <= Instant::now() => return Work::PackCold,
                    Some(cold_at) => {
                        self.fs.work.wait_until(state, cold_at);
                    }
                    None => self.fs.work.wait(state),
                },
            }
        }
    }

    /// Commits the oldest sealed transaction, again and again while the disk is full; another failure latches. False
    /// when the committer has to end with it uncommitted.
    fn commit_oldest(&mut self) -> bool {
        let (operations, next, txn, level) = {
            let state = self.fs.state.lock();
            let Some(oldest) = state.sealed.front() else { return true };
            let level = if state.sealed.len() > BURST { PACK_LEVEL_BURST } else { PACK_LEVEL };
            (oldest.operations, oldest.next, oldest.txn.clone(), level)
        };
        let fs = Arc::clone(&self.fs);
        let txn = match txn {
            Some(txn) => Ok(Some(txn)),
            None => fs.reload(operations, &Reloaded::default()),
        };
        // Nothing is committed that the journal does not hold.
        let ready = txn.and_then(|txn| fs.append(operations.1).map(|()| txn));
        match ready {
            Ok(Some(txn)) => self.commit(&txn, next, level),
            Ok(None) => true,
            Err(failure) => {
                fs.fail(&failure);
                true
            }
        }
    }

    fn commit(&mut self, sealed: &SealedTransaction, next: NextIds, level: i32) -> bool {
        let started = Instant::now();
        let mut told = false;
        loop {
            failpoint::passed("a sealed transaction is not committed yet");
            match self.writer.commit_at(level, sealed, next) {
                Ok(superblock) => {
                    failpoint::passed("a sealed transaction is committed");
                    self.committed(sealed, &superblock, started.elapsed());
                    return true;
                }
                Err(StoreError::Full) => {
                    if !std::mem::replace(&mut told, true) {
                        error!("{}: nothing can be changed until there is room", StoreError::Full);
                    }
                    let mut state = self.fs.state.lock();
                    state.refusal.get_or_insert(Refusal::DiskFull);
                    state.resizes.drain(..).for_each(|resize| resize.tell(Err(StoreError::Full)));
                    self.fs.progress.notify_all();
                    if state.stopping {
                        return false;
                    }
                    self.fs.work.wait_for(&mut state, Duration::from_millis(DISK_FULL_RETRY_MS));
                }
                Err(failure) => {
                    self.fs.fail(&failure);
                    return true;
                }
            }
        }
    }

    fn committed(&mut self, sealed: &Transaction, superblock: &Superblock, took: Duration) {
        let mut state = self.fs.state.lock();
        state.sealed.pop_front();
        state.committed = sealed.last_seq;
        state.txid = superblock.txid;
        if state.refusal == Some(Refusal::DiskFull) {
            warn!("the disk under the store has room again");
            state.refusal = state.stopping.then_some(Refusal::Stopping);
        }
        drop(state);
        self.maintenance_waits = true;
        self.cold_at = Some(Instant::now() + COLD_AFTER);
        self.fs.commits.record(took);
        self.fs.journal.recycle(sealed.last_seq);
        // Locked once more, so that nobody who has just looked misses it.
        self.fs.delete_forgotten(self.fs.state.lock());
        self.fs.progress.notify_all();
        failpoint::passed("a commit is done and everybody was told");
        log::debug!(
            "transaction {}: {} changes, {} content bytes, {took:.1?}",
            superblock.txid,
            sealed.changes,
            sealed.data_bytes
        );
    }

    /// A full disk is no failure here: it is met again where room is needed.
    fn prepare(&self) {
        if let Err(failure) = self.fs.journal.prepare() {
            log::debug!("no written segment in the journal: {failure}");
        }
    }

    fn maintain(&mut self) {
        let committed = self.fs.state.lock().committed;
        if let Err(failure) = self.fs.journal.shrink(committed) {
            warn!("the journal keeps the room of a burst: {failure}");
        }
        let more = self.writer.maintain(Duration::from_millis(MAINTAIN_STEP_MS));
        self.maintenance_waits = more.unwrap_or_else(|failure| {
            warn!("housekeeping put off: {failure}");
            false
        });
        if !self.maintenance_waits {
            memory::give_back();
        }
    }

    /// One step; it comes again at once unless something changes, and not after the last one.
    fn pack_cold(&mut self) {
        let more = self.writer.pack_cold(Duration::from_millis(MAINTAIN_STEP_MS));
        let more = more.unwrap_or_else(|failure| {
            warn!("packing again put off: {failure}");
            false
        });
        if !more {
            self.cold_at = None;
            memory::give_back();
        }
    }

    /// Everything is committed, or cannot be: closes the database and leaves the result for whoever asks.
    fn stop(self) {
        failpoint::passed("the committer has nothing more to do");
        let Committer { fs, writer, .. } = self;
        let state = fs.state.lock();
        let unsaved = match &state.refusal {
            _ if state.abandoned => Some(StoreError::Io("abandoned".into())),
            Some(Refusal::Failed(why)) => Some(StoreError::Io(why.clone())),
            _ if !state.sealed.is_empty() => Some(StoreError::Full),
            _ => None,
        };
        drop(state);
        let outcome = match unsaved {
            Some(failure) => Err(failure),
            None => close(writer, &fs),
        };
        if let Ok(superblock) = &outcome {
            info!("stopped at transaction {}, digest {}", superblock.txid, superblock.digest);
        }
        *fs.outcome.lock() = Some(outcome);
        let mut state = fs.state.lock();
        state.ended = true;
        state.resizes.clear();
        drop(state);
        fs.progress.notify_all();
    }
}

/// Puts this thread, and those that it starts to compress, behind whoever serves or works in the session: on a machine
/// with two processors it would take both from them.
pub(super) fn give_way() {
    // SAFETY: the call takes only numbers; 0 is the calling thread (setpriority(2), on Linux).
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, COMMITTER_NICE) } != 0 {
        log::debug!("the committer keeps its priority: {}", std::io::Error::last_os_error());
    }
}

fn close(mut writer: Writer, fs: &Core) -> Result<Superblock, StoreError> {
    failpoint::passed("everything is committed and the database is not closed yet");
    writer.reap_orphans()?;
    failpoint::passed("a stop has removed the orphans");
    let superblock = writer.close()?;
    fs.journal.remove()?;
    Ok(superblock)
}

enum Work {
    Commit,
    Prepare,
    Resize(Resize),
    Maintain,
    PackCold,
    Stop,
}

impl Core {
    /// Returns once every operation that ended before the call survives a power cut. Those who call together are served
    /// by one sync.
    pub fn fsync(&self) -> Result<(), Errno> {
        let (last, committed) = {
            let state = self.state.lock();
            (state.last_seq(), state.committed)
        };
        if committed >= last {
            return Ok(());
        }
        let synced = self.append(last).and_then(|()| self.journal.sync().inspect_err(|failure| self.fail(failure)));
        if !self.journal.is_prepared() {
            self.state.lock().prepare_wanted = true;
            self.work.notify_one();
        }
        synced.map_err(|failure| failure.errno())
    }

    /// Returns once every operation that ended before the call is committed.
    pub fn commit(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let target = state.last_seq();
        loop {
            if state.committed >= target {
                return Ok(());
            }
            match &state.refusal {
                Some(Refusal::Stopping) if state.ended => return Err(Errno::Io),
                Some(Refusal::Stopping) | None => {}
                Some(refusal) => return Err(refusal.errno()),
            }
            state.commit_wanted = true;
            self.wait_for_commit(&mut state);
        }
    }

    /// Freezes mutations (they get EROFS from here on), commits, reaps orphans, closes the database, takes the journal
    /// away. What could not be committed stays in the journal for the next mount. A second call returns the same result.
    pub fn stop(&self) -> Result<Superblock, StoreError> {
        self.end_committer(false)
    }

    /// Ends without a commit, as the death of this process would. For what is not to be kept, and for tests of what
    /// survives.
    pub fn abandon(&self) {
        // The outcome is an error by design: nothing was saved.
        let _ = self.end_committer(true);
    }

    fn end_committer(&self, abandon: bool) -> Result<Superblock, StoreError> {
        let mut committer = self.committer.lock();
        if let Some(thread) = committer.take() {
            self.watchers.end();
            let mut state = self.state.lock();
            state.refusal.get_or_insert(Refusal::Stopping);
            state.abandoned = abandon;
            state.stopping = true;
            drop(state);
            self.work.notify_all();
            self.progress.notify_all();
            if thread.join().is_err() {
                *self.outcome.lock() = Some(Err(StoreError::Io("the committer panicked".into())));
            }
            self.watchers.wait(LAST_TOLD);
        }
        let outcome = self.outcome.lock();
        outcome.clone().unwrap_or_else(|| Err(StoreError::Io("the committer left no result".into())))
    }
}
