//! Attributes: getattr, and setattr for mode, owner and times. (A change of size is `allocate`'s.)

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::inode::Inode;
use super::state::{Op, Step};
use super::types::{Attr, Caller, SetAttr, SetTime};
use super::{Core, acl};
use crate::base::{Errno, FileKind, Ino, Timestamp};

/// The xattr that holds a file's capabilities. Writing to the file, truncating it or changing its owner removes it.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// Clears set-id bits as Linux does on a write by anyone without CAP_FSETID, and on every chown: set-gid where the group
/// may execute, for otherwise it does not mean a change of group, or where `group`, that of a caller without the capability,
/// is another one (`setattr_should_drop_sgid` in fs/attr.c; supplementary groups, which we are not told, do not count).
pub(super) fn clear_set_id(inode: &mut Inode, group: Option<u32>) {
    let outside = group.is_some_and(|group| group != inode.row.gid);
    let mode = &mut inode.row.mode;
    if FileKind::of_mode(*mode) != Some(FileKind::Directory) {
        *mode &= !libc::S_ISUID;
        if *mode & libc::S_IXGRP != 0 || outside {
            *mode &= !libc::S_ISGID;
        }
    }
}

impl Core {
    /// Inodes that lost set-id bits since this was called last, by operations whose answers do not show it.
    pub fn take_unseen_modes(&self) -> Vec<Ino> {
        // Asked after every write, so it has to cost no lock when there is none.
        if !self.has_unseen_modes.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut state = self.state.lock();
        self.has_unseen_modes.store(false, Ordering::Release);
        std::mem::take(&mut state.unseen_modes)
    }

    /// What `stat` shows of an inode.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        let state = self.state.lock();
        Ok(Attr::of(&state.inode(ino)?.row))
    }

    /// Changes attributes. The kernel has checked the caller's right to (`default_permissions`).
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr, Errno> {
        self.change(|op| {
            op.inode(ino)?;
            let chowned = set.uid.is_some() || set.gid.is_some();
            if chowned || set.size.is_some() {
                op.look_at_capability(ino)?;
            }
            let acl = match set.mode {
                Some(mode) => op.acl_after_chmod(ino, mode)?,
                None => None,
            };
            if let Some(size) = set.size {
                op.resize_file(ino, size)?;
                op.drop_capability(ino);
                if let Some(group) = caller.kills_priv() {
                    op.update(ino, |inode| clear_set_id(inode, Some(group)));
                }
            }
            if chowned {
                op.drop_capability(ino);
            }
            if let Some(acl) = acl {
                op.put_xattr(ino, acl::ACCESS, &acl);
            }
            op.set_row(caller, ino, set);
            Ok(Attr::of(&op.inode(ino)?.row))
        })
    }
}

impl Op<'_> {
    /// Sets what `set` names besides the size. A call that names nothing changes nothing, not even ctime.
    fn set_row(&mut self, caller: &Caller, ino: Ino, set: &SetAttr) {
        if *set == SetAttr::default() {
            return;
        }
        let now = self.now;
        let time = |set: SetTime| -> Timestamp {
            match set {
                SetTime::Now => now,
                SetTime::To(time) => time,
            }
        };
        self.update(ino, |inode| {
            if set.uid.is_some() || set.gid.is_some() {
                clear_set_id(inode, caller.kills_priv());
            }
            let row = &mut inode.row;
            row.uid = set.uid.unwrap_or(row.uid);
            row.gid = set.gid.unwrap_or(row.gid);
            if let Some(mode) = set.mode {
                row.mode = row.mode & libc::S_IFMT | mode & 0o7777;
            }
            row.atime = set.atime.map_or(row.atime, time);
            if let Some(mtime) = set.mtime {
                row.mtime = time(mtime);
                inode.mtime_set = Some(Instant::now());
            }
        });
    }

    /// Clears set-id bits in an operation whose answer shows no attributes, so that the kernel has to be told.
    /// `group` as for [`clear_set_id`].
    pub fn lose_set_id(&mut self, ino: Ino, group: u32) {
        let mode = |op: &Self| op.inode(ino).map(|inode| inode.row.mode);
        let before = mode(self);
        if before.is_ok_and(|mode| mode & (libc::S_ISUID | libc::S_ISGID) != 0) {
            self.update(ino, |inode| clear_set_id(inode, Some(group)));
            if mode(self) != before {
                self.unseen_modes.push(ino);
            }
        }
    }

    /// The access ACL as a chmod leaves it; `None` when the file has none.
    fn acl_after_chmod(&self, ino: Ino, mode: u32) -> Step<Option<Vec<u8>>> {
        Ok(match self.xattr(ino, acl::ACCESS)? {
            Some(acl) => Some(acl::chmod(acl, mode)?),
            None => None,
        })
    }

    /// Has the file's xattrs loaded where it may carry capabilities, so that `drop_capability` can work.
    pub fn look_at_capability(&self, ino: Ino) -> Step<()> {
        self.xattr(ino, CAPABILITY).map(drop)
    }

    /// Removes the file's capabilities, if it has any.
    pub fn drop_capability(&mut self, ino: Ino) {
        if let Ok(Some(_)) = self.xattr(ino, CAPABILITY) {
            self.remove_xattr(ino, CAPABILITY);
        }
    }
}
