//! Names: lookup, link, unlink, rmdir. (`create` makes new inodes, `rename` moves names.)

use super::Core;
use super::inode::{Entry, Inode};
use super::state::{Op, State, Step};
use super::types::Attr;
use crate::base::limits::{DENTRY_COST, LINK_MAX, NAME_MAX, attached_pieces, pieces};
use crate::base::{Cookie, Errno, FileKind, Ino, Name};
use crate::format::{Change, DentryRow};

/// Checks a name that is to be looked up or made.
pub(super) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > NAME_MAX {
        Err(Errno::NameTooLong)
    } else if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        Err(Errno::Inval)
    } else {
        Ok(())
    }
}

/// Checks a name that is to be made, moved or removed: `.` and `..` belong to the directory itself.
pub(super) fn check_own_name(name: &[u8]) -> Result<(), Errno> {
    check_name(name)?;
    if name == b"." || name == b".." { Err(Errno::Inval) } else { Ok(()) }
}

/// What an entry adds to its directory's size.
pub(super) fn entry_cost(name: &[u8]) -> u64 {
    DENTRY_COST + name.len() as u64
}

/// Sets a directory's size and the pieces charged for it.
fn resize(inode: &mut Inode, size: u64) {
    inode.row.size = size;
    inode.row.pieces = pieces(size) + attached_pieces(inode.row.attached.into());
}

impl State {
    /// Where a name leads.
    pub fn entry(&self, parent: Ino, name: &[u8]) -> Step<Option<Entry>> {
        let (_, dir) = self.dir(parent)?;
        Ok(dir.get(name))
    }

    /// Pieces by which the directory grows when it takes up entries that cost this much.
    pub fn growth(&self, parent: Ino, cost: u64) -> Result<u64, Errno> {
        let size = self.inode(parent)?.row.size;
        Ok(pieces(size + cost) - pieces(size))
    }

    /// A loaded directory that can take up this name: it still has a name itself, and the name is free.
    pub fn vacant(&self, parent: Ino, name: &[u8]) -> Step<&Inode> {
        check_own_name(name)?;
        let (inode, dir) = self.dir(parent)?;
        if inode.row.is_orphan() {
            return Err(Errno::NoEnt.into());
        }
        if dir.get(name).is_some() { Err(Errno::Exist.into()) } else { Ok(inode) }
    }
}

impl Op<'_> {
    /// Puts a name into a directory, which the operation has looked at; or leads a name that is there elsewhere.
    /// `subdirs` is the change in the number of its subdirectories. The name goes to the end of the directory's order,
    /// unless it takes the `place` of another. Returns its cookie.
    pub fn put_name(&mut self, parent: Ino, name: &Name, ino: Ino, subdirs: i32, place: Option<Cookie>) -> Cookie {
        let mut cookie = place.unwrap_or(self.next.cookie);
        let Ok(kind) = self.inode(ino).map(|inode| inode.row.kind()) else { return cookie };
        let now = self.now;
        let mut added = true;
        self.update(parent, |inode| {
            inode.row.mtime = now;
            inode.row.nlink = inode.row.nlink.saturating_add_signed(subdirs);
            let Some(dir) = inode.dir_mut() else { return };
            if let Some(old) = dir.get(name) {
                cookie = old.cookie;
                added = false;
            }
            dir.put(name.clone(), Entry { ino, kind, cookie });
            if added {
                let size = inode.row.size + entry_cost(name);
                resize(inode, size);
            }
        });
        if added && place.is_none() {
            self.next.cookie = cookie.next();
        }
        self.record(Change::Dentry(&DentryRow { parent, name: name.clone(), ino, kind, cookie }));
        cookie
    }

    /// Takes a name out of a directory.
    pub fn remove_name(&mut self, parent: Ino, name: &Name, subdirs: i32) {
        let now = self.now;
        self.update(parent, |inode| {
            inode.row.mtime = now;
            inode.row.nlink = inode.row.nlink.saturating_add_signed(subdirs);
            if let Some(dir) = inode.dir_mut() {
                dir.remove(name);
                let size = inode.row.size - entry_cost(name);
                resize(inode, size);
            }
        });
        self.record(Change::DropDentry { parent, name });
    }

    /// Refuses to take more links off an inode than it has, while nothing has changed yet: then its row was written
    /// wrong, checksum and all, and a count below zero would be the next wrong one.
    pub fn check_links(&self, ino: Ino, links: u32) -> Step<()> {
        let nlink = self.inode(ino)?.row.nlink;
        if nlink >= links {
            return Ok(());
        }
        log::error!("inode {ino}: a name leads to it, but it has {nlink} links: sessionfs check says more");
        Err(Errno::Io.into())
    }

    /// Counts a reference for the kernel and shows the inode.
    pub fn refer(&mut self, ino: Ino) -> Result<Attr, Errno> {
        let inode = self.inode_mut(ino)?;
        inode.lookups += 1;
        Ok(Attr::of(&inode.row))
    }
}

impl Core {
    /// Finds a name. Also answers `.` and `..`, which a file handle from before needs (`FUSE_EXPORT_SUPPORT`).
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        check_name(name)?;
        let mut loaded = super::load::Loaded::default();
        let mut by_number = name == b".";
        loop {
            // Not `look`: a reference is counted. Not `change`: it works on a session that is being stopped.
            let mut state = self.state.lock();
            match state.find(parent, name) {
                Ok(ino) => {
                    let inode = state.inode_mut(ino)?;
                    inode.lookups += 1;
                    return Ok(Attr::of(&inode.row));
                }
                Err(super::Stop::Errno(Errno::Stale)) if by_number => {
                    drop(state);
                    by_number = false;
                    self.load_by_number(parent)?;
                }
                Err(super::Stop::Errno(errno)) => return Err(errno),
                Err(super::Stop::Need(need)) => {
                    drop(state);
                    self.load(need, &mut loaded)?;
                }
            }
        }
    }

    /// Where a name leads, without a reference.
    pub(super) fn peek(&self, parent: Ino, name: &[u8]) -> Result<Option<(Ino, FileKind)>, Errno> {
        self.look(|look| Ok(look.entry(parent, name)?.map(|entry| (entry.ino, entry.kind))))
    }

    /// The directory that a directory is in.
    pub(super) fn parent(&self, dir: Ino) -> Result<Ino, Errno> {
        self.look(|look| {
            let inode = look.inode(dir)?;
            if inode.row.is_dir() { Ok(inode.parent) } else { Err(Errno::NotDir.into()) }
        })
    }

    /// Where an inode is: without slashes around it, empty for the root; of several names of a file the one that was found
    /// or made last. ENOENT when it does not have that any more.
    pub(super) fn path(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.look(|look| {
            let (mut names, mut at) = (Vec::new(), ino);
            while at != Ino::ROOT {
                let inode = look.inode(at)?;
                let (_, above) = look.dir(inode.parent)?;
                names.push(above.name_of(at, inode.cookie).ok_or(Errno::NoEnt)?.as_ref());
                at = inode.parent;
            }
            names.reverse();
            Ok(names.join(&b'/'))
        })
    }

    /// Gives a file one more name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Errno> {
        self.change(|op| {
            op.vacant(parent, name)?;
            let inode = op.inode(ino)?;
            if inode.row.is_dir() {
                return Err(Errno::Perm.into());
            }
            if inode.row.nlink >= LINK_MAX {
                return Err(Errno::MLink.into());
            }
            op.room(0, op.growth(parent, entry_cost(name))?)?;
            // An O_TMPFILE file gets its first name this way; nothing else that lost its last one may come back, and
            // the kernel holds to that (`I_LINKABLE`).
            if inode.row.is_orphan() {
                op.orphans = op.orphans.saturating_sub(1);
            }
            let cookie = op.next.cookie;
            op.update(ino, |inode| {
                inode.row.nlink += 1;
                (inode.parent, inode.cookie) = (parent, cookie);
            });
            op.put_name(parent, &Name::from(name), ino, 0, None);
            Ok(op.refer(ino)?)
        })
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        check_own_name(name)?;
        self.change(|op| {
            let entry = op.entry(parent, name)?.ok_or(Errno::NoEnt)?;
            if op.inode(entry.ino)?.row.is_dir() {
                return Err(Errno::IsDir.into());
            }
            op.check_links(entry.ino, 1)?;
            op.remove_name(parent, &Name::from(name), 0);
            op.drop_links(entry.ino, 1);
            Ok(())
        })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        match name {
            b"." => return Err(Errno::Inval),
            b".." => return Err(Errno::NotEmpty),
            _ => {}
        }
        self.change(|op| {
            let entry = op.entry(parent, name)?.ok_or(Errno::NoEnt)?;
            let (_, dir) = op.dir(entry.ino)?;
            if !dir.is_empty() {
                return Err(Errno::NotEmpty.into());
            }
            op.check_links(entry.ino, 2)?;
            op.remove_name(parent, &Name::from(name), -1);
            op.drop_links(entry.ino, 2);
            Ok(())
        })
    }
}

impl State {
    fn find(&self, parent: Ino, name: &[u8]) -> Step<Ino> {
        match name {
            b"." => Ok(self.inode(parent)?.row.ino),
            b".." => match self.inode(parent)? {
                inode if inode.row.is_dir() => Ok(inode.parent),
                _ => Err(Errno::NotDir.into()),
            },
            _ => Ok(self.entry(parent, name)?.ok_or(Errno::NoEnt)?.ino),
        }
    }
}
