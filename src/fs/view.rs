//! What callers have of a session: its ids of users and groups as this host knows them. They are translated wherever one
//! crosses this boundary, owners, creators, ACLs and capabilities, so that nothing below knows of two kinds, and no adapter
//! above. And since everything a mount is asked for comes by here, here it is counted, and told to who watches.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::attr::CAPABILITY;
use super::lanes::Lanes;
use super::operations::OpKind;
use super::scratch::Scratch;
use super::trace::{Asked, Outcome};
use super::types::{Attr, Caller, DirEntry, RenameMode, Seek, SetAttr, WriteFlags, XattrMode};
use super::{Core, Globs, acl};
use crate::base::{Cookie, Errno, IdMaps, Ino};
use crate::store::{Opened, StoreError, Superblock};

/// A running session, seen through a map of ids, with its ephemeral lane if it has one. What is not here is [`Core`]'s own,
/// and about the session alone.
///
/// What a caller may do beyond others is asked of the id that this host knows it by: root is who is root here.
#[derive(Debug)]
pub struct Fs {
    lanes: Lanes,
    ids: IdMaps,
    /// Whether what is asked of it counts as an operation of the mount.
    counted: bool,
}

impl Deref for Fs {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.lanes.kept
    }
}

/// The version of `security.capability` that names the user namespace it is good for by the user id of its root
/// (`struct vfs_ns_cap_data` of <linux/capability.h>), where that id stands, and how long it is.
const CAPABILITY_REVISION_3: u8 = 3;
const ROOT_ID: std::ops::Range<usize> = 20..24;

impl Fs {
    /// Starts serving a session, with the ids as they are stored.
    pub fn start(opened: Opened) -> Result<Arc<Fs>, StoreError> {
        Ok(Arc::new(Fs {
            lanes: Lanes { kept: Core::start(opened)?, scratch: None },
            ids: IdMaps::default(),
            counted: false,
        }))
    }

    /// The same, with the content of the directories that `globs` match in `scratch`, a session database that is new.
    pub fn start_with_lane(opened: Opened, globs: Globs, scratch: Opened) -> Result<Arc<Fs>, StoreError> {
        let epoch = opened.store.superblock()?.epoch;
        scratch.writer.never_sync()?;
        let scratch = Some(Arc::new(Scratch::start(scratch, globs, epoch)?));
        Ok(Arc::new(Fs {
            lanes: Lanes { kept: Core::start(opened)?, scratch },
            ids: IdMaps::default(),
            counted: false,
        }))
    }

    /// The same session as a mount has it: with other ids, and its operations are counted.
    pub fn mapped(&self, ids: IdMaps) -> Arc<Fs> {
        Arc::new(Fs { lanes: self.lanes.clone(), ids, counted: true })
    }

    /// Runs an operation, counts it, and tells those who watch.
    fn measure<T>(
        &self,
        kind: OpKind,
        asked: Asked<'_>,
        run: impl FnOnce() -> Result<T, Errno>,
        outcome: impl FnOnce(&T) -> Outcome,
    ) -> Result<T, Errno> {
        if !self.counted {
            return run();
        }
        let begun = Instant::now();
        let result = run();
        let took = self.operations.count(kind, begun, result.as_ref().err().copied());
        if self.watchers.any() {
            self.watchers.tell(kind, &asked, took, result.as_ref().map(outcome).map_err(|error| *error));
        }
        result
    }

    /// One of which there is no more to tell than whether it succeeded.
    fn count<T>(&self, kind: OpKind, asked: Asked<'_>, run: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.measure(kind, asked, run, |_| Outcome::default())
    }

    /// One that finds or makes an inode.
    fn find(&self, kind: OpKind, asked: Asked<'_>, run: impl FnOnce() -> Result<Attr, Errno>) -> Result<Attr, Errno> {
        let found = |attr: &Attr| Outcome { found: Some(attr.ino), ..Outcome::default() };
        self.measure(kind, asked, || run().map(|attr| self.shown(attr)), found)
    }

    /// One that moves bytes.
    fn transfer(&self, kind: OpKind, asked: Asked<'_>, run: impl FnOnce() -> Result<u64, Errno>) -> Result<u64, Errno> {
        self.measure(kind, asked, run, |&bytes| Outcome { moved: Some(bytes), ..Outcome::default() })
    }

    fn shown(&self, attr: Attr) -> Attr {
        Attr { uid: self.ids.users.shown(attr.uid), gid: self.ids.groups.shown(attr.gid), ..attr }
    }

    /// Who something that is made belongs to.
    fn maker(&self, caller: &Caller) -> Caller {
        Caller { uid: self.ids.users.stored(caller.uid), gid: self.ids.groups.stored(caller.gid), ..*caller }
    }

    /// Who changes something: of a group by its id as stored, because files are; of a user by that of this host.
    fn member(&self, caller: &Caller) -> Caller {
        Caller { gid: self.ids.groups.stored(caller.gid), ..*caller }
    }

    /// [`Core::write`]
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize, Errno> {
        let kill_priv = flags.kill_priv.map(|group| self.ids.groups.stored(group));
        let asked = Asked::of(ino).from(offset).bytes(bytes.len() as u64);
        let run = || self.lanes.write(ino, offset, bytes, WriteFlags { kill_priv, ..flags }).map(|bytes| bytes as u64);
        let written = self.transfer(OpKind::Write, asked, run)?;
        if self.counted {
            self.operations.written(written);
        }
        Ok(written as usize)
    }

    /// [`Core::fallocate`]
    pub fn fallocate(&self, caller: &Caller, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<(), Errno> {
        let asked = Asked::of(ino).from(offset).bytes(length);
        self.count(OpKind::Fallocate, asked, || self.lanes.fallocate(&self.member(caller), ino, mode, offset, length))
    }

    /// [`Core::copy_range`]
    pub fn copy_range(
        &self,
        caller: &Caller,
        from: Ino,
        from_at: u64,
        to: Ino,
        to_at: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let run = || self.lanes.copy_range(&self.member(caller), from, from_at, to, to_at, length);
        self.transfer(OpKind::CopyRange, Asked::of(from).and(to).from(from_at).bytes(length), run)
    }

    /// [`Core::lookup`]
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        self.find(OpKind::Lookup, Asked::named(parent, name), || self.lanes.lookup(parent, name))
    }

    /// [`Core::getattr`]
    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        self.find(OpKind::Getattr, Asked::of(ino), || self.lanes.getattr(ino))
    }

    /// [`Core::setattr`]
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, Errno> {
        let uid = set.uid.map(|uid| self.ids.users.stored(uid));
        let gid = set.gid.map(|gid| self.ids.groups.stored(gid));
        let asked = match set.size {
            Some(size) => Asked::of(ino).bytes(size),
            None => Asked::of(ino),
        };
        let set = SetAttr { uid, gid, ..*set };
        self.find(OpKind::Setattr, asked, || self.lanes.setattr(&self.member(caller), ino, &set))
    }

    /// [`Core::readdir`]
    pub fn readdir(
        &self,
        ino: Ino,
        from: Cookie,
        plus: bool,
        entry: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut shown = |found: &DirEntry<'_>| {
            let attr = found.attr.map(|attr| self.shown(attr));
            entry(&DirEntry { attr, ..*found })
        };
        self.count(OpKind::Readdir, Asked::of(ino).from(from.0), || self.lanes.readdir(ino, from, plus, &mut shown))
    }

    /// [`Core::mknod`]
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32, rdev: u32) -> Result<Attr, Errno> {
        let kind = if mode & libc::S_IFMT == libc::S_IFREG { OpKind::Create } else { OpKind::Mknod };
        let run = || self.lanes.mknod(&self.maker(caller), parent, name, mode, rdev);
        self.find(kind, Asked::named(parent, name), run)
    }

    /// [`Core::mkdir`]
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr, Errno> {
        let run = || self.lanes.mkdir(&self.maker(caller), parent, name, mode);
        self.find(OpKind::Mkdir, Asked::named(parent, name), run)
    }

    /// [`Core::symlink`]
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr, Errno> {
        let run = || self.lanes.symlink(&self.maker(caller), parent, name, target);
        self.find(OpKind::Symlink, Asked::named(parent, name), run)
    }

    /// [`Core::tmpfile`]
    pub fn tmpfile(&self, caller: &Caller, parent: Ino, mode: u32) -> Result<Attr, Errno> {
        self.find(OpKind::Tmpfile, Asked::of(parent), || self.lanes.tmpfile(&self.maker(caller), parent, mode))
    }

    /// [`Core::link`]
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        self.find(OpKind::Link, Asked::of(ino).and_named(parent, name), || self.lanes.link(ino, parent, name))
    }

    /// [`Core::getxattr`]
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, Errno> {
        let mut value = self.count(OpKind::Getxattr, Asked::of(ino), || self.lanes.getxattr(ino, name))?;
        map_xattr(name, &mut value, |uid| self.ids.users.shown(uid), |gid| self.ids.groups.shown(gid));
        Ok(value)
    }

    /// [`Core::setxattr`]
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        let mut value = value.to_vec();
        map_xattr(name, &mut value, |uid| self.ids.users.stored(uid), |gid| self.ids.groups.stored(gid));
        let asked = Asked::of(ino).bytes(value.len() as u64);
        self.count(OpKind::Setxattr, asked, || self.lanes.setxattr(caller, ino, name, &value, mode))
    }
}

/// What has no ids in it.
impl Fs {
    /// [`Core::forget`]
    pub fn forget(&self, ino: Ino, count: u64) {
        self.lanes.forget(ino, count);
    }

    /// Whether an `fsync` of it has anything to wait for: what is in the ephemeral lane does not outlive the mount.
    pub fn is_kept(&self, ino: Ino) -> bool {
        self.lanes.is_kept(ino)
    }

    /// [`Core::would_wait`], in either lane.
    pub fn would_wait(&self, space: Option<u64>) -> bool {
        self.lanes.would_wait(space)
    }

    /// [`Core::take_unseen_modes`]
    pub fn take_unseen_modes(&self) -> Vec<Ino> {
        self.lanes.take_unseen_modes()
    }

    /// [`Core::stop`]. What is in the ephemeral lane is given up.
    pub fn stop(&self) -> Result<Superblock, StoreError> {
        self.lanes.stop()
    }

    /// [`Core::abandon`]
    pub fn abandon(&self) {
        self.lanes.abandon();
    }

    /// [`Core::listxattr`]
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.count(OpKind::Listxattr, Asked::of(ino), || self.lanes.listxattr(caller, ino))
    }

    /// [`Core::removexattr`]
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        self.count(OpKind::Removexattr, Asked::of(ino), || self.lanes.removexattr(caller, ino, name))
    }

    /// [`Core::read`]
    pub fn read(&self, ino: Ino, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
        let before = out.len();
        let run = || self.lanes.read(ino, offset, size, out).map(|()| (out.len() - before) as u64);
        let read = self.transfer(OpKind::Read, Asked::of(ino).from(offset).bytes(size as u64), run)?;
        if self.counted {
            self.operations.read(read as usize);
        }
        Ok(())
    }

    /// [`Core::seek`]
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, Errno> {
        self.count(OpKind::Seek, Asked::of(ino).from(offset), || self.lanes.seek(ino, offset, what))
    }

    /// [`Core::readlink`]
    pub fn readlink(&self, ino: Ino) -> Result<Box<[u8]>, Errno> {
        self.count(OpKind::Readlink, Asked::of(ino), || self.lanes.readlink(ino))
    }

    /// [`Core::unlink`]
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        self.count(OpKind::Unlink, Asked::named(parent, name), || self.lanes.unlink(parent, name))
    }

    /// [`Core::rmdir`]
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        self.count(OpKind::Rmdir, Asked::named(parent, name), || self.lanes.rmdir(parent, name))
    }

    /// [`Core::rename`]. Between the lanes, EXDEV.
    pub fn rename(&self, parent: Ino, name: &[u8], to: Ino, to_name: &[u8], mode: RenameMode) -> Result<(), Errno> {
        let asked = Asked::named(parent, name).and_named(to, to_name);
        self.count(OpKind::Rename, asked, || self.lanes.rename(parent, name, to, to_name, mode))
    }

    /// Makes all durable that came before, for who asks it of this inode. In the ephemeral lane there is nothing to wait for.
    pub fn sync(&self, ino: Ino) -> Result<(), Errno> {
        if !self.is_kept(ino) {
            return Ok(());
        }
        self.count(OpKind::Fsync, Asked::of(ino), || self.lanes.kept.fsync())
    }

    /// Where an inode is: without slashes around it, empty for the root; of several names of a file the one that was found
    /// or made last. For people: it takes the state's lock, and may be another the next moment.
    ///
    /// # Errors
    /// ENOENT when it does not have that name any more, ESTALE when it is not known.
    pub fn path(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.lanes.path(ino)
    }
}

/// Changes the ids in the value of an xattr that has some.
fn map_xattr(name: &[u8], value: &mut [u8], user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) {
    if name == acl::ACCESS || name == acl::DEFAULT {
        acl::map_ids(value, user, group);
    } else if name == CAPABILITY
        && value.len() == ROOT_ID.end
        && value[3] == CAPABILITY_REVISION_3
        && let Some(root) = value.last_chunk_mut::<4>()
    {
        *root = user(u32::from_le_bytes(*root)).to_le_bytes();
    }
}
