//! The kernel's own structures (`include/uapi/linux/fuse.h`, version 7.45): those that come and go by io_uring.
//!
//! All are in the byte order of the machine. Fields that nobody reads keep their place by a name with an underscore.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares opcodes and their names.
macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// Opcodes.
        #[allow(dead_code)] // Some are only named in the log.
        pub(super) mod op {
            $(pub const $name: u32 = $number;)*
        }

        /// The name of an opcode, for the log.
        pub(super) fn name_of(opcode: u32) -> &'static str {
            match opcode {
                $($number => stringify!($name),)*
                _ => "UNKNOWN",
            }
        }
    };
}

opcodes! {
    LOOKUP = 1,
    GETATTR = 3,
    SETATTR = 4,
    READLINK = 5,
    SYMLINK = 6,
    MKNOD = 8,
    MKDIR = 9,
    UNLINK = 10,
    RMDIR = 11,
    RENAME = 12,
    LINK = 13,
    OPEN = 14,
    READ = 15,
    WRITE = 16,
    STATFS = 17,
    FSYNC = 20,
    SETXATTR = 21,
    GETXATTR = 22,
    LISTXATTR = 23,
    REMOVEXATTR = 24,
    FLUSH = 25,
    OPENDIR = 27,
    READDIR = 28,
    FSYNCDIR = 30,
    CREATE = 35,
    BMAP = 37,
    IOCTL = 39,
    POLL = 40,
    FALLOCATE = 43,
    READDIRPLUS = 44,
    RENAME2 = 45,
    LSEEK = 46,
    COPY_FILE_RANGE = 47,
    TMPFILE = 51,
}

/// Bits of [`SetAttrIn::valid`].
pub(super) mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// Bits of [`WriteIn::write_flags`].
pub(super) mod write_flag {
    pub const CACHE: u32 = 1 << 0;
    pub const KILL_SUIDGID: u32 = 1 << 2;
}

/// `FUSE_SETXATTR_ACL_KILL_SGID`
pub(super) const ACL_KILL_SGID: u32 = 1 << 0;

/// `FOPEN_KEEP_CACHE`
pub(super) const KEEP_CACHE: u32 = 1 << 1;

/// Declares structures that are nothing but their bytes.
macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(super) struct $name { $(pub $field: $kind,)* }
    )*};
}

structures! {
    /// `fuse_in_header`
    InHeader { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, _ext: u16, _pad: u16, }
    /// `fuse_out_header`
    OutHeader { len: u32, error: i32, unique: u64, }
    /// `fuse_uring_ent_in_out`
    EntInOut { _flags: u64, commit_id: u64, payload_size: u32, _pad: u32, _reserved: u64, }
    /// `fuse_uring_cmd_req`
    CommandRequest { flags: u64, commit_id: u64, qid: u16, _pad: [u8; 6], }

    /// `fuse_setattr_in`
    SetAttrIn {
        valid: u32, _pad: u32, _fh: u64, size: u64, _lock_owner: u64, atime: u64, mtime: u64, _ctime: u64,
        atime_nanos: u32, mtime_nanos: u32, _ctime_nanos: u32, mode: u32, _unused: u32, uid: u32, gid: u32, _unused5: u32,
    }
    /// `fuse_mknod_in`
    MknodIn { mode: u32, rdev: u32, umask: u32, _pad: u32, }
    /// `fuse_mkdir_in`
    MkdirIn { mode: u32, umask: u32, }
    /// `fuse_create_in`, also of TMPFILE
    CreateIn { flags: u32, mode: u32, umask: u32, _open_flags: u32, }
    /// `fuse_rename_in`
    RenameIn { newdir: u64, }
    /// `fuse_rename2_in`
    Rename2In { newdir: u64, flags: u32, _pad: u32, }
    /// `fuse_link_in`
    LinkIn { oldnodeid: u64, }
    /// `fuse_read_in`, also of READDIR
    ReadIn { _fh: u64, offset: u64, size: u32, _read_flags: u32, _lock_owner: u64, _flags: u32, _pad: u32, }
    /// `fuse_write_in`
    WriteIn { _fh: u64, offset: u64, size: u32, write_flags: u32, _lock_owner: u64, _flags: u32, _pad: u32, }
    /// `fuse_setxattr_in`, as it is with SETXATTR_EXT
    SetXattrIn { size: u32, flags: u32, setxattr_flags: u32, _pad: u32, }
    /// `fuse_getxattr_in`, also of LISTXATTR
    GetXattrIn { size: u32, _pad: u32, }
    /// `fuse_fallocate_in`
    FallocateIn { _fh: u64, offset: u64, length: u64, mode: u32, _pad: u32, }
    /// `fuse_lseek_in`
    LseekIn { _fh: u64, offset: u64, whence: u32, _pad: u32, }
    /// `fuse_copy_file_range_in`
    CopyIn { _fh_in: u64, off_in: u64, nodeid_out: u64, _fh_out: u64, off_out: u64, len: u64, _flags: u64, }

    /// `fuse_attr`
    Attributes {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64,
        atime_nanos: u32, mtime_nanos: u32, ctime_nanos: u32,
        mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, _flags: u32,
    }
    /// `fuse_entry_out`
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64,
        _entry_valid_nanos: u32, _attr_valid_nanos: u32, attr: Attributes,
    }
    /// `fuse_open_out`
    OpenOut { _fh: u64, open_flags: u32, _backing_id: i32, }
    /// `fuse_entry_out` and `fuse_open_out`: what CREATE and TMPFILE are answered with
    CreateOut { entry: EntryOut, open: OpenOut, }
    /// `fuse_attr_out`
    AttrOut { attr_valid: u64, _attr_valid_nanos: u32, _dummy: u32, attr: Attributes, }
    /// `fuse_write_out`, also of COPY_FILE_RANGE
    WriteOut { size: u32, _pad: u32, }
    /// `fuse_getxattr_out`, also of LISTXATTR
    GetXattrOut { size: u32, _pad: u32, }
    /// `fuse_lseek_out`
    LseekOut { offset: u64, }
    /// `fuse_statfs_out`
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        bsize: u32, namelen: u32, frsize: u32, _pad: u32, _spare: [u32; 6],
    }
    /// `fuse_dirent`, without the name that follows it
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32, }
    /// `fuse_direntplus`, without the name that follows it
    DirentPlus { entry: EntryOut, dirent: Dirent, }
}

/// `fuse_uring_req_header`: where one request of the ring, and the answer to it, lie beside their payload.
#[repr(C)]
pub(super) struct Header {
    /// An [`InHeader`] on the way in, an [`OutHeader`] on the way out.
    pub in_out: [u8; 128],
    /// The first argument of the operation, whatever its structure.
    pub op_in: [u8; 128],
    /// What belongs to the ring.
    pub entry: EntInOut,
}

/// Size of [`Header`], which the kernel checks.
const _: () = assert!(size_of::<Header>() == 288);
const _: () = assert!(size_of::<Attributes>() == 88 && size_of::<CreateOut>() == 144);
