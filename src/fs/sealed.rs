//! Transactions between their end and their commit. They wait in a queue, and when they are too many for memory, in the
//! journal alone: it holds everything they were made of.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::Core;
use super::data::Bytes;
use super::state::State;
use crate::base::limits::DIRTY_MAX;
use crate::base::{DataId, Map, Seq, failpoint};
use crate::format::SealedTransaction;
use crate::store::{NextIds, StoreError};

/// A transaction that no operation changes any more.
#[derive(Debug)]
pub(super) struct Sealed {
    /// `None`: it has to be read back from the journal.
    pub txn: Option<SealedTransaction>,
    /// Its first and its last operation.
    pub operations: (Seq, Seq),
    /// The data ids given in it.
    data: Range<DataId>,
    /// The ids to be given after it.
    pub next: NextIds,
    /// When it got its first change.
    pub since: Instant,
    /// Bytes of content in it.
    pub data_bytes: usize,
    /// What it takes in memory.
    memory: usize,
}

/// Where content is that no finished commit has.
pub(super) enum Uncommitted {
    Here(Arc<Vec<u8>>),
    /// In this transaction, which is not in memory.
    InJournal((Seq, Seq)),
    No,
}

impl State {
    /// Ends the running transaction. From here on it never changes: content in it counts as written out, so the next
    /// write to such a block makes a new version.
    pub fn seal(&mut self) {
        debug_assert!(!self.running.is_empty());
        failpoint::passed("a transaction is not sealed yet");
        let txn = std::mem::take(&mut self.running);
        if self.journaled {
            let before = self.records.len();
            self.records.seal(txn.last_seq);
            self.recorded_bytes += (self.records.len() - before) as u64;
        }
        let (first, last) = (self.first_seq, txn.last_seq);
        self.sealed.push_back(Sealed {
            operations: (first, last),
            data: self.first_data..self.next.data,
            next: self.next,
            since: self.dirty_since.unwrap_or_else(Instant::now),
            data_bytes: txn.data_bytes,
            memory: txn.memory(),
            txn: Some(Arc::new(txn)),
        });
        self.first_seq = self.next.seq;
        self.first_data = self.next.data;
        self.dirty_since = None;
        failpoint::passed("a transaction is sealed");
    }

    /// Bytes of memory that transactions take, running and sealed.
    pub fn dirty_memory(&self) -> usize {
        let in_memory = self.sealed.iter().filter(|sealed| sealed.txn.is_some());
        self.running.memory() + in_memory.map(|sealed| sealed.memory).sum::<usize>()
    }

    /// Drops sealed transactions from memory that the journal has, as long as there is too much of them. The next to
    /// be committed stays, and the ones after it go last.
    pub fn spill(&mut self, appended: Seq) {
        if !self.journaled {
            return;
        }
        let mut held = self.dirty_memory();
        for sealed in self.sealed.iter_mut().skip(1).rev() {
            if held <= DIRTY_MAX {
                return;
            }
            if sealed.operations.1 <= appended && sealed.txn.take().is_some() {
                held -= sealed.memory;
            }
        }
    }

    /// Looks content up that no finished commit has.
    pub fn uncommitted(&self, id: DataId) -> Uncommitted {
        let here = |buffer: Option<&Arc<Vec<u8>>>| buffer.cloned().map_or(Uncommitted::No, Uncommitted::Here);
        if id >= self.first_data {
            return here(self.running.data.get(&id));
        }
        let at = self.sealed.partition_point(|sealed| sealed.data.end <= id);
        match self.sealed.get(at).filter(|sealed| sealed.data.contains(&id)) {
            None => Uncommitted::No,
            Some(Sealed { txn: Some(txn), .. }) => here(txn.data.get(&id)),
            Some(sealed) => Uncommitted::InJournal(sealed.operations),
        }
    }
}

/// The transactions that were read back for one call, so that none is for every block of it.
pub(super) type Reloaded = RefCell<Map<(Seq, Seq), SealedTransaction>>;

impl Core {
    /// Content, wherever it is; `None` when it is nowhere.
    pub(super) fn content(&self, id: DataId, reloaded: &Reloaded) -> Result<Option<Bytes>, StoreError> {
        loop {
            let found = self.state.lock().uncommitted(id);
            match found {
                Uncommitted::Here(buffer) => return Ok(Some(Bytes::Buffer(buffer))),
                Uncommitted::InJournal(operations) => {
                    if let Some(txn) = self.reload(operations, reloaded)? {
                        return Ok(txn.data.get(&id).cloned().map(Bytes::Buffer));
                    }
                }
                Uncommitted::No => return Ok(self.store.data(id)?.map(Bytes::Stored)),
            }
        }
    }

    /// Brings a sealed transaction back from the journal. `None`: it is committed, so nobody needs it any more.
    pub(super) fn reload(
        &self,
        operations: (Seq, Seq),
        reloaded: &Reloaded,
    ) -> Result<Option<SealedTransaction>, StoreError> {
        if let Some(txn) = reloaded.borrow().get(&operations) {
            return Ok(Some(txn.clone()));
        }
        let base = |id| Ok(self.content(id, reloaded)?.map(|content| content.to_vec()));
        let read = self.journal.transaction(operations, base);
        let mut state = self.state.lock();
        let Some(sealed) = state.sealed.iter_mut().find(|sealed| sealed.operations == operations) else {
            // Its segments may have been written over while they were read.
            return Ok(None);
        };
        if let Some(txn) = &sealed.txn {
            return Ok(Some(txn.clone()));
        }
        let txn = Arc::new(read?);
        reloaded.borrow_mut().insert(operations, txn.clone());
        sealed.txn = Some(txn.clone());
        state.spill(self.journal.appended());
        Ok(Some(txn))
    }
}
