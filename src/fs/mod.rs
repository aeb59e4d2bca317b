//! POSIX semantics over memory: the namespace and the files of one session, with no kernel and no SQL in it.

use std::sync::Arc;

use crate::base::{Cookie, Errno, FileKind, Ino, Timestamp, Txid};
use crate::store::{Store, StoreError, Superblock, Writer};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Bits cleared from the mode of what is created, unless a default ACL rules.
    pub umask: u32,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are stat(2)'s own.
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub size: u64,
    /// 4 KiB pieces; `st_blocks` is eight times this.
    pub pieces: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`
    Now,
    /// This time.
    To(Timestamp),
}

/// What `setattr` changes; `None` leaves a field as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// One name, as `readdir` reports it.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// The name; `.` and `..` come first.
    pub name: &'a [u8],
    /// Where it leads.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Where the next `readdir` continues.
    pub cookie: Cookie,
    /// Attributes, when asked for; not for `.` and `..`.
    pub attr: Option<Attr>,
}

/// How `rename` treats a name that is already there (`renameat2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// `RENAME_NOREPLACE`
    NoReplace,
    /// `RENAME_EXCHANGE`
    Exchange,
}

/// What a write says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// The kernel asks for set-id bits and capabilities to be cleared (`FUSE_WRITE_KILL_SUIDGID`).
    pub kill_priv: bool,
    /// The bytes come from the page cache, after a store to mapped memory (`FUSE_WRITE_CACHE`).
    pub from_cache: bool,
}

/// `setxattr`'s condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Either way.
    Set,
    /// `XATTR_CREATE`
    Create,
    /// `XATTR_REPLACE`
    Replace,
}

/// `lseek`'s two questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// What `statfs` and `status` show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes charged: 4 KiB times the pieces of all inodes, orphans included.
    pub bytes: u64,
    /// Cap in bytes.
    pub bytes_limit: u64,
    /// Inodes, orphans included.
    pub inodes: u64,
    /// Cap in inodes.
    pub inodes_limit: u64,
}

/// How a running file system is doing, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Space and inodes.
    pub usage: Usage,
    /// Last committed transaction.
    pub txid: Txid,
    /// Content bytes waiting to be committed.
    pub dirty_bytes: u64,
    /// Times a writer had to wait for the committer.
    pub throttled: u64,
    /// The store error that latched the file system read-only, if one did.
    pub failed: Option<String>,
}

/// One mounted session. Every method can be called from any thread.
#[derive(Debug)]
pub struct Fs {}

#[allow(missing_docs, unused_variables)]
impl Fs {
    /// Starts serving a session: reaps orphans, loads the root, starts the committer.
    pub fn start(store: Arc<Store>, writer: Writer) -> Result<Arc<Fs>, StoreError> {
        unimplemented!()
    }

    /// Freezes mutations (they get EROFS from here on), commits, reaps orphans, closes the database.
    /// A second call returns the same result.
    pub fn stop(&self) -> Result<Superblock, StoreError> {
        unimplemented!()
    }

    /// Returns once every operation that ended before the call is committed.
    pub fn sync(&self) -> Result<(), Errno> {
        unimplemented!()
    }

    pub fn usage(&self) -> Usage {
        unimplemented!()
    }
    pub fn health(&self) -> Health {
        unimplemented!()
    }

    // Each successful lookup, create, mknod, mkdir, symlink, link and tmpfile, and each readdir entry that carried
    // attributes, counts one reference, which `forget` gives back.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn forget(&self, ino: Ino, count: u64) {
        unimplemented!()
    }
    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn readlink(&self, ino: Ino) -> Result<Box<[u8]>, Errno> {
        unimplemented!()
    }
    /// Also creates regular files: `mode` carries the type.
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32, rdev: u32) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn tmpfile(&self, caller: &Caller, parent: Ino, mode: u32) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        unimplemented!()
    }
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        unimplemented!()
    }
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        unimplemented!()
    }
    pub fn rename(&self, parent: Ino, name: &[u8], to: Ino, to_name: &[u8], mode: RenameMode) -> Result<(), Errno> {
        unimplemented!()
    }
    /// Appends at most `size` bytes at `offset` to `out`; fewer only at the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
        unimplemented!()
    }
    /// Returns the bytes written: fewer than given when the cap is reached on the way, ENOSPC when not one fits.
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize, Errno> {
        unimplemented!()
    }
    /// Whether a write would have to wait for the committer first; such a write belongs on a thread that may wait.
    pub fn write_would_wait(&self) -> bool {
        unimplemented!()
    }
    /// `mode` is fallocate(2)'s.
    pub fn fallocate(&self, caller: &Caller, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<(), Errno> {
        unimplemented!()
    }
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, Errno> {
        unimplemented!()
    }
    pub fn copy_range(&self, from: Ino, from_at: u64, to: Ino, to_at: u64, length: u64) -> Result<u64, Errno> {
        unimplemented!()
    }
    /// Calls `entry` for each name after `from` (0: from the start) until it returns false, which means that the entry
    /// was not taken. With `plus`, entries carry attributes and every one taken counts a reference.
    pub fn readdir(
        &self,
        ino: Ino,
        from: Cookie,
        plus: bool,
        entry: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        unimplemented!()
    }
    /// Value of an xattr.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, Errno> {
        unimplemented!()
    }
    /// Names, each with a NUL behind it. Names of the `trusted.` space only for root.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>, Errno> {
        unimplemented!()
    }
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        unimplemented!()
    }
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        unimplemented!()
    }
}
