//! Threads that may wait, so that the event loops never do.
//!
//! fsync and fsyncdir wait for the disk; a change waits when the journal has to grow or is full, or when the session is
//! full and unlinked files are still to be given back. Everything else is answered where it was read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::ReplyEmpty;
use parking_lot::{Condvar, Mutex};

use super::reply::empty;
use crate::base::Ino;
use crate::fs::{Fs, asked_by};

/// Threads for changes that wait. When the committer is done they all wake, and then only copy bytes.
const CHANGE_THREADS: usize = 4;

/// Bytes of content that may lie here, waiting to be written. At this bound the event loops do wait: what each caller
/// wrote is already in our memory, and memory has to end somewhere.
const QUEUED_BYTES_MAX: usize = 16 << 20;

/// A change with its reply.
type Job = Box<dyn FnOnce(&Fs) + Send>;

/// A change as it lies in the queue: with the process that asks, and the bytes of content that it owns.
type Queued = (u32, usize, Job);

/// An `fsync`: with the process that asks, of which inode.
type SyncRequest = (u32, Ino, ReplyEmpty);

/// Bytes of content lying in the queue.
#[derive(Default)]
struct Budget {
    used: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    /// Waits for room. A single change always finds it, whatever its size.
    fn take(&self, bytes: usize) {
        let mut used = self.used.lock();
        while *used > 0 && *used + bytes > QUEUED_BYTES_MAX {
            self.freed.wait(&mut used);
        }
        *used += bytes;
    }

    fn give_back(&self, bytes: usize) {
        *self.used.lock() -= bytes;
        self.freed.notify_all();
    }
}

/// Hands requests to the waiting threads; they end when it is dropped and they have answered all they had.
pub(super) struct Waiters {
    // Neither queue has a bound of its own: there is at most one request for each thread that waits in the kernel.
    syncs: Sender<SyncRequest>,
    changes: Sender<Queued>,
    budget: Arc<Budget>,
    /// A thread that reads requests is waiting for the disk; the others must not.
    syncing_here: AtomicBool,
}

impl Waiters {
    pub(super) fn start(fs: &Arc<Fs>) -> io::Result<(Waiters, Vec<JoinHandle<()>>)> {
        let (syncs, sync_queue) = unbounded();
        let (changes, change_queue) = unbounded();
        let budget = Arc::new(Budget::default());
        let mut threads = Vec::with_capacity(1 + CHANGE_THREADS);
        let spawn = |name: String, body: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name).spawn(body);

        let for_syncs = Arc::clone(fs);
        threads.push(spawn("fsync".into(), Box::new(move || answer_syncs(&for_syncs, &sync_queue)))?);
        for i in 0..CHANGE_THREADS {
            let (fs, queue, budget) = (Arc::clone(fs), change_queue.clone(), Arc::clone(&budget));
            threads.push(spawn(format!("change-{i}"), Box::new(move || make_changes(&fs, &queue, &budget)))?);
        }
        Ok((Waiters { syncs, changes, budget, syncing_here: AtomicBool::new(false) }, threads))
    }

    /// Answers an `fsync`. One at a time is done by the thread that read the request: the way to another one and its
    /// wake-up cost a caller who is alone a good part of the sync itself. Everybody else shares the next one.
    pub(super) fn sync(&self, fs: &Fs, pid: u32, ino: Ino, reply: ReplyEmpty) {
        if !fs.is_kept(ino) {
            return reply.ok();
        }
        if !self.syncing_here.swap(true, Ordering::Acquire) {
            asked_by(pid);
            empty(reply, fs.sync(ino));
            self.syncing_here.store(false, Ordering::Release);
            return;
        }
        // A reply that finds no thread is dropped, and fuser then answers EIO. So it is with changes.
        let _ = self.syncs.send((pid, ino, reply));
    }

    /// Runs a change that this process asks for, and that owns this many bytes of content.
    pub(super) fn change(&self, pid: u32, bytes: usize, job: Job) {
        self.budget.take(bytes);
        let _ = self.changes.send((pid, bytes, job));
    }
}

/// One sync serves everyone who asked before it began, so one thread is enough for any number of callers. It counts once,
/// as the first one's.
fn answer_syncs(fs: &Fs, queue: &Receiver<SyncRequest>) {
    while let Ok((pid, ino, first)) = queue.recv() {
        let others = queue.try_iter().map(|(_, _, reply)| reply);
        let group: Vec<ReplyEmpty> = std::iter::once(first).chain(others).collect();
        asked_by(pid);
        let result = fs.sync(ino);
        group.into_iter().for_each(|reply| empty(reply, result));
    }
}

fn make_changes(fs: &Fs, queue: &Receiver<Queued>, budget: &Budget) {
    while let Ok((pid, bytes, job)) = queue.recv() {
        asked_by(pid);
        job(fs);
        budget.give_back(bytes);
    }
}
