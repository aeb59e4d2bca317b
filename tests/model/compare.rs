//! Applies each operation to the file system and to the model, and compares the outcomes and the trees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sessionfs::base::{Cookie, Ino};
use sessionfs::fs::{Fs, Seek, Usage, WriteFlags};
use sessionfs::store::{CreateOptions, Store};

use super::op::{Op, Path};
use super::perform::{ROOT_USER, makes, on_fs, parent, walk};
use super::reference::{Kind, Model};

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

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::UnlinkOpen(path) => self.unlink_open(op, path),
            Op::Forget => self.forget(),
            Op::Resize(bytes, inodes) => {
                let least = if self.model.bytes_limit < SMALL_CAP { (64 << 10, 2) } else { (1 << 30, 100_000) };
                (self.model.bytes_limit, self.model.inodes_limit) = (least.0 + bytes, least.1 + inodes);
                self.fs.set_limits(Some(self.model.bytes_limit), Some(self.model.inodes_limit)).unwrap();
            }
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
            op => self.perform(op),
        }
        let usage = Usage {
            bytes: self.model.pieces() * PIECE,
            bytes_limit: self.model.bytes_limit / PIECE * PIECE,
            inodes: self.model.nodes.len() as u64,
            inodes_limit: self.model.inodes_limit,
        };
        assert_eq!(self.fs.usage(), usage, "charged, and caps, after {op:?}");
    }

    fn perform(&mut self, op: &Op) {
        if let Op::Copy { from, to, .. } = op {
            let is_file = |path| self.model.find(path).is_ok_and(|node| self.model.is_file(node));
            let found = [from, to].iter().all(|path| walk(&self.fs, path).is_ok());
            if !found || self.model.bytes_limit < SMALL_CAP {
                return; // How far a copy gets at the cap is its own test's business.
            }
            if !is_file(from) || !is_file(to) {
                assert!(on_fs(&self.fs, op).unwrap_or(0) == 0, "{op:?}");
                return;
            }
        }
        let real = on_fs(&self.fs, op);
        assert_eq!(real, self.model.perform(op), "{op:?}");
        if let (Ok(_), Some(path)) = (real, makes(op)) {
            let (ino, node) = (walk(&self.fs, path).unwrap(), self.model.find(path).unwrap());
            assert!(!self.inos.values().any(|&old| old == ino), "an inode number was given twice");
            self.inos.insert(node, ino);
        }
    }

    fn unlink_open(&mut self, op: &Op, path: &Path) {
        let target = parent(&self.fs, path).and_then(|(parent, name)| self.fs.lookup(parent, name));
        let real = parent(&self.fs, path).and_then(|(parent, name)| self.fs.unlink(parent, name));
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
