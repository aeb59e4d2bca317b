//! The session database: rows and packs in one SQLite file, one writer, many readers.
//!
//! Nothing above this floor sees SQL. A [`Store`] is read from any thread; the one [`Writer`] belongs to the committer.

mod error;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use error::StoreError;

use crate::base::{Cookie, DataId, Ino, Name, PackId, Seq, Timestamp, Txid};
use crate::format::{BlockRow, Counts, DentryRow, Digest, InodeRow, Transaction};

/// The one row that says what this database is and how far it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Names this session for ever; a fork gets its own.
    pub uuid: [u8; 16],
    /// Where it was forked from: that session's UUID and transaction.
    pub parent: Option<([u8; 16], Txid)>,
    /// Fencing token: grows with every mount that may write.
    pub epoch: u64,
    /// The last committed transaction.
    pub txid: Txid,
    /// State digest after it.
    pub digest: Digest,
    /// Counts after it.
    pub counts: Counts,
    /// Ids to be given next.
    pub next: NextIds,
    /// Cap in bytes.
    pub bytes_limit: u64,
    /// Cap in inodes.
    pub inodes_limit: u64,
    /// False while a writer has the database open, and after it died.
    pub clean: bool,
    /// When the session was created.
    pub created: Timestamp,
    /// When it was last mounted, committed to, or stopped.
    pub last_active: Timestamp,
}

/// The ids to be given next; all grow only, and all are committed with the rows that used them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextIds {
    /// Next inode number.
    pub ino: Ino,
    /// Next data id.
    pub data: DataId,
    /// Next pack id. The writer's own.
    pub pack: PackId,
    /// Next readdir cookie.
    pub cookie: Cookie,
    /// Next operation.
    pub seq: Seq,
}

/// What a new session database begins with.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Cap in bytes.
    pub bytes_limit: u64,
    /// Cap in inodes.
    pub inodes_limit: u64,
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
}

/// An open session database, to read from.
#[derive(Debug)]
pub struct Store {}

/// The one that writes.
#[derive(Debug)]
pub struct Writer {}

/// The bytes of one block, still inside the decoded pack they came in. Zeros follow them to the end of the block.
#[derive(Clone, Debug)]
pub struct Content {}

impl std::ops::Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        unimplemented!()
    }
}

impl Store {
    /// Makes a new database at `path`; it appears there complete or not at all.
    pub fn create(_path: &Path, _options: &CreateOptions) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Opens for reading and writing. The caller holds the session's lock. Raises the epoch, marks the database unclean.
    pub fn open(_path: &Path) -> Result<(Arc<Store>, Writer), StoreError> {
        unimplemented!()
    }

    /// Opens for reading only, also beside a writer: a reader sees the last committed transaction.
    pub fn open_read_only(_path: &Path) -> Result<Arc<Store>, StoreError> {
        unimplemented!()
    }

    /// The superblock as last committed.
    pub fn superblock(&self) -> Result<Superblock, StoreError> {
        unimplemented!()
    }

    /// One inode.
    pub fn inode(&self, _ino: Ino) -> Result<Option<InodeRow>, StoreError> {
        unimplemented!()
    }

    /// A directory's names with the inodes they lead to, in the order of their cookies.
    pub fn directory(&self, _ino: Ino) -> Result<Vec<(DentryRow, InodeRow)>, StoreError> {
        unimplemented!()
    }

    /// A file's blocks, by index.
    pub fn blocks(&self, _ino: Ino) -> Result<Vec<BlockRow>, StoreError> {
        unimplemented!()
    }

    /// An inode's xattrs.
    pub fn xattrs(&self, _ino: Ino) -> Result<Vec<(Name, Box<[u8]>)>, StoreError> {
        unimplemented!()
    }

    /// The content of a block, its checksums verified. `None`: no such id, which is what a reader sees that was
    /// overtaken by a commit; it looks up the block again.
    pub fn data(&self, _id: DataId) -> Result<Option<Content>, StoreError> {
        unimplemented!()
    }
}

impl Writer {
    /// Commits a transaction durably. `next.pack` is ignored: packs are numbered here.
    pub fn commit(&mut self, _txn: &Transaction, _next: NextIds) -> Result<Superblock, StoreError> {
        unimplemented!()
    }

    /// Removes every orphan, in one transaction; returns how many there were.
    pub fn reap_orphans(&mut self) -> Result<u64, StoreError> {
        unimplemented!()
    }

    /// Changes the caps.
    pub fn set_limits(&mut self, _bytes: u64, _inodes: u64) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Does waiting housekeeping for about `budget`: copies the WAL back, rewrites packs that are mostly dead.
    /// Returns whether more is waiting.
    pub fn maintain(&mut self, _budget: Duration) -> Result<bool, StoreError> {
        unimplemented!()
    }

    /// Ends in one self-contained file: WAL copied back and gone, free pages given back, clean flag set.
    /// Returns the final superblock.
    pub fn close(self) -> Result<Superblock, StoreError> {
        unimplemented!()
    }
}
