//! From a change to its bytes. The tags and fields stand in `docs/format.md`.

use crate::base::{Name, Timestamp};
use crate::format::{Change, InodeRow};

pub(super) const INODE: u8 = 1;
pub(super) const DROP_INODE: u8 = 2;
pub(super) const DENTRY: u8 = 3;
pub(super) const DROP_DENTRY: u8 = 4;
pub(super) const NEW_DATA: u8 = 5;
pub(super) const FILL: u8 = 6;
pub(super) const CUT: u8 = 7;
pub(super) const BLOCK: u8 = 8;
pub(super) const DROP_BLOCKS: u8 = 9;
pub(super) const XATTR: u8 = 10;
pub(super) const DROP_XATTR: u8 = 11;

/// Appends little-endian fields.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn time(&mut self, time: Timestamp) -> &mut Self {
        self.u64(time.secs.cast_unsigned()).u32(time.nanos)
    }

    /// A byte string of at most 4 GiB with its length before it.
    fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
        self
    }

    /// A name, of at most 255 bytes.
    fn name(&mut self, name: &Name) -> &mut Self {
        self.u8(name.len() as u8);
        self.0.extend_from_slice(name);
        self
    }
}

/// Appends one change.
pub(super) fn encode(change: &Change<'_>, out: &mut Vec<u8>) {
    let mut to = Fields(out);
    match *change {
        Change::Inode(row) => inode(row, &mut to),
        Change::DropInode(ino) => {
            to.u8(DROP_INODE).u64(ino.0);
        }
        Change::Dentry(row) => {
            to.u8(DENTRY).u64(row.parent.0).u64(row.ino.0).u64(row.cookie.0).u8(row.kind as u8).name(&row.name);
        }
        Change::DropDentry { parent, name } => {
            to.u8(DROP_DENTRY).u64(parent.0).name(name);
        }
        // The bytes of the base are not repeated: who replays this has them.
        Change::NewData { id, base, keep, bytes: _ } => {
            to.u8(NEW_DATA).u64(id.0).u64(base.0).u32(keep);
        }
        Change::Fill { id, at, bytes } => {
            to.u8(FILL).u64(id.0).u32(at).bytes(bytes);
        }
        Change::Cut { id, keep } => {
            to.u8(CUT).u64(id.0).u32(keep);
        }
        Change::Block(row) => {
            to.u8(BLOCK).u64(row.ino.0).u64(row.index).u64(row.data.0).u64(row.mask).u8(row.shared.into());
        }
        Change::DropBlocks { ino, from, until } => {
            to.u8(DROP_BLOCKS).u64(ino.0).u64(from).u64(until);
        }
        Change::Xattr { ino, name, value } => {
            to.u8(XATTR).u64(ino.0).name(name).bytes(value);
        }
        Change::DropXattr { ino, name } => {
            to.u8(DROP_XATTR).u64(ino.0).name(name);
        }
    }
}

fn inode(row: &InodeRow, to: &mut Fields<'_>) {
    to.u8(INODE).u64(row.ino.0).u32(row.mode).u32(row.uid).u32(row.gid).u32(row.nlink).u32(row.rdev);
    to.u64(row.size).u64(row.pieces).u32(row.attached);
    to.time(row.atime).time(row.mtime).time(row.ctime).time(row.btime).bytes(&row.target);
}
