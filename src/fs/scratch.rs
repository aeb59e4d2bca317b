//! The ephemeral lane: a file system of its own over scratch, and which of the session's directories have their names in it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::types::{Attr, Caller, SetAttr, SetTime, XattrMode};
use super::{Core, Globs, acl};
use crate::base::{Errno, FileKind, Ino, Map};
use crate::store::{Opened, StoreError};

/// Set in the inode numbers of the lane, which the session's own never reach (`COUNTER_MAX`).
const LANE: u64 = 1 << 62;

/// Bits of a lane's own numbers. Between them and [`LANE`] stand the lower bits of the session's epoch, since each mount's
/// numbers begin anew: a file handle from before is stale, and never another file.
const OWN_BITS: u32 = 40;
const OWN: u64 = (1 << OWN_BITS) - 1;

/// What there is to know of a directory of the session whose path some pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It held something when it was first seen, or was moved here: all of it is kept.
    Kept,
    /// It is the root of a lane that nobody has entered yet.
    Empty,
    /// Its names are those of this directory of the scratch file system.
    Root(Ino),
}

/// Both ways: from directories of the session, and from those of the scratch file system that are roots.
#[derive(Debug, Default)]
struct Places {
    of: Map<Ino, Place>,
    roots: Map<Ino, Ino>,
}

#[derive(Debug)]
pub(super) struct Scratch {
    pub core: Arc<Core>,
    pub globs: Globs,
    epoch: u64,
    /// May be taken while a listing holds a state; whoever has it calls nothing.
    places: Mutex<Places>,
    /// Held by who makes or removes a root.
    making: Mutex<()>,
}

impl Scratch {
    /// `epoch`: the session's, which no other mount of it has.
    pub fn start(opened: Opened, globs: Globs, epoch: u64) -> Result<Scratch, StoreError> {
        let core = Core::start(opened)?;
        let epoch = epoch << OWN_BITS & (LANE - 1);
        Ok(Scratch { core, globs, epoch, places: Mutex::default(), making: Mutex::default() })
    }

    /// What an inode of the lane is called outside. A root is the session's directory.
    pub fn outside(&self, own: Ino) -> Ino {
        self.places.lock().roots.get(&own).copied().unwrap_or(Ino(LANE | self.epoch | own.0))
    }

    /// The number that an inode of the lane has in it; `None` for one of the session's. Zero is nobody's: one of another
    /// mount is stale.
    pub fn own(&self, ino: Ino) -> Option<Ino> {
        let ours = || ino.0 & !OWN == LANE | self.epoch;
        (ino.0 & LANE != 0).then(|| if ours() { Ino(ino.0 & OWN) } else { Ino(0) })
    }

    /// Where a directory of the session has its names, if in the lane and somebody has entered it.
    fn entered(&self, dir: Ino) -> Option<Ino> {
        match self.places.lock().of.get(&dir) {
            Some(Place::Root(root)) => Some(*root),
            _ => None,
        }
    }

    pub fn is_root(&self, dir: Ino) -> bool {
        matches!(self.places.lock().of.get(&dir), Some(Place::Empty | Place::Root(_)))
    }

    /// Where a directory of the session has its names, if in the lane. `kept` is the session.
    pub fn root(&self, kept: &Core, dir: Ino) -> Result<Option<Ino>, Errno> {
        let place = self.places.lock().of.get(&dir).copied();
        match place {
            None | Some(Place::Kept) => Ok(None),
            Some(Place::Root(root)) => Ok(Some(root)),
            Some(Place::Empty) => {
                let _making = self.making.lock();
                match self.entered(dir) {
                    Some(root) => Ok(Some(root)),
                    None if self.is_root(dir) => self.make(kept, dir).map(Some),
                    None => Ok(None),
                }
            }
        }
    }

    /// Makes the directory that has the names of a root: what is made in it inherits from it.
    fn make(&self, kept: &Core, dir: Ino) -> Result<Ino, Errno> {
        let like = kept.getattr(dir)?;
        let default = match kept.getxattr(dir, acl::DEFAULT) {
            Ok(acl) => Some(acl),
            Err(Errno::NoData) => None,
            Err(error) => return Err(error),
        };
        let owner = Caller { uid: like.uid, gid: like.gid, umask: 0 };
        let name = name_of(dir);
        let root = self.core.mkdir(&owner, Ino::ROOT, &name, like.mode)?.ino;
        // It has a name for as long as it is needed.
        self.core.forget(root, 1);
        let inherited =
            default.map_or(Ok(()), |acl| self.core.setxattr(&owner, root, acl::DEFAULT, &acl, XattrMode::Set));
        let times = SetAttr { mtime: Some(SetTime::To(like.mtime)), ..SetAttr::default() };
        if let Err(error) = inherited.and_then(|()| self.core.setattr(&owner, root, &times).map(drop)) {
            let _ = self.core.rmdir(Ino::ROOT, &name);
            return Err(error);
        }
        let mut places = self.places.lock();
        places.of.insert(dir, Place::Root(root));
        places.roots.insert(root, dir);
        Ok(root)
    }

    /// A directory of the session was found whose path some pattern matches. What it is then it stays for this mount:
    /// the root of a lane if it is empty.
    pub fn found(&self, dir: &Attr) {
        let place = if dir.size == 0 { Place::Empty } else { Place::Kept };
        self.places.lock().of.entry(dir.ino).or_insert(place);
    }

    /// A directory that has been in use is now where one would be the root of a lane.
    pub fn moved_here(&self, dir: Ino) {
        self.places.lock().of.entry(dir).or_insert(Place::Kept);
    }

    /// What a directory of the session looks like: of a root the session has what it was given, the lane what comes
    /// from its names.
    pub fn shown(&self, attr: Attr) -> Attr {
        let root = (attr.kind == FileKind::Directory).then(|| self.entered(attr.ino)).flatten();
        let Some(Ok(own)) = root.map(|root| self.core.getattr(root)) else { return attr };
        let Attr { nlink, size, pieces, mtime, .. } = own;
        Attr { nlink, size, pieces, mtime, ctime: own.ctime.max(attr.ctime), ..attr }
    }

    /// Hands on what the names in a root inherit, and its mtime, which lies with them.
    pub fn follow_attr(&self, caller: &Caller, dir: Ino, set: &SetAttr) -> Result<(), Errno> {
        match self.entered(dir) {
            Some(root) => self.core.setattr(caller, root, set).map(drop),
            None => Ok(()),
        }
    }

    /// Hands on a root's default ACL. `None`: it has none any more.
    pub fn follow_xattr(&self, caller: &Caller, dir: Ino, name: &[u8], value: Option<&[u8]>) -> Result<(), Errno> {
        let Some(root) = self.entered(dir).filter(|_| name == acl::DEFAULT) else { return Ok(()) };
        match value {
            Some(value) => self.core.setxattr(caller, root, name, value, XattrMode::Set),
            None => match self.core.removexattr(caller, root, name) {
                Err(Errno::NoData) => Ok(()),
                other => other,
            },
        }
    }

    /// Runs what takes an empty directory away, which goes only if it is empty in the lane, too.
    pub fn remove<T>(&self, kept: &Core, dir: Ino, remove: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let _making = self.making.lock();
        let root = self.entered(dir);
        if root.is_some() {
            self.core.rmdir(Ino::ROOT, &name_of(dir))?;
        }
        let removed = remove();
        if removed.is_ok() {
            let mut places = self.places.lock();
            places.of.remove(&dir);
            root.map(|root| places.roots.remove(&root));
        } else if let Some(root) = root {
            // It is still there, and so is the lane.
            self.places.lock().roots.remove(&root);
            self.make(kept, dir)?;
        }
        removed
    }
}

/// The root whose names are in the directory of this name.
pub(super) fn dir_of(name: &[u8]) -> Option<Ino> {
    std::str::from_utf8(name).ok()?.parse().ok().map(Ino)
}

/// What the directory with a root's names is called: by the root's number, which is nobody else's.
fn name_of(dir: Ino) -> Vec<u8> {
    dir.to_string().into_bytes()
}
