//! The most there can be: names in a directory, depth, bytes of a name, bytes of a file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{Session, can_mount};
use crate::sys::{self, Dir, errno};

#[test]
fn a_directory_of_100_000_names() {
    if !can_mount() {
        return;
    }
    const NAMES: usize = 100_000;
    let mut session = Session::new();
    let dir = session.path("dir");
    fs::create_dir(&dir).unwrap();
    let free = |session: &Session| sys::statvfs(&session.root()).map(|at| (at.f_bfree, at.f_ffree)).unwrap();
    let before = free(&session);
    let name = |i: usize| format!("file-{i:06}");
    thread::scope(|scope| {
        for part in 0..2 {
            let dir = &dir;
            let make = move || {
                (part..NAMES)
                    .step_by(2)
                    .for_each(|i| sys::mknod(&dir.join(name(i)), libc::S_IFREG | 0o644, 0).unwrap());
            };
            scope.spawn(make);
        }
    });
    // 24 bytes and the name's own for each.
    assert_eq!(fs::metadata(&dir).unwrap().len(), NAMES as u64 * (24 + 11));
    let expected: BTreeSet<String> = (0..NAMES).map(name).collect();
    for _ in 0..2 {
        let listed: Vec<String> = Dir::open(&dir)
            .unwrap()
            .map(|name| name.into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        assert_eq!(listed.len(), NAMES, "each is listed once");
        assert!(listed.into_iter().collect::<BTreeSet<_>>() == expected);
        for i in (0..NAMES).step_by(997) {
            assert!(fs::metadata(dir.join(name(i))).unwrap().is_file());
            assert_eq!(errno(fs::metadata(dir.join(format!("none-{i}")))), libc::ENOENT);
        }
        session.remount();
    }
    assert_eq!(errno(fs::remove_dir(&dir)), libc::ENOTEMPTY);
    // Deleted while it is listed, as `rm -r` does.
    fs::remove_dir_all(&dir).unwrap();
    session.remount();
    let after = free(&session);
    assert_eq!((after.0, after.1), (before.0 + 1, before.1 + 1), "all is given back, the directory's own name too");
}

/// What lies in an open directory, by a path that is never long.
fn inside(dir: &File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)
}

#[test]
fn a_tree_deeper_than_any_path() {
    if !can_mount() {
        return;
    }
    const DEPTH: usize = 300;
    let mut session = Session::new();
    let name = "d".repeat(255);
    assert!(DEPTH * name.len() > 10 * libc::PATH_MAX as usize);
    let mut at = File::open(session.root()).unwrap();
    for _ in 0..DEPTH {
        fs::create_dir(inside(&at, &name)).unwrap();
        at = File::open(inside(&at, &name)).unwrap();
    }
    fs::write(inside(&at, "bottom"), b"deep").unwrap();
    // No path leads there, and that is said.
    let path: PathBuf = std::iter::repeat_n(name.as_str(), 20).collect();
    assert_eq!(errno(fs::metadata(session.root().join(path))), libc::ENAMETOOLONG);
    // Out of the deep, and back into it: not into itself.
    fs::rename(inside(&at, "bottom"), session.path("moved")).unwrap();
    assert_eq!(errno(fs::rename(session.path(&name), inside(&at, "loop"))), libc::EINVAL);
    fs::rename(session.path("moved"), inside(&at, "bottom")).unwrap();
    drop(at);
    for _ in 0..2 {
        let mut at = File::open(session.root()).unwrap();
        for _ in 0..DEPTH {
            at = File::open(inside(&at, &name)).unwrap();
        }
        assert_eq!(fs::read(inside(&at, "bottom")).unwrap(), b"deep");
        drop(at);
        session.remount();
    }
    let found =
        Command::new("find").args([".", "-name", "bottom", "-printf", "%d"]).current_dir(session.root()).output();
    assert_eq!(found.unwrap().stdout, (DEPTH + 1).to_string().as_bytes());
    fs::remove_dir_all(session.path(&name)).unwrap();
    assert_eq!(fs::read_dir(session.root()).unwrap().count(), 0);
}

/// Names of 255 bytes of anything that a name may have.
fn names(seed: u64, count: usize) -> BTreeSet<OsString> {
    let mut state = seed | 1;
    let mut byte = || loop {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let byte = (state >> 56) as u8;
        if byte != 0 && byte != b'/' {
            return byte;
        }
    };
    (0..count).map(|_| OsString::from_vec((0..255).map(|_| byte()).collect())).collect()
}

#[test]
fn names_of_255_bytes_of_anything() {
    if !can_mount() {
        return;
    }
    let seed = match std::env::var("SESSIONFS_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
    };
    println!("SESSIONFS_TEST_SEED={seed}");
    let mut session = Session::new();
    let (names, others) = (names(seed, 500), names(seed ^ 0xffff_0000, 500));
    let listed = |session: &Session| -> BTreeSet<OsString> {
        fs::read_dir(session.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    for name in &names {
        fs::write(session.path(name), name.as_bytes()).unwrap();
    }
    session.remount();
    assert!(listed(&session) == names);
    for (name, other) in names.iter().zip(&others) {
        assert_eq!(fs::read(session.path(name)).unwrap(), name.as_bytes());
        fs::rename(session.path(name), session.path(other)).unwrap();
        assert_eq!(errno(fs::metadata(session.path(name))), libc::ENOENT);
    }
    session.remount();
    assert!(listed(&session) == others);
    for other in &others {
        let mut longer = other.clone();
        longer.push("x");
        assert_eq!(errno(File::create(session.path(longer))), libc::ENAMETOOLONG);
        fs::remove_file(session.path(other)).unwrap();
    }
    assert!(listed(&session).is_empty());
}

#[test]
fn a_file_of_8_eib_less_one_byte() {
    if !can_mount() {
        return;
    }
    /// The largest size that off_t can say, and Linux allows (`s_maxbytes`).
    const MAX: u64 = i64::MAX as u64;
    let mut session = Session::new();
    let path = session.path("f");
    let file = File::create_new(&path).unwrap();
    let last_page = MAX / 4096 * 4096;
    // Pieces here and there, and the very last byte.
    let places = [0, (1 << 40) + 5, (1 << 62) - 1, last_page - 1, MAX - 1];
    for (place, byte) in places.iter().zip(1..) {
        file.write_all_at(&[byte], *place).unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), MAX);
    // Behind it is nothing. What off_t cannot say is EINVAL, before a file system is asked (rw_verify_area of Linux).
    assert_eq!(errno(file.write_at(b"x", MAX)), libc::EINVAL);
    assert_eq!(errno(file.write_at(b"56789", MAX - 1)), libc::EINVAL);
    let mut appending = OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(errno(appending.write(b"x")), libc::EFBIG);
    assert_eq!(errno(sys::fallocate(&file, 0, i64::MAX - 10, 11)), libc::EFBIG);
    drop((file, appending));
    for _ in 0..2 {
        let file = File::open(&path).unwrap();
        let attr = file.metadata().unwrap();
        assert_eq!((attr.len(), attr.blocks()), (MAX, 8 * 5));
        for (place, byte) in places.iter().zip(1..) {
            let mut found = [9; 3];
            let start = place.saturating_sub(1);
            let asked = (MAX - start).min(3) as usize;
            let there = file.read_at(&mut found[..asked], start).unwrap();
            let expected: &[u8] = match *place {
                0 => &[byte, 0, 0],
                place if place == MAX - 1 => &[0, byte],
                _ => &[0, byte, 0],
            };
            assert_eq!(&found[..there], expected, "at {place}");
        }
        // Every piece is found, and every hole, without walking through what is not there.
        let mut at = 0;
        for place in places {
            let piece = place / 4096 * 4096;
            at = sys::seek(&file, at, libc::SEEK_DATA).unwrap() as i64;
            assert_eq!(at as u64, piece);
            at = sys::seek(&file, at, libc::SEEK_HOLE).unwrap() as i64;
            assert_eq!(at as u64, if place >= last_page - 1 { MAX } else { piece + 4096 });
            if place == last_page - 1 {
                at = last_page as i64; // the two last pieces are one stretch of data
            }
        }
        assert_eq!(sys::seek(&file, i64::MAX - 1, libc::SEEK_DATA).unwrap(), MAX - 1);
        drop(file);
        session.remount();
    }
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // A hole of all but the last byte's block, a cut, and all the way up again.
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    sys::fallocate(&file, punch, 0, last_page as i64).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 8);
    file.set_len(10).unwrap();
    file.set_len(MAX).unwrap();
    let attr = file.metadata().unwrap();
    assert_eq!((attr.len(), attr.blocks()), (MAX, 0));
    assert_eq!(errno(sys::seek(&file, 0, libc::SEEK_DATA)), libc::ENXIO);
    let mut end = [1; 4];
    assert_eq!(file.read_at(&mut end, MAX - 4).unwrap(), 4);
    assert_eq!(end, [0; 4]);
    drop(file);
    fs::remove_file(&path).unwrap();
}
