//! The state digest: a 128-bit sum of hashes over every logical row, so that a commit can keep it up by subtracting
//! what a row was and adding what it became. It finds damage and incompleteness, not an adversary.
//!
//! In it: inodes, names, blocks with the hash of their content, xattrs. Not in it: `since`, data ids, packs, atime,
//! cookies, orphans. So a repack, a fork, a restore and a replica keep it.

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::rows::{BlockRow, DentryRow, InodeRow, XattrRow};
use crate::base::{Ino, Timestamp};

/// The sum, modulo 2^128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Canonical bytes of one row: a tag, then fields little-endian, byte strings with their length before them.
pub struct Canonical(Vec<u8>);

impl Canonical {
    /// Begins a row.
    pub fn new(tag: u8) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.push(tag);
        Canonical(bytes)
    }

    /// A number of 32 bits.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A number of 64 bits.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Seconds and nanoseconds.
    pub fn time(self, time: Timestamp) -> Self {
        self.u64(time.secs as u64).u32(time.nanos)
    }

    /// A byte string with its length.
    pub fn bytes(mut self, value: &[u8]) -> Self {
        self = self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
        self
    }

    /// The low half of XXH3-64.
    pub fn sum(&self) -> u32 {
        xxh3_64(&self.0) as u32
    }

    fn hash(self) -> u128 {
        xxh3_128(&self.0)
    }
}

fn inode(row: &InodeRow) -> Canonical {
    Canonical::new(b'i')
        .u64(row.ino.0)
        .u32(row.mode)
        .u32(row.uid)
        .u32(row.gid)
        .u32(row.nlink)
        .u32(row.rdev)
        .u64(row.size)
        .u64(row.pieces)
        .time(row.mtime)
        .time(row.ctime)
        .time(row.btime)
        .bytes(&row.target)
}

fn dentry(row: &DentryRow) -> Canonical {
    Canonical::new(b'd').u64(row.parent.0).bytes(&row.name).u64(row.ino.0).u32(row.kind as u32)
}

/// The checksum a row carries: a changed byte in it is an error for whoever reads it, not a wrong answer. It covers all
/// of the row but `since`.
pub trait RowSum {
    /// The low half of XXH3-64 of the row's bytes.
    fn sum(&self) -> u32;
}

impl RowSum for InodeRow {
    fn sum(&self) -> u32 {
        inode(self).u32(self.attached).time(self.atime).sum()
    }
}

impl RowSum for DentryRow {
    fn sum(&self) -> u32 {
        dentry(self).u64(self.cookie.0).sum()
    }
}

impl RowSum for BlockRow {
    fn sum(&self) -> u32 {
        let row = Canonical::new(b'b').u64(self.ino.0).u64(self.index).u64(self.mask);
        row.u64(self.data.0).u32(self.shared.into()).sum()
    }
}

impl RowSum for XattrRow {
    fn sum(&self) -> u32 {
        Canonical::new(b'x').u64(self.ino.0).bytes(&self.name).bytes(&self.value).sum()
    }
}

fn of_block(row: &BlockRow, content: u64) -> u128 {
    Canonical::new(b'b').u64(row.ino.0).u64(row.index).u64(row.mask).u64(content).hash()
}

fn of_xattr(ino: Ino, name: &[u8], value: &[u8]) -> u128 {
    Canonical::new(b'x').u64(ino.0).bytes(name).bytes(value).hash()
}

impl Digest {
    fn plus(&mut self, hash: u128) {
        self.0 = self.0.wrapping_add(hash);
    }

    fn minus(&mut self, hash: u128) {
        self.0 = self.0.wrapping_sub(hash);
    }

    /// Takes an inode in.
    pub fn add_inode(&mut self, row: &InodeRow) {
        self.plus(inode(row).hash());
    }

    /// Takes an inode out.
    pub fn remove_inode(&mut self, row: &InodeRow) {
        self.minus(inode(row).hash());
    }

    /// Takes a name in.
    pub fn add_dentry(&mut self, row: &DentryRow) {
        self.plus(dentry(row).hash());
    }

    /// Takes a name out.
    pub fn remove_dentry(&mut self, row: &DentryRow) {
        self.minus(dentry(row).hash());
    }

    /// Takes a block in, with the [`content_hash`] of its content.
    pub fn add_block(&mut self, row: &BlockRow, content: u64) {
        self.plus(of_block(row, content));
    }

    /// Takes a block out.
    pub fn remove_block(&mut self, row: &BlockRow, content: u64) {
        self.minus(of_block(row, content));
    }

    /// Takes an xattr in.
    pub fn add_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        self.plus(of_xattr(ino, name, value));
    }

    /// Takes an xattr out.
    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        self.minus(of_xattr(ino, name, value));
    }
}

/// The length of a block's content without the zeros at its end: what is stored, and what is hashed, so that a file
/// has one hash however it was written.
pub fn content_len(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    // Sixteen bytes at a time: most blocks end in other bytes at once, an all-zero one is looked at in full.
    while end >= 16 && bytes[end - 16..end] == [0; 16] {
        end -= 16;
    }
    bytes[..end].iter().rposition(|&b| b != 0).map_or(0, |last| last + 1)
}

/// The hash of a block's content, trailing zeros left out. The content of [`DataId::ZEROS`](crate::base::DataId::ZEROS)
/// is the empty string.
pub fn content_hash(bytes: &[u8]) -> u64 {
    xxh3_64(&bytes[..content_len(bytes)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_zeros_do_not_count() {
        for (bytes, len) in [
            (vec![], 0),
            (vec![0; 70_000], 0),
            (vec![0, 7], 2),
            ([vec![1; 33], vec![0; 100]].concat(), 33),
            ([vec![0; 20], vec![5], vec![0; 15]].concat(), 21),
        ] {
            assert_eq!(content_len(&bytes), len);
            assert_eq!(content_hash(&bytes), content_hash(&bytes[..len]));
        }
    }

    #[test]
    fn what_is_added_can_be_removed_in_any_order() {
        let mut digest = Digest::default();
        digest.add_xattr(Ino(5), b"user.a", b"1");
        let one = digest;
        digest.add_xattr(Ino(6), b"user.a", b"1");
        assert_ne!(digest, one);
        digest.remove_xattr(Ino(5), b"user.a", b"1");
        digest.remove_xattr(Ino(6), b"user.a", b"1");
        assert_eq!(digest, Digest::default());
    }
}
