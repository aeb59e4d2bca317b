//! A session seen through a map of ids, beside the same session with the ids as they are stored.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

#[path = "support/acl.rs"]
mod acl;
mod support;

use std::sync::Arc;

use acl::acl;
use proptest::prelude::*;
use sessionfs::base::{Cookie, Errno, IdMap, IdMaps, Ino};
use sessionfs::fs::{Attr, Caller, Fs, SetAttr, XattrMode};
use sessionfs::store::{CreateOptions, Store};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";
const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
/// Who an ACL's entry names when it names nobody.
const NOBODY: u32 = u32::MAX;

fn map(text: &str) -> IdMap {
    IdMap::new(&text.split(' ').map(|range| range.parse().unwrap()).collect::<Vec<_>>()).unwrap()
}

/// A new session as it is stored, and the same seen through maps of users and groups.
fn session(users: &str, groups: &str) -> (tempfile::TempDir, Arc<Fs>, Arc<Fs>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    Store::create(&path, &CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1000, uid: 0, gid: 0 }).unwrap();
    let stored = support::start(&path).unwrap();
    let seen = stored.mapped(IdMaps { users: map(users), groups: map(groups) });
    (dir, stored, seen)
}

fn owner(attr: Attr) -> (u32, u32) {
    (attr.uid, attr.gid)
}

#[test]
fn owners_are_translated_wherever_they_are_given_or_shown() {
    let (_dir, stored, seen) = session("1000:0", "50:100:10");
    assert_eq!(owner(seen.getattr(Ino::ROOT).unwrap()), (1000, 0));
    let me = Caller { uid: 1000, gid: 55, umask: 0 };
    let file = seen.mknod(&me, Ino::ROOT, b"file", libc::S_IFREG | 0o644, 0).unwrap();
    let all = [
        file,
        seen.mkdir(&me, Ino::ROOT, b"dir", 0o755).unwrap(),
        seen.symlink(&me, Ino::ROOT, b"symlink", b"target").unwrap(),
        seen.tmpfile(&me, Ino::ROOT, 0o600).unwrap(),
    ];
    for attr in all {
        assert_eq!(owner(attr), (1000, 55), "{:?}", attr.kind);
        assert_eq!(owner(stored.getattr(attr.ino).unwrap()), (0, 105), "{:?}", attr.kind);
        assert_eq!(owner(seen.getattr(attr.ino).unwrap()), (1000, 55), "{:?}", attr.kind);
    }
    assert_eq!(owner(seen.link(file.ino, Ino::ROOT, b"link").unwrap()), (1000, 55));
    assert_eq!(owner(seen.lookup(Ino::ROOT, b"dir").unwrap()), (1000, 55));
    let mut listed = 0;
    seen.readdir(Ino::ROOT, Cookie(0), true, &mut |entry| {
        listed += usize::from(entry.attr.is_some_and(|attr| owner(attr) == (1000, 55)));
        true
    })
    .unwrap();
    assert_eq!(listed, 4);

    // chown: one id, the other, both; the rest of the world changes places or stays.
    for (uid, gid, shown, kept) in [
        (Some(0), None, (0, 55), (1000, 105)),
        (None, Some(100), (0, 100), (1000, 50)),
        (Some(7), Some(109), (7, 109), (7, 59)),
        (Some(1000), Some(8), (1000, 8), (0, 8)),
    ] {
        let set = SetAttr { uid, gid, ..SetAttr::default() };
        assert_eq!(owner(seen.setattr(&ROOT, file.ino, &set).unwrap()), shown);
        assert_eq!(owner(stored.getattr(file.ino).unwrap()), kept);
    }
    // A set-gid directory hands on its group, whatever it is called.
    let set = SetAttr { gid: Some(58), mode: Some(0o2777), ..SetAttr::default() };
    let dir = seen.setattr(&ROOT, all[1].ino, &set).unwrap();
    let inside = seen.mknod(&me, dir.ino, b"inside", libc::S_IFREG | 0o644, 0).unwrap();
    assert_eq!((inside.gid, stored.getattr(inside.ino).unwrap().gid), (58, 108));
    stored.stop().unwrap();
}

#[test]
fn privileges_are_asked_of_who_root_is_here() {
    let (_dir, _stored, seen) = session("1000:0", "1000:0");
    let (root, me) = (ROOT, Caller { uid: 1000, gid: 1000, umask: 0 });
    let file = seen.mknod(&me, Ino::ROOT, b"f", libc::S_IFREG | 0o644, 0).unwrap().ino;
    seen.setxattr(&root, file, b"trusted.t", b"1", XattrMode::Set).unwrap();
    assert_eq!(seen.setxattr(&me, file, b"trusted.t", b"2", XattrMode::Set), Err(Errno::Perm));
    assert_eq!((seen.listxattr(&root, file).unwrap().len(), seen.listxattr(&me, file).unwrap().len()), (10, 0));
    let truncate = SetAttr { size: Some(5), ..SetAttr::default() };
    let mode = |who: &Caller| {
        seen.setattr(&root, file, &SetAttr { mode: Some(0o6755), ..SetAttr::default() }).unwrap();
        seen.setattr(who, file, &truncate).unwrap().mode & 0o7777
    };
    assert_eq!((mode(&root), mode(&me)), (0o6755, 0o755));
}

#[test]
fn acls_and_capabilities_name_the_same_people_on_both_sides() {
    let (_dir, stored, seen) = session("1000:0 2000:3000:5", "1000:0");
    let file = seen.mkdir(&ROOT, Ino::ROOT, b"d", 0o755).unwrap().ino;
    let form = |a, b, c| {
        acl(&[(1, 7, NOBODY), (2, 6, a), (2, 4, b), (4, 5, NOBODY), (8, 7, c), (0x10, 7, NOBODY), (0x20, 0, NOBODY)])
    };
    for name in [ACCESS, DEFAULT] {
        seen.setxattr(&ROOT, file, name, &form(1000, 2003, 1000), XattrMode::Set).unwrap();
        assert_eq!(*seen.getxattr(file, name).unwrap(), form(1000, 2003, 1000));
        assert_eq!(*stored.getxattr(file, name).unwrap(), form(0, 3003, 0));
    }
    // Inherited, and read again.
    let inside = seen.mknod(&ROOT, file, b"f", libc::S_IFREG | 0o666, 0).unwrap().ino;
    let inherited = seen.getxattr(inside, ACCESS).unwrap();
    assert_eq!((&inherited[16..20], &inherited[24..28]), (&1000_u32.to_le_bytes()[..], &2003_u32.to_le_bytes()[..]));
    assert_eq!(seen.setxattr(&ROOT, file, ACCESS, b"\x02\0\0\0xyz", XattrMode::Set), Err(Errno::Inval));

    let capability = |revision: u8, root: &[u8]| {
        let mut value = vec![1, 0, 0, revision, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        value.extend_from_slice(root);
        value
    };
    for (given, kept) in [
        (capability(2, b""), capability(2, b"")),
        (capability(3, &2004_u32.to_le_bytes()), capability(3, &3004_u32.to_le_bytes())),
        (capability(3, &0_u32.to_le_bytes()), capability(3, &1000_u32.to_le_bytes())),
        (capability(4, &1000_u32.to_le_bytes()), capability(4, &1000_u32.to_le_bytes())),
    ] {
        seen.setxattr(&ROOT, inside, CAPABILITY, &given, XattrMode::Set).unwrap();
        assert_eq!(*seen.getxattr(inside, CAPABILITY).unwrap(), given);
        assert_eq!(*stored.getxattr(inside, CAPABILITY).unwrap(), kept);
    }
    // Nobody looks into other xattrs.
    seen.setxattr(&ROOT, inside, b"user.capability", &capability(3, &[0; 4]), XattrMode::Set).unwrap();
    assert_eq!(*stored.getxattr(inside, b"user.capability").unwrap(), capability(3, &[0; 4]));
    stored.stop().unwrap();
}

/// Ids, many of which a map says something about.
fn id() -> impl Strategy<Value = u32> {
    prop_oneof![0..12_u32, 1_000..1_012_u32, 0..u32::MAX]
}

#[test]
fn whatever_an_acl_or_a_capability_names_comes_back() {
    let (_dir, stored, seen) = session("1000:0:8 3:1005:2", "0:1000:12");
    let file = seen.mknod(&ROOT, Ino::ROOT, b"f", libc::S_IFREG | 0o644, 0).unwrap().ino;
    let (users, groups) = (map("1000:0:8 3:1005:2"), map("0:1000:12"));
    let ids = (prop::collection::vec(id(), 0..5), prop::collection::vec(id(), 1..5), id());
    proptest!(|((users_named, groups_named, root) in ids)| {
        let form = |user: &dyn Fn(u32) -> u32, group: &dyn Fn(u32) -> u32| {
            let named_users = users_named.iter().map(|&id| (2, 6, user(id)));
            let named_groups = groups_named.iter().map(|&id| (8, 5, group(id)));
            let mut entries = vec![(1, 7, NOBODY)];
            entries.extend(named_users.chain([(4, 5, NOBODY)]).chain(named_groups));
            entries.extend([(0x10, 7, NOBODY), (0x20, 1, NOBODY)]);
            acl(&entries)
        };
        let given = form(&|id| id, &|id| id);
        seen.setxattr(&ROOT, file, ACCESS, &given, XattrMode::Set).unwrap();
        prop_assert_eq!(&*seen.getxattr(file, ACCESS).unwrap(), &given[..]);
        let kept = form(&|id| users.stored(id), &|id| groups.stored(id));
        prop_assert_eq!(&*stored.getxattr(file, ACCESS).unwrap(), &kept[..]);

        let capability = |root: u32| [&[0, 0, 0, 3][..], &[9; 16], &root.to_le_bytes()].concat();
        seen.setxattr(&ROOT, file, CAPABILITY, &capability(root), XattrMode::Set).unwrap();
        prop_assert_eq!(&*seen.getxattr(file, CAPABILITY).unwrap(), &capability(root)[..]);
        prop_assert_eq!(&*stored.getxattr(file, CAPABILITY).unwrap(), &capability(users.stored(root))[..]);
    });
    stored.stop().unwrap();
}
