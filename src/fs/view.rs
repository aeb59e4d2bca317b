//! What callers have of a session: its ids of users and groups as this host knows them. They are translated wherever one
//! crosses this boundary, owners, creators, ACLs and capabilities, so that nothing below knows of two kinds, and no adapter
//! above.

use std::ops::Deref;
use std::sync::Arc;

use super::attr::CAPABILITY;
use super::types::{Attr, Caller, DirEntry, SetAttr, WriteFlags, XattrMode};
use super::{Core, acl};
use crate::base::{Cookie, Errno, IdMaps, Ino};
use crate::store::{Opened, StoreError};

/// A running session, seen through a map of ids. What is not here is [`Core`]'s own.
///
/// What a caller may do beyond others is asked of the id that this host knows it by: root is who is root here.
#[derive(Debug)]
pub struct Fs {
    core: Arc<Core>,
    ids: IdMaps,
}

impl Deref for Fs {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

/// The version of `security.capability` that names the user namespace it is good for by the user id of its root
/// (`struct vfs_ns_cap_data` of <linux/capability.h>), where that id stands, and how long it is.
const CAPABILITY_REVISION_3: u8 = 3;
const ROOT_ID: std::ops::Range<usize> = 20..24;

impl Fs {
    /// Starts serving a session, with the ids as they are stored.
    pub fn start(opened: Opened) -> Result<Arc<Fs>, StoreError> {
        Ok(Arc::new(Fs { core: Core::start(opened)?, ids: IdMaps::default() }))
    }

    /// The same session with other ids.
    pub fn mapped(&self, ids: IdMaps) -> Arc<Fs> {
        Arc::new(Fs { core: Arc::clone(&self.core), ids })
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
        self.core.write(ino, offset, bytes, WriteFlags { kill_priv, ..flags })
    }

    /// [`Core::fallocate`]
    pub fn fallocate(&self, caller: &Caller, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<(), Errno> {
        self.core.fallocate(&self.member(caller), ino, mode, offset, length)
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
        self.core.copy_range(&self.member(caller), from, from_at, to, to_at, length)
    }

    /// [`Core::lookup`]
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        self.core.lookup(parent, name).map(|attr| self.shown(attr))
    }

    /// [`Core::getattr`]
    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        self.core.getattr(ino).map(|attr| self.shown(attr))
    }

    /// [`Core::setattr`]
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, Errno> {
        let uid = set.uid.map(|uid| self.ids.users.stored(uid));
        let gid = set.gid.map(|gid| self.ids.groups.stored(gid));
        self.core.setattr(&self.member(caller), ino, &SetAttr { uid, gid, ..*set }).map(|attr| self.shown(attr))
    }

    /// [`Core::readdir`]
    pub fn readdir(
        &self,
        ino: Ino,
        from: Cookie,
        plus: bool,
        entry: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        self.core.readdir(ino, from, plus, &mut |found| {
            let attr = found.attr.map(|attr| self.shown(attr));
            entry(&DirEntry { attr, ..*found })
        })
    }

    /// [`Core::mknod`]
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32, rdev: u32) -> Result<Attr, Errno> {
        self.core.mknod(&self.maker(caller), parent, name, mode, rdev).map(|attr| self.shown(attr))
    }

    /// [`Core::mkdir`]
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr, Errno> {
        self.core.mkdir(&self.maker(caller), parent, name, mode).map(|attr| self.shown(attr))
    }

    /// [`Core::symlink`]
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr, Errno> {
        self.core.symlink(&self.maker(caller), parent, name, target).map(|attr| self.shown(attr))
    }

    /// [`Core::tmpfile`]
    pub fn tmpfile(&self, caller: &Caller, parent: Ino, mode: u32) -> Result<Attr, Errno> {
        self.core.tmpfile(&self.maker(caller), parent, mode).map(|attr| self.shown(attr))
    }

    /// [`Core::link`]
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        self.core.link(ino, parent, name).map(|attr| self.shown(attr))
    }

    /// [`Core::getxattr`]
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, Errno> {
        let mut value = self.core.getxattr(ino, name)?;
        map_xattr(name, &mut value, |uid| self.ids.users.shown(uid), |gid| self.ids.groups.shown(gid));
        Ok(value)
    }

    /// [`Core::setxattr`]
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        let mut value = value.to_vec();
        map_xattr(name, &mut value, |uid| self.ids.users.stored(uid), |gid| self.ids.groups.stored(gid));
        self.core.setxattr(caller, ino, name, &value, mode)
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
