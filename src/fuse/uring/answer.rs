//! From what [`crate::fs`] answers to the kernel's structures, appended to the payload of a reply.

use zerocopy::{Immutable, IntoBytes};

use super::wire::{AttrOut, Attributes, Dirent, DirentPlus, EntryOut, GetXattrOut, StatfsOut};
use crate::base::Errno;
use crate::base::limits::{NAME_MAX, PIECE_SIZE};
use crate::fs::{Attr, DirEntry, Usage};
use crate::fuse::convert::{FOR_EVER, PREFERRED_IO, SECTORS_PER_PIECE};

/// Names in a listing are padded to this.
const DIRENT_ALIGNMENT: usize = 8;

/// Makes `value` the whole reply.
pub(super) fn put(payload: &mut Vec<u8>, value: &(impl IntoBytes + Immutable)) {
    payload.clear();
    payload.extend_from_slice(value.as_bytes());
}

pub(super) fn entry(attr: &Attr) -> EntryOut {
    let valid = FOR_EVER.as_secs();
    EntryOut {
        nodeid: attr.ino.0,
        entry_valid: valid,
        attr_valid: valid,
        attr: attributes(attr),
        ..EntryOut::default()
    }
}

/// There is no such name, and the kernel may remember that. (The error itself it would forget at once.)
pub(super) fn no_entry() -> EntryOut {
    EntryOut { entry_valid: FOR_EVER.as_secs(), ..EntryOut::default() }
}

pub(super) fn attr(attr: &Attr) -> AttrOut {
    AttrOut { attr_valid: FOR_EVER.as_secs(), attr: attributes(attr), ..AttrOut::default() }
}

fn attributes(attr: &Attr) -> Attributes {
    Attributes {
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.pieces * SECTORS_PER_PIECE,
        atime: attr.atime.secs,
        mtime: attr.mtime.secs,
        ctime: attr.ctime.secs,
        atime_nanos: attr.atime.nanos,
        mtime_nanos: attr.mtime.nanos,
        ctime_nanos: attr.ctime.nanos,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: PREFERRED_IO,
        ..Attributes::default()
    }
}

pub(super) fn statfs(usage: &Usage) -> StatfsOut {
    let unit = PIECE_SIZE as u64;
    let free = usage.bytes_limit.saturating_sub(usage.bytes) / unit;
    StatfsOut {
        blocks: usage.bytes_limit / unit,
        bfree: free,
        bavail: free,
        files: usage.inodes_limit,
        ffree: usage.inodes_limit.saturating_sub(usage.inodes),
        bsize: PIECE_SIZE as u32,
        namelen: NAME_MAX as u32,
        frsize: PIECE_SIZE as u32,
        ..StatfsOut::default()
    }
}

/// The protocol of GETXATTR and LISTXATTR: size 0 asks for the size, a size too small is ERANGE.
pub(super) fn sized(payload: &mut Vec<u8>, size: u32, value: &[u8]) -> Result<(), Errno> {
    payload.clear();
    match size {
        0 => put(payload, &GetXattrOut { size: value.len() as u32, ..GetXattrOut::default() }),
        _ if value.len() > size as usize => return Err(Errno::Range),
        _ => payload.extend_from_slice(value),
    }
    Ok(())
}

/// Appends one name of a listing; false when it does not fit into `size` bytes any more.
pub(super) fn dirent(payload: &mut Vec<u8>, size: u32, plus: bool, listed: &DirEntry<'_>) -> bool {
    let header = if plus { size_of::<DirentPlus>() } else { size_of::<Dirent>() };
    let length = (header + listed.name.len()).next_multiple_of(DIRENT_ALIGNMENT);
    let end = payload.len() + length;
    if end > size as usize {
        return false;
    }
    let dirent =
        Dirent { ino: listed.ino.0, off: listed.cookie.0, namelen: listed.name.len() as u32, kind: listed.kind as u32 };
    if plus {
        // Of `.` and `..` the kernel reads no attributes.
        let entry = listed.attr.as_ref().map(entry).unwrap_or_default();
        payload.extend_from_slice(DirentPlus { entry, dirent }.as_bytes());
    } else {
        payload.extend_from_slice(dirent.as_bytes());
    }
    payload.extend_from_slice(listed.name);
    payload.resize(end, 0);
    true
}
