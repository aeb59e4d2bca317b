//! The end of the journal at which records are written.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::scan::Position;
use super::segment::{SYNC_UNIT, place};
use super::{Journal, generation};
use crate::base::limits::{JOURNAL_WRITEOUT, RECORD_MAX};
use crate::base::{Seq, failpoint};
use crate::format::journal::{RecordHeader, RecordKind, Records, SegmentHeader, record_check};
use crate::store::StoreError;

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Nothing. `written`: it holds bytes, of whatever kind.
    Free { written: bool },
    /// Being written.
    Current,
    /// Holds records up to this operation.
    Full { last: Seq },
}

/// Where a transaction begins.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: Position,
    /// Bytes of records before it.
    bytes: u64,
}

/// Writes records. One at a time, behind the journal's lock.
#[derive(Debug)]
pub(super) struct Appender {
    /// Where the next record goes.
    position: Position,
    uses: Vec<Use>,
    /// Where the transactions that are not committed begin; the first is the oldest.
    marks: VecDeque<Mark>,
    bytes: u64,
    /// The next record begins at a multiple of [`SYNC_UNIT`].
    align: bool,
    /// Up to here the disk was asked to write out.
    written_out: u64,
    spare: Records,
}

impl Appender {
    pub fn new(start: Position, has_second: bool) -> Appender {
        let second = has_second.then_some(Use::Free { written: false });
        Appender {
            position: start,
            uses: std::iter::once(Use::Current).chain(second).collect(),
            marks: VecDeque::from([Mark { position: start, bytes: 0 }]),
            bytes: 0,
            align: false,
            written_out: start.at,
            spare: Records::default(),
        }
    }

    pub fn take_spare(&mut self) -> Records {
        std::mem::take(&mut self.spare)
    }

    pub fn give_back(&mut self, mut records: Records) {
        records.clear(RECORD_MAX);
        self.spare = records;
    }

    /// The last operation written.
    pub fn last(&self) -> Seq {
        Seq(self.position.next.0.saturating_sub(1))
    }

    pub fn segments(&self) -> usize {
        self.uses.len()
    }

    pub fn add(&mut self, written: bool) {
        self.uses.push(Use::Free { written });
    }

    /// Goes on in one of the first `keep` segments, if it is in a later one and can.
    pub fn go_back(&mut self, keep: usize, journal: &Journal) -> Result<(), StoreError> {
        if self.position.segment < keep || self.next_free().is_none_or(|next| next >= keep) {
            return Ok(());
        }
        self.next_segment(journal)?;
        journal.left.store(self.position.left(), Ordering::Release);
        Ok(())
    }

    /// Forgets segments at the end that hold nothing, down to `keep` of them; returns how many. One that can be gone on to
    /// always stays: operations may count on it.
    pub fn forget_last(&mut self, keep: usize) -> usize {
        let free = |used: &&Use| matches!(used, Use::Free { .. });
        let at_end = self.uses.iter().rev().take_while(free).count();
        let all = self.uses.iter().filter(free).count();
        let surplus = self.uses.len().saturating_sub(keep).min(at_end).min(all.saturating_sub(1));
        self.uses.truncate(self.uses.len() - surplus);
        surplus
    }

    pub fn has_written_segment(&self) -> bool {
        self.uses.contains(&Use::Free { written: true })
    }

    /// From here on nothing that is written now is written again. Returns the last operation that a sync covers.
    pub fn begin_sync(&mut self) -> Seq {
        self.align = true;
        self.last()
    }

    /// Bytes of records that a commit has.
    pub fn committed_bytes(&self) -> u64 {
        self.marks.front().map_or(self.bytes, |mark| mark.bytes)
    }

    /// Where the transaction that begins with this operation begins.
    pub fn mark(&self, first: Seq) -> Option<Position> {
        self.marks.iter().find(|mark| mark.position.next == first).map(|mark| mark.position)
    }

    /// Makes the segments free that hold only committed operations; returns how many. Not the first: its header
    /// is what recovery can always begin with, and it is too small for some records.
    pub fn free(&mut self, committed: Seq) -> usize {
        while self.marks.len() > 1 && self.marks[1].position.next.0 <= committed.0 + 1 {
            self.marks.pop_front();
        }
        let done = self.uses.iter_mut().skip(1).filter(|used| is_done(used, committed));
        done.map(|used| *used = Use::Free { written: true }).count()
    }

    /// Gives all records their checksums and writes them, with one call a segment.
    pub fn write(&mut self, journal: &Journal, bytes: &mut [u8]) -> Result<(), StoreError> {
        if std::mem::take(&mut self.align) {
            self.position.at = self.position.at.next_multiple_of(SYNC_UNIT);
        }
        // What is not written yet, and where it goes.
        let (mut from, mut to) = (0, self.position.at);
        let mut end = 0;
        while let Some(header) = RecordHeader::read(&bytes[end..]) {
            let len = header.record_len();
            if len > RECORD_MAX {
                // No reader would believe it, so it must not be acknowledged.
                return Err(StoreError::Io(format!("{}: a record of {len} bytes", journal.path.display())));
            }
            if self.position.at + len as u64 > place(self.position.segment).end {
                self.put(journal, &bytes[from..end], to)?;
                self.next_segment(journal)?;
                (from, to) = (end, self.position.at);
            }
            let record = &mut bytes[end..end + len];
            let check = record_check(record, self.position.chain);
            record[..8].copy_from_slice(&check.to_le_bytes());
            end += len;
            self.passed(&header, check);
        }
        journal.left.store(self.position.left(), Ordering::Release);
        self.put(journal, &bytes[from..end], to)?;
        self.write_out(journal);
        Ok(())
    }

    /// Moves on behind a record.
    fn passed(&mut self, header: &RecordHeader, check: u64) {
        self.position.step(header, check, self.position.at);
        self.bytes += header.record_len() as u64;
        if header.kind() == Some(RecordKind::Seal) {
            self.marks.push_back(Mark { position: self.position, bytes: self.bytes });
        }
    }

    fn put(&self, journal: &Journal, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        failpoint::passed("the record is not written yet");
        journal.file.write_at(bytes, at).map_err(|error| StoreError::from_io(&journal.path, &error))
    }

    /// A free segment, one that is written if possible.
    fn next_free(&self) -> Option<usize> {
        let free = |written| self.uses.iter().position(|&used| used == Use::Free { written });
        free(true).or_else(|| free(false))
    }

    /// Goes on there.
    fn next_segment(&mut self, journal: &Journal) -> Result<(), StoreError> {
        let Some(next) = self.next_free() else {
            return Err(StoreError::Io(format!("{}: an operation found no room", journal.path.display())));
        };
        journal.ready.fetch_sub(1, Ordering::AcqRel);
        self.write_out_rest(journal);
        let identity = journal.identity;
        let (first, previous) = (self.position.next, self.position.chain);
        let header = SegmentHeader::new(identity.uuid, identity.epoch, generation()?, first, previous);
        failpoint::passed("the next segment has no header yet");
        journal.file.will_write(place(next));
        self.put(journal, &header.encode(), place(next).start)?;
        failpoint::passed("the next segment has its header and no record");
        self.uses[self.position.segment] = Use::Full { last: self.last() };
        self.uses[next] = Use::Current;
        self.position = Position::behind(&header, next);
        self.written_out = self.position.at;
        Ok(())
    }

    fn write_out(&mut self, journal: &Journal) {
        if self.position.at - self.written_out.min(self.position.at) >= JOURNAL_WRITEOUT {
            self.write_out_rest(journal);
        }
    }

    fn write_out_rest(&mut self, journal: &Journal) {
        let from = self.written_out.min(self.position.at);
        journal.file.start_writeback(from, self.position.at - from);
        self.written_out = self.position.at;
    }
}

fn is_done(used: &Use, committed: Seq) -> bool {
    matches!(used, Use::Full { last } if *last <= committed)
}
