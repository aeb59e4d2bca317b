//! What is taken away from a file that changes, and what a directory says about names in it, with other users.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::harness::{Session, by_ring, can_mount_as_root};
use crate::sys::{self, Map, as_user, errno};

const CAPABILITY: &CStr = c"security.capability";
/// CAP_NET_RAW, permitted and effective, in revision 2.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const OWNER: u32 = 1000;
const OTHER: u32 = 1001;

/// Asked for alone: with the rest the kernel would ask us, and show what it did not know.
fn mode(path: &Path) -> u32 {
    sys::mode_alone(path).unwrap() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// What a change leaves of set-id bits and of a capability.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    set_id: u32,
    capability: bool,
}

const ALL: Left = Left { set_id: 0o6000, capability: true };
const BITS: Left = Left { set_id: 0o6000, capability: false };
const NOTHING: Left = Left { set_id: 0, capability: false };

/// What is done, what it leaves when root does it, and when another user does (`None`: may not).
type Case = (&'static str, Left, Option<Left>, fn(&Path));

/// As ext4 does it: file_remove_privs of Linux asks for CAP_FSETID, which root has, before it takes set-id bits away;
/// a capability goes whoever writes, and a change of owner takes both.
const CASES: [Case; 10] = [
    ("write", BITS, Some(NOTHING), |path| open(path).write_all_at(b"x", 0).unwrap()),
    ("a write across pages", BITS, Some(NOTHING), |path| open(path).write_all_at(&[1; 10_000], 3000).unwrap()),
    ("truncate", BITS, Some(NOTHING), |path| open(path).set_len(2).unwrap()),
    ("O_TRUNC", BITS, Some(NOTHING), |path| drop(File::create(path).unwrap())),
    ("fallocate", BITS, Some(NOTHING), |path| sys::fallocate(&open(path), 0, 0, 100_000).unwrap()),
    ("copy_file_range", BITS, Some(NOTHING), |path| {
        let from = File::open(path.with_extension("source")).unwrap();
        assert_eq!(sys::copy_range(&from, 0, &open(path), 0, 16 << 10).unwrap(), 16 << 10);
    }),
    ("chown to another", NOTHING, None, |path| chown(path, Some(OTHER), None).unwrap()),
    ("chown to the same", NOTHING, None, |path| chown(path, Some(OWNER), Some(OWNER)).unwrap()),
    ("chgrp", NOTHING, None, |path| chown(path, None, Some(77)).unwrap()),
    ("rename", ALL, Some(ALL), |path| {
        fs::rename(path, path.with_extension("moved")).unwrap();
        fs::rename(path.with_extension("moved"), path).unwrap();
    }),
];

#[test]
fn privileges_of_a_file_go_with_a_change_as_linux_takes_them() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    set_mode(&session.root(), 0o777);
    let path = session.path("program");
    fs::write(path.with_extension("source"), vec![1; 16 << 10]).unwrap();
    let prepare = || {
        fs::write(&path, b"program").unwrap();
        chown(&path, Some(OWNER), Some(OWNER)).unwrap();
        set_mode(&path, 0o6777);
        sys::set_xattr(&path, CAPABILITY, &NET_RAW, 0).unwrap();
        assert_eq!(left(&path), ALL);
    };
    for (what, by_root, by_other, run) in CASES {
        prepare();
        run(&path);
        assert_eq!(left(&path), by_root, "{what} by root");
        if let Some(expected) = by_other {
            prepare();
            as_user(OTHER, OTHER, 0o022, || run(&path));
            assert_eq!(left(&path), expected, "{what} by another user");
        }
    }
    // Set-gid without group execute does not mean a change of group, and stays, but not by somebody outside of the group.
    for (group, left) in [(OWNER, 0o2767), (OTHER, 0o767)] {
        let changes: [fn(&Path); 3] = [
            |path| open(path).write_all_at(b"x", 0).unwrap(),
            |path| open(path).set_len(3).unwrap(),
            |path| sys::fallocate(&open(path), 0, 0, 8192).unwrap(),
        ];
        for change in changes {
            set_mode(&path, 0o2767);
            as_user(OTHER, group, 0o022, || change(&path));
            assert_eq!(mode(&path), left, "by group {group}");
        }
    }
    // Through a mapping: Linux leaves set-id bits; it leaves the capability, too, but here every WRITE takes that away.
    prepare();
    as_user(OTHER, OTHER, 0o022, || {
        let mut map = Map::of(&open(&path), 7).unwrap();
        map[0] = b'P';
        map.sync().unwrap();
    });
    assert_eq!(left(&path), BITS, "a store to a mapping");
}

fn left(path: &Path) -> Left {
    let capability = match sys::get_xattr(path, CAPABILITY) {
        Ok(value) => {
            assert_eq!(value, NET_RAW);
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENODATA));
            false
        }
    };
    Left { set_id: mode(path) & 0o6000, capability }
}

#[test]
fn the_owner_may_give_a_file_only_to_a_group_of_theirs() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    set_mode(&session.root(), 0o777);
    let path = session.path("f");
    as_user(OWNER, OWNER, 0o022, || {
        File::create(&path).unwrap();
        assert_eq!(errno(chown(&path, Some(OTHER), None)), libc::EPERM);
        assert_eq!(errno(chown(&path, None, Some(77))), libc::EPERM);
        chown(&path, Some(OWNER), Some(OWNER)).unwrap();
        set_mode(&path, 0o2755);
    });
    assert_eq!(mode(&path), 0o2755);
    // chmod(): the set-gid bit goes when the file's group is none of the caller's.
    chown(&path, None, Some(77)).unwrap();
    as_user(OWNER, OWNER, 0o022, || set_mode(&path, 0o2755));
    assert_eq!(mode(&path), 0o755);
    as_user(OTHER, OTHER, 0o022, || {
        assert_eq!(errno(fs::set_permissions(&path, Permissions::from_mode(0o777))), libc::EPERM);
        assert_eq!(errno(sys::set_times(&path, (5, 0), (5, 0))), libc::EPERM);
    });
}

#[test]
fn in_a_sticky_directory_only_the_owners_take_names_away() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    set_mode(&session.root(), 0o777);
    let dir = session.path("tmp");
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o1777);
    let (theirs, mine) = (dir.join("theirs"), dir.join("mine"));
    as_user(OWNER, OWNER, 0, || {
        for name in ["theirs", "second", "third"] {
            fs::write(dir.join(name), b"x").unwrap();
        }
    });
    as_user(OTHER, OTHER, 0, || {
        fs::write(&theirs, b"writing is allowed").unwrap();
        assert_eq!(errno(fs::remove_file(&theirs)), libc::EPERM);
        assert_eq!(errno(fs::rename(&theirs, &mine)), libc::EPERM);
        assert_eq!(errno(fs::rename(&theirs, session.path("away"))), libc::EPERM);
        fs::write(&mine, b"x").unwrap();
        assert_eq!(errno(fs::rename(&mine, &theirs)), libc::EPERM, "not over it either");
        assert_eq!(errno(sys::rename2(&mine, &theirs, libc::RENAME_EXCHANGE)), libc::EPERM);
        fs::rename(&mine, dir.join("mine still")).unwrap();
        fs::remove_file(dir.join("mine still")).unwrap();
    });
    as_user(OWNER, OWNER, 0, || fs::remove_file(&theirs).unwrap());
    // The directory's owner may, whoever made the file; and without the bit everyone who may write to it.
    chown(&dir, Some(OTHER), None).unwrap();
    as_user(OTHER, OTHER, 0, || fs::remove_file(dir.join("second")).unwrap());
    chown(&dir, Some(0), None).unwrap();
    set_mode(&dir, 0o777);
    as_user(OTHER, OTHER, 0, || fs::remove_file(dir.join("third")).unwrap());
}

/// POSIX.1e, and Linux's posix_acl_update_mode: as with chmod.
#[test]
fn an_acl_takes_the_set_gid_bit_from_who_is_not_in_the_group() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    fs::write(&path, b"").unwrap();
    let acl = |uid: u32| {
        let entry =
            |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
        let entries = [(1, 7, u32::MAX), (2, 7, uid), (4, 7, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
        let entries = entries.iter().flat_map(|&(tag, perm, id)| entry(tag, perm, id));
        2_u32.to_le_bytes().into_iter().chain(entries).collect::<Vec<u8>>()
    };
    let set = |by: u32| {
        as_user(by, by, 0o022, || sys::set_xattr(&path, c"system.posix_acl_access", &acl(OTHER), 0).unwrap());
        mode(&path)
    };
    chown(&path, Some(OWNER), Some(OWNER)).unwrap();
    set_mode(&path, 0o2755);
    assert_eq!(set(OWNER), 0o2775, "the owner is in the group");
    chown(&path, None, Some(77)).unwrap();
    set_mode(&path, 0o2755);
    assert_eq!(set(0), 0o2775, "root");
    // By /dev/fuse the kernel does not say who asks: fuser cannot take that.
    assert_eq!(set(OWNER), if by_ring() { 0o775 } else { 0o2775 }, "the owner is not in the group");
}

#[test]
fn a_set_gid_directory_hands_its_group_to_everything_made_in_it() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    let dir = session.path("shared");
    fs::create_dir(&dir).unwrap();
    chown(&dir, None, Some(77)).unwrap();
    set_mode(&dir, 0o2777);
    as_user(OWNER, OWNER, 0o022, || {
        fs::create_dir(dir.join("dir")).unwrap();
        fs::write(dir.join("file"), b"").unwrap();
        std::os::unix::fs::symlink("x", dir.join("symlink")).unwrap();
        sys::mknod(&dir.join("fifo"), libc::S_IFIFO | 0o644, 0).unwrap();
        // Deeper, because the bit goes along.
        fs::write(dir.join("dir/deeper"), b"").unwrap();
        // An executable file of a group that is not the caller's loses the bit as it is made (Linux, mode_strip_sgid).
        sys::mknod(&dir.join("program"), libc::S_IFREG | 0o2755, 0).unwrap();
    });
    for name in ["dir", "file", "symlink", "fifo", "dir/deeper", "program"] {
        let attr = fs::symlink_metadata(dir.join(name)).unwrap();
        assert_eq!((attr.uid(), attr.gid()), (OWNER, 77), "{name}");
    }
    assert_eq!((mode(&dir.join("dir")), mode(&dir.join("file")), mode(&dir.join("program"))), (0o2755, 0o644, 0o755));
    // Without the bit: the group of who makes it.
    set_mode(&dir, 0o777);
    as_user(OWNER, OWNER, 0o022, || fs::write(dir.join("own"), b"").unwrap());
    assert_eq!(fs::metadata(dir.join("own")).unwrap().gid(), OWNER);
}
