//! The cap where it is met on the way.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod support;

use sessionfs::base::{Errno, Ino};
use sessionfs::fs::{Caller, SetAttr, WriteFlags};
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
