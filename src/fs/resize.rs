//! Caps that change while the session is in use. The superblock has them, and the committer alone writes it: so it is
//! asked, writes, and only then do they hold. A crash in between leaves the old caps or the new ones, and nobody was told.

use crossbeam_channel::{Sender, bounded};

use super::Core;
use super::state::{Refusal, State};
use crate::base::limits::PIECE_SIZE;
use crate::store::{StoreError, Superblock, Writer};

/// Caps that somebody waits for.
#[derive(Debug)]
pub(super) struct Resize {
    bytes: Option<u64>,
    inodes: Option<u64>,
    /// Dropped without an answer when the session is stopped.
    answer: Sender<Result<(), StoreError>>,
}

impl Resize {
    /// Does it; the committer's part.
    pub fn run(self, fs: &Core, writer: &mut Writer) {
        let changed = writer.set_limits(self.bytes, self.inodes).map(|now| fs.state.lock().set_limits(now));
        self.tell(changed);
    }

    /// Gives the answer. Who asked may have gone.
    pub fn tell(self, result: Result<(), StoreError>) {
        let _ = self.answer.send(result);
    }
}

impl State {
    /// Takes up the caps that a superblock says. Below what is in use nothing new fits until enough has gone.
    fn set_limits(&mut self, superblock: &Superblock) {
        self.pieces_limit = superblock.bytes_limit / PIECE_SIZE as u64;
        self.inodes_limit = superblock.inodes_limit;
    }
}

impl Core {
    /// Changes the caps that are given, below what is in use too; returns once they hold and are durable.
    pub fn set_limits(&self, bytes: Option<u64>, inodes: Option<u64>) -> Result<(), StoreError> {
        let stopped = || StoreError::Io("the session is being stopped".into());
        let (answer, answered) = bounded(1);
        {
            let mut state = self.state.lock();
            match &state.refusal {
                None => state.resizes.push_back(Resize { bytes, inodes, answer }),
                Some(Refusal::DiskFull) => return Err(StoreError::Full),
                Some(Refusal::Failed(why)) => return Err(StoreError::Io(why.clone())),
                Some(Refusal::Stopping) => return Err(stopped()),
            }
        }
        self.work.notify_one();
        answered.recv().unwrap_or_else(|_| Err(stopped()))
    }
}
