//! Listings that go on while names come and go.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

use std::collections::BTreeMap;
use std::sync::Arc;

mod support;

use sessionfs::base::{Cookie, Ino};
use sessionfs::fs::{Caller, Fs, RenameMode};
use sessionfs::store::{CreateOptions, Store};

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

fn session() -> (tempfile::TempDir, Arc<Fs>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    Store::create(&path, &CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1 << 20, uid: 0, gid: 0 }).unwrap();
    let fs = support::start(&path).unwrap();
    (dir, fs)
}

fn create(fs: &Fs, name: &str) {
    let attr = fs.mknod(&ROOT_USER, Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0).unwrap();
    fs.forget(attr.ino, 1);
}

/// Lists the root three names at a time; `after` is told each batch before the next is asked for.
fn list(fs: &Fs, mut after: impl FnMut(&Fs, &[String])) -> BTreeMap<String, usize> {
    let (mut seen, mut from) = (BTreeMap::new(), Cookie(0));
    for _ in 0..10_000 {
        let mut batch = Vec::new();
        fs.readdir(Ino::ROOT, from, false, &mut |entry| {
            if batch.len() == 3 {
                return false;
            }
            from = entry.cookie;
            batch.push(String::from_utf8(entry.name.to_vec()).unwrap());
            true
        })
        .unwrap();
        if batch.is_empty() {
            return seen;
        }
        batch.retain(|name| name != "." && name != "..");
        for name in &batch {
            *seen.entry(name.clone()).or_default() += 1;
        }
        after(fs, &batch);
    }
    panic!("the listing does not end");
}

#[test]
fn renaming_what_is_listed_comes_to_an_end() {
    let (_dir, fs) = session();
    (0..100).for_each(|i| create(&fs, &format!("f{i}")));
    let seen = list(&fs, |fs, batch| {
        for name in batch {
            let new = format!("{name}.old");
            fs.rename(Ino::ROOT, name.as_bytes(), Ino::ROOT, new.as_bytes(), RenameMode::Replace).unwrap();
        }
    });
    assert_eq!(seen.len(), 100);
    assert!(seen.iter().all(|(name, times)| !name.ends_with(".old") && *times == 1), "{seen:?}");
}

#[test]
fn copying_what_is_listed_comes_to_an_end() {
    let (_dir, fs) = session();
    (0..100).for_each(|i| create(&fs, &format!("f{i}")));
    let seen = list(&fs, |fs, batch| batch.iter().for_each(|name| create(fs, &format!("{name}.copy"))));
    assert_eq!(seen.len(), 100, "what was made after the listing began is not in it");
}

#[test]
fn a_name_that_goes_and_comes_back_is_not_listed_twice() {
    let (_dir, fs) = session();
    (0..100).for_each(|i| create(&fs, &format!("f{i}")));
    let seen = list(&fs, |fs, batch| {
        for name in batch {
            fs.unlink(Ino::ROOT, name.as_bytes()).unwrap();
            create(fs, name);
        }
    });
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|times| *times == 1));
}

#[test]
fn names_that_stay_are_listed_once_while_others_are_removed() {
    let (_dir, fs) = session();
    (0..1000).for_each(|i| create(&fs, &format!("f{i}")));
    let mut next = 999;
    let seen = list(&fs, |fs, _| {
        // Odd names go from the end, so that the listing meets what was compacted under it.
        if next > 500 {
            fs.unlink(Ino::ROOT, format!("f{next}").as_bytes()).unwrap();
            next -= 2;
        }
    });
    for i in (0..1000).filter(|i| i % 2 == 0 || *i < 400) {
        assert_eq!(seen.get(&format!("f{i}")), Some(&1), "f{i}");
    }
}
