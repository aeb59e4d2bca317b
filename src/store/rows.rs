//! From SQLite's columns to rows, with nothing believed: whatever is in the file, the result is a row that keeps its
//! type's promises, or a complaint with the table, the key and the column.

use std::fmt;

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::StoreError;
use crate::base::limits::{BLOCK_SIZE, FILE_BLOCKS_MAX, FILE_SIZE_MAX, INODE_PIECES_MAX, NAME_MAX, PIECES_PER_BLOCK};
use crate::base::limits::{SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX};
use crate::base::{Cookie, DataId, FileKind, Ino, PackId, Timestamp};
use crate::format::{BlockRow, DentryRow, InodeRow, RowSum, XattrRow};

/// Columns of `inode` as [`inode`] reads them.
pub(super) const INODE: &str = "i.ino, i.mode, i.uid, i.gid, i.nlink, i.rdev, i.size, i.pieces, i.attached, \
     i.atime_s, i.atime_ns, i.mtime_s, i.mtime_ns, i.ctime_s, i.ctime_ns, i.btime_s, i.btime_ns, i.target, i.sum";
/// Columns of `dentry` as [`dentry`] reads them.
pub(super) const DENTRY: &str = "d.parent, d.name, d.ino, d.kind, d.cookie, d.sum";
/// Number of them.
pub(super) const DENTRY_COLUMNS: usize = 6;
/// Columns of `block` as [`block`] reads them.
pub(super) const BLOCK: &str = "b.ino, b.idx, b.data_id, b.mask, b.shared, b.sum";
/// Number of them.
pub(super) const BLOCK_COLUMNS: usize = 6;
/// Columns of `xattr` as [`xattr`] reads them.
pub(super) const XATTR: &str = "x.ino, x.name, x.value, x.sum";

/// A row that breaks a rule: which invariant of `docs/format.md`, and where.
#[derive(Debug)]
pub(super) struct Bad {
    /// The invariant's code.
    pub code: &'static str,
    /// Table, key, column and what is there.
    pub text: String,
}

impl From<Bad> for StoreError {
    fn from(bad: Bad) -> Self {
        StoreError::Damaged(bad.text)
    }
}

/// Reads the columns of one result row from left to right.
pub(super) struct Columns<'r, 's> {
    row: &'r Row<'s>,
    table: &'static str,
    first: usize,
    keys: usize,
    at: usize,
}

impl<'r, 's> Columns<'r, 's> {
    /// Begins at column `first`, where the `keys` columns of the primary key lie.
    pub fn new(row: &'r Row<'s>, table: &'static str, first: usize, keys: usize) -> Self {
        Columns { row, table, first, keys, at: first }
    }

    /// A complaint about this row.
    pub fn bad(&self, code: &'static str, what: impl fmt::Display) -> Bad {
        let key = (self.first..self.first + self.keys).map(|at| match self.row.get_ref(at) {
            Ok(ValueRef::Integer(value)) => value.to_string(),
            Ok(ValueRef::Blob(bytes)) => format!("\"{}\"", bytes.escape_ascii()),
            _ => "?".to_owned(),
        });
        Bad { code, text: format!("{} {}: {what}", self.table, key.collect::<Vec<_>>().join("/")) }
    }

    fn next(&mut self) -> Option<ValueRef<'r>> {
        self.at += 1;
        self.row.get_ref(self.at - 1).ok()
    }

    /// Passes over a column.
    pub fn skip(&mut self) {
        self.at += 1;
    }

    /// Any integer.
    pub fn integer(&mut self, column: &str) -> Result<i64, Bad> {
        match self.next() {
            Some(ValueRef::Integer(value)) => Ok(value),
            _ => Err(self.bad("row-value", format_args!("{column} is no integer"))),
        }
    }

    /// An integer up to `max`, and not negative.
    pub fn up_to(&mut self, column: &str, max: u64) -> Result<u64, Bad> {
        let value = self.integer(column)?;
        match u64::try_from(value) {
            Ok(good) if good <= max => Ok(good),
            _ => Err(self.bad("row-value", format_args!("{column} is {value}"))),
        }
    }

    /// An id, a count or a size.
    pub fn unsigned(&mut self, column: &str) -> Result<u64, Bad> {
        self.up_to(column, i64::MAX as u64)
    }

    /// A number of 32 bits.
    pub fn u32(&mut self, column: &str) -> Result<u32, Bad> {
        // Lossless: `up_to` has just bounded it.
        self.up_to(column, u32::MAX.into()).map(|value| value as u32)
    }

    /// 64 bits of which SQLite sees a signed number: a hash.
    pub fn bits(&mut self, column: &str) -> Result<u64, Bad> {
        self.integer(column).map(|value| value as u64)
    }

    /// A flag.
    pub fn flag(&mut self, column: &str) -> Result<bool, Bad> {
        self.up_to(column, 1).map(|value| value == 1)
    }

    /// Seconds and nanoseconds, in two columns.
    pub fn time(&mut self, column: &str) -> Result<Timestamp, Bad> {
        let secs = self.integer(column)?;
        let nanos = self.integer(column)?;
        match u32::try_from(nanos) {
            Ok(nanos) if nanos < 1_000_000_000 => Ok(Timestamp { secs, nanos }),
            _ => Err(self.bad("time-valid", format_args!("{column} has {nanos} nanoseconds"))),
        }
    }

    /// Bytes, of which NULL means none.
    pub fn optional_bytes(&mut self, column: &str, max: usize) -> Result<Option<&'r [u8]>, Bad> {
        match self.next() {
            Some(ValueRef::Null) => Ok(None),
            Some(ValueRef::Blob(bytes)) if bytes.len() <= max => Ok(Some(bytes)),
            Some(ValueRef::Blob(bytes)) => {
                Err(self.bad("row-value", format_args!("{column} has {} bytes", bytes.len())))
            }
            _ => Err(self.bad("row-value", format_args!("{column} is no blob"))),
        }
    }

    /// Bytes.
    pub fn bytes(&mut self, column: &str, max: usize) -> Result<&'r [u8], Bad> {
        self.optional_bytes(column, max)?.ok_or_else(|| self.bad("row-value", format_args!("{column} is NULL")))
    }

    /// A blob of exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, column: &str) -> Result<[u8; N], Bad> {
        let bytes = self.bytes(column, N)?;
        bytes.try_into().map_err(|_| self.bad("row-value", format_args!("{column} has {} bytes", bytes.len())))
    }

    /// A text.
    pub fn text(&mut self, column: &str) -> Result<&'r str, Bad> {
        match self.next() {
            Some(ValueRef::Text(text)) => {
                std::str::from_utf8(text).map_err(|_| self.bad("row-value", format_args!("{column} is no UTF-8")))
            }
            _ => Err(self.bad("row-value", format_args!("{column} is no text"))),
        }
    }
}

/// A row as it stands in its table, and whether its checksum says that it stands there as it was written.
pub(super) struct Summed<T> {
    row: T,
    bad: Option<Bad>,
}

impl<T: RowSum> Summed<T> {
    /// Compares the row with the checksum in the next column.
    pub fn new(row: T, from: &mut Columns<'_, '_>) -> Result<Summed<T>, Bad> {
        let found = from.u32("sum")?;
        let differs = found != row.sum();
        let bad =
            differs.then(|| from.bad("row-sum", format_args!("sum is {found:08x}, the row gives {:08x}", row.sum())));
        Ok(Summed { row, bad })
    }

    /// The row, if it is whole and one of those that were asked for by `ino`: all that an ordinary reader may use.
    ///
    /// SQLite takes a range of an index to begin where its search ended, and looks only for its end. Where damage leads
    /// the search astray that is at somebody else's row, which is whole.
    pub fn of(self, ino: Ino) -> Result<T, Bad>
    where
        T: Owned,
    {
        match self.bad {
            None if self.row.owner() == ino => Ok(self.row),
            None => {
                let text = format!("{} of inode {}: found in the place of inode {ino}'s", T::WHAT, self.row.owner());
                Err(Bad { code: "sqlite", text })
            }
            Some(bad) => Err(bad),
        }
    }

    /// The row all the same, and what is wrong with it: for the check, which wants to know what else is.
    pub fn parts(self) -> (T, Option<Bad>) {
        (self.row, self.bad)
    }
}

/// A row of a table that is asked by inode.
pub(super) trait Owned {
    /// What it is called in a complaint.
    const WHAT: &str;
    /// The inode that the table is asked for this row by.
    fn owner(&self) -> Ino;
}

impl Owned for InodeRow {
    const WHAT: &str = "row";

    fn owner(&self) -> Ino {
        self.ino
    }
}

impl Owned for DentryRow {
    const WHAT: &str = "name";

    fn owner(&self) -> Ino {
        self.parent
    }
}

impl Owned for BlockRow {
    const WHAT: &str = "block";

    fn owner(&self) -> Ino {
        self.ino
    }
}

impl Owned for XattrRow {
    const WHAT: &str = "xattr";

    fn owner(&self) -> Ino {
        self.ino
    }
}

/// Reads [`INODE`] from column `first` on.
pub(super) fn inode(row: &Row<'_>, first: usize) -> Result<Summed<InodeRow>, Bad> {
    let mut from = Columns::new(row, "inode", first, 1);
    let inode = InodeRow {
        ino: Ino(from.unsigned("ino")?),
        mode: from.u32("mode")?,
        uid: from.u32("uid")?,
        gid: from.u32("gid")?,
        nlink: from.u32("nlink")?,
        rdev: from.u32("rdev")?,
        size: from.up_to("size", FILE_SIZE_MAX)?,
        pieces: from.up_to("pieces", INODE_PIECES_MAX)?,
        attached: from.u32("attached")?,
        atime: from.time("atime")?,
        mtime: from.time("mtime")?,
        ctime: from.time("ctime")?,
        btime: from.time("btime")?,
        target: from.optional_bytes("target", SYMLINK_MAX)?.unwrap_or_default().into(),
    };
    if inode.ino.0 == 0 {
        return Err(from.bad("row-value", "inode number 0"));
    }
    if FileKind::of_mode(inode.mode).is_none() || inode.mode > 0o177777 {
        return Err(from.bad("inode-mode", format_args!("mode is {:o}", inode.mode)));
    }
    Summed::new(inode, &mut from)
}

/// Reads [`DENTRY`] from column 0 on.
pub(super) fn dentry(row: &Row<'_>) -> Result<Summed<DentryRow>, Bad> {
    let mut from = Columns::new(row, "dentry", 0, 2);
    let parent = Ino(from.unsigned("parent")?);
    let name = from.bytes("name", NAME_MAX)?;
    if name.is_empty() || name.iter().any(|byte| matches!(byte, b'/' | 0)) || matches!(name, b"." | b"..") {
        return Err(from.bad("name-valid", "not a file name"));
    }
    let ino = Ino(from.unsigned("ino")?);
    let code = from.u32("kind")?;
    let kind = FileKind::from_code(code).ok_or_else(|| from.bad("dentry-kind", format_args!("kind is {code}")))?;
    let cookie = Cookie(from.unsigned("cookie")?);
    Summed::new(DentryRow { parent, name: name.into(), ino, kind, cookie }, &mut from)
}

/// Reads [`BLOCK`] from column 0 on.
pub(super) fn block(row: &Row<'_>) -> Result<Summed<BlockRow>, Bad> {
    let mut from = Columns::new(row, "block", 0, 2);
    let block = BlockRow {
        ino: Ino(from.unsigned("ino")?),
        index: from.up_to("idx", FILE_BLOCKS_MAX - 1)?,
        data: DataId(from.unsigned("data_id")?),
        mask: from.bits("mask")?,
        shared: from.flag("shared")?,
    };
    if block.mask == 0 || block.mask >> PIECES_PER_BLOCK != 0 {
        return Err(from.bad("block-mask", format_args!("mask is {:#x}", block.mask)));
    }
    Summed::new(block, &mut from)
}

/// Reads [`XATTR`] from column 0 on.
pub(super) fn xattr(row: &Row<'_>) -> Result<Summed<XattrRow>, Bad> {
    let mut from = Columns::new(row, "xattr", 0, 2);
    let ino = Ino(from.unsigned("ino")?);
    let name = from.bytes("name", XATTR_NAME_MAX)?;
    if name.is_empty() || name.contains(&0) {
        return Err(from.bad("name-valid", "not an xattr name"));
    }
    Summed::new(XattrRow { ino, name: name.into(), value: from.bytes("value", XATTR_VALUE_MAX)?.into() }, &mut from)
}

/// Where a block's content lies: a row of `data`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The pack.
    pub pack: PackId,
    /// Byte of the pack's content at which it begins.
    pub position: u32,
    /// Its bytes, trailing zeros left out.
    pub len: u32,
    /// Their [`content_hash`](crate::format::content_hash).
    pub hash: u64,
}

/// Reads `id, pack, position, len, hash` from column 0 on.
pub(super) fn place(row: &Row<'_>) -> Result<(DataId, Place), Bad> {
    let mut from = Columns::new(row, "data", 0, 1);
    let id = DataId(from.unsigned("id")?);
    let pack = PackId(from.unsigned("pack")?);
    let position = from.u32("position")?;
    let len = from.up_to("len", BLOCK_SIZE as u64)? as u32;
    Ok((id, Place { pack, position, len, hash: from.bits("hash")? }))
}
