//! Applies each operation to the file system and to the model, and compares the outcomes and the trees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sessionfs::base::{Cookie, Errno, FileKind, Ino};
use sessionfs::fs::{Caller, Fs, RenameMode, Seek, SetAttr, WriteFlags, XattrMode};
use sessionfs::store::{CreateOptions, Store};

use super::op::{Op, Path};
use super::reference::{Kind, Model};

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const BLOCK: u64 = sessionfs::base::limits::BLOCK_SIZE as u64;
const PIECE: u64 = 4096;
const SMALL_CAP: u64 = 1 << 24;

pub struct Pair {
    dir: tempfile::TempDir,
    fs: Arc<Fs>,
    model: Model,
    /// Inode numbers by model node: they must stay the same for ever.
    inos: BTreeMap<usize, Ino>,
    /// References held on behalf of open files.
    held: Vec<Ino>,
}

impl Pair {
    pub fn new(bytes_limit: u64, inodes_limit: u64) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let options = CreateOptions { bytes_limit, inodes_limit, uid: 0, gid: 0 };
        Store::create(&dir.path().join("session.db"), &options).unwrap();
        let fs = start(dir.path());
        Pair {
            dir,
            fs,
            model: Model::new(bytes_limit, inodes_limit),
            inos: BTreeMap::from([(0, Ino::ROOT)]),
            held: vec![],
        }
    }

    /// Walks a path as the kernel would; the references taken are given back at once.
    fn walk(&self, path: &[Vec<u8>]) -> Result<Ino, Errno> {
        path.iter().try_fold(Ino::ROOT, |at, name| {
            let found = self.fs.lookup(at, name)?;
            self.fs.forget(found.ino, 1);
            Ok(found.ino)
        })
    }

    fn parent<'p>(&self, path: &'p Path) -> Result<(Ino, &'p [u8]), Errno> {
        let (name, dirs) = path.split_last().unwrap();
        let parent = self.walk(dirs)?;
        if self.fs.getattr(parent)?.kind != FileKind::Directory {
            return Err(Errno::NotDir);
        }
        Ok((parent, name))
    }

    fn made(&mut self, op: &Op, real: Result<sessionfs::fs::Attr, Errno>, model: Result<usize, Errno>) {
        assert_eq!(real.map(|_| ()), model.map(|_| ()), "{op:?}");
        if let (Ok(attr), Ok(node)) = (real, model) {
            self.fs.forget(attr.ino, 1);
            assert!(!self.inos.values().any(|&ino| ino == attr.ino), "an inode number was given twice");
            self.inos.insert(node, attr.ino);
        }
    }

    fn create(&mut self, op: &Op, path: &Path, kind: Kind, mode: u32) {
        let real = self.parent(path).and_then(|(parent, name)| match &kind {
            Kind::File { .. } => self.fs.mknod(&ROOT_USER, parent, name, libc::S_IFREG | mode, 0),
            Kind::Fifo => self.fs.mknod(&ROOT_USER, parent, name, libc::S_IFIFO | mode, 0),
            Kind::Dir { .. } => self.fs.mkdir(&ROOT_USER, parent, name, mode),
            Kind::Symlink(target) => self.fs.symlink(&ROOT_USER, parent, name, target),
        });
        let model = self.model.create(path, kind, mode);
        self.made(op, real, model);
    }

    fn two(
        &self,
        from: &Path,
        to: &Path,
        run: impl Fn(Ino, &[u8], Ino, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (from, from_name) = self.parent(from)?;
        let (to, to_name) = self.parent(to)?;
        run(from, from_name, to, to_name)
    }

    /// An operation on a file by path.
    fn on_file<T: PartialEq + std::fmt::Debug>(
        &mut self,
        op: &Op,
        path: &Path,
        real: impl Fn(&Fs, Ino) -> Result<T, Errno>,
        model: impl FnOnce(&mut Model, usize) -> Result<T, Errno>,
    ) {
        let real = self.walk(path).and_then(|ino| real(&self.fs, ino));
        let model = self.model.find(path).and_then(|node| model(&mut self.model, node));
        assert_eq!(real, model, "{op:?}");
    }

    pub fn apply(&mut self, op: &Op) {
        let file = Kind::File { content: vec![], pieces: BTreeSet::new() };
        match op {
            Op::Create(path) => self.create(op, path, file, 0o644),
            Op::Mkdir(path) => self.create(op, path, Kind::Dir { names: BTreeMap::new() }, 0o755),
            Op::Symlink(path, target) => self.create(op, path, Kind::Symlink(vec![b't'; *target]), 0o777),
            Op::Mkfifo(path) => self.create(op, path, Kind::Fifo, 0o600),
            Op::Link(from, to) => {
                let real = self.walk(from).and_then(|ino| {
                    let (parent, name) = self.parent(to)?;
                    self.fs.link(ino, parent, name).map(|attr| self.fs.forget(attr.ino, 1))
                });
                assert_eq!(real, self.model.link(from, to), "{op:?}");
            }
            Op::Unlink(path) => {
                let real = self.parent(path).and_then(|(parent, name)| self.fs.unlink(parent, name));
                assert_eq!(real, self.model.unlink(path, false).map(drop), "{op:?}");
            }
            Op::Rmdir(path) => {
                let real = self.parent(path).and_then(|(parent, name)| self.fs.rmdir(parent, name));
                assert_eq!(real, self.model.rmdir(path), "{op:?}");
            }
            Op::Rename(from, to) => {
                let real = self.two(from, to, |a, b, c, d| self.fs.rename(a, b, c, d, RenameMode::Replace));
                assert_eq!(real, self.model.rename(from, to, true), "{op:?}");
            }
            Op::RenameNoReplace(from, to) => {
                let real = self.two(from, to, |a, b, c, d| self.fs.rename(a, b, c, d, RenameMode::NoReplace));
                assert_eq!(real, self.model.rename(from, to, false), "{op:?}");
            }
            Op::Exchange(from, to) => {
                let real = self.two(from, to, |a, b, c, d| self.fs.rename(a, b, c, d, RenameMode::Exchange));
                assert_eq!(real, self.model.exchange(from, to), "{op:?}");
            }
            Op::Chmod(path, mode) => self.on_file(
                op,
                path,
                |fs, ino| fs.setattr(&ROOT_USER, ino, &SetAttr { mode: Some(*mode), ..Default::default() }).map(drop),
                |model, node| {
                    model.nodes.get_mut(&node).unwrap().mode = *mode;
                    Ok(())
                },
            ),
            Op::SetXattr(path, name, len) => {
                let value = vec![7; *len];
                self.on_file(
                    op,
                    path,
                    |fs, ino| fs.setxattr(&ROOT_USER, ino, name.as_bytes(), &value, XattrMode::Set),
                    |model, node| model.set_xattr(node, name.as_bytes(), &value),
                );
            }
            Op::RemoveXattr(path, name) => self.on_file(
                op,
                path,
                |fs, ino| fs.removexattr(&ROOT_USER, ino, name.as_bytes()),
                |model, node| model.remove_xattr(node, name.as_bytes()),
            ),
            Op::UnlinkOpen(path) => self.unlink_open(op, path),
            Op::Forget => self.forget(),
            Op::Fsync => self.fs.fsync().unwrap(),
            Op::Commit => self.fs.commit().unwrap(),
            Op::Remount => {
                self.forget();
                let stopped = self.fs.stop().unwrap();
                assert_eq!(stopped.counts.pieces, self.model.pieces(), "pieces in the superblock after a stop");
                assert_eq!(stopped.counts.inodes, self.model.nodes.len() as u64);
                self.check();
                self.fs = start(self.dir.path());
            }
            Op::Crash => {
                self.fs.abandon();
                self.held.clear();
                self.drop_orphans();
                self.fs = start(self.dir.path());
                self.compare_trees();
            }
            _ => self.apply_content(op),
        }
        assert_eq!(self.fs.usage().bytes, self.model.pieces() * PIECE, "bytes charged after {op:?}");
        assert_eq!(self.fs.usage().inodes, self.model.nodes.len() as u64, "inodes charged after {op:?}");
    }

    fn apply_content(&mut self, op: &Op) {
        match op {
            Op::Write { path, at, len, byte } => {
                let bytes: Vec<u8> = (0..*len).map(|i| byte.wrapping_add((i / 512) as u8)).collect();
                self.on_file(
                    op,
                    path,
                    |fs, ino| fs.write(ino, *at, &bytes, WriteFlags::default()),
                    |model, node| model.write(node, *at, &bytes),
                );
            }
            Op::Truncate { path, size } => self.on_file(
                op,
                path,
                |fs, ino| fs.setattr(&ROOT_USER, ino, &SetAttr { size: Some(*size), ..Default::default() }).map(drop),
                |model, node| model.truncate(node, *size),
            ),
            Op::Allocate { path, at, len, keep } => {
                let mode = if *keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                self.on_file(
                    op,
                    path,
                    |fs, ino| fs.fallocate(&ROOT_USER, ino, mode, *at, *len),
                    |model, node| model.allocate(node, *at, *len, *keep),
                );
            }
            Op::Punch { path, at, len } => self.on_file(
                op,
                path,
                |fs, ino| {
                    fs.fallocate(&ROOT_USER, ino, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, *at, *len)
                },
                |model, node| model.punch(node, *at, *len),
            ),
            Op::Zero { path, at, len, keep } => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | if *keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                self.on_file(
                    op,
                    path,
                    |fs, ino| fs.fallocate(&ROOT_USER, ino, mode, *at, *len),
                    |model, node| model.zero(node, *at, *len, *keep),
                );
            }
            Op::Copy { from, from_at, to, to_at, len } => self.copy(op, from, *from_at, to, *to_at, *len),
            other => unreachable!("{other:?}"),
        }
    }

    fn copy(&mut self, op: &Op, from: &Path, from_at: u64, to: &Path, to_at: u64, len: u64) {
        let (Ok(from_ino), Ok(to_ino)) = (self.walk(from), self.walk(to)) else { return };
        let (from, to) = (self.model.find(from).unwrap(), self.model.find(to).unwrap());
        if self.model.bytes_limit < SMALL_CAP {
            return; // How far a copy gets at the cap is its own test's business.
        }
        let real = self.fs.copy_range(&ROOT_USER, from_ino, from_at, to_ino, to_at, len);
        let Kind::File { content, pieces } = self.model.nodes[&from].kind.clone() else {
            assert!(real.is_err() || real == Ok(0), "{op:?}");
            return;
        };
        let end = (from_at + len).min(content.len() as u64);
        if from_at >= end {
            assert_eq!(real, Ok(0), "{op:?}");
            return;
        }
        let len = end - from_at;
        if from == to && from_at < to_at + len && to_at < from_at + len {
            assert_eq!(real, Err(Errno::Inval), "{op:?}");
            return;
        }
        if !matches!(self.model.nodes[&to].kind, Kind::File { .. }) {
            assert!(real.is_err(), "{op:?}");
            return;
        }
        assert_eq!(real, Ok(len), "{op:?}");
        let (mut src, mut dst) = (from_at, to_at);
        while src < end {
            let to_size = self.model.nodes[&to].size();
            let aligned = src % BLOCK == 0 && dst % BLOCK == 0;
            let ends = end == content.len() as u64 && dst + (end - src) >= to_size;
            let step = (end - src).min(BLOCK - src % BLOCK);
            let bytes = &content[src as usize..(src + step) as usize];
            if aligned && (step == BLOCK || ends) {
                // A whole block is shared: the target's pieces become the source's.
                self.model.punch(to, dst, BLOCK).unwrap();
                let size = to_size.max(dst + step);
                if let Kind::File { content: target, pieces: held } = &mut self.model.nodes.get_mut(&to).unwrap().kind {
                    target.resize(size as usize, 0);
                    target[dst as usize..(dst + step) as usize].copy_from_slice(bytes);
                    let shared = pieces.range(src / PIECE..(src + BLOCK) / PIECE);
                    held.extend(shared.map(|piece| piece - src / PIECE + dst / PIECE));
                }
            } else {
                self.model.write(to, dst, bytes).unwrap();
            }
            src += step;
            dst += step;
        }
    }

    fn unlink_open(&mut self, op: &Op, path: &Path) {
        let target = self.parent(path).and_then(|(parent, name)| self.fs.lookup(parent, name));
        let real = self.parent(path).and_then(|(parent, name)| self.fs.unlink(parent, name));
        let model = self.model.unlink(path, true);
        assert_eq!(real, model.map(drop), "{op:?}");
        match (target, model) {
            (Ok(attr), Ok(node)) => {
                self.held.push(attr.ino);
                // It can still be written, although no name leads to it.
                let real = self.fs.write(attr.ino, 100, b"after unlink", WriteFlags::default());
                if !matches!(self.model.nodes[&node].kind, Kind::File { .. }) {
                    assert!(real.is_err());
                } else {
                    assert_eq!(real, self.model.write(node, 100, b"after unlink"), "{op:?}");
                    self.compare_node(node, attr.ino);
                }
            }
            (Ok(attr), Err(_)) => self.fs.forget(attr.ino, 1),
            _ => {}
        }
    }

    fn forget(&mut self) {
        for ino in self.held.drain(..) {
            self.fs.forget(ino, 1);
        }
        self.drop_orphans();
    }

    fn drop_orphans(&mut self) {
        self.model.forget();
        self.inos.retain(|node, _| self.model.nodes.contains_key(node));
    }

    fn check(&self) {
        let store = Store::open_read_only(&self.dir.path().join("session.db")).unwrap();
        let findings = sessionfs::store::check(&store, &mut |_, _| {}).unwrap();
        assert!(findings.is_empty(), "{findings:#?}");
    }

    pub fn compare_trees(&self) {
        self.compare_dir(0, Ino::ROOT);
    }

    fn compare_dir(&self, node: usize, ino: Ino) {
        self.compare_node(node, ino);
        let Kind::Dir { names } = &self.model.nodes[&node].kind else { return };
        let mut seen = BTreeMap::new();
        let (mut from, mut more) = (Cookie(0), true);
        while more {
            // A few names at a time, so that continuing is tested as well.
            more = false;
            let mut taken = 0;
            self.fs
                .readdir(ino, from, false, &mut |entry| {
                    if taken == 3 {
                        more = true;
                        return false;
                    }
                    taken += 1;
                    from = entry.cookie;
                    if entry.name != b"." && entry.name != b".." {
                        assert!(seen.insert(entry.name.to_vec(), entry.ino).is_none(), "a name was listed twice");
                    }
                    true
                })
                .unwrap();
        }
        assert_eq!(seen.keys().collect::<Vec<_>>(), names.keys().collect::<Vec<_>>());
        for (name, &child) in names {
            assert_eq!(seen[name], self.inos[&child], "the inode number of {name:?}");
            self.compare_dir(child, seen[name]);
        }
    }

    fn compare_node(&self, node: usize, ino: Ino) {
        let model = &self.model.nodes[&node];
        let attr = self.fs.getattr(ino).unwrap();
        assert_eq!((attr.size, attr.pieces, attr.nlink), (model.size(), model.pieces(), model.links), "node {node}");
        assert_eq!(attr.mode & 0o7777, model.mode, "mode of node {node}");
        for (name, value) in &model.xattrs {
            assert_eq!(self.fs.getxattr(ino, name).unwrap()[..], value[..]);
        }
        let names: usize = model.xattrs.keys().map(|name| name.len() + 1).sum();
        assert_eq!(self.fs.listxattr(&ROOT_USER, ino).unwrap().len(), names);
        match &model.kind {
            Kind::File { content, pieces } => {
                let mut real = Vec::new();
                self.fs.read(ino, 0, content.len() + 10, &mut real).unwrap();
                assert!(real == *content, "content of node {node} differs at {:?}", differ(&real, content));
                self.compare_holes(ino, content.len() as u64, pieces);
            }
            Kind::Symlink(target) => assert_eq!(self.fs.readlink(ino).unwrap()[..], target[..]),
            _ => {}
        }
    }

    fn compare_holes(&self, ino: Ino, size: u64, pieces: &BTreeSet<u64>) {
        for at in (0..size).step_by(PIECE as usize) {
            let is_data = pieces.contains(&(at / PIECE));
            assert_eq!(self.fs.seek(ino, at, Seek::Data) == Ok(at), is_data, "SEEK_DATA at {at}");
            assert_eq!(self.fs.seek(ino, at, Seek::Hole) == Ok(at), !is_data, "SEEK_HOLE at {at}");
        }
    }
}

fn differ(one: &[u8], other: &[u8]) -> Option<usize> {
    if one.len() != other.len() {
        return Some(one.len().min(other.len()));
    }
    one.iter().zip(other).position(|(a, b)| a != b)
}

fn start(dir: &std::path::Path) -> Arc<Fs> {
    crate::support::start(&dir.join("session.db")).unwrap()
}
