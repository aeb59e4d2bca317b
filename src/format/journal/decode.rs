//! From the payload of an operation back to its changes. The payload has passed its checksum, so what is refused here
//! was written by a program with other rules, or by a bug; still nothing in it is believed beyond its own length, and a
//! row that the database would refuse to give back is refused here, before it is in there.

use super::encode::{
    BLOCK, CUT, DENTRY, DROP_BLOCKS, DROP_DENTRY, DROP_INODE, DROP_XATTR, FILL, INODE, NEW_DATA, XATTR,
};
use crate::base::limits::{
    BLOCK_SIZE, FILE_BLOCKS_MAX, FILE_SIZE_MAX, ID_MAX, INODE_PIECES_MAX, NAME_MAX, PIECES_PER_BLOCK, SYMLINK_MAX,
    XATTR_VALUE_MAX,
};
use crate::base::{Cookie, DataId, FileKind, Ino, Name, Timestamp};
use crate::format::{BlockRow, Change, DentryRow, InodeRow};

/// Why a payload is no list of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A change is longer than the payload.
    #[error("a change is cut off")]
    Short,
    /// A change of a kind that this program does not know.
    #[error("a change has the unknown tag {0}")]
    Tag(u8),
    /// A field has a value that no row can have.
    #[error("a change has an impossible {0}")]
    Value(&'static str),
}

/// Calls `each` with every change of a payload, in order, until it fails. The bytes of a [`Change::NewData`] are left
/// out of records; they come empty.
pub fn changes<E: From<RecordError>>(
    payload: &[u8],
    mut each: impl FnMut(Change<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut from = Fields(payload);
    while !from.0.is_empty() {
        change(&mut from, &mut each)?;
    }
    Ok(())
}

fn change<E: From<RecordError>>(
    from: &mut Fields<'_>,
    each: &mut impl FnMut(Change<'_>) -> Result<(), E>,
) -> Result<(), E> {
    match from.u8()? {
        INODE => each(Change::Inode(&inode(from)?)),
        DROP_INODE => each(Change::DropInode(from.ino()?)),
        DENTRY => each(Change::Dentry(&dentry(from)?)),
        DROP_DENTRY => each(Change::DropDentry { parent: from.ino()?, name: &from.file_name()? }),
        NEW_DATA => each(Change::NewData { id: from.data()?, base: DataId(from.id()?), keep: from.at()?, bytes: &[] }),
        FILL => {
            let (id, at, bytes) = (from.data()?, from.at()?, from.bytes(BLOCK_SIZE)?);
            if at as usize + bytes.len() > BLOCK_SIZE {
                return Err(RecordError::Value("extent").into());
            }
            each(Change::Fill { id, at, bytes })
        }
        CUT => each(Change::Cut { id: from.data()?, keep: from.at()? }),
        BLOCK => each(Change::Block(block(from)?)),
        DROP_BLOCKS => {
            let (ino, first, until) = (from.ino()?, from.u64()?, from.u64()?);
            if first > until {
                return Err(RecordError::Value("range").into());
            }
            each(Change::DropBlocks { ino, from: first, until })
        }
        XATTR => each(Change::Xattr { ino: from.ino()?, name: &from.name()?, value: from.bytes(XATTR_VALUE_MAX)? }),
        DROP_XATTR => each(Change::DropXattr { ino: from.ino()?, name: &from.name()? }),
        other => Err(RecordError::Tag(other).into()),
    }
}

fn inode(from: &mut Fields<'_>) -> Result<InodeRow, RecordError> {
    let row = InodeRow {
        ino: from.ino()?,
        mode: from.u32()?,
        uid: from.u32()?,
        gid: from.u32()?,
        nlink: from.u32()?,
        rdev: from.u32()?,
        size: from.u64()?,
        pieces: from.u64()?,
        attached: from.u32()?,
        atime: from.time()?,
        mtime: from.time()?,
        ctime: from.time()?,
        btime: from.time()?,
        target: from.bytes(SYMLINK_MAX)?.into(),
    };
    if FileKind::of_mode(row.mode).is_none() || row.mode > 0o177777 {
        return Err(RecordError::Value("mode"));
    }
    if row.size > FILE_SIZE_MAX || row.pieces > INODE_PIECES_MAX {
        return Err(RecordError::Value("size"));
    }
    Ok(row)
}

fn dentry(from: &mut Fields<'_>) -> Result<DentryRow, RecordError> {
    let (parent, ino, cookie) = (from.ino()?, from.ino()?, Cookie(from.id()?));
    let kind = FileKind::from_code(from.u8()?.into()).ok_or(RecordError::Value("file type"))?;
    Ok(DentryRow { parent, name: from.file_name()?, ino, kind, cookie })
}

fn block(from: &mut Fields<'_>) -> Result<BlockRow, RecordError> {
    let (ino, index, data, mask) = (from.ino()?, from.u64()?, DataId(from.id()?), from.u64()?);
    let shared = match from.u8()? {
        0 => false,
        1 => true,
        _ => return Err(RecordError::Value("flag")),
    };
    if mask == 0 || mask.checked_shr(PIECES_PER_BLOCK).unwrap_or(0) != 0 {
        return Err(RecordError::Value("mask"));
    }
    if index >= FILE_BLOCKS_MAX {
        return Err(RecordError::Value("block index"));
    }
    Ok(BlockRow { ino, index, data, mask, shared })
}

/// Takes little-endian fields from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (value, rest) = self.0.split_first_chunk().ok_or(RecordError::Short)?;
        self.0 = rest;
        Ok(*value)
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Any number that an id can be; there is always one above it.
    fn id(&mut self) -> Result<u64, RecordError> {
        match self.u64()? {
            id if id < ID_MAX => Ok(id),
            _ => Err(RecordError::Value("id")),
        }
    }

    fn ino(&mut self) -> Result<Ino, RecordError> {
        match self.id()? {
            0 => Err(RecordError::Value("inode number")),
            ino => Ok(Ino(ino)),
        }
    }

    /// A data id of content, which zeros have not.
    fn data(&mut self) -> Result<DataId, RecordError> {
        match DataId(self.id()?) {
            DataId::ZEROS => Err(RecordError::Value("data id")),
            id => Ok(id),
        }
    }

    /// A place within a block, its end included.
    fn at(&mut self) -> Result<u32, RecordError> {
        let at = self.u32()?;
        if at as usize <= BLOCK_SIZE { Ok(at) } else { Err(RecordError::Value("place in a block")) }
    }

    fn time(&mut self) -> Result<Timestamp, RecordError> {
        let (secs, nanos) = (self.u64()?.cast_signed(), self.u32()?);
        if nanos < 1_000_000_000 { Ok(Timestamp::new(secs, nanos)) } else { Err(RecordError::Value("time")) }
    }

    fn bytes(&mut self, max: usize) -> Result<&'a [u8], RecordError> {
        let len = self.u32()? as usize;
        if len > max {
            return Err(RecordError::Value("length"));
        }
        self.take(len)
    }

    fn name(&mut self) -> Result<Name, RecordError> {
        let len: usize = self.u8()?.into();
        let name = self.take(len)?;
        let good = (1..=NAME_MAX).contains(&len) && !name.contains(&0);
        if good { Ok(name.into()) } else { Err(RecordError::Value("name")) }
    }

    /// A name in a directory.
    fn file_name(&mut self) -> Result<Name, RecordError> {
        let name = self.name()?;
        let good = !name.contains(&b'/') && !matches!(&*name, b"." | b"..");
        if good { Ok(name) } else { Err(RecordError::Value("name")) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(RecordError::Short)?;
        self.0 = rest;
        Ok(taken)
    }
}
