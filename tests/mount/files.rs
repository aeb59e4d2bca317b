//! Content: reading, writing, holes, allocation, mapping, appending, and files without a name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Session, can_mount};
use crate::sys::{self, Map, errno};

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;

fn read_write(path: &std::path::Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn what_is_written_is_read() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    let file = File::create_new(&path).unwrap();
    assert_eq!(errno(File::create_new(&path)), libc::EEXIST);
    let text: Vec<u8> = (0..3_000_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    (&file).write_all(&text).unwrap();
    assert_eq!(fs::read(&path).unwrap(), text);
    file.write_all_at(b"middle", 1_234_567).unwrap();
    let mut found = [0; 8];
    File::open(&path).unwrap().read_exact_at(&mut found, 1_234_566).unwrap();
    assert_eq!(found[1..7], *b"middle");
    assert_eq!(file.metadata().unwrap().len(), 3_000_000);

    // O_TRUNC, then shorter and longer by truncate.
    File::create(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    fs::write(&path, b"0123456789").unwrap();
    file.set_len(4).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123\0\0");
    assert_eq!(errno(fs::read(session.root())), libc::EISDIR);
}

#[test]
fn two_appenders_lose_nothing() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("log");
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for line in 0..500 {
                    log.write_all(format!("{writer} {line:04}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let log = fs::read_to_string(&path).unwrap();
    for writer in 0..4 {
        let own: Vec<&str> = log.lines().filter(|line| line.starts_with(&format!("{writer} "))).collect();
        let expected: Vec<String> = (0..500).map(|line| format!("{writer} {line:04}")).collect();
        assert_eq!(own, expected);
    }
}

#[test]
fn concurrent_writers_of_one_file_keep_to_their_places() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("shared");
    const SIZE: usize = 300_000; // not a multiple of anything: writers share pieces and blocks
    thread::scope(|scope| {
        for writer in 0..8_usize {
            let path = &path;
            scope.spawn(move || {
                let file = read_write(path);
                let own = vec![writer as u8 + 1; SIZE];
                for part in own.chunks(7001).enumerate() {
                    file.write_all_at(part.1, (writer * SIZE + part.0 * 7001) as u64).unwrap();
                }
                file.sync_all().unwrap();
            });
        }
    });
    for _ in 0..2 {
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 8 * SIZE);
        assert!(content.chunks(SIZE).enumerate().all(|(i, own)| own.iter().all(|b| *b == i as u8 + 1)));
        session.remount();
    }
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("gone");
    let free = || sys::statvfs(&session.root()).unwrap().f_bfree;
    let before = free();
    let mut file = read_write(&path);
    file.write_all(&[1; 1 << 20]).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
    let attr = file.metadata().unwrap();
    assert_eq!((attr.nlink(), attr.len(), attr.blocks()), (0, 1 << 20, 2048));
    file.write_all_at(b"still here", 1 << 20).unwrap();
    let mut found = [0; 10];
    file.read_exact_at(&mut found, 1 << 20).unwrap();
    assert_eq!(&found, b"still here");
    assert_eq!(before - free(), 257);
    // A new file under the old name is another file.
    fs::write(&path, b"new").unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), attr.ino());
    fs::remove_file(&path).unwrap();
    drop(file);
    let deadline = Instant::now() + Duration::from_secs(5);
    while free() != before {
        assert!(Instant::now() < deadline, "the space of a closed, unlinked file does not come back");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_file_replaced_by_rename_lives_until_it_is_closed() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let (old, new) = (session.path("old"), session.path("new"));
    fs::write(&old, b"old").unwrap();
    fs::write(&new, b"new").unwrap();
    let mut file = File::open(&old).unwrap();
    fs::rename(&new, &old).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), file.metadata().unwrap().nlink()), ("old", 0));
    assert_eq!(fs::read(&old).unwrap(), b"new");

    let dir = session.path("dir");
    fs::create_dir(&dir).unwrap();
    let open = File::open(&dir).unwrap();
    fs::remove_dir(&dir).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
}

#[test]
fn holes_are_where_nothing_was_written() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("sparse");
    let file = read_write(&path);
    file.write_all_at(b"x", 1 << 20).unwrap();
    file.write_all_at(&[2; 4096], 5 << 20).unwrap();
    file.set_len(10 << 20).unwrap();
    drop(file);
    for _ in 0..2 {
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 16);
        assert_eq!(sys::seek(&file, 0, libc::SEEK_DATA).unwrap(), 1 << 20);
        assert_eq!(sys::seek(&file, 1 << 20, libc::SEEK_HOLE).unwrap(), (1 << 20) + 4096);
        assert_eq!(sys::seek(&file, (1 << 20) + 4096, libc::SEEK_DATA).unwrap(), 5 << 20);
        assert_eq!(sys::seek(&file, 0, libc::SEEK_HOLE).unwrap(), 0);
        assert_eq!(errno(sys::seek(&file, 6 << 20, libc::SEEK_DATA)), libc::ENXIO);
        assert_eq!(sys::seek(&file, 6 << 20, libc::SEEK_HOLE).unwrap(), 6 << 20);
        assert_eq!(errno(sys::seek(&file, 10 << 20, libc::SEEK_HOLE)), libc::ENXIO);
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 10 << 20);
        assert_eq!(content.iter().map(|b| usize::from(*b)).sum::<usize>(), usize::from(b'x') + 2 * 4096);
        drop(file);
        session.remount();
    }
}

#[test]
fn fallocate_in_all_its_modes() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    let file = read_write(&path);
    let state = || file.metadata().map(|attr| (attr.len(), attr.blocks() / 8)).unwrap();
    sys::fallocate(&file, 0, 0, 100_000).unwrap();
    assert_eq!(state(), (100_000, 25));
    sys::fallocate(&file, KEEP, 100_000, 100_000).unwrap();
    assert_eq!(state(), (100_000, 49));
    file.write_all_at(&[7; 100_000], 0).unwrap();
    sys::fallocate(&file, PUNCH, 4096, 8192).unwrap();
    assert_eq!(state(), (100_000, 47));
    sys::fallocate(&file, PUNCH, 20_000, 10).unwrap();
    sys::fallocate(&file, ZERO, 50_000, 60_000).unwrap();
    assert_eq!(state(), (110_000, 47));
    let mut expected = vec![7; 50_000];
    expected[4096..12_288].fill(0);
    expected[20_000..20_010].fill(0);
    expected.resize(110_000, 0);
    assert!(fs::read(&path).unwrap() == expected);
    for mode in [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE] {
        assert_eq!(errno(sys::fallocate(&file, mode, 0, 4096)), libc::EOPNOTSUPP);
    }
}

#[test]
fn copy_file_range_copies() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let text: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(session.path("from"), &text).unwrap();
    let from = File::open(session.path("from")).unwrap();
    let to = read_write(&session.path("to"));
    let mut at = 0;
    while at < text.len() {
        at += sys::copy_range(&from, at as i64, &to, at as i64, text.len()).unwrap() as usize;
    }
    assert!(fs::read(session.path("to")).unwrap() == text);
    assert_eq!(sys::copy_range(&from, 5, &to, 500_001, 77).unwrap(), 77);
    to.write_all_at(b"own", 0).unwrap();
    let mut expected = text.clone();
    expected.copy_within(5..82, 500_001);
    expected[..3].copy_from_slice(b"own");
    assert!(fs::read(session.path("to")).unwrap() == expected);
    assert!(fs::read(session.path("from")).unwrap() == text, "the source of a copy has changed");
    assert_eq!(sys::copy_range(&from, 2_000_000, &to, 0, 10).unwrap(), 0);
}

#[test]
fn a_shared_mapping_and_the_file_are_one() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("mapped");
    let file = read_write(&path);
    file.set_len(1 << 20).unwrap();
    let mut map = Map::of(&file, 1 << 20).unwrap();
    map[10..15].copy_from_slice(b"store");
    assert_eq!(fs::read(&path).unwrap()[10..15], *b"store");
    file.write_all_at(b"write", 500_000).unwrap();
    assert_eq!(map[500_000..500_005], *b"write");
    let mut other = Map::of(&read_write(&path), 1 << 20).unwrap();
    other[500_001] = b'R';
    assert_eq!(map[500_000..500_005], *b"wRite");
    map.sync().unwrap();
    map[999_999] = b'!';
    drop((map, other, file));
    session.remount();
    let content = fs::read(&path).unwrap();
    assert_eq!((&content[10..15], &content[500_000..500_005], content[999_999]), (&b"store"[..], &b"wRite"[..], b'!'));
}

#[test]
fn direct_io_reads_and_writes() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("direct");
    fs::write(&path, vec![1; 64 << 10]).unwrap();
    let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).expect("O_DIRECT");
    direct.write_all_at(&[2; 8192], 4096).unwrap();
    let content = fs::read(&path).unwrap();
    assert!(content[4096..12_288].iter().all(|b| *b == 2) && content[0] == 1 && content[12_288] == 1);
}
