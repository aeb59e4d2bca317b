//! A tar stream into a session.

use std::io::Read;

use super::archive_read::unpack;
use super::item::{Item, ItemKind, Sink, Target, Totals, join_rdev};
use super::resolve::{Follow, Node, resolve, split_last};
use super::{Failures, Touched, TreeError};
use crate::base::{Errno, FileKind, Ino};
use crate::fs::{Caller, Fs, RenameMode, SetAttr, SetTime, WriteFlags, XattrMode};

/// Makes what is in the stream at `path`, which is what the top of the archive is called there; or, when `path` is a
/// directory and a name `under` it is given, there. What is there already is merged (directories) or replaced
/// (everything else). `touched` hears of every change, for a kernel that has the session mounted.
pub fn import(
    fs: &Fs,
    caller: &Caller,
    path: &[u8],
    under: Option<&[u8]>,
    input: &mut dyn Read,
    touched: &mut dyn FnMut(Touched),
) -> Result<Totals, TreeError> {
    let path = match under {
        Some(name) if is_directory(fs, path)? => [path, name].join(&b'/'),
        _ => path.to_owned(),
    };
    let place = match split_last(&path) {
        Some((parent, name)) => Some((resolve(fs, &parent, Follow::Last)?, name)),
        None => None,
    };
    // Exactly what was asked for: a umask would take bits away that are set right afterwards.
    let caller = Caller { umask: 0, ..*caller };
    unpack(input, &mut Importing { fs, caller, place, base: path, touched, dirs: Vec::new(), temporaries: 0 })
}

fn is_directory(fs: &Fs, path: &[u8]) -> Result<bool, TreeError> {
    match resolve(fs, path, Follow::Last) {
        Ok(node) => Ok(node.attr().kind == FileKind::Directory),
        // A slash behind a name says that a directory is meant.
        Err(TreeError::Session { errno: Errno::NoEnt, .. }) if !path.ends_with(b"/") => Ok(false),
        Err(error) => Err(error),
    }
}

struct Importing<'a, 't> {
    fs: &'a Fs,
    caller: Caller,
    /// Directory and name of the top; `None` when it is the root itself.
    place: Option<(Node<'a>, Vec<u8>)>,
    base: Vec<u8>,
    touched: &'t mut dyn FnMut(Touched),
    /// Directories whose times come last: what is put into them would change them.
    dirs: Vec<(Ino, Item)>,
    /// Temporary names used so far.
    temporaries: u64,
}

/// A new inode.
struct Made<'a> {
    node: Node<'a>,
    /// Its name for now and what it will replace, when there is something at its place.
    temporary: Option<(Vec<u8>, Node<'a>)>,
}

/// A directory, held if it was looked up, its number, and a name in it.
type Place<'a> = (Option<Node<'a>>, Ino, Vec<u8>);

impl<'a> Importing<'a, '_> {
    /// The directory and the name of an item. Links on the way are not followed: the archive made its directories.
    fn parent(&self, path: &[Vec<u8>]) -> Result<Option<Place<'a>>, Errno> {
        let Some((last, parents)) = path.split_last() else {
            return Ok(self.place.as_ref().map(|(parent, name)| (None, parent.ino(), name.clone())));
        };
        let mut at: Option<Node<'a>> = None;
        let top = self.place.as_ref().map(|(parent, name)| (parent.ino(), name));
        if let Some((parent, name)) = top {
            at = Some(self.directory(parent, name)?);
        }
        for part in parents {
            at = Some(self.directory(at.as_ref().map_or(Ino::ROOT, Node::ino), part)?);
        }
        let ino = at.as_ref().map_or(Ino::ROOT, Node::ino);
        Ok(Some((at, ino, last.clone())))
    }

    fn directory(&self, parent: Ino, name: &[u8]) -> Result<Node<'a>, Errno> {
        let node = Node::counted(self.fs, self.fs.lookup(parent, name)?);
        if node.attr().kind == FileKind::Directory { Ok(node) } else { Err(Errno::NotDir) }
    }

    fn find(&self, path: &[Vec<u8>]) -> Result<Node<'a>, Errno> {
        let (_held, parent, name) = self.parent(path)?.ok_or(Errno::IsDir)?;
        Ok(Node::counted(self.fs, self.fs.lookup(parent, &name)?))
    }

    /// Makes the inode, empty. `None`: a directory that was there. What stands at the name already is not touched yet:
    /// a copy that fails, at the cap for one, must not have taken it away. See [`Importing::settle`].
    fn make(&mut self, item: &Item, parent: Ino, name: &[u8]) -> Result<Option<Made<'a>>, Errno> {
        let existing = match self.fs.lookup(parent, name) {
            Err(Errno::NoEnt) => None,
            other => Some(Node::counted(self.fs, other?)),
        };
        let Some(replaced) = existing else {
            let node = self.create(item, parent, name)?;
            if item.kind == ItemKind::Directory {
                self.dirs.push((node.ino(), item.clone()));
            }
            return Ok(Some(Made { node, temporary: None }));
        };
        match (replaced.attr().kind, &item.kind) {
            (FileKind::Directory, ItemKind::Directory) => {
                self.dirs.push((replaced.ino(), item.clone()));
                return Ok(None);
            }
            (FileKind::Directory, _) => return Err(Errno::IsDir),
            (_, ItemKind::Directory) => return Err(Errno::NotDir),
            _ => {}
        }
        // Replaced by a new inode, as tar does: a write into the old one would go through all its other names.
        loop {
            let temporary = format!(".sessionfs-new-{}", self.temporaries).into_bytes();
            self.temporaries += 1;
            match self.create(item, parent, &temporary) {
                // Another copy is at work in this directory, or was when it was killed.
                Err(Errno::Exist) => {}
                other => return Ok(Some(Made { node: other?, temporary: Some((temporary, replaced)) })),
            }
        }
    }

    fn create(&mut self, item: &Item, parent: Ino, name: &[u8]) -> Result<Node<'a>, Errno> {
        let node = |mode: u32, rdev: u32| self.fs.mknod(&self.caller, parent, name, mode, rdev);
        let attr = match &item.kind {
            ItemKind::Directory => self.fs.mkdir(&self.caller, parent, name, 0o700),
            ItemKind::Symlink(target) => self.fs.symlink(&self.caller, parent, name, target),
            ItemKind::HardLink(path) => {
                let target = self.find(path)?;
                let linked = self.fs.link(target.ino(), parent, name);
                (self.touched)(Touched::Inode(target.ino()));
                linked
            }
            ItemKind::File { .. } => node(libc::S_IFREG | 0o600, 0),
            ItemKind::Fifo => node(libc::S_IFIFO | 0o600, 0),
            ItemKind::CharDevice(..) | ItemKind::BlockDevice(..) if self.caller.uid != 0 => Err(Errno::Perm),
            ItemKind::CharDevice(major, minor) => node(libc::S_IFCHR | 0o600, join_rdev(*major, *minor)),
            ItemKind::BlockDevice(major, minor) => node(libc::S_IFBLK | 0o600, join_rdev(*major, *minor)),
        }?;
        self.touched_name(parent, name);
        Ok(Node::counted(self.fs, attr))
    }

    fn touched_name(&mut self, parent: Ino, name: &[u8]) {
        (self.touched)(Touched::Entry(parent, name.to_vec()));
        (self.touched)(Touched::Inode(parent));
    }

    /// Content, and all that belongs to an inode but its name.
    fn fill(
        &self,
        item: &Item,
        ino: Ino,
        shown: &[u8],
        data: &mut dyn FnMut(Sink<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        if let ItemKind::File { .. } = item.kind {
            data(&mut |offset, bytes| self.write(shown, ino, offset, bytes))?;
            let size = SetAttr { size: Some(item.size), ..SetAttr::default() };
            self.fs.setattr(&self.caller, ino, &size).map_err(TreeError::at(shown))?;
        }
        if !matches!(item.kind, ItemKind::Directory | ItemKind::HardLink(_)) {
            self.dress(ino, item).map_err(TreeError::at(shown))?;
        }
        Ok(())
    }

    /// Puts what was made under another name in the place of what it replaces, or, when it did not come to be whole,
    /// takes it away.
    fn settle(&mut self, made: &Made<'_>, parent: Ino, name: &[u8], whole: bool) -> Result<(), Errno> {
        let Some((temporary, replaced)) = &made.temporary else { return Ok(()) };
        // A rename onto another name of the same file does nothing: both would stay.
        let moves = whole && replaced.ino() != made.node.ino();
        let moved = if moves { self.fs.rename(parent, temporary, parent, name, RenameMode::Replace) } else { Ok(()) };
        if !moves || moved.is_err() {
            // Somebody may have removed it meanwhile, which is what is wanted.
            let _ = self.fs.unlink(parent, temporary);
        }
        self.touched_name(parent, temporary);
        self.touched_name(parent, name);
        (self.touched)(Touched::Inode(replaced.ino()));
        moved
    }

    fn write(&self, path: &[u8], ino: Ino, mut offset: u64, mut bytes: &[u8]) -> Result<(), TreeError> {
        while !bytes.is_empty() {
            let done = self.fs.write(ino, offset, bytes, WriteFlags::default()).map_err(TreeError::at(path))?;
            offset += done as u64;
            bytes = &bytes[done..];
        }
        Ok(())
    }

    /// Owner, xattrs, mode and time, in the order in which none undoes another.
    fn dress(&self, ino: Ino, item: &Item) -> Result<(), Errno> {
        let root = self.caller.uid == 0;
        let own = SetAttr { uid: Some(item.uid), gid: Some(item.gid), ..SetAttr::default() };
        if root {
            self.fs.setattr(&self.caller, ino, &own)?;
        }
        for (name, value) in &item.xattrs {
            match self.fs.setxattr(&self.caller, ino, name, value, XattrMode::Set) {
                // What this caller may not set, or this file system does not keep (`security.selinux`), is left out,
                // as by cp -a.
                Ok(()) | Err(Errno::Perm | Errno::OpNotSupp) => {}
                Err(errno) => return Err(errno),
            }
        }
        let mut set = SetAttr { mtime: Some(SetTime::To(item.mtime)), ..SetAttr::default() };
        if !matches!(item.kind, ItemKind::Symlink(_)) {
            // Set-id bits are for the owner they were given by.
            let keep = if root || item.uid == self.caller.uid { 0o7777 } else { 0o1777 };
            set.mode = Some(item.mode & keep);
        }
        self.fs.setattr(&self.caller, ino, &set)?;
        Ok(())
    }
}

impl Target for Importing<'_, '_> {
    fn put(&mut self, item: &Item, data: &mut dyn FnMut(Sink<'_>) -> Result<(), TreeError>) -> Result<(), TreeError> {
        let mut shown = self.base.clone();
        for part in &item.path {
            if !shown.ends_with(b"/") {
                shown.push(b'/');
            }
            shown.extend_from_slice(part);
        }
        let at = || TreeError::at(&shown);
        let Some((_held, parent, name)) = self.parent(&item.path).map_err(at())? else {
            // The top is the root of the session, which is there and is a directory.
            if item.kind != ItemKind::Directory {
                return Err(at()(Errno::IsDir));
            }
            self.dirs.push((Ino::ROOT, item.clone()));
            return Ok(());
        };
        let Some(made) = self.make(item, parent, &name).map_err(at())? else { return Ok(()) };
        let filled = self.fill(item, made.node.ino(), &shown, data);
        let settled = self.settle(&made, parent, &name, filled.is_ok()).map_err(at());
        (self.touched)(Touched::Inode(made.node.ino()));
        filled.and(settled)
    }

    fn finish(&mut self) -> Result<(), TreeError> {
        let mut failures = Failures::default();
        for (ino, item) in std::mem::take(&mut self.dirs).into_iter().rev() {
            match self.dress(ino, &item) {
                // Somebody has removed it meanwhile.
                Ok(()) | Err(Errno::NoEnt | Errno::Stale) => {}
                Err(errno) => failures.take(TreeError::Session { path: item.shown(), errno })?,
            }
            (self.touched)(Touched::Inode(ino));
        }
        failures.result(())
    }
}
