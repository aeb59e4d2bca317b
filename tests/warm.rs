//! Directories that are loaded before anybody asks for them.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use sessionfs::base::{Cookie, Ino};
use sessionfs::fs::{Caller, Fs, RenameMode};
use sessionfs::store::{CreateOptions, Store, check};

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const SUBDIRECTORIES: usize = 40;

/// Directories of 1 to 40 files each, one of 700, and one that lies below a younger one.
fn tree(path: &Path) {
    Store::create(path, &CreateOptions { bytes_limit: 1 << 30, inodes_limit: 10_000, uid: 0, gid: 0 }).unwrap();
    let fs = support::start(path).unwrap();
    for i in 1..=SUBDIRECTORIES {
        let dir = fs.mkdir(&ROOT_USER, Ino::ROOT, format!("d{i}").as_bytes(), 0o755).unwrap().ino;
        files(&fs, dir, i);
    }
    let large = fs.mkdir(&ROOT_USER, Ino::ROOT, b"large", 0o755).unwrap().ino;
    files(&fs, large, 700);
    let young = fs.mkdir(&ROOT_USER, Ino::ROOT, b"young", 0o755).unwrap().ino;
    fs.rename(Ino::ROOT, b"d7", young, b"old", RenameMode::Replace).unwrap();
    fs.stop().unwrap();
}

fn files(fs: &Fs, dir: Ino, count: usize) {
    for i in 0..count {
        fs.mknod(&ROOT_USER, dir, format!("f{i}").as_bytes(), libc::S_IFREG | 0o644, 0).unwrap();
    }
}

#[test]
fn directories_come_whole_and_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    tree(&path);
    let store = Store::open_read_only(&path).unwrap();
    for rows in [1, 3, 50, 512, 100_000] {
        let (mut next, mut seen) = (Some(Ino(0)), BTreeSet::new());
        while let Some(after) = next {
            let (found, then) = store.directories(after, rows).unwrap();
            assert!(then.is_none_or(|then| then > after), "it goes on");
            assert!(found.iter().map(|(_, entries)| entries.len()).sum::<usize>() < 2 * rows);
            for (ino, entries) in found {
                assert_eq!(entries, store.directory(ino).unwrap());
                assert!(seen.insert(ino), "directory {ino} twice");
            }
            next = then;
        }
        // The root has 41 names, d1 to d40 as many as they are called after, the large one 700.
        let fitting = (1..=SUBDIRECTORIES).chain([1, 41, 700]).filter(|&names| names <= rows).count();
        assert_eq!(seen.len(), fitting, "at {rows} rows");
    }
}

#[test]
fn who_works_while_directories_are_loaded_ahead_sees_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    tree(&path);
    for round in 0..20 {
        let fs = support::start(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| fs.warm());
            for i in (1..=SUBDIRECTORIES).rev().filter(|&i| i != 7) {
                let dir = fs.lookup(Ino::ROOT, format!("d{i}").as_bytes()).unwrap().ino;
                let made = format!("r{round}");
                fs.mknod(&ROOT_USER, dir, made.as_bytes(), libc::S_IFREG | 0o644, 0).unwrap();
                if round > 0 {
                    fs.unlink(dir, format!("r{}", round - 1).as_bytes()).unwrap();
                }
                let expected: BTreeSet<String> = (0..i).map(|f| format!("f{f}")).chain([made]).collect();
                assert_eq!(names(&fs, dir), expected, "d{i} in round {round}");
            }
        });
        fs.stop().unwrap();
    }
    let findings = check(&Store::open_read_only(&path).unwrap(), &mut |_, _| ()).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

fn names(fs: &Fs, dir: Ino) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    fs.readdir(dir, Cookie(0), false, &mut |entry| all.insert(String::from_utf8(entry.name.to_vec()).unwrap()))
        .unwrap();
    all.retain(|name| name != "." && name != "..");
    all
}
