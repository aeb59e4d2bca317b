//! The bytes of the journal: segments, each a header and records. A record is one operation as the list of its row
//! changes, or the end of a transaction.
//!
//! A record is a header of [`HEADER`] bytes and a payload. Its checksum is seeded with the one of the record before it,
//! so a record is believed only behind the very record that it was written behind.

mod decode;
mod encode;
mod header;

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use decode::{RecordError, changes};
use encode::encode;
pub use header::{NoHeader, SEGMENT_HEADER, SegmentHeader};

use super::change::Change;
use crate::base::Seq;

/// Bytes of a record's header: checksum (u64), sequence (u64), payload length (u32), type (u8), three zeros.
pub const HEADER: usize = 24;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// An operation: the payload is its changes.
    Operation = 1,
    /// The transaction ends with the operation of this sequence; what it wrote is not changed in place any more.
    Seal = 2,
}

/// A record's header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The checksum it claims.
    pub check: u64,
    /// The operation's place in the order; of a seal, that of the last operation before it.
    pub seq: Seq,
    /// Bytes of the payload.
    pub len: u32,
    /// The type's number; one that [`RecordKind`] does not know is of a later version.
    pub kind: u8,
}

impl RecordHeader {
    /// Reads a header; `None` when there are not enough bytes.
    pub fn read(bytes: &[u8]) -> Option<RecordHeader> {
        let (check, rest) = bytes.split_first_chunk()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (&[kind, ..], _) = rest.split_first_chunk::<4>()?;
        Some(RecordHeader {
            check: u64::from_le_bytes(*check),
            seq: Seq(u64::from_le_bytes(*seq)),
            len: u32::from_le_bytes(*len),
            kind,
        })
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> usize {
        HEADER + self.len as usize
    }

    /// The type, if it is known.
    pub fn kind(&self) -> Option<RecordKind> {
        [RecordKind::Operation, RecordKind::Seal].into_iter().find(|&kind| kind as u8 == self.kind)
    }
}

/// The checksum of a whole record (header and payload) that stands behind one with the checksum `previous`.
pub fn record_check(record: &[u8], previous: u64) -> u64 {
    xxh3_64_with_seed(&record[size_of::<u64>()..], previous)
}

/// Records on their way to the journal, in order, their checksums not made yet.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where the record that is being written begins.
    open: Option<usize>,
}

impl Records {
    /// Adds a change to the operation that is being written, which begins with its first change.
    pub fn change(&mut self, change: &Change<'_>) {
        if self.open.is_none() {
            self.open = Some(self.bytes.len());
            self.bytes.extend_from_slice(&[0; HEADER]);
        }
        encode(change, &mut self.bytes);
    }

    /// Ends the operation, giving it its place in the order.
    pub fn finish(&mut self, seq: Seq) {
        if let Some(start) = self.open.take() {
            self.fill_header(start, seq, RecordKind::Operation);
        }
    }

    /// Ends a transaction behind the operation `seq`.
    pub fn seal(&mut self, seq: Seq) {
        debug_assert!(self.open.is_none(), "a transaction ends between operations");
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        self.fill_header(start, seq, RecordKind::Seal);
    }

    fn fill_header(&mut self, start: usize, seq: Seq, kind: RecordKind) {
        let len = (self.bytes.len() - start - HEADER) as u32;
        let header = &mut self.bytes[start..start + HEADER];
        header[8..16].copy_from_slice(&seq.0.to_le_bytes());
        header[16..20].copy_from_slice(&len.to_le_bytes());
        header[20] = kind as u8;
    }

    /// The bytes of all records, to be sealed with checksums by whoever writes them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        debug_assert!(self.open.is_none(), "an operation that is not finished cannot be written");
        &mut self.bytes
    }

    /// Bytes of all records.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes all out; memory beyond `keep` bytes is given back.
    pub fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
    }
}

#[cfg(test)]
mod tests;
