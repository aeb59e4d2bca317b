//! A full disk under the store: an error before anything is changed, and nothing lost that was acknowledged.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sessionfs::base::{Errno, Ino};
use sessionfs::fs::{Caller, Fs, WriteFlags};
use sessionfs::store::{CreateOptions, Store};

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const MIB: usize = 1 << 20;

/// A small tmpfs, which is a disk that fills up. Only root can make one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(dir.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            println!("SKIPPED: a small disk cannot be mounted here");
        }
        mounted.then_some(SmallDisk(dir))
    }

    fn resize(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]).arg(self.0.path());
        assert!(mount.status().unwrap().success());
    }

    fn session(&self) -> PathBuf {
        let path = self.0.path().join("session.db");
        Store::create(&path, &CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1000, uid: 0, gid: 0 }).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Bytes that do not compress, different for each file.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut byte = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..MIB).map(|_| byte()).collect()
}

fn name(i: u64) -> Vec<u8> {
    format!("file-{i}").into_bytes()
}

/// Writes files of a mebibyte until the disk is full; returns how many were written whole.
fn fill(fs: &Fs) -> u64 {
    for i in 0..500 {
        let made = fs.mknod(&ROOT_USER, Ino::ROOT, &name(i), libc::S_IFREG | 0o644, 0);
        match made.and_then(|attr| fs.write(attr.ino, 0, &noise(i), WriteFlags::default())) {
            Ok(written) => assert_eq!(written, MIB),
            Err(errno) => {
                assert_eq!(errno, Errno::NoSpc);
                return i;
            }
        }
    }
    panic!("500 MiB found room on a small disk");
}

fn assert_all_there(fs: &Fs, files: u64) {
    for i in 0..files {
        let file = fs.lookup(Ino::ROOT, &name(i)).unwrap().ino;
        let mut content = Vec::new();
        fs.read(file, 0, MIB, &mut content).unwrap();
        assert!(content == noise(i), "file {i} of {files}");
    }
}

fn assert_no_findings(database: &Path) {
    let store = Store::open_read_only(database).unwrap();
    let findings = sessionfs::store::check(&store, &mut |_, _| {}).unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn what_was_acknowledged_before_the_disk_was_full_survives_a_stop_that_could_not_commit_it() {
    let Some(disk) = SmallDisk::new("40m") else { return };
    let database = disk.session();
    let fs = support::start(&database).unwrap();
    let files = fill(&fs);
    println!("{files} files before the disk was full");
    assert!(files >= 8);
    assert!(fs.commit().is_err(), "what does not fit cannot be committed");
    assert!(fs.stop().is_err(), "a stop that could not commit everything says so");
    assert!(fs.commit().is_err(), "and so does a commit after it");
    drop(fs);
    assert_no_findings(&database);

    disk.resize("400m");
    let fs = support::start(&database).unwrap();
    assert!(fs.health().recovery.operations >= 1);
    assert_all_there(&fs, files);
    fs.mknod(&ROOT_USER, Ino::ROOT, b"more", libc::S_IFREG | 0o644, 0).unwrap();
    fs.stop().unwrap();
    assert_no_findings(&database);
}

#[test]
fn changes_go_on_when_the_disk_has_room_again() {
    let Some(disk) = SmallDisk::new("40m") else { return };
    let database = disk.session();
    let fs = support::start(&database).unwrap();
    let files = fill(&fs);
    assert_all_there(&fs, files);
    disk.resize("400m");
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(errno) = fs.mknod(&ROOT_USER, Ino::ROOT, b"more", libc::S_IFREG | 0o644, 0) {
        assert_eq!(errno, Errno::NoSpc);
        assert!(Instant::now() < until, "no change was taken although there is room");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_all_there(&fs, files);
    fs.stop().unwrap();
    assert_no_findings(&database);
}

#[test]
fn a_session_on_a_full_disk_can_be_read() {
    let Some(disk) = SmallDisk::new("40m") else { return };
    let database = disk.session();
    let fs = support::start(&database).unwrap();
    fs.mknod(&ROOT_USER, Ino::ROOT, b"there", libc::S_IFREG | 0o644, 0).unwrap();
    fs.stop().unwrap();
    drop(fs);
    disk.resize("4m");
    let fs = support::start(&database).unwrap();
    fs.lookup(Ino::ROOT, b"there").unwrap();
    assert_eq!(fs.mkdir(&ROOT_USER, Ino::ROOT, b"new", 0o755).unwrap_err(), Errno::NoSpc);
    fs.abandon();
}
