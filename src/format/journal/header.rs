//! The header that each segment of the journal begins with.

use xxhash_rust::xxh3::xxh3_64;

use crate::base::Seq;

/// What a segment's header begins with.
const MAGIC: [u8; 8] = *b"SFSJRNL\0";

/// The version of headers and records.
const VERSION: u32 = 1;

/// What a header occupies: its own page, so that no write of a record touches it.
pub const SEGMENT_HEADER: usize = 4096;

/// Bytes of the header that mean something.
const LEN: usize = 72;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The session's.
    pub uuid: [u8; 16],
    /// Of the mount that writes this journal.
    pub epoch: u64,
    /// Random, new with every use of a segment.
    pub generation: u64,
    /// The first operation in it, or, as long as there is none, the next there will be.
    pub first: Seq,
    /// The checksum that the segment before it ended with; 0 for the first of a journal.
    pub previous: u64,
    /// Checksum of all before it. The first record's is seeded with it.
    pub check: u64,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// A segment that was never used, or whose header was being written.
    Invalid,
    /// Of a later version.
    Newer(u32),
}

impl SegmentHeader {
    /// Makes a header, checksum and all.
    pub fn new(uuid: [u8; 16], epoch: u64, generation: u64, first: Seq, previous: u64) -> SegmentHeader {
        let mut header = SegmentHeader { uuid, epoch, generation, first, previous, check: 0 };
        header.check = xxh3_64(&header.encode()[..LEN - 8]);
        header
    }

    /// The page that it is on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(SEGMENT_HEADER);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&[0; 4]);
        page.extend_from_slice(&self.uuid);
        for field in [self.epoch, self.generation, self.first.0, self.previous, self.check] {
            page.extend_from_slice(&field.to_le_bytes());
        }
        debug_assert_eq!(page.len(), LEN);
        page.resize(SEGMENT_HEADER, 0);
        page
    }

    /// Reads a header from the beginning of its page.
    pub fn decode(page: &[u8]) -> Result<SegmentHeader, NoHeader> {
        let bytes: &[u8; LEN] = page.first_chunk().ok_or(NoHeader::Invalid)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if bytes[..8] != MAGIC || word(64) != xxh3_64(&bytes[..LEN - 8]) {
            return Err(NoHeader::Invalid);
        }
        let version = word(8) as u32;
        if version != VERSION {
            return Err(NoHeader::Newer(version));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        let (epoch, generation) = (word(32), word(40));
        Ok(SegmentHeader { uuid, epoch, generation, first: Seq(word(48)), previous: word(56), check: word(64) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_and_no_flipped_byte_passes() {
        let header = SegmentHeader::new([7; 16], 3, 0xdead_beef, Seq(9), u64::MAX);
        let mut page = header.encode();
        assert_eq!(page.len(), SEGMENT_HEADER);
        assert_eq!(SegmentHeader::decode(&page), Ok(header));
        for at in 0..LEN {
            page[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&page), Err(NoHeader::Invalid), "byte {at}");
            page[at] ^= 0x10;
        }
        page[8] = 2;
        let check = xxh3_64(&page[..LEN - 8]);
        page[64..72].copy_from_slice(&check.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&page), Err(NoHeader::Newer(2)));
        assert_eq!(SegmentHeader::decode(&page[..LEN - 1]), Err(NoHeader::Invalid));
    }
}
