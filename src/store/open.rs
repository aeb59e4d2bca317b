//! The beginning and the end of a session database: creating, opening, closing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::ffi::SQLITE_READONLY_ROLLBACK;
use rusqlite::{Connection, ErrorCode};

use super::ahead::Ahead;
use super::commit::Statements;
use super::content::PackCache;
use super::files::ordinary;
use super::length::{cut, whole};
use super::maintain::copy_wal_back;
use super::pool::Pool;
use super::schema::{self, APPLICATION_ID, FORMAT_VERSION};
use super::{CreateOptions, Disk, HostDisk, NextIds, PacksWritten, Store, StoreError, Superblock, Writer, superblock};
use crate::base::{Cookie, DataId, FileKind, Ino, PackId, Seq, Timestamp, Txid, failpoint};
use crate::format::{Counts, Digest, InodeRow};

/// How long `close` waits for somebody who looks at the database from outside.
const OUTSIDERS_PATIENCE: Duration = Duration::from_secs(1);

/// How long `close` waits for reads under way.
const READERS_PATIENCE: Duration = Duration::from_secs(2);

impl Store {
    /// [`Store::create_on`] the disk of this host.
    pub fn create(path: &Path, options: &CreateOptions) -> Result<(), StoreError> {
        Store::create_on(&HostDisk::shared(), path, options)
    }

    /// Makes a new database at `path`; it appears there complete or not at all. An existing file is an error.
    pub fn create_on(disk: &Arc<dyn Disk>, path: &Path, options: &CreateOptions) -> Result<(), StoreError> {
        create(disk, path, options, None)
    }

    /// The same on the disk of this host, for a session that takes the place of another at one of its transactions.
    pub fn create_after(path: &Path, options: &CreateOptions, parent: ([u8; 16], Txid)) -> Result<(), StoreError> {
        create(&HostDisk::shared(), path, options, Some(parent))
    }

    /// [`Store::open_on`] the disk of this host.
    pub fn open(path: &Path) -> Result<(Arc<Store>, Writer), StoreError> {
        Store::open_on(&HostDisk::shared(), path)
    }

    /// Opens for reading and writing. The caller holds the session's lock. Raises the epoch, marks the database
    /// unclean. What is not ours, newer, or laid out otherwise is refused before anything is written.
    pub fn open_on(disk: &Arc<dyn Disk>, path: &Path) -> Result<(Arc<Store>, Writer), StoreError> {
        let sql = connect(disk.as_ref(), path, true)?;
        let mut state = superblock::read(&sql)?;
        superblock::verify_rows(&sql, &state)?;
        // Nothing was written up to here: a database that is refused stays as it is.
        let mode = schema::set_journal_mode(&sql, "WAL")?;
        if !mode.eq_ignore_ascii_case("wal") {
            return Err(StoreError::Io(format!("{}: no WAL possible here (SQLite stays in {mode})", path.display())));
        }
        failpoint::passed("the database is in WAL mode and not marked as open");
        state.epoch += 1;
        state.clean = false;
        state.last_active = Timestamp::now();
        superblock::write(&sql, &state).map_err(|error| error.on(&sql))?;
        failpoint::passed("the database is marked as open");
        let store = Arc::new(Store::on(disk, path));
        let writer = Writer { sql, path: path.to_owned(), store: Arc::clone(&store), state, space: None };
        Ok((store, writer))
    }

    /// [`Store::open_read_only_on`] the disk of this host.
    pub fn open_read_only(path: &Path) -> Result<Arc<Store>, StoreError> {
        Store::open_read_only_on(&HostDisk::shared(), path)
    }

    /// Opens for reading only, also beside a writer: a reader sees the last committed transaction.
    pub fn open_read_only_on(disk: &Arc<dyn Disk>, path: &Path) -> Result<Arc<Store>, StoreError> {
        let sql = connect(disk.as_ref(), path, false)?;
        superblock::read(&sql)?;
        let store = Store::on(disk, path);
        store.pool.put(sql);
        Ok(Arc::new(store))
    }

    /// Makes a session look as if it was last used then. Nobody has it open.
    #[cfg(test)]
    pub fn set_last_active(path: &Path, last_active: Timestamp) -> Result<(), StoreError> {
        let sql = connect(HostDisk::shared().as_ref(), path, true)?;
        let state = superblock::read(&sql)?;
        superblock::write(&sql, &Superblock { last_active, ..state }).map_err(|error| error.on(&sql))
    }

    /// The disk that holds it.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    fn on(disk: &Arc<dyn Disk>, path: &Path) -> Store {
        let pool = Arc::new(Pool::new(Arc::clone(disk), path.to_owned()));
        Store {
            disk: Arc::clone(disk),
            pool,
            cache: Arc::new(PackCache::default()),
            ahead: Ahead::default(),
            written: PacksWritten::default(),
        }
    }
}

impl Writer {
    /// Leaves it to the host when its commits reach the disk: for what need not outlive this process.
    pub fn never_sync(&self) -> Result<(), StoreError> {
        Ok(self.sql.pragma_update(None, "synchronous", "OFF")?)
    }

    /// Ends in one self-contained file: WAL copied back and gone, free pages given back, clean flag set.
    /// Returns the final superblock. Packs waiting to be rewritten are left for the next mount after about a second.
    ///
    /// Somebody who has the database open from outside keeps SQLite from removing the WAL; then it stays after a
    /// second of waiting, and the next open takes it in. No commit is lost by that.
    pub fn close(mut self) -> Result<Superblock, StoreError> {
        self.tidy();
        failpoint::passed("the database is tidy and marked as open");
        let mut last = self.state.clone();
        last.clean = true;
        last.last_active = Timestamp::now();
        superblock::write(&self.sql, &last).map_err(|error| error.on(&self.sql))?;
        failpoint::passed("the database is marked as stopped and its WAL is beside it");
        self.store.pool.close(READERS_PATIENCE);
        // Does not depend on being alone, so it is done even if what follows is not.
        copy_wal_back(&self.sql).map_err(|error| error.on(&self.sql))?;
        self.sql.flush_prepared_statement_cache();
        if !leave_wal(&self.sql)? {
            log::warn!("{}: somebody else has it open; the WAL stays beside it", self.path.display());
        }
        failpoint::passed("the database is one file and still open");
        let Writer { sql, path, store, .. } = self;
        sql.close().map_err(|(_, error)| StoreError::from(error))?;
        // The name of the WAL must not come back after a power cut.
        sync_directory_of(store.disk.as_ref(), &path).map_err(|error| StoreError::from_io(&path, &error))?;
        Ok(last)
    }
}

/// Where a session comes from.
type Parent = Option<([u8; 16], Txid)>;

fn create(disk: &Arc<dyn Disk>, path: &Path, options: &CreateOptions, parent: Parent) -> Result<(), StoreError> {
    if path.try_exists().map_err(|error| StoreError::from_io(path, &error))? {
        return Err(StoreError::Io(format!("{}: there already", path.display())));
    }
    let building = beside(path, ".new");
    let built = build(disk.as_ref(), &building, options, parent).and_then(|()| {
        // The rename below must never be on disk before what it names.
        let synced = disk.open(&building).and_then(|file| file.sync_data());
        failpoint::passed("a new session database is whole and has no name");
        let renamed = synced.and_then(|()| disk.rename(&building, path));
        failpoint::passed("a new session database has its name and its directory is not synced");
        let renamed = renamed.and_then(|()| sync_directory_of(disk.as_ref(), path));
        renamed.map_err(|error| StoreError::from_io(path, &error))
    });
    if built.is_err() {
        let _ = disk.remove(&building); // The first error is the one to report.
    }
    built
}

/// Connects to `path` and makes sure that it is a session database this program can read, or write.
fn connect(disk: &dyn Disk, path: &Path, writing: bool) -> Result<Connection, StoreError> {
    connect_to(disk, path, writing).map_err(|error| match error {
        // What SQLite calls corrupt, or no database, may only be too short.
        StoreError::Damaged(_) | StoreError::NotOurs(_) => cut(path).unwrap_or(error),
        other => other,
    })
}

fn connect_to(disk: &dyn Disk, path: &Path, writing: bool) -> Result<Connection, StoreError> {
    // What a link leads to counts here: one that leads nowhere is a file that is missing.
    fs::metadata(path).map_err(|error| StoreError::from_io(path, &error))?;
    ordinary(path)?;
    let sql = if writing { schema::connect_writer(disk, path) } else { connect_reader(disk, path) };
    let sql = sql.map_err(|error| StoreError::opening(path, error))?;
    let pragma = |name: &str| {
        sql.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(|error| StoreError::opening(path, error))
    };
    // SQLite reads the file here for the first time; one that is shorter than its header says it calls corrupt.
    if pragma("application_id")? != APPLICATION_ID {
        return Err(StoreError::NotOurs(path.to_owned()));
    }
    let found = pragma("user_version")?.cast_unsigned();
    if found > FORMAT_VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT_VERSION });
    }
    if found == 0 {
        return Err(StoreError::NotOurs(path.to_owned()));
    }
    let mut difference = schema::difference(&sql)?;
    if let Some(difference) = difference.take_if(|found| found.is_in_superblock()) {
        return Err(difference.error(path));
    }
    superblock::layout(&sql)?.verify(path, writing)?;
    // A later version may have other tables; then its flags have said so.
    if let Some(difference) = difference {
        return Err(difference.error(path));
    }
    whole(&sql, path)?;
    // Asked of a file it may not write, SQLite opens it for reading and says so only to those who ask.
    if writing && sql.is_readonly("main")? {
        return Err(StoreError::Permission(path.to_owned()));
    }
    Ok(sql)
}

/// Connects for reading. SQLite changes from one journal mode to another with a rollback journal; a crash in there leaves
/// it behind, and only a connection that may write can play it back: the database is then what its last commit made it.
fn connect_reader(disk: &dyn Disk, path: &Path) -> rusqlite::Result<Connection> {
    match schema::connect_reader(disk, path) {
        Err(error) if error.sqlite_error().is_some_and(|code| code.extended_code == SQLITE_READONLY_ROLLBACK) => {
            drop(schema::connect_writer(disk, path)?);
            schema::connect_reader(disk, path)
        }
        connected => connected,
    }
}

/// Has the WAL removed, which SQLite does only for who is alone; false if somebody else stays too long.
fn leave_wal(sql: &Connection) -> Result<bool, StoreError> {
    let until = Instant::now() + OUTSIDERS_PATIENCE;
    loop {
        match schema::set_journal_mode(sql, "DELETE") {
            Ok(mode) if mode.eq_ignore_ascii_case("delete") => return Ok(true),
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
            Err(error) => return Err(StoreError::from(error).on(sql)),
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        // SQLite's own busy handler is not asked about this lock.
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes the whole database in a file nobody knows of yet.
fn build(disk: &dyn Disk, path: &Path, options: &CreateOptions, parent: Parent) -> Result<(), StoreError> {
    // In the place of what a crash in here left behind.
    disk.create(path).map_err(|error| StoreError::from_io(path, &error))?;
    failpoint::passed("a new session database is an empty file");
    let mut sql = schema::connect_writer(disk, path).map_err(|error| StoreError::opening(path, error))?;
    let installed = schema::install(&sql);
    failpoint::passed("a new session database has tables and no root");
    let filled = installed.and_then(|()| fill(&mut sql, options, parent)).map_err(|error| error.on(&sql));
    sql.close().map_err(|(_, error)| StoreError::from(error))?;
    filled
}

/// Puts the root directory and the superblock in: the state that txid 0 names.
fn fill(sql: &mut Connection, options: &CreateOptions, parent: Parent) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let root = InodeRow {
        ino: Ino::ROOT,
        mode: FileKind::Directory.mode_bits() | 0o755,
        uid: options.uid,
        gid: options.gid,
        nlink: 2,
        rdev: 0,
        size: 0,
        pieces: 0,
        attached: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        target: Box::default(),
    };
    let (mut digest, mut counts) = (Digest::default(), Counts::default());
    digest.add_inode(&root);
    counts.add(&root);
    let state = Superblock {
        uuid: random_uuid()?,
        parent,
        epoch: 0,
        txid: Txid(0),
        digest,
        counts,
        next: NextIds { ino: Ino(2), data: DataId(1), pack: PackId(1), cookie: Cookie(1), seq: Seq(1) },
        bytes_limit: options.bytes_limit,
        inodes_limit: options.inodes_limit,
        clean: true,
        created: now,
        last_active: now,
        features: [0; 3],
    };
    let txn = sql.transaction()?;
    Statements::prepare(&txn)?.put_inode(&root, state.txid)?;
    superblock::write(&txn, &state)?;
    Ok(txn.commit()?)
}

pub(super) fn random() -> Result<[u8; 16], StoreError> {
    let mut bytes = [0; 16];
    // SAFETY: the kernel fills at most `bytes.len()` bytes, which `bytes` has.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes come whole or not at all.
    if got != 16 {
        return Err(StoreError::Io(format!("no random bytes: {}", io::Error::last_os_error())));
    }
    Ok(bytes)
}

fn random_uuid() -> Result<[u8; 16], StoreError> {
    let mut uuid = random()?;
    // Version 4, variant 1: so that tools which print UUIDs know what they see.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

/// The file of the same name with `suffix` behind it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes names in `path`'s directory durable.
fn sync_directory_of(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.sync_directory(directory_of(path))
}

/// The directory that a name is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
