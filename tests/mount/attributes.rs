//! Modes, owners, times, xattrs and ACLs.

use std::ffi::CStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::acl::acl;
use crate::harness::{Session, can_mount, can_mount_as_root};
use crate::sys::{self, NOW, OMIT, as_user, errno};

const ACCESS: &CStr = c"system.posix_acl_access";
const DEFAULT: &CStr = c"system.posix_acl_default";

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let in_1901 = (-2_177_452_800, 123_456_789);
    let in_2500 = (16_725_225_600, 999_999_999);
    let cases = [in_1901, in_2500, (-1, 1), (-1, 999_999_999), (0, 0), (1 << 31, 5), (1 << 32, 5), (-(1 << 31) - 1, 7)];
    for (i, time) in cases.iter().enumerate() {
        let path = session.path(format!("f{i}"));
        File::create(&path).unwrap();
        sys::set_times(&path, *time, cases[cases.len() - 1 - i]).unwrap();
    }
    for _ in 0..2 {
        for (i, time) in cases.iter().enumerate() {
            let attr = fs::metadata(session.path(format!("f{i}"))).unwrap();
            assert_eq!((attr.atime(), attr.atime_nsec()), *time);
            assert_eq!((attr.mtime(), attr.mtime_nsec()), cases[cases.len() - 1 - i]);
        }
        session.remount();
    }
    // The limits of the type itself. (The kernel drops the nanoseconds there.)
    let path = session.path("f0");
    for seconds in [i64::MIN, i64::MAX] {
        sys::set_times(&path, (seconds, 0), (seconds, 0)).unwrap();
        let attr = fs::metadata(&path).unwrap();
        assert_eq!((attr.atime(), attr.atime_nsec(), attr.mtime()), (seconds, 0, seconds));
    }
}

#[test]
fn now_and_omit() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    File::create(&path).unwrap();
    sys::set_times(&path, (1000, 5), (2000, 6)).unwrap();
    sys::set_times(&path, OMIT, (3000, 7)).unwrap();
    let attr = fs::metadata(&path).unwrap();
    assert_eq!((attr.atime(), attr.atime_nsec(), attr.mtime(), attr.mtime_nsec()), (1000, 5, 3000, 7));
    sys::set_times(&path, NOW, OMIT).unwrap();
    let attr = fs::metadata(&path).unwrap();
    assert_eq!((attr.mtime(), attr.mtime_nsec()), (3000, 7));
    assert!(attr.atime() > 1_700_000_000 && (attr.ctime() - attr.atime()).abs() < 60);
    fs::write(&path, b"x").unwrap();
    assert!(fs::metadata(&path).unwrap().mtime() > 1_700_000_000);
}

#[test]
fn permissions_are_checked() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    let path = session.path("secret");
    fs::write(&path, b"x").unwrap();
    set_mode(&path, 0o600);
    set_mode(&session.root(), 0o1777);
    as_user(1000, 1000, 0o027, || {
        assert_eq!(errno(File::open(&path)), libc::EACCES);
        assert_eq!(errno(fs::remove_file(&path)), libc::EPERM);
        fs::create_dir(session.path("mine")).unwrap();
        fs::write(session.path("mine/f"), b"x").unwrap();
        assert_eq!(errno(chown(session.path("mine/f"), Some(0), None)), libc::EPERM);
    });
    assert_eq!((mode(&session.path("mine")), mode(&session.path("mine/f"))), (0o750, 0o640));
    let attr = fs::metadata(session.path("mine/f")).unwrap();
    assert_eq!((attr.uid(), attr.gid()), (1000, 1000));
}

#[test]
fn xattrs() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("f");
    File::create(&path).unwrap();
    let large: Vec<u8> = (0..65_536_u32).map(|i| (i >> 3) as u8).collect();
    sys::set_xattr(&path, c"user.small", b"value", libc::XATTR_CREATE).unwrap();
    sys::set_xattr(&path, c"user.large", &large, 0).unwrap();
    sys::set_xattr(&path, c"user.empty", b"", 0).unwrap();
    assert_eq!(errno(sys::set_xattr(&path, c"user.small", b"x", libc::XATTR_CREATE)), libc::EEXIST);
    assert_eq!(errno(sys::set_xattr(&path, c"user.none", b"x", libc::XATTR_REPLACE)), libc::ENODATA);
    sys::set_xattr(&path, c"user.small", b"other", libc::XATTR_REPLACE).unwrap();
    assert_eq!(errno(sys::get_xattr(&path, c"user.none")), libc::ENODATA);
    assert_eq!(errno(sys::get_xattr_into(&path, c"user.small", 4)), libc::ERANGE);
    assert_eq!(errno(sys::remove_xattr(&path, c"user.none")), libc::ENODATA);
    for _ in 0..2 {
        assert_eq!(sys::get_xattr(&path, c"user.small").unwrap(), b"other");
        assert_eq!(sys::get_xattr(&path, c"user.large").unwrap(), large);
        assert_eq!(sys::get_xattr(&path, c"user.empty").unwrap(), b"");
        let names: [&[u8]; 3] = [b"user.empty", b"user.large", b"user.small"];
        assert_eq!(sys::list_xattrs(&path).unwrap(), names);
        session.remount();
    }
    sys::remove_xattr(&path, c"user.large").unwrap();
    sys::remove_xattr(&path, c"user.small").unwrap();
    assert_eq!(sys::list_xattrs(&path).unwrap(), [b"user.empty"]);
}

#[test]
fn xattrs_of_root_are_roots() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    File::create(&path).unwrap();
    chown(&path, Some(1000), None).unwrap();
    sys::set_xattr(&path, c"trusted.t", b"1", 0).unwrap();
    sys::set_xattr(&path, c"user.u", b"2", 0).unwrap();
    assert_eq!(sys::list_xattrs(&path).unwrap().len(), 2);
    as_user(1000, 1000, 0, || {
        assert_eq!(sys::list_xattrs(&path).unwrap(), [b"user.u"]);
        assert_eq!(errno(sys::set_xattr(&path, c"trusted.t", b"2", 0)), libc::EPERM);
        sys::set_xattr(&path, c"user.u", b"3", 0).unwrap();
    });
    // A capability goes with the first write, whoever writes.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    sys::set_xattr(&path, c"security.capability", &capability, 0).unwrap();
    fs::write(&path, b"x").unwrap();
    assert_eq!(errno(sys::get_xattr(&path, c"security.capability")), libc::ENODATA);
}

#[test]
fn acls_are_inherited_and_checked() {
    if !can_mount_as_root() {
        return;
    }
    const NOBODY: u32 = u32::MAX;
    let (user, named, group, mask, other) = (1, 2, 4, 0x10, 0x20);
    let mut session = Session::new();
    let dir = session.path("d");
    fs::create_dir(&dir).unwrap();
    let default =
        acl(&[(user, 7, NOBODY), (named, 7, 1000), (group, 5, NOBODY), (mask, 7, NOBODY), (other, 0, NOBODY)]);
    sys::set_xattr(&dir, DEFAULT, &default, 0).unwrap();
    set_mode(&dir, 0o755);
    // The default ACL rules, not the umask.
    let old = as_user(0, 0, 0o077, || {
        fs::write(dir.join("f"), b"x").unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        (mode(&dir.join("f")), mode(&dir.join("sub")))
    });
    assert_eq!(old, (0o660, 0o770));
    for _ in 0..2 {
        assert_eq!(sys::get_xattr(&dir.join("sub"), DEFAULT).unwrap(), default);
        let access =
            acl(&[(user, 6, NOBODY), (named, 7, 1000), (group, 5, NOBODY), (mask, 6, NOBODY), (other, 0, NOBODY)]);
        assert_eq!(sys::get_xattr(&dir.join("f"), ACCESS).unwrap(), access);
        as_user(1000, 1000, 0o022, || assert_eq!(fs::read(dir.join("f")).unwrap(), b"x"));
        as_user(1001, 1001, 0o022, || assert_eq!(errno(fs::read(dir.join("f"))), libc::EACCES));
        session.remount();
    }
    // chmod moves the mask; then the named user gets nothing, also by the kernel's memory of the ACL.
    set_mode(&dir.join("f"), 0o600);
    as_user(1000, 1000, 0o022, || assert_eq!(errno(fs::read(dir.join("f"))), libc::EACCES));
    sys::remove_xattr(&dir, DEFAULT).unwrap();
    as_user(0, 0, 0o077, || fs::write(dir.join("plain"), b"").unwrap());
    assert_eq!(mode(&dir.join("plain")), 0o600);
}
