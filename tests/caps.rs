//! The caps, exactly where they are met, and moved while the session is in use.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod support;

use std::sync::Arc;

use sessionfs::base::{Errno, Ino};
use sessionfs::fs::{Caller, Fs, RenameMode, SetAttr, WriteFlags, XattrMode};
use sessionfs::store::{CreateOptions, Store};

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

#[test]
fn pages_of_a_mapping_that_do_not_fit_are_an_error_and_the_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    // Room for the directory and four pieces.
    Store::create(&path, &CreateOptions { bytes_limit: 5 * 4096, inodes_limit: 10, uid: 0, gid: 0 }).unwrap();
    let fs = support::start(&path).unwrap();
    let file = fs.mknod(&ROOT_USER, Ino::ROOT, b"f", libc::S_IFREG | 0o644, 0).unwrap().ino;
    fs.setattr(&ROOT_USER, file, &SetAttr { size: Some(64 << 10), ..SetAttr::default() }).unwrap();
    fs.write(file, 40 << 10, &[1; 4096], WriteFlags::default()).unwrap();

    let mapped = WriteFlags { from_cache: true, ..WriteFlags::default() };
    assert_eq!(fs.write(file, 0, &[2; 64 << 10], mapped), Err(Errno::NoSpc));
    let mut content = Vec::new();
    fs.read(file, 0, 64 << 10, &mut content).unwrap();
    assert!(content[..12 << 10].iter().all(|&b| b == 2), "what fits is there");
    assert!(content[12 << 10..40 << 10].iter().all(|&b| b == 0));
    assert!(content[40 << 10..44 << 10].iter().all(|&b| b == 2), "what was allocated never fails");
    assert_eq!(fs.usage().bytes, fs.usage().bytes_limit);
    assert_eq!(fs.write(file, 0, &[3; 12 << 10], mapped), Ok(12 << 10));
    fs.stop().unwrap();
}

const PIECE: u64 = 4096;
const BLOCK: u64 = sessionfs::base::limits::BLOCK_SIZE as u64;

/// What an operation works on: two directories, one of them empty and both with nothing but names of 255 bytes in it,
/// a file with nothing in it and one of two blocks.
struct Scene {
    fs: Arc<Fs>,
    full: Ino,
    empty: Ino,
    hollow: Ino,
    solid: Ino,
}

fn name(byte: u8) -> Vec<u8> {
    vec![byte; 255]
}

impl Scene {
    fn new(dir: &std::path::Path) -> Scene {
        let path = dir.join("session.db");
        Store::create(&path, &CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1000, uid: 0, gid: 0 }).unwrap();
        let fs = support::start(&path).unwrap();
        let file = |dir, name: &[u8]| fs.mknod(&ROOT_USER, dir, name, libc::S_IFREG | 0o644, 0).unwrap().ino;
        let full = fs.mkdir(&ROOT_USER, Ino::ROOT, b"full", 0o755).unwrap().ino;
        let empty = fs.mkdir(&ROOT_USER, Ino::ROOT, b"empty", 0o755).unwrap().ino;
        // 14 names of 255 bytes fill 3,906 bytes of a directory: one more begins its second piece.
        let all: Vec<Ino> = (b'a'..b'a' + 14).map(|byte| file(full, &name(byte))).collect();
        let (hollow, solid) = (all[0], all[1]);
        fs.write(solid, 0, &[1; 2 * BLOCK as usize], WriteFlags::default()).unwrap();
        fs.commit().unwrap();
        Scene { fs, full, empty, hollow, solid }
    }

    fn write(&self, ino: Ino, at: u64, len: usize) -> Result<(), Errno> {
        // A write that is cut short is not what these cases are about: it has to fit or to fail.
        let done = self.fs.write(ino, at, &vec![2; len], WriteFlags::default())?;
        assert_eq!(done, len);
        Ok(())
    }

    fn allocate(&self, mode: i32) -> Result<(), Errno> {
        self.fs.fallocate(&ROOT_USER, self.hollow, mode, 100, 3 * PIECE)
    }

    fn rename(&self, to: Ino, to_name: &[u8]) -> Result<(), Errno> {
        self.fs.rename(self.full, &name(b'b'), to, to_name, RenameMode::Replace)
    }

    fn copy(&self, to_at: u64, length: u64) -> Result<(), Errno> {
        assert_eq!(self.fs.copy_range(&ROOT_USER, self.solid, 0, self.hollow, to_at, length)?, length);
        Ok(())
    }

    fn resize(&self, size: u64) -> Result<(), Errno> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.fs.setattr(&ROOT_USER, self.hollow, &set).map(drop)
    }

    fn set_xattr(&self, len: usize) -> Result<(), Errno> {
        self.fs.setxattr(&ROOT_USER, self.solid, b"user.x", &vec![3; len], XattrMode::Set)
    }

    fn make(&self, dir: Ino, kind: u32) -> Result<(), Errno> {
        let new = name(b'z');
        match kind {
            libc::S_IFDIR => self.fs.mkdir(&ROOT_USER, dir, &new, 0o755),
            libc::S_IFLNK => self.fs.symlink(&ROOT_USER, dir, &new, &[b't'; 300]),
            0 => self.fs.tmpfile(&ROOT_USER, dir, 0o600),
            kind => self.fs.mknod(&ROOT_USER, dir, &new, kind | 0o644, 0),
        }
        .map(drop)
    }

    fn link(&self, dir: Ino) -> Result<(), Errno> {
        self.fs.link(self.solid, dir, &name(b'z')).map(drop)
    }
}

/// What the operation is, the inodes and the pieces it takes, and how it is done.
type Case = (&'static str, u64, u64, fn(&Scene) -> Result<(), Errno>);

const CASES: [Case; 27] = [
    ("a write into a hole", 0, 1, |s| s.write(s.hollow, 10 * PIECE, 100)),
    ("a write over what is there", 0, 0, |s| s.write(s.solid, 100, 5000)),
    ("an append", 0, 1, |s| s.write(s.solid, 2 * BLOCK, 1)),
    ("truncate to a greater length", 0, 0, |s| s.resize(1 << 40)),
    ("fallocate", 0, 4, |s| s.allocate(0)),
    ("fallocate behind the end", 0, 4, |s| s.allocate(libc::FALLOC_FL_KEEP_SIZE)),
    ("fallocate that zeroes", 0, 4, |s| s.allocate(libc::FALLOC_FL_ZERO_RANGE)),
    ("a copy that shares blocks", 0, 8, |s| s.copy(0, 2 * BLOCK)),
    ("a copy that cannot share blocks", 0, 1, |s| s.copy(PIECE, PIECE)),
    ("rename into a directory that grows", 0, 1, |s| s.rename(s.empty, b"new")),
    ("rename over a file", 0, 0, |s| s.rename(s.full, &name(b'c'))),
    ("rename to a longer name in the same piece", 0, 0, |s| s.rename(s.full, &name(b'z'))),
    ("an xattr within what is free of charge", 0, 0, |s| s.set_xattr(250)),
    ("an xattr beyond it", 0, 2, |s| s.set_xattr(250 + PIECE as usize + 1)),
    ("a file in an empty directory", 1, 1, |s| s.make(s.empty, libc::S_IFREG)),
    ("a file in a full directory", 1, 1, |s| s.make(s.full, libc::S_IFREG)),
    ("a file in a directory with room", 1, 0, |s| s.make(Ino::ROOT, libc::S_IFREG)),
    ("a directory in an empty one", 1, 1, |s| s.make(s.empty, libc::S_IFDIR)),
    ("a directory in one with room", 1, 0, |s| s.make(Ino::ROOT, libc::S_IFDIR)),
    ("a FIFO", 1, 0, |s| s.make(Ino::ROOT, libc::S_IFIFO)),
    ("a socket in a full directory", 1, 1, |s| s.make(s.full, libc::S_IFSOCK)),
    ("a device node", 1, 0, |s| s.make(Ino::ROOT, libc::S_IFCHR)),
    ("a long symbolic link", 1, 1, |s| s.make(Ino::ROOT, libc::S_IFLNK)),
    ("a long symbolic link in a full directory", 1, 2, |s| s.make(s.full, libc::S_IFLNK)),
    ("a file without a name", 1, 0, |s| s.make(s.full, 0)),
    ("a link in a full directory", 0, 1, |s| s.link(s.full)),
    ("a link in one with room", 0, 0, |s| s.link(Ino::ROOT)),
];

#[test]
fn every_operation_that_allocates_fits_exactly_or_fails_and_changes_nothing() {
    for (what, inodes, pieces, run) in CASES {
        let dir = tempfile::tempdir().unwrap();
        let scene = Scene::new(dir.path());
        let fs = &scene.fs;
        let before = fs.usage();
        let cap = |inodes: u64, pieces: u64| {
            fs.set_limits(Some(before.bytes + pieces * PIECE), Some(before.inodes + inodes)).unwrap();
        };
        let refused = |why: &str| {
            assert_eq!(run(&scene), Err(Errno::NoSpc), "{what}: {why}");
            let after = fs.usage();
            assert_eq!((after.bytes, after.inodes), (before.bytes, before.inodes), "{what}: {why}");
        };
        if pieces > 0 {
            cap(inodes, pieces - 1);
            refused("a piece too few");
        }
        if inodes > 0 {
            cap(inodes - 1, pieces);
            refused("an inode too few");
        }
        cap(inodes, pieces);
        run(&scene).unwrap_or_else(|errno| panic!("{what}: {errno:?} although it fits exactly"));
        let after = fs.usage();
        // A name that is replaced, or moved out of a directory that shrinks, gives something back.
        assert!(after.bytes <= after.bytes_limit && after.inodes <= after.inodes_limit, "{what}: {after:?}");
        let stopped = fs.stop().unwrap();
        assert_eq!(stopped.counts.pieces * PIECE, after.bytes, "{what}");
        assert_eq!((stopped.bytes_limit, stopped.inodes_limit), (after.bytes_limit, after.inodes_limit), "{what}");
    }
}

#[test]
fn a_cap_below_what_is_in_use_lets_nothing_new_in_until_enough_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path());
    let fs = &scene.fs;
    let used = fs.usage();
    fs.set_limits(Some(used.bytes - 6 * PIECE), Some(used.inodes - 2)).unwrap();
    assert_eq!(scene.write(scene.hollow, 0, 1), Err(Errno::NoSpc));
    assert_eq!(scene.make(Ino::ROOT, libc::S_IFREG), Err(Errno::NoSpc));
    scene.write(scene.solid, 0, 2 * BLOCK as usize).unwrap();
    scene.resize(1 << 30).unwrap();
    // Six pieces over: giving back six is not yet room for one.
    fs.fallocate(&ROOT_USER, scene.solid, PUNCH, 0, 6 * PIECE).unwrap();
    assert_eq!(scene.write(scene.hollow, 0, 1), Err(Errno::NoSpc));
    fs.fallocate(&ROOT_USER, scene.solid, PUNCH, 6 * PIECE, PIECE).unwrap();
    scene.write(scene.hollow, 0, 1).unwrap();
    assert_eq!(scene.write(scene.hollow, PIECE, 1), Err(Errno::NoSpc));
    for gone in [b'c', b'd', b'e'] {
        assert_eq!(scene.make(Ino::ROOT, libc::S_IFREG), Err(Errno::NoSpc));
        let ino = fs.lookup(scene.full, &name(gone)).unwrap().ino;
        fs.unlink(scene.full, &name(gone)).unwrap();
        fs.forget(ino, 2);
    }
    scene.make(Ino::ROOT, libc::S_IFREG).unwrap();
    // One of the two is left as it is.
    let inodes_limit = fs.usage().inodes_limit;
    fs.set_limits(Some(1 << 20), None).unwrap();
    assert_eq!((fs.usage().bytes_limit, fs.usage().inodes_limit), (1 << 20, inodes_limit));
    fs.stop().unwrap();
    assert!(fs.set_limits(Some(1 << 21), None).is_err(), "nobody is there any more to write it down");
}

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

#[test]
fn caps_that_many_change_at_once_are_those_of_one_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path());
    std::thread::scope(|scope| {
        for caller in 1..=8_u64 {
            let fs = &scene.fs;
            scope.spawn(move || {
                for round in 1..=20 {
                    let id = caller * 100 + round;
                    fs.set_limits(Some(id << 20), Some(id << 10)).unwrap();
                    fs.mknod(&ROOT_USER, Ino::ROOT, id.to_string().as_bytes(), libc::S_IFREG, 0).unwrap();
                }
            });
        }
    });
    let usage = scene.fs.usage();
    assert_eq!(usage.bytes_limit >> 20, usage.inodes_limit >> 10);
    // As a crash leaves it: what was told is kept.
    scene.fs.abandon();
    let again = support::start(&dir.path().join("session.db")).unwrap();
    assert_eq!(again.usage(), usage);
    again.stop().unwrap();
}
