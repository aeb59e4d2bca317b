//! The tables of the session database and how a connection to it is set up. `docs/format.md` explains every column.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use super::{Disk, StoreError};
use crate::base::limits::DB_PAGE_SIZE;

/// "SFS1": what `file(1)` and we recognise a session database by.
pub(super) const APPLICATION_ID: i32 = i32::from_be_bytes(*b"SFS1");
/// The format version: SQLite's `user_version`.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the hash in digests and data rows.
pub(super) const HASH_ALGORITHM: &str = "xxh3-128";

/// The incompatible flag of a database in which a pack may be larger than a commit makes them.
pub(super) const COLD_PACKS: u64 = 1;

/// Feature flags this program knows.
pub(super) const KNOWN_COMPAT: u64 = 0;
/// Unknown ones forbid writing.
pub(super) const KNOWN_RO_COMPAT: u64 = 0;
/// Unknown ones forbid opening.
pub(super) const KNOWN_INCOMPAT: u64 = COLD_PACKS;

/// Rows of `txn` that are kept: a look back for people, hours of work deep.
pub(super) const TXN_KEPT: u64 = 1_000;

/// How long a statement waits for a lock that an outside `sqlite3 session.db` may hold.
const BUSY_TIMEOUT: Duration = Duration::from_millis(1_000);

/// KiB of page cache: a commit touches the inner pages of every table; a reader walks along one table or two, and
/// there are as many caches as readers at a time.
const WRITER_CACHE_KIB: i64 = 8 << 10;
const READER_CACHE_KIB: i64 = 2 << 10;

/// Prepared statements kept by a connection; there are about thirty in all.
const STATEMENTS: usize = 64;

/// Opens a connection that may write. The file must exist.
pub(super) fn connect_writer(disk: &dyn Disk, path: &Path) -> rusqlite::Result<Connection> {
    let sql = connect(disk, path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB)?;
    // The WAL is copied back by the committer, when it says so: not in the middle of a burst, and not by a Drop.
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    sql.execute_batch("PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;")?;
    pragma(&sql, "wal_autocheckpoint", 0)?;
    Ok(sql)
}

/// Opens a connection that cannot write.
pub(super) fn connect_reader(disk: &dyn Disk, path: &Path) -> rusqlite::Result<Connection> {
    connect(disk, path, OpenFlags::SQLITE_OPEN_READ_ONLY, READER_CACHE_KIB)
}

fn connect(disk: &dyn Disk, path: &Path, access: OpenFlags, cache_kib: i64) -> rusqlite::Result<Connection> {
    // NO_MUTEX: a connection is used by one thread at a time, which the borrow checker sees to.
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = match disk.vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    sql.busy_timeout(BUSY_TIMEOUT)?;
    // Without it SQLite compiles a statement on `block` anew for every value bound to it, on the chance that the value
    // lets it use the partial index.
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    sql.set_prepared_statement_cache_capacity(STATEMENTS);
    // The file may be damaged or a stranger's: SQLite shall believe it no more than we do. A trigger would do in our name
    // what its author wants, and a view in the place of a table need never end; we have no use for either.
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    sql.execute_batch(
        "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF;
         PRAGMA secure_delete = OFF; PRAGMA mmap_size = 0;",
    )?;
    pragma(&sql, "cache_size", -cache_kib)?;
    Ok(sql)
}

/// Sets a pragma, whether or not it answers with a row.
fn pragma(sql: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    sql.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(|error| match error {
        rusqlite::Error::QueryReturnedNoRows => Ok(()),
        other => Err(other),
    })
}

/// Asks SQLite for a journal mode and returns the one it is in then.
pub(super) fn set_journal_mode(sql: &Connection, mode: &str) -> rusqlite::Result<String> {
    sql.pragma_update_and_check(None, "journal_mode", mode, |row| row.get(0))
}

/// Makes every table and view in an empty database.
pub(super) fn install(sql: &Connection) -> Result<(), StoreError> {
    // Both have to be set before the first table; nothing reads the file until it is renamed, so no journal is needed.
    pragma(sql, "page_size", DB_PAGE_SIZE.into())?;
    sql.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = OFF;")?;
    set_journal_mode(sql, "MEMORY")?;
    pragma(sql, "application_id", APPLICATION_ID.into())?;
    pragma(sql, "user_version", FORMAT_VERSION.into())?;
    sql.execute_batch(TABLES)?;
    sql.execute_batch(HISTORY)?;
    sql.execute_batch(VIEWS)?;
    Ok(())
}

/// A row of `sqlite_schema`: a table, index, view or trigger. An index that SQLite makes by itself has no SQL.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    kind: String,
    name: String,
    table: String,
    sql: Option<String>,
}

/// What `ANALYZE` leaves, which people and their tools run: it tells SQLite how to find rows, not which.
const STATISTICS: [(&str, &str); 2] = [
    ("sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),
    ("sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"),
];

/// How much of a foreign name is told.
const NAME_SHOWN: usize = 60;

/// The first thing in which the schema of a database differs, byte for byte, from what [`install`] makes.
#[derive(Debug)]
pub(super) struct Difference {
    name: String,
    what: String,
}

impl Difference {
    fn new(kind: &str, name: &str, how: &str) -> Difference {
        // A stranger's words, and a terminal.
        let shown: String = name.chars().take(NAME_SHOWN).flat_map(char::escape_debug).collect();
        Difference { name: name.to_owned(), what: format!("{kind} \"{shown}\" {how}") }
    }

    /// Whether it is in the table that says which features a database needs: then that cannot be asked.
    pub fn is_in_superblock(&self) -> bool {
        self.name == "superblock"
    }

    /// The error that it is.
    pub fn error(self, path: &Path) -> StoreError {
        StoreError::Schema { path: path.to_owned(), what: self.what }
    }
}

/// Compares the schema with ours. Only what is compared here may be read from or written to.
pub(super) fn difference(sql: &Connection) -> Result<Option<Difference>, StoreError> {
    let mut missing: Vec<&Object> = ours()?.iter().collect();
    let mut found = None;
    let mut query = sql.prepare("SELECT type, name, tbl_name, sql FROM main.sqlite_master")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let Some(object) = Object::read(row)? else {
            return Ok(Some(Difference::new("row", "sqlite_schema", "is none that SQLite makes")));
        };
        if let Some(at) = missing.iter().position(|ours| **ours == object) {
            missing.swap_remove(at);
        } else if !object.is_statistics() {
            let how = if missing.iter().any(|ours| ours.name == object.name) { "is not ours" } else { "is foreign" };
            found = Some(Difference::new(&object.kind, &object.name, how));
            if found.as_ref().is_some_and(Difference::is_in_superblock) {
                return Ok(found);
            }
        }
    }
    let missing = missing.iter().min_by_key(|ours| ours.name != "superblock");
    Ok(match (found, missing) {
        (None, Some(ours)) => Some(Difference::new(&ours.kind, &ours.name, "is missing")),
        (Some(_), Some(ours)) if ours.name == "superblock" => {
            Some(Difference::new(&ours.kind, &ours.name, "is missing"))
        }
        (found, _) => found,
    })
}

impl Object {
    /// None of a row whose columns are no text.
    fn read(row: &Row<'_>) -> rusqlite::Result<Option<Object>> {
        let text = |at| -> rusqlite::Result<Option<String>> {
            Ok(match row.get_ref(at)? {
                // What is no UTF-8 is none of ours either way.
                ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                _ => None,
            })
        };
        let sql = match row.get_ref(3)? {
            ValueRef::Null => Some(None),
            _ => text(3)?.map(Some),
        };
        Ok(match (text(0)?, text(1)?, text(2)?, sql) {
            (Some(kind), Some(name), Some(table), Some(sql)) => Some(Object { kind, name, table, sql }),
            _ => None,
        })
    }

    fn is_statistics(&self) -> bool {
        let is =
            |(name, sql): &(&str, &str)| self.name == *name && self.table == *name && self.sql.as_deref() == Some(*sql);
        self.kind == "table" && STATISTICS.iter().any(is)
    }
}

/// What [`install`] makes, in a database of its own, once.
fn ours() -> Result<&'static [Object], StoreError> {
    static OURS: OnceLock<Vec<Object>> = OnceLock::new();
    if let Some(ours) = OURS.get() {
        return Ok(ours);
    }
    let sql = Connection::open_in_memory()?;
    install(&sql)?;
    let mut query = sql.prepare("SELECT type, name, tbl_name, sql FROM main.sqlite_master")?;
    let made = query.query_map([], Object::read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(OURS.get_or_init(|| made.into_iter().flatten().collect()))
}

const TABLES: &str = "
CREATE TABLE superblock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    uuid BLOB NOT NULL, parent_uuid BLOB, parent_txid INTEGER,
    epoch INTEGER NOT NULL, txid INTEGER NOT NULL, digest BLOB NOT NULL,
    hash_algorithm TEXT NOT NULL, block_size INTEGER NOT NULL,
    feature_compat INTEGER NOT NULL, feature_ro_compat INTEGER NOT NULL, feature_incompat INTEGER NOT NULL,
    next_ino INTEGER NOT NULL, next_data INTEGER NOT NULL, next_pack INTEGER NOT NULL,
    next_cookie INTEGER NOT NULL, next_seq INTEGER NOT NULL,
    bytes_limit INTEGER NOT NULL, inodes_limit INTEGER NOT NULL,
    inodes INTEGER NOT NULL, pieces INTEGER NOT NULL, files INTEGER NOT NULL,
    dirs INTEGER NOT NULL, bytes INTEGER NOT NULL,
    clean INTEGER NOT NULL,
    created_s INTEGER NOT NULL, created_ns INTEGER NOT NULL,
    last_active_s INTEGER NOT NULL, last_active_ns INTEGER NOT NULL,
    sum INTEGER NOT NULL
) STRICT;
CREATE TABLE txn (
    txid INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    time_s INTEGER NOT NULL, time_ns INTEGER NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE TABLE inode (
    ino INTEGER PRIMARY KEY, since INTEGER NOT NULL,
    mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, nlink INTEGER NOT NULL, rdev INTEGER NOT NULL,
    size INTEGER NOT NULL, pieces INTEGER NOT NULL, attached INTEGER NOT NULL,
    atime_s INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, btime_s INTEGER NOT NULL, btime_ns INTEGER NOT NULL,
    target BLOB, sum INTEGER NOT NULL
) STRICT;
CREATE TABLE dentry (
    parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, kind INTEGER NOT NULL,
    cookie INTEGER NOT NULL, since INTEGER NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE block (
    ino INTEGER NOT NULL, idx INTEGER NOT NULL, data_id INTEGER NOT NULL, mask INTEGER NOT NULL,
    shared INTEGER NOT NULL, since INTEGER NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY (ino, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX block_shared ON block (data_id) WHERE shared = 1;
CREATE TABLE data (
    id INTEGER PRIMARY KEY, pack INTEGER NOT NULL, position INTEGER NOT NULL, len INTEGER NOT NULL,
    hash INTEGER NOT NULL
) STRICT;
CREATE TABLE pack (
    id INTEGER PRIMARY KEY, codec INTEGER NOT NULL, raw_len INTEGER NOT NULL, frame BLOB NOT NULL
) STRICT;
CREATE TABLE xattr (
    ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, since INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    UNIQUE (ino, name)
) STRICT;
CREATE TABLE orphan (ino INTEGER PRIMARY KEY) STRICT;
";

const HISTORY: &str = "
CREATE TABLE inode_history (
    ino INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
    mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, nlink INTEGER NOT NULL, rdev INTEGER NOT NULL,
    size INTEGER NOT NULL, pieces INTEGER NOT NULL, attached INTEGER NOT NULL,
    atime_s INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, btime_s INTEGER NOT NULL, btime_ns INTEGER NOT NULL,
    target BLOB, sum INTEGER NOT NULL,
    PRIMARY KEY (ino, since)
) STRICT, WITHOUT ROWID;
CREATE TABLE dentry_history (
    parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, kind INTEGER NOT NULL,
    cookie INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY (parent, name, since)
) STRICT, WITHOUT ROWID;
CREATE TABLE block_history (
    ino INTEGER NOT NULL, idx INTEGER NOT NULL, data_id INTEGER NOT NULL, mask INTEGER NOT NULL,
    shared INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY (ino, idx, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX block_history_shared ON block_history (data_id) WHERE shared = 1;
CREATE TABLE xattr_history (
    ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    UNIQUE (ino, name, since)
) STRICT;
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, txid INTEGER NOT NULL, digest BLOB NOT NULL,
    created_s INTEGER NOT NULL, created_ns INTEGER NOT NULL
) STRICT;
";

/// For people with `sqlite3` in their hands; no code reads them. 'path' walks down from the root, so it shows
/// exactly what a mount shows.
const VIEWS: &str = "
CREATE VIEW path AS
WITH RECURSIVE tree (path, ino) AS (
    SELECT '/', 1
    UNION ALL
    SELECT rtrim(tree.path, '/') || '/' || CAST(dentry.name AS TEXT), dentry.ino
    FROM tree JOIN dentry ON dentry.parent = tree.ino
)
SELECT tree.path AS path, inode.ino AS ino,
    CASE inode.mode >> 12 WHEN 1 THEN 'p' WHEN 2 THEN 'c' WHEN 4 THEN 'd' WHEN 6 THEN 'b' WHEN 8 THEN '-'
        WHEN 10 THEN 'l' WHEN 12 THEN 's' ELSE '?' END AS type,
    printf('%04o', inode.mode & 4095) AS mode, inode.uid AS uid, inode.gid AS gid, inode.size AS size,
    strftime('%Y-%m-%dT%H:%M:%S', inode.mtime_s, 'unixepoch') || printf('.%09dZ', inode.mtime_ns) AS mtime
FROM tree JOIN inode ON inode.ino = tree.ino;
CREATE VIEW usage AS
SELECT pieces * 4096 AS bytes_used, bytes_limit, inodes AS inodes_used, inodes_limit, files, dirs,
    bytes AS file_bytes, txid, strftime('%Y-%m-%dT%H:%M:%SZ', last_active_s, 'unixepoch') AS last_active
FROM superblock;
";
