//! Dead packs go, mostly dead ones are rewritten, and nobody who reads can tell.

use std::time::Duration;

use sessionfs::base::Ino;
use sessionfs::base::limits::{BLOCK_SIZE, COLD_PACK_MAX, COLD_PACK_MIN, PACK_RAW_MAX, PACK_TARGET};

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

/// Packs everything that is loose, and says in how many steps.
fn pack_cold(session: &mut Session) -> u64 {
    let mut steps = 0;
    while session.writer.pack_cold(Duration::from_millis(50)).unwrap() {
        steps += 1;
    }
    session.assert_clean();
    steps
}

fn pack_ids(session: &Session) -> String {
    sql(&session.path(), "SELECT group_concat(id) FROM pack")
}

#[test]
fn cold_packs_are_larger_and_are_made_once() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    for index in 0..40 * PACK_BLOCKS {
        // Comes again after more than a pack of a commit.
        session.write(file, index, &bytes(index % 20, BLOCK_SIZE));
    }
    let before = session.commit();
    assert_eq!(before.features, [0; 3]);
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 40);
    let stored = count(&session, "SELECT sum(length(frame)) FROM pack");
    let all = session.everything();
    assert!(pack_cold(&mut session) >= 10);
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 10);
    let range = format!("SELECT count(*) FROM pack WHERE raw_len BETWEEN {COLD_PACK_MIN} AND {COLD_PACK_MAX}");
    assert_eq!(count(&session, &range), 10);
    let now = count(&session, "SELECT sum(length(frame)) FROM pack");
    assert!(now < stored, "{stored} bytes, then {now}");
    assert_eq!(session.everything(), all);
    let after = session.store.superblock().unwrap();
    assert_eq!((after.txid, after.digest, after.counts), (before.txid, before.digest, before.counts));
    assert_eq!(after.features, [0, 0, 1], "an older program shall say that it does not know such packs");
    // Quiet from here on, in this mount and in the next.
    let ids = pack_ids(&session);
    assert_eq!(pack_cold(&mut session), 0);
    housekeep(&mut session);
    let mut session = session.reopen();
    assert_eq!(session.everything(), all);
    assert_eq!(pack_cold(&mut session), 0);
    assert_eq!(pack_ids(&session), ids);
}

#[test]
fn too_little_for_a_cold_pack_and_what_does_not_compress_stay_as_they_are() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "text");
    for index in 0..2 * PACK_BLOCKS {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
    }
    session.commit();
    let file = session.file(Ino::ROOT, "noise");
    for index in 0..8 * PACK_BLOCKS {
        session.write(file, index, &noise(index));
    }
    session.commit();
    let ids = pack_ids(&session);
    assert_eq!(pack_cold(&mut session), 0);
    assert_eq!(pack_ids(&session), ids);
    assert_eq!(session.store.superblock().unwrap().features, [0; 3]);
}

#[test]
fn a_mostly_dead_cold_pack_is_rewritten_and_can_grow_cold_again() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    for index in 0..8 * PACK_BLOCKS {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
    }
    session.commit();
    pack_cold(&mut session);
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 2);
    for index in (0..8 * PACK_BLOCKS).filter(|index| index % 4 != 0) {
        session.write(file, index, &bytes(1_000 + index, BLOCK_SIZE));
    }
    session.commit();
    let all = session.everything();
    housekeep(&mut session);
    assert_eq!(count(&session, &format!("SELECT count(*) FROM pack WHERE raw_len > {PACK_RAW_MAX}")), 0);
    pack_cold(&mut session);
    assert_eq!(count(&session, "SELECT count(*) FROM pack"), 2);
    assert_eq!(session.everything(), all);
    assert_eq!(session.reopen().everything(), all);
}

#[test]
fn a_crash_between_two_steps_leaves_everything_and_the_rest_is_done_later() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    for index in 0..12 * PACK_BLOCKS {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
    }
    session.commit();
    let all = session.everything();
    for left in [9, 6, 3] {
        assert!(session.writer.pack_cold(Duration::ZERO).unwrap());
        let mut copy = Session::open(session.crashed());
        assert_eq!(count(&copy, "SELECT count(*) FROM pack"), left);
        copy.assert_clean();
        assert_eq!(copy.everything(), all);
        pack_cold(&mut copy);
        assert_eq!(count(&copy, "SELECT count(*) FROM pack"), 3);
        assert_eq!(copy.everything(), all);
    }
}

#[test]
fn a_damaged_pack_is_not_packed_again() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "file");
    for index in 0..8 * PACK_BLOCKS {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
    }
    session.commit();
    let hurt = "UPDATE pack SET frame = CAST(substr(frame, 1, 99) || x'00' || substr(frame, 101) AS BLOB) WHERE id = 3";
    sql(&session.path(), hurt);
    while session.writer.pack_cold(Duration::from_millis(50)).unwrap() {}
    assert_eq!(count(&session, "SELECT count(*) FROM pack WHERE id = 3"), 1);
    assert_eq!(count(&session, "SELECT count(*) FROM data WHERE pack = 3"), PACK_BLOCKS);
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
