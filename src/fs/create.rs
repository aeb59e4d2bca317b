//! New inodes: mknod (regular files too), mkdir, symlink, tmpfile.

use super::inode::{Inode, Xattrs};
use super::names::entry_cost;
use super::state::{Op, Step};
use super::types::{Attr, Caller};
use super::{Core, acl};
use crate::base::limits::{SYMLINK_MAX, attached_pieces};
use crate::base::{Errno, FileKind, Ino, Name};
use crate::format::{Change, InodeRow};

/// What the new inode is to be.
struct Plan<'a> {
    /// Type and permissions as asked for.
    mode: u32,
    rdev: u32,
    target: &'a [u8],
    nlink: u32,
}

impl Plan<'_> {
    fn of(mode: u32) -> Plan<'static> {
        Plan { mode, rdev: 0, target: &[], nlink: 1 }
    }
}

/// A planned inode with what it inherits.
struct Planned {
    row: InodeRow,
    xattrs: Xattrs,
}

impl Op<'_> {
    /// The inode as it will be: group, set-gid bit and ACLs inherited from the directory, as inode_init_owner and
    /// posix_acl_create of Linux do.
    fn plan(&self, caller: &Caller, parent: Ino, plan: &Plan<'_>) -> Step<Planned> {
        let kind = FileKind::of_mode(plan.mode).ok_or(Errno::Inval)?;
        let dir = &self.inode(parent)?.row;
        let mut mode = plan.mode & (libc::S_IFMT | 0o7777);
        let mut gid = caller.gid;
        if dir.mode & libc::S_ISGID != 0 {
            gid = dir.gid;
            if kind == FileKind::Directory {
                mode |= libc::S_ISGID;
            }
        }
        let mut xattrs = Xattrs::new();
        if kind != FileKind::Symlink {
            match self.xattr(parent, acl::DEFAULT)? {
                Some(default) => acl::inherit(default, &mut mode, kind, &mut xattrs)?,
                None => mode &= !(caller.umask & 0o777),
            }
        }
        let attached = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + plan.target.len();
        let row = InodeRow {
            ino: self.next.ino,
            mode,
            uid: caller.uid,
            gid,
            nlink: plan.nlink,
            rdev: plan.rdev,
            size: plan.target.len() as u64,
            pieces: attached_pieces(attached as u64),
            attached: attached as u32,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
            target: plan.target.into(),
        };
        Ok(Planned { row, xattrs })
    }

    /// Brings the planned inode into being; returns its number.
    fn create(&mut self, parent: Ino, planned: Planned) -> Ino {
        let Planned { row, xattrs } = planned;
        let ino = row.ino;
        self.next.ino = ino.next();
        let mut inode = Inode::created(row, parent, self.next.cookie);
        for (name, value) in &xattrs {
            self.record(Change::Xattr { ino, name, value });
        }
        inode.xattrs = Some(Box::new(xattrs));
        self.insert(inode);
        ino
    }

    fn create_named(&mut self, caller: &Caller, parent: Ino, name: &[u8], plan: &Plan<'_>) -> Step<Attr> {
        self.vacant(parent, name)?;
        let planned = self.plan(caller, parent, plan)?;
        self.room(1, planned.row.pieces + self.growth(parent, entry_cost(name))?)?;
        let subdirs = i32::from(planned.row.is_dir());
        let ino = self.create(parent, planned);
        self.put_name(parent, &Name::from(name), ino, subdirs, None);
        Ok(self.refer(ino)?)
    }
}

impl Core {
    /// Makes anything but a directory or a symbolic link; `mode` carries the type, none means a regular file.
    /// `rdev` is a device node's number in the kernel's encoding.
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32, rdev: u32) -> Result<Attr, Errno> {
        let mode = if mode & libc::S_IFMT == 0 { mode | libc::S_IFREG } else { mode };
        let rdev = match FileKind::of_mode(mode).ok_or(Errno::Inval)? {
            FileKind::Directory | FileKind::Symlink => return Err(Errno::Inval),
            FileKind::CharDevice | FileKind::BlockDevice => rdev,
            _ => 0,
        };
        self.change(|op| op.create_named(caller, parent, name, &Plan { rdev, ..Plan::of(mode) }))
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr, Errno> {
        let mode = libc::S_IFDIR | mode & 0o7777;
        self.change(|op| op.create_named(caller, parent, name, &Plan { nlink: 2, ..Plan::of(mode) }))
    }

    /// Makes a symbolic link. An empty target is ENOENT, as in Linux.
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr, Errno> {
        if target.is_empty() {
            return Err(Errno::NoEnt);
        }
        if target.len() > SYMLINK_MAX {
            return Err(Errno::NameTooLong);
        }
        if target.contains(&0) {
            return Err(Errno::Inval);
        }
        let plan = Plan { target, ..Plan::of(libc::S_IFLNK | 0o777) };
        self.change(|op| op.create_named(caller, parent, name, &plan))
    }

    /// Makes a file without a name in the file system that `parent` is in (`O_TMPFILE`); `link` can give it one.
    pub fn tmpfile(&self, caller: &Caller, parent: Ino, mode: u32) -> Result<Attr, Errno> {
        let plan = Plan { nlink: 0, ..Plan::of(libc::S_IFREG | mode & 0o7777) };
        self.change(|op| {
            if !op.inode(parent)?.row.is_dir() {
                return Err(Errno::NotDir.into());
            }
            let planned = op.plan(caller, parent, &plan)?;
            op.room(1, planned.row.pieces)?;
            let ino = op.create(parent, planned);
            Ok(op.refer(ino)?)
        })
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Box<[u8]>, Errno> {
        self.look(|look| {
            let row = &look.inode(ino)?.row;
            if row.kind() == FileKind::Symlink { Ok(row.target.clone()) } else { Err(Errno::Inval.into()) }
        })
    }
}
