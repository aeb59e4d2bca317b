//! What somebody else has put into a session database, or beside it: refused before anything is written, by name.

use std::fs;
use std::path::{Path, PathBuf};

use sessionfs::base::Ino;
use sessionfs::store::{Store, StoreError};

use crate::session::{Session, sql};

fn sample() -> (tempfile::TempDir, PathBuf) {
    let mut session = Session::new();
    session.file(Ino::ROOT, "file");
    let (dir, _) = session.close();
    let path = dir.path().join("session.db");
    (dir, path)
}

/// Opens it to read and to write; both must say the same, and leave it as it is.
#[track_caller]
fn refusal(path: &Path) -> StoreError {
    let before = fs::read(path).unwrap();
    let reading = Store::open_read_only(path).unwrap_err();
    let writing = Store::open(path).unwrap_err();
    assert_eq!(reading.to_string(), writing.to_string());
    assert!(fs::read(path).unwrap() == before, "it was written to");
    writing
}

/// What is planted, and what is said.
const FOREIGN: &[(&str, &str)] = &[
    ("CREATE TRIGGER t AFTER INSERT ON inode BEGIN DELETE FROM txn; END", "trigger \"t\" is foreign"),
    (
        "CREATE TRIGGER t AFTER UPDATE ON superblock BEGIN UPDATE superblock SET bytes_limit = 1 << 60; END",
        "trigger \"t\" is foreign",
    ),
    ("CREATE TRIGGER t INSTEAD OF INSERT ON usage BEGIN DELETE FROM txn; END", "trigger \"t\" is foreign"),
    ("CREATE TABLE other (x)", "table \"other\" is foreign"),
    ("CREATE VIRTUAL TABLE v USING fts5(x)", "is foreign"),
    ("CREATE INDEX i ON dentry (hex(zeroblob(1000)))", "index \"i\" is foreign"),
    ("CREATE INDEX i ON inode (size)", "index \"i\" is foreign"),
    ("CREATE VIEW more AS SELECT 1", "view \"more\" is foreign"),
    ("CREATE VIEW '\u{1b}[2J' AS SELECT 1", "view \"\\u{1b}[2J\" is foreign"),
    ("DROP VIEW path", "view \"path\" is missing"),
    ("DROP VIEW usage; CREATE VIEW usage AS SELECT 1", "view \"usage\" is not ours"),
    ("DROP TABLE orphan", "table \"orphan\" is missing"),
    ("DROP TABLE xattr; CREATE VIEW xattr AS SELECT 1 AS ino", "view \"xattr\" is not ours"),
    ("ALTER TABLE dentry ADD COLUMN more INTEGER GENERATED ALWAYS AS (hex(zeroblob(ino))) VIRTUAL", "table \"dentry\" is not ours"),
    ("ALTER TABLE data ADD COLUMN more INTEGER CHECK (abs(more) > 0)", "table \"data\" is not ours"),
    (
        "DROP TABLE superblock; CREATE VIEW superblock AS
         WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id FROM n) SELECT * FROM n",
        "view \"superblock\" is not ours",
    ),
    ("DROP TABLE superblock", "table \"superblock\" is missing"),
    (
        "PRAGMA writable_schema = 1;
         UPDATE sqlite_schema SET sql = replace(sql, 'shared = 1', 'shared = 0') WHERE name = 'block_shared'",
        "index \"block_shared\" is not ours",
    ),
    (
        "PRAGMA writable_schema = 1;
         UPDATE sqlite_schema SET sql = replace(sql, 'cookie INTEGER NOT NULL', 'cookie INTEGER') WHERE name = 'dentry'",
        "table \"dentry\" is not ours",
    ),
    (
        "CREATE TABLE s (tbl, idx, stat); PRAGMA writable_schema = 1;
         UPDATE sqlite_schema SET name = 'sqlite_stat1', tbl_name = 'sqlite_stat1',
            sql = 'CREATE TABLE sqlite_stat1 (tbl DEFAULT (random()), idx, stat)' WHERE name = 's'",
        "table \"sqlite_stat1\" is foreign",
    ),
];

#[test]
fn a_schema_that_is_not_ours_is_refused_by_name() {
    let (dir, path) = sample();
    let planted = dir.path().join("planted.db");
    for (statement, expected) in FOREIGN {
        fs::copy(&path, &planted).unwrap();
        sql(&planted, statement);
        let error = refusal(&planted);
        assert!(matches!(error, StoreError::Schema { .. }), "{statement}: {error}");
        assert!(error.to_string().contains(expected), "{statement}: {error}");
    }
}

#[test]
fn what_people_do_to_their_own_database_is_no_matter() {
    let (_dir, path) = sample();
    for statement in ["ANALYZE", "VACUUM", "PRAGMA optimize; REINDEX"] {
        sql(&path, statement);
        let (_, writer) = Store::open(&path).unwrap_or_else(|error| panic!("{statement}: {error}"));
        writer.close().unwrap();
    }
    // A copy by way of SQL text.
    let copy = path.with_extension("copy");
    let made = std::process::Command::new("sh")
        .args(["-c", "sqlite3 \"$0\" .dump | sqlite3 \"$1\" && sqlite3 \"$1\" \"$2\""])
        .args([&path, &copy])
        .arg("PRAGMA application_id = 0x53465331; PRAGMA user_version = 1")
        .status();
    assert!(made.unwrap().success());
    Store::open_read_only(&copy).unwrap();
}

#[test]
fn links_and_fifos_in_the_place_of_files_are_refused_at_once() {
    let (dir, path) = sample();
    let whole = fs::read(&path).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    for name in ["session.db", "session.db-wal", "session.db-shm", "session.db-journal"] {
        let at = dir.path().join(name);
        for kind in ["link", "fifo", "dir", "socket"] {
            let _ = fs::remove_file(&at);
            fs::write(&elsewhere, &whole).unwrap();
            let _socket = match kind {
                "link" => std::os::unix::fs::symlink(&elsewhere, &at).map(|()| None).unwrap(),
                "fifo" => {
                    assert!(std::process::Command::new("mkfifo").arg(&at).status().unwrap().success());
                    None
                }
                "dir" => fs::create_dir(&at).map(|()| None).unwrap(),
                _ => Some(std::os::unix::net::UnixListener::bind(&at).unwrap()),
            };
            for error in [Store::open_read_only(&path).unwrap_err(), Store::open(&path).map(drop).unwrap_err()] {
                let refused = matches!(error, StoreError::NotOrdinary(_) | StoreError::NotOurs(_));
                assert!(refused && error.to_string().contains(name), "{name}, {kind}: {error}");
            }
            assert!(fs::read(&elsewhere).unwrap() == whole, "{name}, {kind}: it was written to");
            if kind == "dir" {
                fs::remove_dir(&at).unwrap();
            }
        }
        let _ = fs::remove_file(&at);
        fs::write(&path, &whole).unwrap();
    }
    Store::open(&path).unwrap();
    // The directory itself may be a link.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    Store::open_read_only(&link.join("session.db")).unwrap();
}

/// A rollback journal of no pages, with a super-journal's name at its end.
fn journal(database: &Path, victim: &Path) -> Vec<u8> {
    let pages = (fs::metadata(database).unwrap().len() / 4096) as u32;
    let name = victim.to_str().unwrap().as_bytes();
    let mut bytes = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for word in [0, 0, pages, 512, 4096] {
        bytes.extend(u32::to_be_bytes(word));
    }
    bytes.resize(512, 0);
    bytes.extend(((1u32 << 30) / 4096 + 1).to_be_bytes());
    bytes.extend(name);
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(name.iter().map(|byte| u32::from(*byte)).sum::<u32>().to_be_bytes());
    bytes.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    bytes
}

#[test]
fn a_rollback_journal_has_no_file_removed() {
    let (dir, path) = sample();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("precious");
    // What is in it, to its first NUL, is the name of no file: SQLite takes it for a super-journal that nobody needs.
    let plant = || {
        fs::write(&victim, b"what somebody needs").unwrap();
        fs::write(dir.path().join("session.db-journal"), journal(&path, &victim)).unwrap();
    };
    plant();
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Leads(_)), "{error}");
    assert!(victim.exists());
    // That is no idle fear.
    sql(&path, "PRAGMA user_version; SELECT count(*) FROM inode");
    assert!(!victim.exists(), "SQLite by itself leaves it: this test shows nothing");
    Store::open(&path).unwrap();
}
