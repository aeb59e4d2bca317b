//! The cap where it is met on the way.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

use sessionfs::base::{Errno, Ino};
use sessionfs::fs::{Caller, Fs, SetAttr, WriteFlags};
use sessionfs::store::{CreateOptions, Store};

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

#[test]
fn pages_of_a_mapping_that_do_not_fit_are_an_error_and_the_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    // Room for the directory and four pieces.
    Store::create(&path, &CreateOptions { bytes_limit: 5 * 4096, inodes_limit: 10, uid: 0, gid: 0 }).unwrap();
    let (store, writer) = Store::open(&path).unwrap();
    let fs = Fs::start(store, writer).unwrap();
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

/// A small tmpfs, which is a disk that fills up. Only root can make one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &option, "none"]).arg(dir.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            println!("SKIPPED: a small disk cannot be mounted here");
        }
        mounted.then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_stop_on_a_full_disk_commits_nothing_behind_what_did_not_fit() {
    let Some(disk) = SmallDisk::new("6m") else { return };
    let path = disk.0.path().join("session.db");
    Store::create(&path, &CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1000, uid: 0, gid: 0 }).unwrap();
    let (store, writer) = Store::open(&path).unwrap();
    let fs = Fs::start(store.clone(), writer).unwrap();
    let dir = fs.mkdir(&ROOT_USER, Ino::ROOT, b"dir", 0o755).unwrap().ino;
    let file = fs.mknod(&ROOT_USER, dir, b"big", libc::S_IFREG | 0o644, 0).unwrap().ino;
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    for at in 0..20 {
        fs.write(file, at << 20, &noise, WriteFlags::default()).unwrap();
    }
    // What comes between the seal and the first refusal is in the next transaction, which is small enough to fit.
    for i in 0..10_000 {
        if fs.mknod(&ROOT_USER, dir, format!("small{i}").as_bytes(), libc::S_IFREG | 0o644, 0).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
    assert!(fs.stop().is_err(), "a stop that could not commit everything says so");
    assert!(fs.sync().is_err(), "and so does a sync after it");
    drop((fs, store));
    let store = Store::open_read_only(&path).unwrap();
    let findings = sessionfs::store::check(&store, &mut |_, _| {}).unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
}
