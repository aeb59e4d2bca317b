//! An operation done on the file system, and the same operation done on the model. Both answer with the bytes it wrote
//! or copied, or 0.

use std::collections::{BTreeMap, BTreeSet};

use sessionfs::base::{Errno, FileKind, Ino};
use sessionfs::fs::{Attr, Caller, Fs, RenameMode, SetAttr, WriteFlags, XattrMode};

use super::op::{Op, Path};
use super::reference::{Kind, Model};

pub const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const BLOCK: u64 = sessionfs::base::limits::BLOCK_SIZE as u64;
const PIECE: u64 = 4096;

/// Walks a path as the kernel would; the references taken are given back at once.
pub fn walk(fs: &Fs, path: &[Vec<u8>]) -> Result<Ino, Errno> {
    path.iter().try_fold(Ino::ROOT, |at, name| {
        let found = fs.lookup(at, name)?;
        fs.forget(found.ino, 1);
        Ok(found.ino)
    })
}

pub fn parent<'p>(fs: &Fs, path: &'p Path) -> Result<(Ino, &'p [u8]), Errno> {
    let (name, dirs) = path.split_last().unwrap();
    let parent = walk(fs, dirs)?;
    if fs.getattr(parent)?.kind != FileKind::Directory {
        return Err(Errno::NotDir);
    }
    Ok((parent, name))
}

/// What a write of this operation writes.
fn written(len: usize, byte: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes.chunks_mut(512).enumerate().for_each(|(i, chunk)| chunk.fill(byte.wrapping_add(i as u8)));
    bytes
}

/// What an operation that makes something makes, and with which mode.
fn made(op: &Op) -> Option<(&Path, Kind, u32)> {
    match op {
        Op::Create(path) => Some((path, Kind::File { content: vec![], pieces: BTreeSet::new() }, 0o644)),
        Op::Mkdir(path) => Some((path, Kind::Dir { names: BTreeMap::new() }, 0o755)),
        Op::Symlink(path, target) => Some((path, Kind::Symlink(vec![b't'; *target]), 0o777)),
        Op::Mkfifo(path) => Some((path, Kind::Fifo, 0o600)),
        _ => None,
    }
}

/// The path of what the operation makes.
pub fn makes(op: &Op) -> Option<&Path> {
    made(op).map(|(path, ..)| path)
}

/// Does everything but what begins or ends a life, and what keeps a file open.
pub fn on_fs(fs: &Fs, op: &Op) -> Result<u64, Errno> {
    if let Some((path, kind, mode)) = made(op) {
        let (parent, name) = parent(fs, path)?;
        let made = match &kind {
            Kind::File { .. } => fs.mknod(&ROOT_USER, parent, name, libc::S_IFREG | mode, 0),
            Kind::Fifo => fs.mknod(&ROOT_USER, parent, name, libc::S_IFIFO | mode, 0),
            Kind::Dir { .. } => fs.mkdir(&ROOT_USER, parent, name, mode),
            Kind::Symlink(target) => fs.symlink(&ROOT_USER, parent, name, target),
        };
        return made.map(|attr| given_back(fs, attr));
    }
    match op {
        Op::Link(from, to) => {
            let ino = walk(fs, from)?;
            let (parent, name) = parent(fs, to)?;
            fs.link(ino, parent, name).map(|attr| given_back(fs, attr))
        }
        Op::Unlink(path) => parent(fs, path).and_then(|(parent, name)| fs.unlink(parent, name)).map(|()| 0),
        Op::Rmdir(path) => parent(fs, path).and_then(|(parent, name)| fs.rmdir(parent, name)).map(|()| 0),
        Op::Rename(from, to) => rename(fs, from, to, RenameMode::Replace),
        Op::RenameNoReplace(from, to) => rename(fs, from, to, RenameMode::NoReplace),
        Op::Exchange(from, to) => rename(fs, from, to, RenameMode::Exchange),
        Op::Copy { from, from_at, to, to_at, len } => {
            fs.copy_range(&ROOT_USER, walk(fs, from)?, *from_at, walk(fs, to)?, *to_at, *len)
        }
        op => on_node(fs, op),
    }
}

fn given_back(fs: &Fs, attr: Attr) -> u64 {
    fs.forget(attr.ino, 1);
    0
}

fn rename(fs: &Fs, from: &Path, to: &Path, mode: RenameMode) -> Result<u64, Errno> {
    let (from, from_name) = parent(fs, from)?;
    let (to, to_name) = parent(fs, to)?;
    fs.rename(from, from_name, to, to_name, mode).map(|()| 0)
}

fn on_node(fs: &Fs, op: &Op) -> Result<u64, Errno> {
    let attr = |path, change: SetAttr| fs.setattr(&ROOT_USER, walk(fs, path)?, &change).map(|_| 0);
    let range = |path, mode, at, len| fs.fallocate(&ROOT_USER, walk(fs, path)?, mode, at, len).map(|()| 0);
    let keeping = |keep: bool| if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
    match op {
        Op::Chmod(path, mode) => attr(path, SetAttr { mode: Some(*mode), ..SetAttr::default() }),
        Op::Truncate { path, size } => attr(path, SetAttr { size: Some(*size), ..SetAttr::default() }),
        Op::Write { path, at, len, byte } => {
            let ino = walk(fs, path)?;
            fs.write(ino, *at, &written(*len, *byte), WriteFlags::default()).map(|done| done as u64)
        }
        Op::Allocate { path, at, len, keep } => range(path, keeping(*keep), *at, *len),
        Op::Punch { path, at, len } => range(path, libc::FALLOC_FL_PUNCH_HOLE | keeping(true), *at, *len),
        Op::Zero { path, at, len, keep } => range(path, libc::FALLOC_FL_ZERO_RANGE | keeping(*keep), *at, *len),
        Op::SetXattr(path, name, len) => {
            let value = vec![7; *len];
            fs.setxattr(&ROOT_USER, walk(fs, path)?, name.as_bytes(), &value, XattrMode::Set).map(|()| 0)
        }
        Op::RemoveXattr(path, name) => fs.removexattr(&ROOT_USER, walk(fs, path)?, name.as_bytes()).map(|()| 0),
        other => unreachable!("{other:?}"),
    }
}

impl Model {
    /// The same as [`on_fs`].
    pub fn perform(&mut self, op: &Op) -> Result<u64, Errno> {
        if let Some((path, kind, mode)) = made(op) {
            return self.create(path, kind, mode).map(|_| 0);
        }
        match op {
            Op::Link(from, to) => self.link(from, to).map(|()| 0),
            Op::Unlink(path) => self.unlink(path, false).map(|_| 0),
            Op::Rmdir(path) => self.rmdir(path).map(|()| 0),
            Op::Rename(from, to) => self.rename(from, to, true).map(|()| 0),
            Op::RenameNoReplace(from, to) => self.rename(from, to, false).map(|()| 0),
            Op::Exchange(from, to) => self.exchange(from, to).map(|()| 0),
            Op::Copy { from, from_at, to, to_at, len } => {
                let (from, to) = (self.find(from)?, self.find(to)?);
                self.copy(from, *from_at, to, *to_at, *len)
            }
            op => self.perform_on_node(op),
        }
    }

    fn perform_on_node(&mut self, op: &Op) -> Result<u64, Errno> {
        match op {
            Op::Chmod(path, mode) => {
                let node = self.find(path)?;
                self.nodes.get_mut(&node).unwrap().mode = *mode;
                Ok(0)
            }
            Op::Truncate { path, size } => self.find(path).and_then(|node| self.truncate(node, *size)).map(|()| 0),
            Op::Write { path, at, len, byte } => {
                let node = self.find(path)?;
                self.write(node, *at, &written(*len, *byte)).map(|done| done as u64)
            }
            Op::Allocate { path, at, len, keep } => {
                self.find(path).and_then(|node| self.allocate(node, *at, *len, *keep)).map(|()| 0)
            }
            Op::Punch { path, at, len } => self.find(path).and_then(|node| self.punch(node, *at, *len)).map(|()| 0),
            Op::Zero { path, at, len, keep } => {
                self.find(path).and_then(|node| self.zero(node, *at, *len, *keep)).map(|()| 0)
            }
            Op::SetXattr(path, name, len) => {
                self.find(path).and_then(|node| self.set_xattr(node, name.as_bytes(), &vec![7; *len])).map(|()| 0)
            }
            Op::RemoveXattr(path, name) => {
                self.find(path).and_then(|node| self.remove_xattr(node, name.as_bytes())).map(|()| 0)
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// A copy between files, which shares whole blocks where they line up. What is no file is EINVAL here; how far a
    /// copy gets at the cap is not modelled.
    fn copy(&mut self, from: usize, from_at: u64, to: usize, to_at: u64, len: u64) -> Result<u64, Errno> {
        let Kind::File { content, pieces } = self.nodes[&from].kind.clone() else { return Err(Errno::Inval) };
        let end = (from_at + len).min(content.len() as u64);
        if from_at >= end {
            return Ok(0);
        }
        let len = end - from_at;
        if from == to && from_at < to_at + len && to_at < from_at + len {
            return Err(Errno::Inval);
        }
        if !matches!(self.nodes[&to].kind, Kind::File { .. }) {
            return Err(Errno::Inval);
        }
        let (mut src, mut dst) = (from_at, to_at);
        while src < end {
            let to_size = self.nodes[&to].size();
            let aligned = src % BLOCK == 0 && dst % BLOCK == 0;
            let ends = end == content.len() as u64 && dst + (end - src) >= to_size;
            let step = (end - src).min(BLOCK - src % BLOCK);
            let bytes = &content[src as usize..(src + step) as usize];
            if aligned && (step == BLOCK || ends) {
                // A whole block is shared: the target's pieces become the source's.
                self.punch(to, dst, BLOCK)?;
                let size = to_size.max(dst + step);
                if let Kind::File { content: target, pieces: held } = &mut self.nodes.get_mut(&to).unwrap().kind {
                    target.resize(size as usize, 0);
                    target[dst as usize..(dst + step) as usize].copy_from_slice(bytes);
                    let shared = pieces.range(src / PIECE..(src + BLOCK) / PIECE);
                    held.extend(shared.map(|piece| piece - src / PIECE + dst / PIECE));
                }
            } else {
                self.write(to, dst, bytes)?;
            }
            src += step;
            dst += step;
        }
        Ok(len)
    }
}
