//! Reading records back, in order, as far as they check.

use super::segment::{SEGMENTS_MAX, SYNC_UNIT, place};
use super::{Identity, Omit};
use crate::base::Seq;
use crate::base::limits::RECORD_MAX;
use crate::format::journal::{HEADER, NoHeader, RecordHeader, RecordKind, SEGMENT_HEADER, SegmentHeader, record_check};
use crate::store::StoreError;
use crate::store::disk::DiskFile;

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub segment: usize,
    /// Where in the file.
    pub at: u64,
    /// The checksum of the record before, or of the segment's header.
    pub chain: u64,
    /// The operation that comes next.
    pub next: Seq,
}

impl Position {
    /// At the first record of a segment.
    pub fn behind(header: &SegmentHeader, segment: usize) -> Position {
        let at = place(segment).start + SEGMENT_HEADER as u64;
        Position { segment, at, chain: header.check, next: header.first }
    }

    /// Bytes from here to the segment's end.
    pub fn left(&self) -> u64 {
        place(self.segment).end - self.at
    }

    /// Goes behind a record that stands at `at`.
    pub fn step(&mut self, header: &RecordHeader, check: u64, at: u64) {
        self.at = at + header.record_len() as u64;
        self.chain = check;
        if header.kind() == Some(RecordKind::Operation) {
            self.next = header.seq.next();
        }
    }
}

/// A record as it is read.
pub(super) struct Record<'a> {
    pub kind: RecordKind,
    pub seq: Seq,
    pub payload: &'a [u8],
}

/// Goes through a journal from some position on.
pub(super) struct Scan<'a> {
    file: &'a dyn DiskFile,
    identity: Identity,
    omit: Omit,
    position: Position,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Scan<'a> {
    pub fn new(file: &'a dyn DiskFile, identity: Identity, omit: Omit, from: Position) -> Scan<'a> {
        Scan { file, identity, omit, position: from, window: Vec::new(), window_at: 0 }
    }

    /// The next record; `None` behind the last that checks.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, StoreError> {
        loop {
            // Behind a sync the writer went on at the next boundary.
            let here = self.position.at;
            let found = match self.record_at(here)? {
                None if !here.is_multiple_of(SYNC_UNIT) => self.record_at(here.next_multiple_of(SYNC_UNIT))?,
                found => found,
            };
            if let Some((header, kind, at)) = found {
                self.position.step(&header, header.check, at);
                let start = (at - self.window_at) as usize;
                let payload = &self.window[start + HEADER..start + header.record_len()];
                return Ok(Some(Record { kind, seq: header.seq, payload }));
            }
            if !self.go_to_next_segment()? {
                return Ok(None);
            }
        }
    }

    /// The record at a place, if one is there that follows the last.
    fn record_at(&mut self, at: u64) -> Result<Option<(RecordHeader, RecordKind, u64)>, StoreError> {
        let end = place(self.position.segment).end;
        if at + HEADER as u64 > end {
            return Ok(None);
        }
        let Some(header) = RecordHeader::read(self.bytes(at, HEADER)?) else { return Ok(None) };
        let len = header.record_len();
        if len > RECORD_MAX || at + len as u64 > end {
            return Ok(None);
        }
        let (chain, checked) = (self.position.chain, !self.omit.chain);
        let bytes = self.bytes(at, len)?;
        if bytes.len() < len || checked && record_check(bytes, chain) != header.check {
            return Ok(None);
        }
        let follows = match header.kind() {
            Some(RecordKind::Operation) => header.seq == self.position.next,
            Some(RecordKind::Seal) => header.seq.0.checked_add(1) == Some(self.position.next.0),
            None => true,
        };
        match header.kind() {
            Some(kind) if follows => Ok(Some((header, kind, at))),
            _ if !checked => Ok(None),
            None => Err(StoreError::Journal(format!(
                "it has a record of type {}, which a later version of this program wrote",
                header.kind
            ))),
            Some(_) => Err(StoreError::Journal(format!(
                "operation {} stands where {} belongs",
                header.seq, self.position.next
            ))),
        }
    }

    fn go_to_next_segment(&mut self) -> Result<bool, StoreError> {
        let (next, chain) = (self.position.next, self.position.chain);
        let found = headers(self.file)?.into_iter().find(|(_, header)| {
            let ours = (header.uuid, header.epoch) == (self.identity.uuid, self.identity.epoch);
            ours && header.first == next && (header.previous == chain || self.omit.chain)
        });
        match found {
            Some((segment, header)) if segment != self.position.segment => {
                self.position = Position::behind(&header, segment);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Bytes of the file; fewer than asked for only at its end.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], StoreError> {
        let have = self.window_at..self.window_at + self.window.len() as u64;
        if !(have.contains(&at) && at + len as u64 <= have.end) {
            let most = (place(self.position.segment).end - at) as usize;
            self.window.resize(WINDOW.max(len).min(most), 0);
            let got = self.file.read_at(&mut self.window, at).map_err(|error| StoreError::Io(error.to_string()))?;
            self.window.truncate(got);
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        let end = (start + len).min(self.window.len());
        Ok(&self.window[start..end])
    }
}

/// The valid headers of a journal's segments, with the segments they belong to.
pub(super) fn headers(file: &dyn DiskFile) -> Result<Vec<(usize, SegmentHeader)>, StoreError> {
    let failed = |error: std::io::Error| StoreError::Io(format!("the journal: {error}"));
    let size = file.size().map_err(failed)?;
    let mut found = Vec::new();
    for segment in (0..SEGMENTS_MAX).take_while(|&segment| place(segment).start < size) {
        let mut page = [0; SEGMENT_HEADER];
        let got = file.read_at(&mut page, place(segment).start).map_err(failed)?;
        match SegmentHeader::decode(&page[..got]) {
            Ok(header) => found.push((segment, header)),
            Err(NoHeader::Invalid) => {}
            Err(NoHeader::Newer(version)) => {
                return Err(StoreError::Journal(format!("its version {version} is newer than this program")));
            }
        }
    }
    Ok(found)
}
