//! Dead packs go, mostly dead ones are rewritten, and nobody who reads can tell.

use std::time::Duration;

use sessionfs::base::Ino;
use sessionfs::base::limits::{BLOCK_SIZE, PACK_TARGET};

use crate::session::{PACK_BLOCKS, Session, bytes, sql};

fn count(session: &Session, query: &str) -> u64 {
    sql(&session.path(), query).parse().unwrap()
}

fn housekeep(session: &mut Session) {
    while session.writer.maintain(Duration::from_millis(50)).unwrap() {}
    session.assert_clean();
}

#[test]
fn a_pack_with_nothing_alive_is_deleted_by_the_commit_that_killed_it() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    for index in 0..4 * PACK_BLOCKS {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
    }
    session.commit();
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 4);
    session.truncate(file, 2 * PACK_BLOCKS);
    session.commit();
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 2);
    // A pack's blocks are written again, half of them at a time: what they leave dies with the second half.
    for half in [0..PACK_BLOCKS / 2, PACK_BLOCKS / 2..PACK_BLOCKS] {
        for index in half {
            session.write(file, index, &bytes(500 + index, BLOCK_SIZE));
        }
        session.commit();
    }
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 3);
    session.unlink(Ino::ROOT, "file");
    session.forget(file);
    session.commit();
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 0);
    assert_eq!(count(&session, "SELECT count(*) FROM data"), 0);
}

#[test]
fn mostly_dead_packs_are_rewritten_and_their_content_stays() {
    let mut session = Session::new();
    // Packs follow the order of names, so in each of them every fourth file is one to keep.
    let files = 8 * PACK_TARGET as u64 / 12_000;
    for i in 0..files {
        let file = session.file(Ino::ROOT, &format!("{i:04}"));
        session.write(file, 0, &bytes(i + 100, 12_000));
    }
    session.commit();
    let packs = count(&session, "SELECT count(*) FROM pack");
    assert_eq!(packs, 8);
    for i in (0..files).filter(|i| i % 4 != 0) {
        let ino = session.unlink(Ino::ROOT, &format!("{i:04}"));
        session.forget(ino);
    }
    let before = session.commit();
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), packs, "each holds something");
    let all = session.everything();
    housekeep(&mut session);
    let now = count(&session, "SELECT count(*) FROM pack");
    assert!(now * 3 < packs, "{packs} packs, then {now}");
    assert_eq!(session.everything(), all);
    let after = session.store.superblock().unwrap();
    assert_eq!((after.txid, after.digest, after.counts), (before.txid, before.digest, before.counts));
    assert!(after.next.pack > before.next.pack);
    assert_eq!(session.reopen().everything(), all);
}

#[test]
fn the_small_packs_of_many_commits_are_merged() {
    let mut session = Session::new();
    for i in 0..40 {
        let file = session.file(Ino::ROOT, &format!("{i}"));
        session.write(file, 0, &bytes(i, PACK_TARGET / 32));
        session.write(file, 1, &[0; BLOCK_SIZE]);
        session.commit();
    }
    let all = session.everything();
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 40);
    housekeep(&mut session);
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 2);
    assert_eq!(session.everything(), all);
}

#[test]
fn a_close_gives_the_space_back() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    for index in 0..(25 << 20) / BLOCK_SIZE as u64 {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
    }
    let session = session.reopen();
    let full = session.path().metadata().unwrap().len();
    let mut session = session;
    session.truncate(file, 1);
    let (dir, _) = session.close();
    let left = dir.path().join("session.db").metadata().unwrap().len();
    assert!(full > 10 << 20 && left < 1 << 20, "{full} bytes, then {left}");
}

#[test]
fn the_wal_is_copied_back_and_used_again() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    let mut longest = 0;
    for round in 0..30 {
        for index in 0..(8 << 20) / BLOCK_SIZE as u64 {
            session.write(file, index, &noise(round * 1_000 + index));
        }
        session.commit();
        session.writer.maintain(Duration::from_millis(10)).unwrap();
        longest = longest.max(session.dir.path().join("session.db-wal").metadata().unwrap().len());
    }
    assert!(longest > 32 << 20, "the test writes enough to matter: {longest}");
    assert!(longest < 100 << 20, "{longest} bytes of WAL");
}

/// A block that no codec makes smaller.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1 << 40;
    let step = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..BLOCK_SIZE).map(step).collect()
}
