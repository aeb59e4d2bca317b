//! A row change: the one record of what an operation did.
//!
//! An operation is the list of its changes. The list is made once, under the file system's lock, and merged into the
//! running [`Transaction`](super::Transaction); the journal keeps the same list.

use super::rows::{BlockRow, DentryRow, InodeRow};
use crate::base::{DataId, Ino, Name};

/// One change of one row, carrying the row's new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The inode now has this value. With `nlink` 0 it is an orphan.
    Inode(&'a InodeRow),
    /// The inode is gone, with its blocks and xattrs.
    DropInode(Ino),
    /// The name now leads here.
    Dentry(&'a DentryRow),
    /// The name is gone.
    DropDentry {
        /// The directory.
        parent: Ino,
        /// The name.
        name: &'a Name,
    },
    /// A new version of content begins as the first `keep` bytes of `base`, zeros behind them.
    NewData {
        /// The new version.
        id: DataId,
        /// What it begins as.
        base: DataId,
        /// How many bytes of it.
        keep: u32,
        /// Those bytes themselves. The journal leaves them out: it can find `base` again.
        bytes: &'a [u8],
    },
    /// These bytes were written into a version of content that no commit has seen yet.
    Fill {
        /// The version.
        id: DataId,
        /// Where in the block.
        at: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A version of content that no commit has seen ends here; what followed reads as zeros.
    Cut {
        /// The version.
        id: DataId,
        /// Bytes that stay.
        keep: u32,
    },
    /// The block now has this value.
    Block(BlockRow),
    /// The blocks `from..until` of the file are holes now.
    DropBlocks {
        /// The file.
        ino: Ino,
        /// First block.
        from: u64,
        /// The block after the last.
        until: u64,
    },
    /// The xattr now has this value.
    Xattr {
        /// Whose.
        ino: Ino,
        /// Its name.
        name: &'a Name,
        /// Its value.
        value: &'a [u8],
    },
    /// The xattr is gone.
    DropXattr {
        /// Whose.
        ino: Ino,
        /// Its name.
        name: &'a Name,
    },
}
