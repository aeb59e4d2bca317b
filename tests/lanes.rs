//! The ephemeral lane without a kernel: what goes to scratch, what stays the session's, and what lies between.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sessionfs::base::{Cookie, Errno, FileKind, Ino};
use sessionfs::fs::{Attr, Caller, Fs, Globs, RenameMode, SetAttr, WriteFlags, XattrMode};
use sessionfs::store::{CreateOptions, HostDisk, Omit, Opened, Store, Superblock};

const ME: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
const DEFAULT: &[u8] = b"system.posix_acl_default";

struct Session {
    dir: tempfile::TempDir,
    globs: Globs,
    fs: Arc<Fs>,
}

fn create(path: &Path, bytes_limit: u64) {
    let options = CreateOptions { bytes_limit, inodes_limit: 1000, uid: 0, gid: 0 };
    Store::create(path, &options).unwrap();
}

fn recover(path: &Path) -> Opened {
    Store::recover(&HostDisk::shared(), path, &path.with_extension("journal"), Omit::default()).unwrap()
}

fn start(dir: &Path, globs: &Globs) -> Arc<Fs> {
    let scratch = dir.join("scratch");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir(&scratch).unwrap();
    let scratch = scratch.join("session.db");
    create(&scratch, 1 << 40);
    Fs::start_with_lane(recover(&dir.join("session.db")), globs.clone(), recover(&scratch)).unwrap()
}

impl Session {
    fn new(globs: &[&str]) -> Session {
        let dir = tempfile::tempdir().unwrap();
        create(&dir.path().join("session.db"), 1 << 20);
        let globs = Globs::parse(globs).unwrap();
        let fs = start(dir.path(), &globs);
        Session { dir, globs, fs }
    }

    /// Stops and comes back; what the stop said.
    fn remount(&mut self) -> Superblock {
        let superblock = self.fs.stop().unwrap();
        self.fs = start(self.dir.path(), &self.globs);
        superblock
    }

    fn at(&self, path: &str) -> Result<Attr, Errno> {
        let mut attr = self.fs.getattr(Ino::ROOT)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.fs.lookup(attr.ino, name.as_bytes())?;
        }
        Ok(attr)
    }

    fn ino(&self, path: &str) -> Ino {
        self.at(path).unwrap().ino
    }

    fn dir(&self, path: &str) -> Attr {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.fs.mkdir(&ME, self.ino(parent), name.as_bytes(), 0o755).unwrap()
    }

    fn file(&self, path: &str, bytes: &[u8]) -> Attr {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let attr = self.fs.mknod(&ME, self.ino(parent), name.as_bytes(), libc::S_IFREG | 0o644, 0).unwrap();
        assert_eq!(self.fs.write(attr.ino, 0, bytes, WriteFlags::default()), Ok(bytes.len()));
        attr
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.fs.read(self.ino(path), 0, 1 << 20, &mut bytes).unwrap();
        bytes
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.rename_by(from, to, RenameMode::Replace)
    }

    fn rename_by(&self, from: &str, to: &str, mode: RenameMode) -> Result<(), Errno> {
        let part = |path: &str| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            (self.ino(parent), name.as_bytes().to_vec())
        };
        let ((parent, name), (to, to_name)) = (part(from), part(to));
        self.fs.rename(parent, &name, to, &to_name, mode)
    }

    /// Names with their numbers, as a listing has them.
    fn list(&self, dir: Ino, plus: bool) -> BTreeMap<String, (Ino, FileKind)> {
        let mut found = BTreeMap::new();
        let mut entry = |entry: &sessionfs::fs::DirEntry<'_>| {
            let name = String::from_utf8(entry.name.to_vec()).unwrap();
            assert!(entry.attr.is_none_or(|attr| attr.ino == entry.ino), "{name}");
            found.insert(name, (entry.ino, entry.kind)).is_none()
        };
        self.fs.readdir(dir, Cookie(0), plus, &mut entry).unwrap();
        found
    }
}

#[test]
fn what_is_below_a_root_takes_nothing_from_the_session() {
    let mut session = Session::new(&["target/"]);
    session.dir("src");
    session.dir("src/target");
    let (usage, digest) = (session.fs.usage(), session.remount().digest);
    let big = vec![7; 1 << 20];
    for i in 0..4 {
        session.file(&format!("src/target/f{i}"), &big);
    }
    session.dir("src/target/deep");
    session.file("src/target/deep/x", b"x");
    session.fs.link(session.ino("src/target/deep/x"), session.ino("src/target"), b"y").unwrap();
    assert_eq!(session.at("src/target/y").unwrap().nlink, 2);
    assert_eq!(session.read("src/target/f3"), big);
    assert_eq!(session.fs.usage(), usage, "the cap is 1 MiB, and four are there");
    assert_eq!(session.remount().digest, digest);
    assert_eq!(session.list(session.ino("src/target"), true).len(), 2, "`.` and `..`");
    assert_eq!(session.at("src/target/y"), Err(Errno::NoEnt));
}

#[test]
fn a_root_is_the_sessions_and_its_names_are_not() {
    let mut session = Session::new(&["target/"]);
    let root = session.dir("target");
    session.fs.setattr(&ME, root.ino, &SetAttr { mode: Some(0o2750), gid: Some(7), ..SetAttr::default() }).unwrap();
    session.fs.setxattr(&ME, root.ino, b"user.x", b"1", XattrMode::Set).unwrap();
    let sub = session.dir("target/sub");
    assert_eq!((sub.gid, sub.mode & 0o7777), (7, 0o2755), "it inherits");
    let shown = session.at("target").unwrap();
    assert_eq!((shown.ino, shown.nlink, shown.mode & 0o7777), (root.ino, 3, 0o2750));
    assert!(shown.size > 0 && shown.mtime > root.mtime);
    assert_eq!(session.fs.getattr(root.ino), Ok(shown));
    for plus in [false, true] {
        let listed = session.list(root.ino, plus);
        assert_eq!((listed["."].0, listed[".."].0, listed["sub"].0), (root.ino, Ino::ROOT, sub.ino));
        assert_eq!(session.list(sub.ino, plus)[".."].0, root.ino);
        assert_eq!(session.list(Ino::ROOT, plus)["target"].0, root.ino);
    }
    assert_eq!(session.fs.lookup(sub.ino, b"..").unwrap(), shown);
    assert_eq!(session.fs.lookup(root.ino, b"..").unwrap().ino, Ino::ROOT);
    assert_eq!(session.fs.lookup(root.ino, b".").unwrap(), shown);
    session.remount();
    let back = session.at("target").unwrap();
    assert_eq!((back.ino, back.nlink, back.mode & 0o7777, back.gid, back.size), (root.ino, 2, 0o2750, 7, 0));
    assert_eq!(&*session.fs.getxattr(root.ino, b"user.x").unwrap(), b"1");
    assert_eq!(session.fs.getattr(sub.ino), Err(Errno::Stale), "of the last mount");
    let again = session.dir("target/sub");
    assert_ne!(again.ino, sub.ino, "numbers are not used again");
    assert_eq!(again.gid, 7);
}

#[test]
fn a_default_acl_of_a_root_is_inherited_whenever_it_came() {
    let session = Session::new(&["target/"]);
    // u::rwx, u:5:rwx, g::---, m::rwx, o::---, each as tag, permissions, id.
    let entries = [(1u16, 7u16, u32::MAX), (2, 7, 5), (4, 0, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        acl.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let root = session.dir("target").ino;
    session.fs.setxattr(&ME, root, DEFAULT, &acl, XattrMode::Set).unwrap();
    let before = session.dir("target/a").ino;
    assert_eq!(&*session.fs.getxattr(before, DEFAULT).unwrap(), acl);
    session.fs.removexattr(&ME, root, DEFAULT).unwrap();
    let without = session.dir("target/b").ino;
    assert_eq!(session.fs.getxattr(without, DEFAULT), Err(Errno::NoData));
    session.fs.setxattr(&ME, root, DEFAULT, &acl, XattrMode::Set).unwrap();
    let after = session.dir("target/c").ino;
    assert_eq!(&*session.fs.getxattr(after, DEFAULT).unwrap(), acl);
}

#[test]
fn nothing_crosses() {
    let session = Session::new(&["target/"]);
    let (kept, lost) = (session.dir("kept").ino, session.dir("target").ino);
    let (file, other) = (session.file("kept/f", b"kept").ino, session.file("target/f", b"lost").ino);
    session.dir("kept/d");
    session.dir("target/d");
    for (from, to) in [("kept/f", "target/g"), ("target/f", "kept/g"), ("kept/d", "target/e"), ("target/d", "kept/e")] {
        for mode in [RenameMode::Replace, RenameMode::NoReplace] {
            assert_eq!(session.rename_by(from, to, mode), Err(Errno::XDev), "{from} {to}");
        }
    }
    assert_eq!(session.rename_by("kept/f", "target/f", RenameMode::Exchange), Err(Errno::XDev));
    assert_eq!(session.fs.link(file, lost, b"l").unwrap_err(), Errno::XDev);
    assert_eq!(session.fs.link(other, kept, b"l").unwrap_err(), Errno::XDev);
    assert_eq!(session.fs.copy_range(&ME, file, 0, other, 0, 4), Err(Errno::XDev));
    assert_eq!(session.rename("target/f", "target/d/g"), Ok(()));
    assert_eq!(session.read("target/d/g"), b"lost");
    assert_eq!(session.read("kept/f"), b"kept");
}

#[test]
fn a_root_moves_only_to_where_it_stays_one() {
    let mut session = Session::new(&["target/", "/web/*/dist"]);
    for dir in ["a", "b", "web", "web/x", "web/y"] {
        session.dir(dir);
    }
    for root in ["a/target", "web/x/dist"] {
        session.dir(root);
        session.file(&format!("{root}/f"), b"lost");
    }
    session.dir("b/dist");
    session.file("b/dist/f", b"kept");
    assert_eq!(session.rename("a/target", "a/other"), Err(Errno::XDev));
    assert_eq!(session.rename("web/x/dist", "b/dist2"), Err(Errno::XDev));
    assert_eq!(session.rename_by("b/dist", "a/target", RenameMode::Exchange), Err(Errno::XDev));
    assert_eq!(session.rename_by("a/target", "b/dist", RenameMode::Exchange), Err(Errno::XDev));
    session.rename("a/target", "b/target").unwrap();
    session.rename("web/x/dist", "web/y/dist").unwrap();
    assert_eq!(session.read("b/target/f"), b"lost");
    assert_eq!(session.read("web/y/dist/f"), b"lost");
    // A directory above takes it along.
    session.rename("b", "c").unwrap();
    assert_eq!(session.read("c/target/f"), b"lost");
    // What is kept stays kept, also under a pattern, and says so by coming back.
    session.rename("c/dist", "web/x/dist").unwrap();
    session.file("web/x/dist/g", b"kept");
    session.remount();
    assert_eq!(session.read("web/x/dist/f"), b"kept");
    assert_eq!(session.read("web/x/dist/g"), b"kept");
    assert_eq!(session.at("c/target/f"), Err(Errno::NoEnt));
    assert_eq!(session.at("web/y/dist/f"), Err(Errno::NoEnt));
}

#[test]
fn a_root_goes_when_it_is_empty_in_both() {
    let session = Session::new(&["target/"]);
    let root = session.dir("target").ino;
    session.file("target/f", b"");
    session.dir("empty");
    assert_eq!(session.fs.rmdir(Ino::ROOT, b"target"), Err(Errno::NotEmpty));
    assert_eq!(session.rename("empty", "target"), Err(Errno::NotEmpty));
    assert_eq!(session.read("target/f"), b"", "it was not touched");
    session.fs.unlink(root, b"f").unwrap();
    session.rename("empty", "target").unwrap();
    assert_ne!(session.ino("target"), root);
    session.fs.rmdir(Ino::ROOT, b"target").unwrap();
    // Made anew, it is a root again.
    let again = session.dir("target").ino;
    let file = session.file("target/f", b"x");
    assert_ne!(again, root);
    assert!(!session.fs.is_kept(file.ino) && session.fs.is_kept(again));
    assert_eq!(session.fs.lookup(root, b"f").unwrap_err(), Errno::NoEnt);
}

#[test]
fn what_was_there_before_the_pattern_is_kept() {
    let mut session = Session::new(&[]);
    session.dir("target");
    session.file("target/old", b"old");
    session.dir("empty");
    session.globs = Globs::parse(&["target/", "empty/"]).unwrap();
    session.remount();
    // By a listing, as `ls` comes by it.
    session.list(Ino::ROOT, true);
    session.file("target/new", b"new");
    session.file("empty/new", b"new");
    // Emptied while it is in use, it stays what it is.
    session.remount();
    assert_eq!((session.read("target/old"), session.read("target/new")), (b"old".to_vec(), b"new".to_vec()));
    assert_eq!(session.at("empty/new"), Err(Errno::NoEnt));
    let dir = session.ino("target");
    for name in [b"old", b"new"] {
        session.fs.unlink(dir, name).unwrap();
    }
    session.list(Ino::ROOT, true);
    assert!(session.fs.is_kept(session.file("target/f", b"").ino));
    session.fs.unlink(dir, b"f").unwrap();
    session.remount();
    assert!(!session.fs.is_kept(session.file("target/f", b"").ino));
}

#[test]
fn files_and_links_of_a_patterns_name_are_kept() {
    let mut session = Session::new(&["target"]);
    session.file("target", b"a file");
    session.dir("d");
    session.fs.symlink(&ME, session.ino("d"), b"target", b"elsewhere").unwrap();
    session.remount();
    assert_eq!(session.read("target"), b"a file");
    assert_eq!(&*session.fs.readlink(session.ino("d/target")).unwrap(), b"elsewhere");
}
