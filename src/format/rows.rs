//! The logical rows. Together they are the whole state of a session.

use crate::base::limits::attached_pieces;
use crate::base::{Cookie, DataId, FileKind, Ino, Name, Timestamp};

/// One inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRow {
    /// Its number.
    pub ino: Ino,
    /// Type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links: names of a file; 2 + subdirectories of a directory; 0 makes it an orphan.
    pub nlink: u32,
    /// Device number of a device node, in the kernel's encoding; otherwise 0.
    pub rdev: u32,
    /// Bytes: of a file its length, of a link its target's length, of a directory what its entries are charged.
    pub size: u64,
    /// 4 KiB pieces charged to the cap; `st_blocks` is eight times this.
    pub pieces: u64,
    /// Bytes of xattr names and values, and of the symlink target. Zero means there is no xattr to look for.
    pub attached: u32,
    /// Last access. Lazily kept, in no digest.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the content or of this row.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Target of a symbolic link, otherwise empty.
    pub target: Box<[u8]>,
}

impl InodeRow {
    /// The file type. A row whose mode names none cannot be made, and the reader refuses it.
    pub fn kind(&self) -> FileKind {
        FileKind::of_mode(self.mode).unwrap_or(FileKind::Regular)
    }

    /// True of a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// True when no name leads here any more: charged to the cap, in no digest, gone with its last user.
    pub fn is_orphan(&self) -> bool {
        self.nlink == 0
    }

    /// Sets the attached bytes and moves the charge along with them.
    pub fn set_attached(&mut self, bytes: u32) {
        self.pieces -= attached_pieces(self.attached.into());
        self.attached = bytes;
        self.pieces += attached_pieces(self.attached.into());
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DentryRow {
    /// The directory.
    pub parent: Ino,
    /// The name.
    pub name: Name,
    /// Where it leads.
    pub ino: Ino,
    /// The type of that inode, so that `readdir` need not look.
    pub kind: FileKind,
    /// Its place in the directory's order.
    pub cookie: Cookie,
}

/// One block of a file's content. A block without a row is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// The file.
    pub ino: Ino,
    /// Which block of it, from 0.
    pub index: u64,
    /// Its content.
    pub data: DataId,
    /// Bit *i* says that piece *i* is present; an absent piece is a hole and its bytes are zero. Never 0.
    pub mask: u64,
    /// Whether another block, live or in history, may name the same content. Once set it stays set.
    pub shared: bool,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrRow {
    /// Whose.
    pub ino: Ino,
    /// Full name, with its `user.` or other prefix.
    pub name: Name,
    /// Value.
    pub value: Box<[u8]>,
}

/// What a session holds, counted. A receipt prints it; the cap is held against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Inodes, orphans included: what the inode cap is held against.
    pub inodes: u64,
    /// 4 KiB pieces, orphans included: what the byte cap is held against.
    pub pieces: u64,
    /// Regular files that have a name.
    pub files: u64,
    /// Directories that have a name; the root counts.
    pub dirs: u64,
    /// Bytes of the regular files that have a name (their lengths).
    pub bytes: u64,
}

impl Counts {
    /// Counts an inode in.
    pub fn add(&mut self, row: &InodeRow) {
        self.inodes += 1;
        self.pieces += row.pieces;
        if !row.is_orphan() {
            match row.kind() {
                FileKind::Regular => {
                    self.files += 1;
                    // Sparse files can add up to more than 64 bits hold; what goes round comes back.
                    self.bytes = self.bytes.wrapping_add(row.size);
                }
                FileKind::Directory => self.dirs += 1,
                _ => {}
            }
        }
    }

    /// Counts an inode out again, as it was when it was counted in.
    pub fn subtract(&mut self, row: &InodeRow) {
        self.inodes -= 1;
        self.pieces -= row.pieces;
        if !row.is_orphan() {
            match row.kind() {
                FileKind::Regular => {
                    self.files -= 1;
                    self.bytes = self.bytes.wrapping_sub(row.size);
                }
                FileKind::Directory => self.dirs -= 1,
                _ => {}
            }
        }
    }
}
