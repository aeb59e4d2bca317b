//! What the file system's operations take and give. No FUSE type, no SQL.

use std::time::Duration;

use super::operations::OperationCounts;
use crate::base::{Cookie, FileKind, Ino, Tally, Timestamp, Txid};
use crate::format::InodeRow;
use crate::store::{JournalUsage, PackCounts, Recovery};

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

impl Caller {
    /// Whose set-id bits go with what they do to a file: the caller's group, unless it is root, who may keep them.
    pub fn kills_priv(&self) -> Option<u32> {
        (self.uid != 0).then_some(self.gid)
    }
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
    /// Set-id bits are to be cleared (`FUSE_WRITE_KILL_SUIDGID`): the writer's group.
    pub kill_priv: Option<u32>,
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
    /// Either way, and an access ACL takes the set-gid bit away: who sets it is not in the file's group, nor root
    /// (`FUSE_SETXATTR_ACL_KILL_SGID`).
    SetWithoutSetGid,
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
    /// The journal.
    pub journal: JournalUsage,
    /// What this mount found in the journal of the last one.
    pub recovery: Recovery,
    /// Last committed transaction.
    pub txid: Txid,
    /// Content bytes waiting to be committed.
    pub dirty_bytes: u64,
    /// Bytes that transactions waiting for their commit take in memory.
    pub memory_bytes: u64,
    /// Times a writer had to wait for the committer.
    pub throttled: u64,
    /// The store error that latched the file system read-only, if one did.
    pub failed: Option<String>,
}

/// What a running file system has done, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// What the mount was asked for.
    pub operations: OperationCounts,
    /// Commits, and how long each took.
    pub commits: Tally,
    /// The age of the oldest change that no commit has; zero when there is none.
    pub commit_lag: Duration,
    /// Syncs of the journal, and how long each took.
    pub syncs: Tally,
    /// Packs read and written.
    pub packs: PackCounts,
}

impl Attr {
    /// The attributes an inode's row shows.
    pub fn of(row: &InodeRow) -> Attr {
        Attr {
            ino: row.ino,
            kind: row.kind(),
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            nlink: row.nlink,
            rdev: row.rdev,
            size: row.size,
            pieces: row.pieces,
            atime: row.atime,
            mtime: row.mtime,
            ctime: row.ctime,
            btime: row.btime,
        }
    }
}
