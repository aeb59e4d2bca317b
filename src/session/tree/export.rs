//! A subtree of a session as a tar stream.

use std::io::Write;

use super::archive_write::Writer;
use super::item::{Item, ItemKind, Totals, Xattrs, split_rdev};
use super::list::children;
use super::resolve::{Follow, Node, resolve, split_last};
use super::{Shown, TreeError};
use crate::base::{Errno, FileKind, Ino, Map};
use crate::fs::{Caller, Fs, Seek};

const READ_SIZE: u64 = 1 << 20;

/// Writes what is at `path` as a tar stream in which it is called `top`; if that is empty, a directory is called `.` and
/// anything else by its own name. Changes made meanwhile may or may not be in
/// it, as with tar on any file system.
pub fn export(fs: &Fs, caller: &Caller, path: &[u8], top: &[u8], out: &mut dyn Write) -> Result<Totals, TreeError> {
    let node = resolve(fs, path, Follow::NotLast)?;
    let own = split_last(path).filter(|_| node.attr().kind != FileKind::Directory).map(|(_, name)| name);
    let top = if top.is_empty() { own.as_deref().unwrap_or(b".") } else { top };
    let mut walk = Walk { fs, caller, out: Writer::new(out, top), seen: Map::default(), totals: Totals::default() };
    // Depth first, so that a directory's content follows it at once: tar sets a directory's time when it sees that it
    // has left it. A list of what is to come, not recursion: a tree may be deeper than a stack.
    let mut todo = vec![(Vec::new(), node)];
    while let Some((path, node)) = todo.pop() {
        if !walk.item(&path, &node)? {
            continue;
        }
        let first = todo.len();
        children(fs, node.ino(), &path.join(&b'/'), &mut |name, child| {
            let mut path = path.clone();
            path.push(name.to_vec());
            todo.push((path, child));
            Ok(())
        })?;
        todo[first..].reverse();
    }
    walk.out.finish()?;
    Ok(walk.totals)
}

struct Walk<'a, 'w> {
    fs: &'a Fs,
    caller: &'a Caller,
    out: Writer<'w>,
    /// Files with several names that are in the stream already, and where.
    seen: Map<Ino, Vec<Vec<u8>>>,
    totals: Totals,
}

impl Walk<'_, '_> {
    /// Writes one thing; says whether it is a directory to be entered.
    fn item(&mut self, path: &[Vec<u8>], node: &Node<'_>) -> Result<bool, TreeError> {
        let shown = path.join(&b'/');
        match self.describe(path, node) {
            Ok(Some(item)) => {
                self.out.begin(&item)?;
                if let ItemKind::File { extents } = &item.kind {
                    self.content(&shown, node.ino(), extents)?;
                }
                self.out.end()?;
                self.totals.count(&item);
                let is_directory = item.kind == ItemKind::Directory;
                if !is_directory && node.attr().nlink > 1 && !matches!(item.kind, ItemKind::HardLink(_)) {
                    self.seen.insert(node.ino(), path.to_vec());
                }
                return Ok(is_directory);
            }
            Ok(None) => {
                log::warn!("{}: a socket, left out", Shown(&shown));
                self.totals.skipped += 1;
            }
            // Unlinked while we looked.
            Err(Errno::NoEnt | Errno::Stale) if !path.is_empty() => {}
            Err(errno) => return Err(TreeError::Session { path: shown, errno }),
        }
        Ok(false)
    }

    /// What goes into the header. `None` for a socket.
    fn describe(&self, path: &[Vec<u8>], node: &Node<'_>) -> Result<Option<Item>, Errno> {
        let attr = node.attr();
        let (major, minor) = split_rdev(attr.rdev);
        let mut size = 0;
        let kind = match attr.kind {
            FileKind::Socket => return Ok(None),
            kind if kind != FileKind::Directory && self.seen.contains_key(&attr.ino) => {
                ItemKind::HardLink(self.seen[&attr.ino].clone())
            }
            FileKind::Regular => {
                size = attr.size;
                ItemKind::File { extents: self.extents(attr.ino, size)? }
            }
            FileKind::Directory => ItemKind::Directory,
            FileKind::Symlink => ItemKind::Symlink(self.fs.readlink(attr.ino)?.into()),
            FileKind::Fifo => ItemKind::Fifo,
            FileKind::CharDevice => ItemKind::CharDevice(major, minor),
            FileKind::BlockDevice => ItemKind::BlockDevice(major, minor),
        };
        let xattrs = if matches!(kind, ItemKind::HardLink(_)) { Vec::new() } else { self.xattrs(attr.ino)? };
        Ok(Some(Item {
            path: path.to_vec(),
            kind,
            mode: attr.mode & 0o7777,
            uid: attr.uid,
            gid: attr.gid,
            size,
            mtime: attr.mtime,
            xattrs,
        }))
    }

    /// Where a file's data is: what `lseek` says, up to the size the header will have.
    fn extents(&self, ino: Ino, size: u64) -> Result<Vec<(u64, u64)>, Errno> {
        let mut extents = Vec::new();
        let mut at = 0;
        while at < size {
            let start = match self.fs.seek(ino, at, Seek::Data) {
                Err(Errno::NxIo) => break,
                other => other?,
            };
            if start >= size {
                break;
            }
            let end = match self.fs.seek(ino, start, Seek::Hole) {
                Err(Errno::NxIo) => size,
                other => other?.min(size),
            };
            extents.push((start, end - start));
            at = end;
        }
        Ok(extents)
    }

    fn xattrs(&self, ino: Ino) -> Result<Xattrs, Errno> {
        let names = self.fs.listxattr(self.caller, ino)?;
        let mut xattrs = Vec::new();
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            match self.fs.getxattr(ino, name) {
                Ok(value) => xattrs.push((name.to_vec(), value.into())),
                Err(Errno::NoData) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(xattrs)
    }

    fn content(&mut self, path: &[u8], ino: Ino, extents: &[(u64, u64)]) -> Result<(), TreeError> {
        let mut buffer = Vec::new();
        for &(mut offset, mut left) in extents {
            while left > 0 {
                buffer.clear();
                let some = left.min(READ_SIZE);
                self.fs.read(ino, offset, some as usize, &mut buffer).map_err(TreeError::at(path))?;
                // It was cut shorter since: the header has promised these bytes.
                buffer.resize(some as usize, 0);
                self.out.data(&buffer)?;
                offset += some;
                left -= some;
            }
        }
        Ok(())
    }
}
