//! Extended attributes: `user.`, `trusted.` (root), `security.`, and the POSIX ACLs of the `system.` space.

use super::state::{Need, Op, State, Step, Stop};
use super::types::{Caller, XattrMode};
use super::{Core, acl};
use crate::base::limits::{XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX, attached_pieces};
use crate::base::{Errno, FileKind, Ino, Name};
use crate::format::Change;

/// Checks that a caller may use this name at all. Who may touch which file's is the kernel's to decide (xattr(7)).
fn check_name(caller_uid: u32, name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(Errno::Range);
    }
    let space = name.split(|&b| b == b'.').next().unwrap_or_default();
    match space {
        b"user" | b"security" => Ok(()),
        b"trusted" if caller_uid == 0 => Ok(()),
        b"trusted" => Err(Errno::Perm),
        b"system" if name == acl::ACCESS || name == acl::DEFAULT => Ok(()),
        _ => Err(Errno::OpNotSupp),
    }
}

impl State {
    /// An xattr's value, from memory.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Step<Option<&[u8]>> {
        match &self.inode(ino)?.xattrs {
            Some(xattrs) => Ok(xattrs.get(name).map(|value| &**value)),
            None => Err(Stop::Need(Need::Xattrs(ino))),
        }
    }
}

impl Op<'_> {
    /// Sets an xattr. The xattrs are loaded, and the space was looked at.
    pub fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        let name = Name::from(name);
        self.update(ino, |inode| {
            let xattrs = inode.xattrs.get_or_insert_default();
            let old = xattrs.insert(name.clone(), value.into()).map_or(0, |old| name.len() + old.len());
            let attached = inode.row.attached as usize + name.len() + value.len() - old;
            inode.row.set_attached(attached as u32);
        });
        self.record(Change::Xattr { ino, name: &name, value });
    }

    /// Removes an xattr that is there.
    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8]) {
        let name = Name::from(name);
        self.update(ino, |inode| {
            let old = inode.xattrs.as_mut().and_then(|xattrs| xattrs.remove(&name));
            let gone = old.map_or(0, |old| name.len() + old.len());
            inode.row.set_attached(inode.row.attached - gone as u32);
        });
        self.record(Change::DropXattr { ino, name: &name });
    }

    /// Whether the inode can carry this xattr under its own limits and the session's cap.
    fn check_xattr_space(&self, ino: Ino, name: &[u8], value: &[u8]) -> Step<()> {
        let old = self.xattr(ino, name)?.map(<[u8]>::len);
        let inode = self.inode(ino)?;
        let names: usize = inode.xattrs.iter().flat_map(|xattrs| xattrs.keys()).map(|name| name.len() + 1).sum();
        if old.is_none() && names + name.len() + 1 > XATTR_LIST_MAX {
            return Err(Errno::NoSpc.into());
        }
        let before = u64::from(inode.row.attached);
        let after = before + (name.len() + value.len()) as u64 - old.map_or(0, |old| (name.len() + old) as u64);
        self.room(0, attached_pieces(after).saturating_sub(attached_pieces(before)))?;
        Ok(())
    }

    /// Sets an ACL, which for the access ACL means the mode as well.
    fn set_acl(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Step<()> {
        let kind = self.inode(ino)?.row.kind();
        if kind == FileKind::Symlink {
            return Err(Errno::OpNotSupp.into());
        }
        if name == acl::DEFAULT {
            if kind != FileKind::Directory {
                return Err(Errno::Acces.into());
            }
            acl::check(value)?;
            self.put_xattr(ino, name, value);
            return Ok(());
        }
        let (bits, only_mode) = acl::mode_of(value)?;
        self.update(ino, |inode| inode.row.mode = inode.row.mode & !0o777 | bits);
        if !only_mode {
            self.put_xattr(ino, name, value);
        } else if self.xattr(ino, name)?.is_some() {
            self.remove_xattr(ino, name);
        }
        Ok(())
    }
}

impl Core {
    /// Value of an xattr; ENODATA when there is none.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, Errno> {
        self.look(|look| Ok(look.xattr(ino, name)?.ok_or(Errno::NoData)?.into()))
    }

    /// Names, each with a NUL behind it. Names of the `trusted.` space only for root.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.look(|look| {
            let xattrs = look.inode(ino)?.xattrs.as_ref().ok_or(Stop::Need(Need::Xattrs(ino)))?;
            let shown = |name: &&Name| caller.uid == 0 || !name.starts_with(b"trusted.");
            Ok(xattrs.keys().filter(shown).flat_map(|name| name.iter().copied().chain([0])).collect())
        })
    }

    /// Sets an xattr.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        check_name(caller.uid, name)?;
        if value.len() > XATTR_VALUE_MAX {
            return Err(Errno::TooBig);
        }
        self.change(|op| {
            match (mode, op.xattr(ino, name)?.is_some()) {
                (XattrMode::Create, true) => return Err(Errno::Exist.into()),
                (XattrMode::Replace, false) => return Err(Errno::NoData.into()),
                _ => {}
            }
            op.check_xattr_space(ino, name, value)?;
            if name == acl::ACCESS || name == acl::DEFAULT {
                op.set_acl(ino, name, value)?;
                if name == acl::ACCESS && mode == XattrMode::SetWithoutSetGid {
                    op.update(ino, |inode| inode.row.mode &= !libc::S_ISGID);
                }
                return Ok(());
            }
            op.put_xattr(ino, name, value);
            Ok(())
        })
    }

    /// Removes an xattr; ENODATA when there is none.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        check_name(caller.uid, name)?;
        self.change(|op| {
            op.xattr(ino, name)?.ok_or(Errno::NoData)?;
            op.remove_xattr(ino, name);
            Ok(())
        })
    }
}
