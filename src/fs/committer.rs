//! The committer: one thread, the only writer of the session database. It seals the running transaction by swapping it
//! for an empty one, commits it with the state unlocked, and tells those who wait.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use parking_lot::MutexGuard;

use super::Fs;
use super::state::{Refusal, State};
use crate::base::limits::{COMMIT_INTERVAL_MS, DISK_FULL_RETRY_MS, MAINTAIN_STEP_MS};
use crate::base::{Errno, Seq};
use crate::format::SealedTransaction;
use crate::store::{NextIds, StoreError, Superblock, Writer};

/// Starts the committer of a session.
pub(super) fn spawn(fs: Arc<Fs>, writer: Writer) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new()
        .name("committer".into())
        .spawn(move || Committer { fs, writer, maintenance_waits: false }.run())
        .map_err(|failure| StoreError::Io(format!("cannot start the committer: {failure}")))
}

struct Committer {
    fs: Arc<Fs>,
    writer: Writer,
    /// Housekeeping to be done when nothing else is.
    maintenance_waits: bool,
}

impl Committer {
    fn run(mut self) {
        loop {
            let mut state = self.fs.state.lock();
            let sealed = match self.wait_for_work(&mut state) {
                Work::Commit => seal(&mut state),
                Work::Maintain => {
                    drop(state);
                    self.maintain();
                    continue;
                }
                Work::Stop => break,
            };
            let next = state.next;
            drop(state);
            self.commit(&sealed, next);
        }
        self.stop();
    }

    /// Sleeps until there is something to do; not at all when there is, and for ever when nothing changes.
    fn wait_for_work(&self, state: &mut MutexGuard<'_, State>) -> Work {
        loop {
            // A sealed transaction that is left here could not be committed; what came after it must not be either.
            if state.stopping && (state.running.is_empty() || state.is_failed() || state.sealed.is_some()) {
                return Work::Stop;
            }
            let now = Instant::now();
            let due = state.dirty_since.map(|since| since + Duration::from_millis(COMMIT_INTERVAL_MS));
            if state.running.is_empty() || state.is_failed() {
                state.commit_wanted = false;
                self.fs.progress.notify_all();
            } else if state.stopping || state.commit_is_due() || due.is_some_and(|due| due <= now) {
                return Work::Commit;
            }
            match due.filter(|_| !state.running.is_empty() && !state.is_failed()) {
                Some(due) => {
                    self.fs.work.wait_until(state, due);
                }
                None if self.maintenance_waits => return Work::Maintain,
                None => self.fs.work.wait(state),
            }
        }
    }

    /// Commits what was sealed, again and again while the disk is full; another failure latches.
    fn commit(&mut self, sealed: &SealedTransaction, next: NextIds) {
        let started = Instant::now();
        let mut told = false;
        loop {
            match self.writer.commit(sealed, next) {
                Ok(superblock) => {
                    self.committed(sealed, &superblock, started.elapsed());
                    return;
                }
                Err(StoreError::Full) => {
                    if !std::mem::replace(&mut told, true) {
                        error!("{}: nothing can be changed until there is room", StoreError::Full);
                    }
                    let mut state = self.fs.state.lock();
                    state.refusal.get_or_insert(Refusal::DiskFull);
                    self.fs.progress.notify_all();
                    if state.stopping {
                        break;
                    }
                    self.fs.work.wait_for(&mut state, Duration::from_millis(DISK_FULL_RETRY_MS));
                }
                Err(failure) => {
                    error!("{failure}: nothing can be changed any more; reads go on");
                    let mut state = self.fs.state.lock();
                    state.refusal = Some(Refusal::Failed(failure.to_string()));
                    self.fs.progress.notify_all();
                    break;
                }
            }
        }
    }

    fn committed(&mut self, sealed: &SealedTransaction, superblock: &Superblock, took: Duration) {
        let mut state = self.fs.state.lock();
        state.sealed = None;
        state.committed = sealed.last_seq;
        state.txid = superblock.txid;
        if state.refusal == Some(Refusal::DiskFull) {
            warn!("the disk under the store has room again");
            state.refusal = state.stopping.then_some(Refusal::Stopping);
        }
        drop(state);
        self.maintenance_waits = true;
        self.fs.progress.notify_all();
        log::debug!(
            "transaction {}: {} changes, {} content bytes, {took:.1?}",
            superblock.txid,
            sealed.changes,
            sealed.data_bytes
        );
    }

    fn maintain(&mut self) {
        self.maintenance_waits = match self.writer.maintain(Duration::from_millis(MAINTAIN_STEP_MS)) {
            Ok(more) => more,
            Err(failure) => {
                warn!("housekeeping put off: {failure}");
                false
            }
        };
    }

    /// Everything is committed, or cannot be: closes the database and leaves the result for whoever asks.
    fn stop(mut self) {
        let state = self.fs.state.lock();
        let unsaved = match &state.refusal {
            Some(Refusal::Failed(why)) => Some(StoreError::Io(why.clone())),
            _ if state.sealed.is_some() => Some(StoreError::Full),
            _ => None,
        };
        let abandoned = state.abandoned;
        drop(state);
        let outcome = match unsaved {
            _ if abandoned => Err(StoreError::Io("abandoned".into())),
            Some(failure) => Err(failure),
            None => self.writer.reap_orphans().and_then(|_| self.writer.close()),
        };
        if let Ok(superblock) = &outcome {
            info!("stopped at transaction {}, digest {}", superblock.txid, superblock.digest);
        }
        *self.fs.outcome.lock() = Some(outcome);
        self.fs.state.lock().ended = true;
        self.fs.progress.notify_all();
    }
}

enum Work {
    Commit,
    Maintain,
    Stop,
}

/// Swaps the running transaction for an empty one. From here on it never changes: content in it counts as written out,
/// so the next write to such a block makes a new version.
fn seal(state: &mut State) -> SealedTransaction {
    debug_assert!(state.sealed.is_none(), "one transaction after the other");
    let sealed = SealedTransaction::new(std::mem::take(&mut state.running));
    state.sealed = Some(sealed.clone());
    state.first_data = state.next.data;
    state.dirty_since = None;
    state.commit_wanted = false;
    sealed
}

impl Fs {
    /// Returns once every operation that ended before the call is committed.
    pub fn sync(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let target = Seq(state.next.seq.0.saturating_sub(1));
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

    /// Freezes mutations (they get EROFS from here on), commits, reaps orphans, closes the database. A second call
    /// returns the same result.
    pub fn stop(&self) -> Result<Superblock, StoreError> {
        self.end(false)
    }

    /// Ends without a commit, as a crash would: what no commit has is lost. For tests of what survives.
    pub fn abandon(&self) {
        // The outcome is an error by design: nothing was saved.
        let _ = self.end(true);
    }

    fn end(&self, abandon: bool) -> Result<Superblock, StoreError> {
        let mut committer = self.committer.lock();
        if let Some(thread) = committer.take() {
            let mut state = self.state.lock();
            state.refusal.get_or_insert(Refusal::Stopping);
            if abandon {
                state.abandoned = true;
                state.running = Default::default();
            }
            state.stopping = true;
            drop(state);
            self.work.notify_all();
            self.progress.notify_all();
            if thread.join().is_err() {
                *self.outcome.lock() = Some(Err(StoreError::Io("the committer panicked".into())));
            }
        }
        let outcome = self.outcome.lock();
        outcome.clone().unwrap_or_else(|| Err(StoreError::Io("the committer left no result".into())))
    }
}
