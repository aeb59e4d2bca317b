//! The two lanes of a mount: each operation goes to the session or to scratch.
//!
//! A directory that a pattern matches (the root of a lane) is the session's, with its number, mode, owner and xattrs, and
//! always empty there; its names and everything below them are the scratch file system's. So the session never knows of
//! the lane, and no inode changes sides.

use std::sync::Arc;

use super::Core;
use super::scratch::{self, Scratch};
use super::types::{Attr, Caller, DirEntry, RenameMode, Seek, SetAttr, WriteFlags, XattrMode};
use crate::base::{Cookie, Errno, FileKind, Ino};
use crate::store::{StoreError, Superblock};

/// A session, and the scratch file system where it has ephemeral directories.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    pub kept: Arc<Core>,
    pub scratch: Option<Arc<Scratch>>,
}

/// Where an operation goes.
struct At<'a> {
    core: &'a Core,
    ino: Ino,
    /// Set in the ephemeral lane.
    lane: Option<&'a Scratch>,
}

impl Lanes {
    /// Where an inode is.
    fn at(&self, ino: Ino) -> At<'_> {
        match self.scratch.as_deref().and_then(|lane| Some((lane, lane.own(ino)?))) {
            Some((lane, ino)) => At { core: &lane.core, ino, lane: Some(lane) },
            None => At { core: &self.kept, ino, lane: None },
        }
    }

    /// Where a directory's names are.
    fn names(&self, dir: Ino) -> Result<At<'_>, Errno> {
        let at = self.at(dir);
        match (self.scratch.as_deref(), at.lane) {
            (Some(lane), None) => match lane.root(&self.kept, dir)? {
                Some(ino) => Ok(At { core: &lane.core, ino, lane: Some(lane) }),
                None => Ok(at),
            },
            _ => Ok(at),
        }
    }

    /// Whether the directory of this name is, or would be, ephemeral.
    fn matches(&self, at: &At<'_>, name: &[u8]) -> Result<bool, Errno> {
        let Some(lane) = self.scratch.as_deref().filter(|_| at.lane.is_none()) else { return Ok(false) };
        let parent = if lane.globs.needs_path(name) { self.kept.path(at.ino)? } else { Vec::new() };
        Ok(lane.globs.matches(&parent, name))
    }

    /// What was found or made by `at`, as it is known outside.
    fn shown(&self, at: &At<'_>, attr: Attr) -> Attr {
        match (at.lane, self.scratch.as_deref()) {
            (Some(lane), _) => Attr { ino: lane.outside(attr.ino), ..attr },
            (None, Some(lane)) => lane.shown(attr),
            (None, None) => attr,
        }
    }

    /// The same for what may be the root of a lane.
    fn found(&self, at: &At<'_>, matches: bool, attr: Attr) -> Attr {
        if let (true, FileKind::Directory, Some(lane)) = (matches, attr.kind, self.scratch.as_deref()) {
            lane.found(&attr);
        }
        self.shown(at, attr)
    }

    pub fn forget(&self, ino: Ino, count: u64) {
        let at = self.at(ino);
        at.core.forget(at.ino, count);
    }

    /// What is on scratch has no disk to wait for.
    pub fn is_kept(&self, ino: Ino) -> bool {
        self.at(ino).lane.is_none()
    }

    /// [`Core::path`]
    pub fn path(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let at = self.at(ino);
        let path = at.core.path(at.ino)?;
        if at.lane.is_none() {
            return Ok(path);
        }
        // In the lane's own root are the directories with the names of each root.
        let slash = path.iter().position(|&byte| byte == b'/').ok_or(Errno::NoEnt)?;
        let root = scratch::dir_of(&path[..slash]).ok_or(Errno::NoEnt)?;
        Ok([&*self.kept.path(root)?, &path[slash..]].concat())
    }

    pub fn would_wait(&self, space: Option<u64>) -> bool {
        self.kept.would_wait(space) || self.scratch.as_ref().is_some_and(|lane| lane.core.would_wait(space))
    }

    pub fn take_unseen_modes(&self) -> Vec<Ino> {
        let mut unseen = self.kept.take_unseen_modes();
        if let Some(lane) = &self.scratch {
            unseen.extend(lane.core.take_unseen_modes().into_iter().map(|ino| lane.outside(ino)));
        }
        unseen
    }

    pub fn stop(&self) -> Result<Superblock, StoreError> {
        self.scratch.iter().for_each(|lane| lane.core.abandon());
        self.kept.stop()
    }

    pub fn abandon(&self) {
        self.scratch.iter().for_each(|lane| lane.core.abandon());
        self.kept.abandon();
    }

    pub fn read(&self, ino: Ino, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
        let at = self.at(ino);
        at.core.read(at.ino, offset, size, out)
    }

    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize, Errno> {
        let at = self.at(ino);
        at.core.write(at.ino, offset, bytes, flags)
    }

    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, Errno> {
        let at = self.at(ino);
        at.core.seek(at.ino, offset, what)
    }

    pub fn fallocate(&self, caller: &Caller, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<(), Errno> {
        let at = self.at(ino);
        at.core.fallocate(caller, at.ino, mode, offset, length)
    }

    pub fn copy_range(
        &self,
        caller: &Caller,
        from: Ino,
        from_at: u64,
        to: Ino,
        to_at: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let (from, to) = (self.at(from), self.at(to));
        from.with(&to)?;
        from.core.copy_range(caller, from.ino, from_at, to.ino, to_at, length)
    }

    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        let at = self.at(ino);
        Ok(self.shown(&at, at.core.getattr(at.ino)?))
    }

    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, Errno> {
        let at = self.at(ino);
        let attr = at.core.setattr(caller, at.ino, set)?;
        if let (None, Some(lane)) = (at.lane, &self.scratch) {
            lane.follow_attr(caller, ino, set)?;
        }
        Ok(self.shown(&at, attr))
    }

    pub fn readlink(&self, ino: Ino) -> Result<Box<[u8]>, Errno> {
        let at = self.at(ino);
        at.core.readlink(at.ino)
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, Errno> {
        let at = self.at(ino);
        at.core.getxattr(at.ino, name)
    }

    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>, Errno> {
        let at = self.at(ino);
        at.core.listxattr(caller, at.ino)
    }

    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        let at = self.at(ino);
        at.core.setxattr(caller, at.ino, name, value, mode)?;
        match (at.lane, &self.scratch) {
            (None, Some(lane)) => lane.follow_xattr(caller, ino, name, Some(value)),
            _ => Ok(()),
        }
    }

    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        let at = self.at(ino);
        at.core.removexattr(caller, at.ino, name)?;
        match (at.lane, &self.scratch) {
            (None, Some(lane)) => lane.follow_xattr(caller, ino, name, None),
            _ => Ok(()),
        }
    }

    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        if name == b"." || name == b".." {
            return self.lookup_dots(parent, name);
        }
        let at = self.names(parent)?;
        let matches = self.matches(&at, name)?;
        Ok(self.found(&at, matches, at.core.lookup(at.ino, name)?))
    }

    /// Of a root these are the session's; who comes from below it comes to the session's directory.
    fn lookup_dots(&self, dir: Ino, name: &[u8]) -> Result<Attr, Errno> {
        let at = self.at(dir);
        let attr = at.core.lookup(at.ino, name)?;
        let shown = self.shown(&at, attr);
        if at.lane.is_some() && self.is_kept(shown.ino) {
            at.core.forget(attr.ino, 1);
            return Ok(self.shown(&self.at(shown.ino), self.kept.lookup(shown.ino, b".")?));
        }
        Ok(shown)
    }

    pub fn readdir(
        &self,
        dir: Ino,
        from: Cookie,
        plus: bool,
        entry: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let at = self.names(dir)?;
        if let Some(lane) = at.lane {
            let above = if self.is_kept(dir) { Some(self.kept.parent(dir)?) } else { None };
            return at.core.readdir(at.ino, from, plus, &mut |found| {
                let ino = match above {
                    Some(above) if found.name == b".." => above,
                    _ => lane.outside(found.ino),
                };
                entry(&DirEntry { ino, attr: found.attr.map(|attr| Attr { ino, ..attr }), ..*found })
            });
        }
        let Some(lane) = self.scratch.as_deref().filter(|_| plus) else {
            return at.core.readdir(at.ino, from, plus, entry);
        };
        // The listing holds the session's state, so what is needed of it is asked for before.
        let path = if lane.globs.has_paths() { self.kept.path(dir)? } else { Vec::new() };
        at.core.readdir(at.ino, from, plus, &mut |found| {
            let of_dir = |attr: Attr| {
                if attr.kind == FileKind::Directory && lane.globs.matches(&path, found.name) {
                    lane.found(&attr);
                }
                lane.shown(attr)
            };
            entry(&DirEntry { attr: found.attr.map(of_dir), ..*found })
        })
    }

    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32, rdev: u32) -> Result<Attr, Errno> {
        let at = self.names(parent)?;
        Ok(self.shown(&at, at.core.mknod(caller, at.ino, name, mode, rdev)?))
    }

    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr, Errno> {
        let at = self.names(parent)?;
        let matches = self.matches(&at, name)?;
        Ok(self.found(&at, matches, at.core.mkdir(caller, at.ino, name, mode)?))
    }

    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr, Errno> {
        let at = self.names(parent)?;
        Ok(self.shown(&at, at.core.symlink(caller, at.ino, name, target)?))
    }

    pub fn tmpfile(&self, caller: &Caller, parent: Ino, mode: u32) -> Result<Attr, Errno> {
        let at = self.names(parent)?;
        Ok(self.shown(&at, at.core.tmpfile(caller, at.ino, mode)?))
    }

    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        let (file, at) = (self.at(ino), self.names(parent)?);
        file.with(&at)?;
        Ok(self.shown(&at, at.core.link(file.ino, at.ino, name)?))
    }

    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let at = self.names(parent)?;
        at.core.unlink(at.ino, name)
    }

    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let at = self.names(parent)?;
        let remove = || at.core.rmdir(at.ino, name);
        self.removing(self.root_at(&at, name)?, remove)
    }

    /// The root of a lane that this name leads to.
    fn root_at(&self, at: &At<'_>, name: &[u8]) -> Result<Option<Ino>, Errno> {
        let Some(lane) = self.scratch.as_deref().filter(|_| at.lane.is_none()) else { return Ok(None) };
        Ok(self.kept.peek(at.ino, name)?.map(|(ino, _)| ino).filter(|ino| lane.is_root(*ino)))
    }

    /// Runs what removes the root of a lane, if it is one.
    fn removing(&self, root: Option<Ino>, remove: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        match (root, self.scratch.as_deref()) {
            (Some(root), Some(lane)) => lane.remove(&self.kept, root, remove),
            _ => remove(),
        }
    }

    pub fn rename(&self, parent: Ino, name: &[u8], to: Ino, to_name: &[u8], mode: RenameMode) -> Result<(), Errno> {
        let (from, to) = (self.names(parent)?, self.names(to)?);
        from.with(&to)?;
        let rename = || from.core.rename(from.ino, name, to.ino, to_name, mode);
        let Some(lane) = self.scratch.as_deref().filter(|_| from.lane.is_none()) else { return rename() };
        let (root, there) = (self.root_at(&from, name)?, self.root_at(&to, to_name)?);
        let exchanged = there.filter(|_| mode == RenameMode::Exchange);
        // What is in a lane is never kept by a rename, nor the other way round: the root of one stays under the patterns.
        if root.is_some() && !self.matches(&to, to_name)? || exchanged.is_some() && !self.matches(&from, name)? {
            return Err(Errno::XDev);
        }
        let mut moves = vec![(&from, name, &to, to_name)];
        if mode == RenameMode::Exchange {
            moves.push((&to, to_name, &from, name));
        }
        for (at, name, into, as_name) in moves {
            let moved = self.kept.peek(at.ino, name)?;
            if let Some((ino, FileKind::Directory)) = moved
                && self.matches(into, as_name)?
            {
                lane.moved_here(ino);
            }
        }
        // Onto itself nothing is removed.
        self.removing(there.filter(|_| mode == RenameMode::Replace && there != root), rename)
    }
}

impl At<'_> {
    /// What joins two inodes joins two of one lane: between them lies what lies between two file systems.
    fn with(&self, other: &At<'_>) -> Result<(), Errno> {
        if self.lane.is_some() == other.lane.is_some() { Ok(()) } else { Err(Errno::XDev) }
    }
}
