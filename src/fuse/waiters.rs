//! Threads that may wait, so that the event loops never do.
//!
//! Two kinds of requests wait for a commit: fsync and fsyncdir always, a write when too much is dirty. Everything else is
//! answered where it was read.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::{ReplyEmpty, ReplyWrite};
use parking_lot::{Condvar, Mutex};

use super::convert::errno;
use crate::base::Ino;
use crate::fs::{Fs, WriteFlags};

/// Threads for writes that wait. They all wake when the committer is done, and then only copy bytes.
const WRITE_THREADS: usize = 4;

/// Bytes of writes that may lie here, waiting. At this bound the event loops do wait: what each caller wrote is already
/// in our memory, and memory has to end somewhere.
const QUEUED_BYTES_MAX: usize = 16 << 20;

struct WaitingWrite {
    ino: Ino,
    offset: u64,
    bytes: Vec<u8>,
    flags: WriteFlags,
    reply: ReplyWrite,
}

/// Bytes of content lying in the queue.
#[derive(Default)]
struct Budget {
    used: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    /// Waits for room. A single write always finds it, whatever its size.
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
    syncs: Sender<ReplyEmpty>,
    writes: Sender<WaitingWrite>,
    budget: Arc<Budget>,
}

impl Waiters {
    pub(super) fn start(fs: &Arc<Fs>) -> io::Result<(Waiters, Vec<JoinHandle<()>>)> {
        let (syncs, sync_queue) = unbounded();
        let (writes, write_queue) = unbounded();
        let budget = Arc::new(Budget::default());
        let mut threads = Vec::with_capacity(1 + WRITE_THREADS);
        let spawn = |name: String, body: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name).spawn(body);

        let for_syncs = Arc::clone(fs);
        threads.push(spawn("fsync".into(), Box::new(move || answer_syncs(&for_syncs, &sync_queue)))?);
        for i in 0..WRITE_THREADS {
            let (fs, queue, budget) = (Arc::clone(fs), write_queue.clone(), Arc::clone(&budget));
            threads.push(spawn(format!("write-{i}"), Box::new(move || answer_writes(&fs, &queue, &budget)))?);
        }
        Ok((Waiters { syncs, writes, budget }, threads))
    }

    pub(super) fn sync(&self, reply: ReplyEmpty) {
        // A reply that finds no thread is dropped, and fuser then answers EIO.
        let _ = self.syncs.send(reply);
    }

    pub(super) fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags, reply: ReplyWrite) {
        self.budget.take(bytes.len());
        let _ = self.writes.send(WaitingWrite { ino, offset, bytes: bytes.to_vec(), flags, reply });
    }
}

/// One commit serves everyone who asked before it began, so one thread is enough for any number of callers.
fn answer_syncs(fs: &Fs, queue: &Receiver<ReplyEmpty>) {
    while let Ok(first) = queue.recv() {
        let group: Vec<ReplyEmpty> = std::iter::once(first).chain(queue.try_iter()).collect();
        let result = fs.sync();
        for reply in group {
            match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        }
    }
}

fn answer_writes(fs: &Fs, queue: &Receiver<WaitingWrite>, budget: &Budget) {
    while let Ok(WaitingWrite { ino, offset, bytes, flags, reply }) = queue.recv() {
        let result = fs.write(ino, offset, &bytes, flags);
        let length = bytes.len();
        drop(bytes);
        budget.give_back(length);
        match result {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(errno(error)),
        }
    }
}
