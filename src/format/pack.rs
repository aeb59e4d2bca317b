//! A pack: one compressed frame that holds many blocks.
//!
//! ```text
//! header, 40 bytes, little-endian
//!   0  magic "SFPK"        4  version u8 = 1     5  codec u8 (0 raw, 1 zstd)   6  zero u16
//!   8  pack id u64        16  blocks u32        20  raw length u32
//!  24  stored length u32  28  zero u32          32  checksum u64: XXH3-64 of bytes 0..32 and the payload
//! payload, `stored length` bytes; decoded, `raw length` bytes:
//!   a directory of `blocks` entries (data id u64, length u32), then the blocks' bytes in that order
//! ```
//!
//! The directory makes a pack self-describing: a repack and a replica need no other index.

use xxhash_rust::xxh3::Xxh3;

use crate::base::limits::{BLOCK_SIZE, PACK_MAX};
use crate::base::{DataId, PackId};

const MAGIC: [u8; 4] = *b"SFPK";
const VERSION: u8 = 1;
const HEADER: usize = 40;
const ENTRY: usize = 12;

/// The most blocks a pack may claim: a bound for the decoder. One-byte files are the worst a commit can bring.
const MAX_BLOCKS: usize = PACK_MAX;

/// The version of the zstd that is built in.
pub fn zstd_version() -> &'static str {
    zstd::zstd_safe::version_string()
}

/// How a payload is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is: it did not compress.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// Why bytes are not the pack they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Too short, no magic, or lengths that contradict each other.
    #[error("not a pack: {0}")]
    Malformed(&'static str),
    /// A pack of a format this version does not know.
    #[error("pack version {0} is newer than this program")]
    Version(u8),
    /// Bytes changed since they were written.
    #[error("checksum does not match")]
    Checksum,
    /// The payload does not decode.
    #[error("payload does not decompress")]
    Decompress,
}

/// Collects blocks until the pack is full.
#[derive(Debug, Default)]
pub struct PackBuilder {
    directory: Vec<u8>,
    content: Vec<u8>,
}

impl PackBuilder {
    /// Appends a block's content, without its trailing zeros; returns where in the pack it lies.
    pub fn push(&mut self, id: DataId, bytes: &[u8]) -> u32 {
        debug_assert!(bytes.len() <= BLOCK_SIZE);
        let position = self.content.len() as u32;
        self.directory.extend_from_slice(&id.0.to_le_bytes());
        self.directory.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.content.extend_from_slice(bytes);
        position
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// The pack's bytes. `level` is zstd's.
    pub fn encode(mut self, id: PackId, level: i32) -> Vec<u8> {
        let blocks = (self.directory.len() / ENTRY) as u32;
        self.directory.append(&mut self.content);
        let raw = self.directory;
        let (codec, payload) = match zstd::bulk::compress(&raw, level) {
            Ok(packed) if packed.len() < raw.len() => (Codec::Zstd, packed),
            _ => (Codec::Raw, raw.clone()),
        };
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&[VERSION, codec as u8, 0, 0]);
        frame.extend_from_slice(&id.0.to_le_bytes());
        frame.extend_from_slice(&blocks.to_le_bytes());
        frame.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        let sum = checksum(&frame, &payload);
        frame.extend_from_slice(&sum.to_le_bytes());
        frame.extend_from_slice(&payload);
        frame
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&header[..HEADER - 8]);
    hasher.update(payload);
    hasher.digest()
}

/// A decoded pack.
#[derive(Debug)]
pub struct Pack {
    /// Its id, as its header says.
    pub id: PackId,
    /// How it was coded.
    pub codec: Codec,
    raw: Vec<u8>,
    blocks: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Pack {
    /// Decodes a pack. Damaged input gives an error; it allocates at most what a pack may hold.
    pub fn decode(frame: &[u8]) -> Result<Pack, PackError> {
        if frame.len() < HEADER || frame[..4] != MAGIC {
            return Err(PackError::Malformed("no header"));
        }
        if frame[4] != VERSION {
            return Err(PackError::Version(frame[4]));
        }
        let payload = &frame[HEADER..];
        if u64_at(frame, 32) != checksum(frame, payload) {
            return Err(PackError::Checksum);
        }
        let codec = match frame[5] {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return Err(PackError::Malformed("unknown codec")),
        };
        let blocks = u32_at(frame, 16) as usize;
        let raw_len = u32_at(frame, 20) as usize;
        if blocks > MAX_BLOCKS || raw_len > PACK_MAX + blocks * ENTRY || raw_len < blocks * ENTRY {
            return Err(PackError::Malformed("lengths out of bounds"));
        }
        if u32_at(frame, 24) as usize != payload.len() {
            return Err(PackError::Malformed("stored length differs"));
        }
        let raw = match codec {
            Codec::Raw => payload.to_vec(),
            Codec::Zstd => zstd::bulk::decompress(payload, raw_len).map_err(|_| PackError::Decompress)?,
        };
        if raw.len() != raw_len {
            return Err(PackError::Malformed("raw length differs"));
        }
        let pack = Pack { id: PackId(u64_at(frame, 8)), codec, raw, blocks };
        if pack.directory().any(|(_, len)| len as usize > BLOCK_SIZE) {
            return Err(PackError::Malformed("a block is too long"));
        }
        let content: usize = pack.directory().map(|(_, len)| len as usize).sum();
        if content != raw_len - blocks * ENTRY {
            return Err(PackError::Malformed("directory does not add up"));
        }
        Ok(pack)
    }

    /// What a frame's header says without decoding it: the codec, and the bytes of the decoded payload. `None`: no
    /// frame of this version.
    pub fn describe(frame: &[u8]) -> Option<(Codec, u32)> {
        let header = frame.get(..HEADER).filter(|header| header[..4] == MAGIC && header[4] == VERSION)?;
        let codec = match header[5] {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return None,
        };
        Some((codec, u32_at(header, 20)))
    }

    /// Data ids and lengths, in the order of their bytes.
    pub fn directory(&self) -> impl Iterator<Item = (DataId, u32)> + '_ {
        (0..self.blocks).map(|i| (DataId(u64_at(&self.raw, i * ENTRY)), u32_at(&self.raw, i * ENTRY + 8)))
    }

    /// Each block's data id, and where it lies: position and length.
    pub fn places(&self) -> impl Iterator<Item = (DataId, u32, u32)> + '_ {
        // Lossless: the lengths add up to what a pack may hold, which `decode` has seen to.
        self.directory().scan(0, |position, (id, len)| {
            *position += len;
            Some((id, *position - len, len))
        })
    }

    /// The bytes of one block; `None` when they would lie outside the pack.
    pub fn block(&self, position: u32, len: u32) -> Option<&[u8]> {
        let start = self.blocks * ENTRY + position as usize;
        self.raw.get(start..start.checked_add(len as usize)?)
    }

    /// Bytes this decoded pack occupies in memory.
    pub fn memory(&self) -> usize {
        self.raw.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut builder = PackBuilder::default();
        assert_eq!(builder.push(DataId(7), b"hello hello hello hello hello hello"), 0);
        assert_eq!(builder.push(DataId(9), &[1; 3000]), 35);
        builder.encode(PackId(3), 1)
    }

    #[test]
    fn a_pack_comes_back() {
        let pack = Pack::decode(&sample()).unwrap();
        assert_eq!((pack.id, pack.codec), (PackId(3), Codec::Zstd));
        assert_eq!(pack.directory().collect::<Vec<_>>(), [(DataId(7), 35), (DataId(9), 3000)]);
        assert_eq!(pack.block(35, 3000).unwrap(), &[1; 3000]);
        assert_eq!(pack.block(35, 3001), None);
    }

    #[test]
    fn noise_is_stored_raw() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..9000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        let mut builder = PackBuilder::default();
        builder.push(DataId(1), &noise);
        let pack = Pack::decode(&builder.encode(PackId(1), 1)).unwrap();
        assert_eq!(pack.codec, Codec::Raw);
        assert_eq!(pack.block(0, 9000).unwrap(), &noise[..]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = sample();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(Pack::decode(&bad).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Pack::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }
}
