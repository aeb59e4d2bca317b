//! Creating, opening, closing, crashing.

use std::os::unix::fs::PermissionsExt;

use sessionfs::base::limits::BLOCK_SIZE;
use sessionfs::base::{Ino, Txid};
use sessionfs::store::{Store, StoreError};

use crate::session::{OPTIONS, Session, bytes, everything, sql};

fn files(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> =
        dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_database_is_one_private_file_with_a_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    Store::create(&path, &OPTIONS).unwrap();
    assert_eq!(files(dir.path()), ["session.db"]);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Store::create(&path, &OPTIONS), Err(StoreError::Io(_))), "never over another");
    let store = Store::open_read_only(&path).unwrap();
    let state = store.superblock().unwrap();
    assert_eq!((state.epoch, state.txid, state.clean), (0, Txid(0), true));
    assert_eq!((state.bytes_limit, state.inodes_limit), (1 << 30, 1_000));
    assert_eq!((state.counts.inodes, state.counts.dirs, state.next.ino), (1, 1, Ino(2)));
    let root = store.inode(Ino::ROOT).unwrap().unwrap();
    assert_eq!((root.mode, root.nlink, root.uid, root.gid), (0o040755, 2, 7, 8));
}

#[test]
fn a_close_leaves_one_clean_file() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    session.write(file, 0, &bytes(1, BLOCK_SIZE));
    session.commit();
    assert!(!session.store.superblock().unwrap().clean);
    assert!(files(session.dir.path()).contains(&"session.db-wal".to_owned()));
    let store = std::sync::Arc::clone(&session.store);
    let (dir, last) = session.close();
    assert!(last.clean);
    assert_eq!(files(dir.path()), ["session.db"]);
    assert!(matches!(store.superblock(), Err(StoreError::Io(_))), "closed means closed for readers too");
    let path = dir.path().join("session.db");
    assert_eq!(sql(&path, "PRAGMA journal_mode"), "delete");
    assert_eq!(Store::open_read_only(&path).unwrap().superblock().unwrap(), last);
}

/// An open and a close change SQLite's journal mode; what they leave when they die in it must not lock readers out.
#[test]
fn a_death_in_the_middle_of_an_open_or_a_close_leaves_a_readable_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    Store::create(&path, &OPTIONS).unwrap();
    let dying = rusqlite::Connection::open(&path).unwrap();
    dying.execute_batch("BEGIN IMMEDIATE; UPDATE superblock SET epoch = 99").unwrap();
    dying.cache_flush().unwrap();
    // What would be on the disk now is what a process that is killed here leaves.
    let dead = tempfile::tempdir().unwrap();
    for name in ["session.db", "session.db-journal"] {
        std::fs::copy(dir.path().join(name), dead.path().join(name)).unwrap();
    }
    let path = dead.path().join("session.db");
    assert_eq!(Store::open_read_only(&path).unwrap().superblock().unwrap().epoch, 0);
    assert_eq!(files(dead.path()), ["session.db"]);
}

#[test]
fn epochs_grow_and_ids_are_not_given_twice() {
    let mut session = Session::new();
    session.file(Ino::ROOT, "one");
    let mut session = session.reopen();
    let second = session.file(Ino::ROOT, "two");
    assert_eq!(second, Ino(3));
    let session = session.reopen();
    assert_eq!(session.store.superblock().unwrap().epoch, 3);
    assert_eq!(session.next.ino, Ino(4));
}

#[test]
fn a_crash_loses_nothing_that_was_committed() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    for index in 0..20 {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
        session.commit();
    }
    let (all, last) = (session.everything(), session.store.superblock().unwrap());
    session.write(file, 0, b"never committed");

    // The files as they lie there now, then the same process losing its writer.
    let copy = Session::open(session.crashed());
    assert_eq!(copy.everything(), all);
    let dir = session.dir;
    drop((session.store, session.writer));
    assert!(files(dir.path()).contains(&"session.db-wal".to_owned()), "a drop copies nothing back");
    let again = Session::open(dir);
    assert_eq!(again.everything(), all);
    let state = again.store.superblock().unwrap();
    assert_eq!((state.digest, state.counts, state.txid), (last.digest, last.counts, last.txid));
    assert!(!state.clean && state.epoch == last.epoch + 1);
}

#[test]
fn a_torn_wal_ends_at_a_commit() {
    let mut session = Session::new();
    let mut states = vec![];
    for index in 0..12 {
        let file = session.file(Ino::ROOT, &format!("file-{index}"));
        session.write(file, 0, &bytes(index, 3_000));
        states.push(session.commit().digest);
    }
    let whole = session.crashed();
    let wal = std::fs::read(whole.path().join("session.db-wal")).unwrap();
    for cut in (0..wal.len()).step_by(wal.len() / 23) {
        let torn = session.crashed();
        std::fs::write(torn.path().join("session.db-wal"), &wal[..cut]).unwrap();
        let store = Store::open_read_only(&torn.path().join("session.db")).unwrap();
        let state = store.superblock().unwrap();
        assert!(state.txid == Txid(0) || states[state.txid.0 as usize - 1] == state.digest);
        everything(&store);
    }
}

#[test]
fn readers_see_commits_and_the_writer_does_not_wait_for_them() {
    let mut session = Session::new();
    session.commit();
    let reader = Store::open_read_only(&session.path()).unwrap();
    session.file(Ino::ROOT, "file");
    session.commit();
    assert_eq!(reader.directory(Ino::ROOT).unwrap().len(), 1);
    // A look from outside with SQLite's own shell.
    assert_eq!(sql(&session.path(), "SELECT path, type, mode FROM path ORDER BY path"), "/|d|0755\n/file|-|0644");
    assert_eq!(sql(&session.path(), "SELECT files, dirs, inodes_limit FROM usage"), "1|1|1000");
    drop(reader);
}

#[test]
fn a_look_from_outside_delays_a_close_but_loses_nothing() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    session.write(file, 0, &bytes(1, BLOCK_SIZE));
    session.commit();
    let all = session.everything();
    let outside = Store::open_read_only(&session.path()).unwrap();
    let before = std::time::Instant::now();
    let (dir, last) = session.close();
    assert!(before.elapsed().as_secs() < 5);
    assert_eq!(outside.superblock().unwrap(), last);
    assert_eq!(everything(&outside), all);
    drop(outside);
    let again = Session::open(dir);
    assert_eq!(again.everything(), all);
    let (dir, _) = again.close();
    assert_eq!(files(dir.path()), ["session.db"]);
}

#[test]
fn caps_can_be_changed() {
    let mut session = Session::new();
    let before = session.commit();
    session.writer.set_limits(Some(5 << 30), None).unwrap();
    session.writer.set_limits(None, Some(u64::MAX)).unwrap();
    let session = session.reopen();
    let state = session.store.superblock().unwrap();
    assert_eq!((state.bytes_limit, state.inodes_limit), (5 << 30, i64::MAX as u64));
    assert_eq!((state.txid, state.digest), (before.txid, before.digest));
}

#[test]
fn what_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    assert!(matches!(Store::open(&path), Err(StoreError::Missing(_))));
    assert!(matches!(Store::open(dir.path()), Err(StoreError::NotOrdinary(_))));
    std::fs::write(&path, b"just a text, long enough to be taken for something with a header of its own".repeat(99))
        .unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::NotOurs(_))));
    assert!(matches!(Store::open_read_only(&path), Err(StoreError::NotOurs(_))));
    assert!(matches!(Store::create(&dir.path().join("no/where.db"), &OPTIONS), Err(StoreError::Missing(_))));
}
