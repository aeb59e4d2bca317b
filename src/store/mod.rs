//! The session database: rows and packs in one SQLite file, one writer, many readers.
//!
//! Nothing above this floor sees SQL. A [`Store`] is read from any thread; the one [`Writer`] belongs to the committer.

#![cfg_attr(test, allow(clippy::unwrap_used))] // A test that meets an error shall end there.

mod ahead;
mod check;
mod commit;
mod content;
mod disk;
mod error;
mod files;
mod journal;
mod length;
mod maintain;
mod open;
mod pool;
mod read;
mod rows;
mod schema;
mod superblock;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use check::{Finding, Interrupt, check, check_until};
pub use content::Content;
pub use disk::{Disk, DiskFile, HostDisk};
pub use error::StoreError;
pub use journal::{Journal, JournalUsage, Omit, Opened, Recovery};
pub use read::Named;
pub use schema::FORMAT_VERSION;

use crate::base::{Cookie, DataId, Ino, Name, PackId, Seq, Timestamp, Txid};
use crate::format::{Counts, Digest};

/// The version of the SQLite that is built in.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// The one row that says what this database is and how far it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Names this session for ever; a fork gets its own.
    pub uuid: [u8; 16],
    /// What it was forked from, or has taken the place of: that session's UUID and transaction.
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
    /// The feature words: compatible, read-only-compatible, incompatible. Kept as they are found.
    pub features: [u64; 3],
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

/// An xattr's name and value.
pub type Xattr = (Name, Box<[u8]>);

/// An open session database, to read from.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    pool: Arc<pool::Pool>,
    cache: Arc<content::PackCache>,
    ahead: ahead::Ahead,
    written: PacksWritten,
}

/// Packs that commits have written.
#[derive(Debug, Default)]
struct PacksWritten {
    packs: AtomicU64,
    raw: AtomicU64,
    stored: AtomicU64,
}

/// What became of packs since the database was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackCounts {
    /// Times that a read found its pack decoded in memory.
    pub hits: u64,
    /// Times that it had to be read from the database.
    pub misses: u64,
    /// Packs that commits have written. What housekeeping writes again is not in these.
    pub written: u64,
    /// Bytes of content in them.
    pub raw_bytes: u64,
    /// Bytes that they take, compressed.
    pub stored_bytes: u64,
}

impl Store {
    /// What became of packs so far.
    pub fn pack_counts(&self) -> PackCounts {
        let (hits, misses) = self.cache.hits_and_misses();
        let [written, raw_bytes, stored_bytes] =
            [&self.written.packs, &self.written.raw, &self.written.stored].map(|count| count.load(Ordering::Relaxed));
        PackCounts { hits, misses, written, raw_bytes, stored_bytes }
    }
}

/// The one that writes. Dropping it without [`Writer::close`] is what a crash is: nothing committed is lost, and the
/// database stays marked as unclean.
#[derive(Debug)]
pub struct Writer {
    sql: rusqlite::Connection,
    path: PathBuf,
    store: Arc<Store>,
    /// As last committed.
    state: Superblock,
    /// What is alive of each pack, once somebody had to know.
    space: Option<commit::Space>,
}
