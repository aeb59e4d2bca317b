//! Mounting, unmounting, invalidating: `Mounted` itself.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sessionfs::base::Ino;
use sessionfs::fs::{Caller, Fs, WriteFlags};
use sessionfs::fuse::{MountError, MountOptions, Mounted};
use sessionfs::store::{CreateOptions, Store};
use tempfile::TempDir;

use crate::harness::{can_mount, can_mount_as_root, is_root, own_ids, transport};
use crate::support;
use crate::sys::errno;

fn start() -> (TempDir, Arc<Fs>) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mnt")).unwrap();
    let (uid, gid) = own_ids();
    let options = CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1000, uid, gid };
    Store::create(&dir.path().join("session.db"), &options).unwrap();
    let fs = support::start(&dir.path().join("session.db")).unwrap();
    (dir, fs)
}

fn mount(fs: &Arc<Fs>, at: &Path) -> io::Result<Mounted> {
    Mounted::start(
        Arc::clone(fs),
        at,
        &MountOptions { fsname: "a, b\\ c".into(), transport: transport(), ..MountOptions::default() },
    )
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap()
}

#[test]
fn it_is_mounted_as_it_should_and_is_gone_afterwards() {
    if !can_mount() {
        return;
    }
    let (dir, fs) = start();
    let at = dir.path().join("mnt");
    let mounted = mount(&fs, &at).unwrap();
    assert_eq!(mounted.mountpoint(), at.canonicalize().unwrap());
    let line = mounts().lines().find(|line| line.contains(at.to_str().unwrap())).unwrap().to_owned();
    for part in ["a,\\040b\\134\\040c ", " fuse.sessionfs ", "nosuid", "nodev", "default_permissions"] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert!(!line.contains("allow_other"));

    let held = File::create(at.join("held")).unwrap();
    assert_eq!(errno(mounted.unmount(false)), libc::EBUSY);
    mounted.unmount(true).unwrap();
    if is_root() {
        assert_eq!(errno(held.set_len(1)), libc::ENOTCONN);
    }
    drop(held);
    mounted.wait();
    mounted.wait();
    mounted.unmount(false).unwrap();
    assert!(!mounts().contains(at.to_str().unwrap()));
    fs.stop().unwrap();
}

#[test]
fn dropped_it_is_unmounted() {
    if !can_mount() {
        return;
    }
    let (dir, fs) = start();
    let at = dir.path().join("mnt");
    let held = {
        let _mounted = mount(&fs, &at).unwrap();
        File::create(at.join("held")).unwrap()
    };
    assert!(!mounts().contains(at.to_str().unwrap()));
    drop(held);
    fs.stop().unwrap();
}

#[test]
fn someone_else_may_unmount_it_and_mount_something_else() {
    if !can_mount_as_root() {
        return;
    }
    let (dir, fs) = start();
    let at = dir.path().join("mnt");
    let first = mount(&fs, &at).unwrap();
    assert!(std::process::Command::new("umount").arg(&at).status().unwrap().success());
    first.wait();
    let second = mount(&fs, &at).unwrap();
    first.unmount(true).unwrap();
    drop(first);
    assert!(mounts().contains(at.to_str().unwrap()), "the second mount was taken for the first");
    second.unmount(false).unwrap();
    second.wait();
    fs.stop().unwrap();
}

#[test]
fn what_fails_says_why() {
    if !can_mount() {
        return;
    }
    let (dir, fs) = start();
    let why = |at: &Path| {
        let error = mount(&fs, at).expect_err("this had to fail");
        let kind = error.kind();
        (*error.into_inner().unwrap().downcast::<MountError>().unwrap(), kind)
    };
    let (missing, kind) = why(&dir.path().join("nowhere"));
    assert!(matches!(missing, MountError::Mountpoint(..)) && kind == io::ErrorKind::NotFound, "{missing}");
    let (file, kind) = why(&dir.path().join("session.db"));
    assert!(matches!(file, MountError::Mountpoint(..)) && kind == io::ErrorKind::NotADirectory, "{file}");
    fs.stop().unwrap();
}

#[test]
fn changes_made_beside_the_kernel_are_seen_once_it_is_told() {
    if !can_mount() {
        return;
    }
    let (dir, fs) = start();
    let at = dir.path().join("mnt");
    let mounted = mount(&fs, &at).unwrap();
    let (uid, gid) = own_ids();
    let caller = Caller { uid, gid, umask: 0o022 };
    fs::create_dir(at.join("d")).unwrap();
    fs::write(at.join("d/old"), b"old").unwrap();
    let listed = || fs::read_dir(at.join("d")).unwrap().count();
    // Everything that the kernel will have to forget.
    assert_eq!(errno(fs::metadata(at.join("d/new"))), libc::ENOENT);
    assert_eq!((fs::read(at.join("d/old")).unwrap(), listed()), (b"old".to_vec(), 1));

    let d = fs.lookup(Ino::ROOT, b"d").unwrap().ino;
    let old = fs.lookup(d, b"old").unwrap().ino;
    let new = fs.mknod(&caller, d, b"new", libc::S_IFREG | 0o644, 0).unwrap().ino;
    fs.write(new, 0, b"new", WriteFlags::default()).unwrap();
    fs.write(old, 0, b"OLD and longer", WriteFlags::default()).unwrap();
    let invalidator = mounted.invalidator();
    invalidator.entry(d, b"new");
    invalidator.inode(old);
    assert_eq!(fs::read(at.join("d/new")).unwrap(), b"new");
    assert_eq!((fs::read(at.join("d/old")).unwrap(), listed()), (b"OLD and longer".to_vec(), 2));

    assert_eq!(errno(fs::metadata(at.join("d/third"))), libc::ENOENT);
    fs.rename(d, b"new", d, b"third", sessionfs::fs::RenameMode::Replace).unwrap();
    fs.write(old, 0, b"again", WriteFlags::default()).unwrap();
    invalidator.tree(Ino::ROOT);
    assert_eq!(errno(fs::metadata(at.join("d/new"))), libc::ENOENT);
    assert_eq!(fs::read(at.join("d/third")).unwrap(), b"new");
    assert_eq!(fs::read(at.join("d/old")).unwrap(), b"againnd longer");

    mounted.unmount(false).unwrap();
    mounted.wait();
    invalidator.tree(Ino::ROOT); // does nothing, and does not hang
    thread::sleep(Duration::from_millis(1));
    for (ino, count) in [(d, 1), (old, 1), (new, 1)] {
        fs.forget(ino, count);
    }
    fs.stop().unwrap();
}
