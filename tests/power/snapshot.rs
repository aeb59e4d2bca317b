//! A whole tree as one value, of the model or of a file system: two that are equal show a user the same.

use std::collections::BTreeMap;

use sessionfs::base::{Cookie, Errno, FileKind, Ino, Timestamp};
use sessionfs::format::content_hash;
use sessionfs::fs::{Fs, Seek};

use crate::perform::ROOT_USER;
use crate::reference::{Kind, Model};

const PIECE: u64 = 4096;

/// What `stat`, `read`, `readlink`, `lseek` and `getxattr` show of something with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    kind: FileKind,
    mode: u32,
    links: u32,
    size: u64,
    pieces: u64,
    /// Hash of content or target.
    content: u64,
    holes: Vec<u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Its number; where the model has none, any.
    ino: Option<Ino>,
    /// mtime and ctime; where nobody knows, any.
    times: Option<(Timestamp, Timestamp)>,
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    paths: BTreeMap<Vec<u8>, Seen>,
    inodes: u64,
    pieces: u64,
}

/// What the model does not know of its nodes.
pub type Numbers = BTreeMap<usize, Ino>;

impl Snapshot {
    /// Of the model, as it is after a crash now: what has no name is gone. `live` gives times.
    pub fn of_model(model: &Model, numbers: &Numbers, live: Option<&Fs>) -> Snapshot {
        let mut model = model.clone();
        model.forget();
        let mut snapshot =
            Snapshot { paths: BTreeMap::new(), inodes: model.nodes.len() as u64, pieces: model.pieces() };
        snapshot.add_node(&model, numbers, live, 0, Vec::new());
        snapshot
    }

    fn add_node(&mut self, model: &Model, numbers: &Numbers, live: Option<&Fs>, id: usize, path: Vec<u8>) {
        let node = &model.nodes[&id];
        let (kind, bytes, holes) = match &node.kind {
            Kind::File { content, pieces } => {
                let all = 0..(content.len() as u64).div_ceil(PIECE);
                (FileKind::Regular, &content[..], all.filter(|piece| !pieces.contains(piece)).collect())
            }
            Kind::Dir { .. } => (FileKind::Directory, &[][..], Vec::new()),
            Kind::Symlink(target) => (FileKind::Symlink, &target[..], Vec::new()),
            Kind::Fifo => (FileKind::Fifo, &[][..], Vec::new()),
        };
        let ino = numbers.get(&id).copied();
        let times = ino.zip(live).map(|(ino, fs)| fs.getattr(ino).unwrap());
        let seen = Seen {
            kind,
            mode: node.mode,
            links: node.links,
            size: node.size(),
            pieces: node.pieces(),
            content: content_hash(bytes),
            holes,
            xattrs: node.xattrs.clone(),
            ino,
            times: times.map(|attr| (attr.mtime, attr.ctime)),
        };
        if let Kind::Dir { names } = &node.kind {
            for (name, &child) in names {
                self.add_node(model, numbers, live, child, below(&path, name));
            }
        }
        self.paths.insert(path, seen);
    }

    pub fn of_fs(fs: &Fs) -> Result<Snapshot, Errno> {
        let usage = fs.usage();
        let mut snapshot = Snapshot { paths: BTreeMap::new(), inodes: usage.inodes, pieces: usage.bytes / PIECE };
        snapshot.add_inode(fs, Ino::ROOT, Vec::new())?;
        Ok(snapshot)
    }

    fn add_inode(&mut self, fs: &Fs, ino: Ino, path: Vec<u8>) -> Result<(), Errno> {
        let attr = fs.getattr(ino)?;
        let (mut content, mut holes) = (Vec::new(), Vec::new());
        match attr.kind {
            FileKind::Regular => {
                fs.read(ino, 0, attr.size as usize + 1, &mut content)?;
                holes = holes_of(fs, ino, attr.size);
            }
            FileKind::Symlink => content = fs.readlink(ino)?.to_vec(),
            FileKind::Directory => {
                for (name, child) in entries(fs, ino)? {
                    self.add_inode(fs, child, below(&path, &name))?;
                }
            }
            _ => {}
        }
        let listed = fs.listxattr(&ROOT_USER, ino)?;
        let names = listed.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let xattrs = names.map(|name| Ok((name.to_vec(), fs.getxattr(ino, name)?.to_vec())));
        let seen = Seen {
            kind: attr.kind,
            mode: attr.mode & 0o7777,
            links: attr.nlink,
            size: attr.size,
            pieces: attr.pieces,
            content: content_hash(&content),
            holes,
            xattrs: xattrs.collect::<Result<_, Errno>>()?,
            ino: Some(ino),
            times: Some((attr.mtime, attr.ctime)),
        };
        self.paths.insert(path, seen);
        Ok(())
    }

    /// What is different, in words; `None` when nothing is.
    pub fn difference(&self, other: &Snapshot) -> Option<String> {
        if (self.inodes, self.pieces) != (other.inodes, other.pieces) {
            let counts = (self.inodes, self.pieces, other.inodes, other.pieces);
            return Some(format!("inodes and pieces: {counts:?}"));
        }
        let all = self.paths.keys().chain(other.paths.keys());
        all.into_iter().find_map(|path| {
            let (one, two) = (self.paths.get(path), other.paths.get(path));
            let same = one.zip(two).is_some_and(|(one, two)| one.is_like(two));
            (!same).then(|| format!("{}: {one:x?} and {two:x?}", path.escape_ascii()))
        })
    }

    pub fn is_like(&self, other: &Snapshot) -> bool {
        self.difference(other).is_none()
    }
}

impl Seen {
    fn is_like(&self, other: &Seen) -> bool {
        let mut other = other.clone();
        if self.ino.is_none() || other.ino.is_none() {
            other.ino = self.ino;
        }
        if self.times.is_none() || other.times.is_none() {
            other.times = self.times;
        }
        *self == other
    }
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

fn entries(fs: &Fs, ino: Ino) -> Result<Vec<(Vec<u8>, Ino)>, Errno> {
    let mut found = Vec::new();
    fs.readdir(ino, Cookie(0), false, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            found.push((entry.name.to_vec(), entry.ino));
        }
        true
    })?;
    Ok(found)
}

/// The pieces of a file that are holes.
fn holes_of(fs: &Fs, ino: Ino, size: u64) -> Vec<u64> {
    let (mut holes, mut at) = (Vec::new(), 0);
    while at < size {
        let data = fs.seek(ino, at, Seek::Data).unwrap_or(size);
        holes.extend(at / PIECE..data.div_ceil(PIECE));
        at = if data < size { fs.seek(ino, data, Seek::Hole).unwrap_or(size) } else { size };
    }
    holes
}
