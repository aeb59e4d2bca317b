//! The journal as a mount meets it: what it holds, what it gives back, and what is refused.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use sessionfs::base::limits::{DIRTY_MAX, JOURNAL_KEEP, JOURNAL_MAX, JOURNAL_SEGMENT};
use sessionfs::base::{Errno, Ino};
use sessionfs::fs::{Caller, Fs, WriteFlags};
use sessionfs::store::{CreateOptions, Store, StoreError};
use support::start;

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const MIB: usize = 1 << 20;

fn session() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    Store::create(&path, &CreateOptions { bytes_limit: 4 << 30, inodes_limit: 1 << 20, uid: 0, gid: 0 }).unwrap();
    (dir, path)
}

fn journal(database: &Path) -> PathBuf {
    database.with_extension("journal")
}

fn create(fs: &Fs, name: &str) -> Ino {
    fs.mknod(&ROOT_USER, Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0).unwrap().ino
}

/// A mebibyte that does not compress and differs from every other in each of its pages.
fn mebibyte(i: u64) -> Vec<u8> {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 7u64;
        let mut byte = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        (0..MIB).map(|_| byte()).collect()
    });
    let mut bytes = NOISE.clone();
    for page in (0..MIB).step_by(4096) {
        bytes[page..page + 8].copy_from_slice(&i.to_le_bytes());
    }
    bytes
}

fn read(fs: &Fs, file: Ino, at: u64, len: usize) -> Vec<u8> {
    let mut content = Vec::new();
    fs.read(file, at, len, &mut content).unwrap();
    content
}

/// Writes this many mebibytes, and over part of them again.
fn burst(fs: &Fs, mebibytes: u64) -> Ino {
    let file = create(fs, "burst");
    for i in 0..mebibytes {
        fs.write(file, i << 20, &mebibyte(i), WriteFlags::default()).unwrap();
    }
    for i in (0..mebibytes).step_by(3) {
        fs.write(file, (i << 20) + 5000, b"changed", WriteFlags::default()).unwrap();
    }
    file
}

fn assert_burst(fs: &Fs, file: Ino, mebibytes: u64) {
    for i in (0..mebibytes).rev() {
        let mut expected = mebibyte(i);
        if i % 3 == 0 {
            expected[5000..5007].copy_from_slice(b"changed");
        }
        assert!(read(fs, file, i << 20, MIB) == expected, "mebibyte {i}");
    }
}

fn assert_no_findings(database: &Path) {
    let store = Store::open_read_only(database).unwrap();
    let findings = sessionfs::store::check(&store, &mut |_, _| {}).unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn a_burst_is_held_by_the_journal_and_not_by_memory() {
    let (_dir, database) = session();
    let fs = start(&database).unwrap();
    let mebibytes = 3 * (DIRTY_MAX >> 20) as u64 + 38;
    let file = burst(&fs, mebibytes);
    let health = fs.health();
    println!("{} MiB waiting for their commit, {:?}", health.dirty_bytes >> 20, health.journal);
    assert!(health.dirty_bytes as usize > DIRTY_MAX, "the committer was faster than the burst");
    assert!(health.memory_bytes as usize <= DIRTY_MAX + 32 * MIB, "{} MiB", health.memory_bytes >> 20);
    assert_burst(&fs, file, mebibytes);
    fs.commit().unwrap();
    assert_burst(&fs, file, mebibytes);
    fs.stop().unwrap();
    assert_no_findings(&database);
}

#[test]
fn a_burst_survives_the_death_of_the_server() {
    let (_dir, database) = session();
    let fs = start(&database).unwrap();
    let mebibytes = 2 * (DIRTY_MAX >> 20) as u64;
    let file = burst(&fs, mebibytes);
    fs.abandon();
    let fs = start(&database).unwrap();
    assert_eq!(fs.lookup(Ino::ROOT, b"burst").unwrap().ino, file);
    println!("{:?}", fs.health().recovery);
    assert_burst(&fs, file, mebibytes);
    fs.stop().unwrap();
    assert_no_findings(&database);
}

#[test]
fn what_a_burst_took_goes_back_to_the_disk() {
    let (_dir, database) = session();
    let fs = start(&database).unwrap();
    let size = || fs::metadata(journal(&database)).unwrap().len();
    let mebibytes = 3 * (JOURNAL_KEEP >> 20);
    let file = burst(&fs, mebibytes);
    let largest = size();
    assert!(largest > JOURNAL_KEEP, "{largest}");
    fs.commit().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while size() > JOURNAL_KEEP {
        assert!(Instant::now() < patience, "{} bytes of journal", size());
        std::thread::sleep(Duration::from_millis(20));
    }
    // What is left is good for another burst, and for a recovery.
    let changed = mebibyte(mebibytes);
    for i in 0..mebibytes / 2 {
        fs.write(file, i << 20, &changed, WriteFlags::default()).unwrap();
    }
    fs.abandon();
    let fs = start(&database).unwrap();
    fs.lookup(Ino::ROOT, b"burst").unwrap();
    assert!((0..mebibytes / 2).all(|i| read(&fs, file, i << 20, MIB) == changed));
    assert!(read(&fs, file, (mebibytes - 2) << 20, 4096) == mebibyte(mebibytes - 2)[..4096]);
    fs.stop().unwrap();
    assert_no_findings(&database);
}

#[test]
fn segments_are_used_again_and_the_journal_stays_within_its_bound() {
    let (_dir, database) = session();
    let fs = start(&database).unwrap();
    let file = create(&fs, "file");
    let rounds = (JOURNAL_MAX >> 20) + 200;
    for round in 0..rounds {
        // Always the same place, so that the database stays small.
        fs.write(file, 0, &mebibyte(round), WriteFlags::default()).unwrap();
        let size = fs::metadata(journal(&database)).unwrap().len();
        assert!(size <= JOURNAL_MAX, "{size}");
    }
    fs.abandon();
    let fs = start(&database).unwrap();
    assert_eq!(fs.lookup(Ino::ROOT, b"file").unwrap().ino, file);
    assert!(read(&fs, file, 0, MIB) == mebibyte(rounds - 1));
    fs.stop().unwrap();
    assert!(!journal(&database).exists(), "a stop leaves one file");
    assert_no_findings(&database);
}

#[test]
fn a_journal_that_ends_early_gives_a_state_there_was() {
    let (dir, database) = session();
    let fs = start(&database).unwrap();
    let files = 200u64;
    for i in 0..files {
        create(&fs, &format!("file-{i}"));
    }
    fs.abandon();
    let whole = fs::read(journal(&database)).unwrap();
    let end = whole.iter().rposition(|&b| b != 0).unwrap();
    let mut counts = Vec::new();
    for step in 0..60 {
        let at = 4096 + (end - 4096) * step / 59;
        let copy = dir.path().join(format!("copy-{step}"));
        fs::create_dir(&copy).unwrap();
        for suffix in ["", "-wal"] {
            let name = format!("session.db{suffix}");
            fs::copy(dir.path().join(&name), copy.join(&name)).unwrap();
        }
        let mut torn = whole.clone();
        // Cut off, or a flipped bit: what is behind it does not count.
        if step % 2 == 0 {
            torn[at..].fill(0)
        } else {
            torn[at] ^= 1 << (step % 8)
        }
        fs::write(copy.join("session.journal"), &torn).unwrap();
        let fs = start(&copy.join("session.db")).unwrap();
        let count = (0..files).take_while(|i| fs.lookup(Ino::ROOT, format!("file-{i}").as_bytes()).is_ok()).count();
        for i in count as u64..files {
            assert_eq!(fs.lookup(Ino::ROOT, format!("file-{i}").as_bytes()).unwrap_err(), Errno::NoEnt);
        }
        counts.push(count);
        fs.stop().unwrap();
        assert_no_findings(&copy.join("session.db"));
    }
    assert!(counts.is_sorted(), "{counts:?}");
    assert!(counts[0] < 5 && counts[58] > 190, "{counts:?}");
}

fn refusal(database: &Path) -> String {
    match start(database) {
        Err(StoreError::Journal(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_journal_that_does_not_belong_to_the_database_is_refused_and_nothing_is_changed() {
    let (_dir, database) = session();
    let fs = start(&database).unwrap();
    create(&fs, "file");
    fs.abandon();
    drop(fs);
    let ours = fs::read(journal(&database)).unwrap();
    let before = fs::read(&database).unwrap();

    let (_other_dir, other) = session();
    let fs = start(&other).unwrap();
    create(&fs, "file");
    fs.abandon();
    drop(fs);
    fs::copy(journal(&other), journal(&database)).unwrap();
    assert!(refusal(&database).contains("of another session"), "{}", refusal(&database));

    fs::remove_file(journal(&database)).unwrap();
    assert!(refusal(&database).contains("missing"));

    fs::write(journal(&database), vec![7; JOURNAL_SEGMENT as usize]).unwrap();
    assert!(refusal(&database).contains("no segment of it is readable"));

    fs::write(journal(&database), &ours).unwrap();
    assert_eq!(fs::read(&database).unwrap(), before, "a refusal writes nothing");
    let fs = start(&database).unwrap();
    fs.lookup(Ino::ROOT, b"file").unwrap();
    fs.stop().unwrap();
}

#[test]
fn a_database_older_than_its_journal_is_refused() {
    let (dir, database) = session();
    let old = dir.path().join("old.db");
    let fs = start(&database).unwrap();
    let file = create(&fs, "file");
    fs.stop().unwrap();
    fs::copy(&database, &old).unwrap();
    for _ in 0..2 {
        let fs = start(&database).unwrap();
        fs.lookup(Ino::ROOT, b"file").unwrap();
        fs.write(file, 0, b"newer", WriteFlags::default()).unwrap();
        fs.stop().unwrap();
    }
    let fs = start(&database).unwrap();
    fs.lookup(Ino::ROOT, b"file").unwrap();
    fs.write(file, 0, b"newest", WriteFlags::default()).unwrap();
    fs.abandon();
    drop(fs);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("session.db{suffix}")));
    }
    fs::copy(&old, &database).unwrap();
    assert!(refusal(&database).contains("do not belong together"), "{}", refusal(&database));
}

#[test]
fn a_header_of_a_later_version_is_refused() {
    let (_dir, database) = session();
    let fs = start(&database).unwrap();
    create(&fs, "file");
    fs.abandon();
    let file = fs::OpenOptions::new().write(true).open(journal(&database)).unwrap();
    // With a checksum that is right: only the program is too old.
    let mut header = fs::read(journal(&database)).unwrap()[..64].to_vec();
    header[8] = 2;
    let check = xxhash_rust::xxh3::xxh3_64(&header);
    header.extend_from_slice(&check.to_le_bytes());
    file.write_at(&header, 0).unwrap();
    let why = refusal(&database);
    assert!(why.contains("version 2 is newer"), "{why}");
}

#[test]
fn callers_of_fsync_are_served_together() {
    let (_dir, database) = session();
    let fs = start(&database).unwrap();
    let (threads, rounds) = (8, 40);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let fs = Arc::clone(&fs);
            scope.spawn(move || {
                let file = create(&fs, &format!("file-{thread}"));
                for i in 0..rounds {
                    fs.write(file, i * 4096, &[thread as u8; 4096], WriteFlags::default()).unwrap();
                    fs.fsync().unwrap();
                }
            });
        }
    });
    let syncs = fs.health().journal.syncs;
    println!("{syncs} syncs for {} callers", threads * rounds);
    assert!(syncs >= 1 && syncs < threads * rounds * 3 / 4, "{syncs}");
    fs.stop().unwrap();
}
