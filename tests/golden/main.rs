//! A session of format version 1, as a server that died has left it: it must be read for ever. And what is newer is
//! refused, never guessed at.
//!
//! `GOLDEN_BLESS=1` makes the files anew, from the program as it is: only for a new version of the format.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod listing;
mod make;
#[allow(dead_code)] // Shared with tests that change more than the superblock.
mod sums;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sessionfs::format::content_hash;
use sessionfs::store::{Store, StoreError, check};
use support::start;
use tempfile::TempDir;

/// Together they are small enough for a repository.
const MOST: u64 = 300 << 10;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

/// A copy that may be changed; the path is that of its database.
fn copied() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    for name in ["session.db", "session.journal"] {
        fs::copy(golden(name), dir.path().join(name)).unwrap();
    }
    let database = dir.path().join("session.db");
    (dir, database)
}

fn findings(database: &Path) -> Vec<sessionfs::store::Finding> {
    check(&Store::open_read_only(database).unwrap(), &mut |_, _| {}).unwrap()
}

#[test]
fn a_session_of_version_1_is_recovered_and_is_what_it_was() {
    if std::env::var_os("GOLDEN_BLESS").is_some() {
        make::bless(&golden(""));
    }
    let size: u64 =
        ["session.db", "session.journal"].iter().map(|name| fs::metadata(golden(name)).unwrap().len()).sum();
    assert!(size <= MOST, "{size} bytes");
    let expected = fs::read_to_string(golden("listing.txt")).unwrap();
    assert!(expected.lines().count() > 12, "{expected}");

    let (_dir, database) = copied();
    let fs = start(&database).unwrap();
    let recovery = fs.health().recovery;
    println!("{size} bytes, {recovery:?}");
    assert!(recovery.operations > 10, "some of it is in the journal: {recovery:?}");
    assert_eq!(listing::of(&fs), expected);
    fs.stop().unwrap();
    assert_eq!(findings(&database), []);

    let fs = start(&database).unwrap();
    assert!(!fs.health().recovery.was_needed());
    assert_eq!(listing::of(&fs), expected, "after a stop");
    fs.stop().unwrap();
}

#[test]
fn what_the_journal_does_not_hold_was_in_the_database_before() {
    let expected = fs::read_to_string(golden("listing.txt")).unwrap();
    let (_dir, database) = copied();
    let journal = database.with_extension("journal");
    let (_, aside) = Store::discard_journal(&sessionfs::store::HostDisk::shared(), &database, &journal).unwrap();
    assert!(aside.is_some());
    let fs = start(&database).unwrap();
    let committed = listing::of(&fs);
    assert_ne!(committed, expected);
    let common = committed.lines().filter(|line| expected.contains(line)).count();
    assert!(common >= 3, "{committed}");
    fs.stop().unwrap();
}

/// Changes a copy and expects it to be refused, unchanged.
fn refused(change: impl Fn(&Path)) -> StoreError {
    let (dir, database) = copied();
    change(&database);
    let hashes = || {
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| !path.to_string_lossy().ends_with("-shm") && fs::metadata(path).unwrap().len() > 0);
        files.sort();
        files.into_iter().map(|path| (content_hash(&fs::read(&path).unwrap()), path)).collect::<Vec<_>>()
    };
    let before = hashes();
    let error = start(&database).unwrap_err();
    assert_eq!(hashes(), before, "a refusal writes nothing");
    error
}

/// Runs SQL on the database, and leaves one file.
fn sql(database: &Path, statement: &str) {
    let sql = Connection::open(database).unwrap();
    sql.execute_batch(statement).unwrap();
    sums::reseal_superblock(&sql);
    sql.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

#[test]
fn a_newer_version_of_the_database_is_refused() {
    let error = refused(|database| sql(database, "PRAGMA user_version = 2"));
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error:?}");
}

#[test]
fn an_unknown_incompatible_flag_is_refused_also_to_readers() {
    let error = refused(|database| {
        sql(database, "UPDATE superblock SET feature_incompat = 4");
        let error = Store::open_read_only(database).unwrap_err();
        assert!(matches!(error, StoreError::Features { flags: 4, .. }), "{error:?}");
    });
    assert!(matches!(error, StoreError::Features { flags: 4, .. }), "{error:?}");
}

#[test]
fn an_unknown_flag_that_forbids_writing_is_refused_to_writers_only() {
    let error = refused(|database| {
        sql(database, "UPDATE superblock SET feature_ro_compat = 2");
        Store::open_read_only(database).unwrap();
    });
    assert!(matches!(error, StoreError::Features { flags: 2, .. }), "{error:?}");
}

#[test]
fn an_unknown_compatible_flag_is_kept() {
    let (_dir, database) = copied();
    sql(&database, "UPDATE superblock SET feature_compat = 8");
    start(&database).unwrap().stop().unwrap();
    let flags: i64 = Connection::open(&database)
        .unwrap()
        .query_row("SELECT feature_compat FROM superblock", [], |row| row.get(0))
        .unwrap();
    assert_eq!(flags, 8);
}

#[test]
fn a_newer_version_of_the_journal_is_refused() {
    let error = refused(|database| {
        let path = database.with_extension("journal");
        let mut header = fs::read(&path).unwrap()[..64].to_vec();
        assert_eq!(header[8], 1);
        header[8] = 2;
        // With a checksum that is right: only the program is too old.
        header.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&header).to_le_bytes());
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&header, 0).unwrap();
    });
    assert!(matches!(&error, StoreError::Journal(why) if why.contains("version 2 is newer")), "{error:?}");
}
