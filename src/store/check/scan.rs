//! One pass over all inodes with their blocks and xattrs, and one over all names: every row is decoded, every sum
//! that a row claims is made again, and so are the counts and the digest of the superblock.

use rusqlite::{Connection, Row, Rows};

use super::Report;
use crate::base::limits::{attached_pieces, pieces};
use crate::base::{DataId, FileKind, Ino};
use crate::format::{BlockRow, Counts, Digest, InodeRow, XattrRow, content_hash};
use crate::store::rows::{self, BLOCK, BLOCK_COLUMNS, DENTRY, INODE, XATTR};
use crate::store::{StoreError, superblock};

/// Makes both passes and compares the sums.
pub(super) fn scan(sql: &Connection, report: &mut Report) -> Result<(), StoreError> {
    let (mut digest, mut counts) = (Digest::default(), Counts::default());
    inodes(sql, report, &mut digest, &mut counts)?;
    names(sql, report, &mut digest)?;
    let Ok(state) = superblock::read(sql) else {
        return Ok(()); // A finding already.
    };
    if counts != state.counts {
        report.add("counts", format!("the superblock has {:?}, the rows give {counts:?}", state.counts));
    }
    if digest != state.digest {
        report.add("digest", format!("the superblock has {}, the rows give {digest}", state.digest));
    }
    Ok(())
}

fn names(sql: &Connection, report: &mut Report, digest: &mut Digest) -> Result<(), StoreError> {
    let mut query = sql.prepare(&format!("SELECT {DENTRY} FROM dentry d ORDER BY d.parent, d.name"))?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        if let Some(dentry) = report.take(rows::dentry(row)) {
            digest.add_dentry(&dentry);
        }
    }
    Ok(())
}

/// Blocks and xattrs come in the order of their inodes, so three cursors go forward together.
fn inodes(sql: &Connection, report: &mut Report, digest: &mut Digest, counts: &mut Counts) -> Result<(), StoreError> {
    let mut inodes = sql.prepare(&format!("SELECT {INODE} FROM inode i ORDER BY i.ino"))?;
    let mut blocks = sql.prepare(&format!(
        "SELECT {BLOCK}, t.hash FROM block b LEFT JOIN data t ON t.id = b.data_id ORDER BY b.ino, b.idx"
    ))?;
    let mut xattrs = sql.prepare(&format!("SELECT {XATTR} FROM xattr x ORDER BY x.ino, x.name"))?;
    let mut blocks = Cursor::new(blocks.query([])?, block_with_hash, |(block, _)| block.ino);
    let mut xattrs = Cursor::new(xattrs.query([])?, |row, report| report.take(rows::xattr(row)), |xattr| xattr.ino);
    let mut found = inodes.query([])?;
    while let Some(row) = found.next()? {
        let Some(inode) = report.take(rows::inode(row, 0)) else { continue };
        counts.add(&inode);
        let mut sums = Sums::default();
        blocks.up_to(inode.ino, report, &mut |report, (block, hash)| match block.ino == inode.ino {
            true => sums.block(&inode, &block, hash, digest, report),
            false => report.add("block-owner", format!("block {}/{}: no such inode", block.ino, block.index)),
        })?;
        xattrs.up_to(inode.ino, report, &mut |report, xattr| match xattr.ino == inode.ino {
            true => sums.xattr(&inode, &xattr, digest),
            false => report.add("xattr-owner", format!("xattr {}: no such inode", xattr.ino)),
        })?;
        if !inode.is_orphan() {
            digest.add_inode(&inode);
        }
        sums.compare(&inode, report);
    }
    let nobody = Ino(u64::MAX);
    blocks.up_to(nobody, report, &mut |report, (block, _)| {
        report.add("block-owner", format!("block {}/{}: no such inode", block.ino, block.index));
    })?;
    xattrs.up_to(nobody, report, &mut |report, xattr| {
        report.add("xattr-owner", format!("xattr {}: no such inode", xattr.ino));
    })
}

/// What an inode's blocks and xattrs add up to.
#[derive(Default)]
struct Sums {
    pieces: u64,
    attached: u64,
}

impl Sums {
    fn block(
        &mut self,
        inode: &InodeRow,
        block: &BlockRow,
        hash: Option<u64>,
        digest: &mut Digest,
        report: &mut Report,
    ) {
        self.pieces += u64::from(block.mask.count_ones());
        let place = || format!("block {}/{}", block.ino, block.index);
        if inode.kind() != FileKind::Regular {
            report.add("block-kind", format!("{}: not on a regular file", place()));
        }
        match hash {
            Some(hash) if !inode.is_orphan() => digest.add_block(block, hash),
            Some(_) => {}
            None => report.add("block-data", format!("{}: names data {}, which is missing", place(), block.data)),
        }
    }

    fn xattr(&mut self, inode: &InodeRow, xattr: &XattrRow, digest: &mut Digest) {
        self.attached += (xattr.name.len() + xattr.value.len()) as u64;
        if !inode.is_orphan() {
            digest.add_xattr(xattr.ino, &xattr.name, &xattr.value);
        }
    }

    fn compare(self, inode: &InodeRow, report: &mut Report) {
        let attached = self.attached + inode.target.len() as u64;
        if u64::from(inode.attached) != attached {
            let text = format!("inode {}: attached is {}, there are {attached} bytes", inode.ino, inode.attached);
            report.add("inode-attached", text);
        }
        let content = if inode.is_dir() { pieces(inode.size) } else { self.pieces };
        let expected = content + attached_pieces(inode.attached.into());
        if inode.pieces != expected {
            let text = format!("inode {}: pieces is {}, there are {expected}", inode.ino, inode.pieces);
            report.add("inode-pieces", text);
        }
    }
}

/// A block, and the hash of its content if that exists.
fn block_with_hash(row: &Row<'_>, report: &mut Report) -> Option<(BlockRow, Option<u64>)> {
    let block = report.take(rows::block(row))?;
    let hash = match row.get::<_, Option<i64>>(BLOCK_COLUMNS) {
        _ if block.data == DataId::ZEROS => Some(content_hash(&[])),
        Ok(hash) => hash.map(i64::cast_unsigned),
        Err(_) => None,
    };
    Some((block, hash))
}

/// Rows that are taken only as far as a given inode.
struct Cursor<'s, T, D, K> {
    rows: Rows<'s>,
    waiting: Option<T>,
    decode: D,
    key: K,
}

impl<'s, T, D, K> Cursor<'s, T, D, K>
where
    D: Fn(&Row<'_>, &mut Report) -> Option<T>,
    K: Fn(&T) -> Ino,
{
    fn new(rows: Rows<'s>, decode: D, key: K) -> Self {
        Cursor { rows, waiting: None, decode, key }
    }

    /// Hands over all rows of inodes up to `ino`; rows that do not decode are reported and passed over.
    fn up_to(&mut self, ino: Ino, report: &mut Report, take: &mut dyn FnMut(&mut Report, T)) -> Result<(), StoreError> {
        loop {
            let item = match self.waiting.take() {
                Some(item) => item,
                None => match self.rows.next()? {
                    None => return Ok(()),
                    Some(row) => match (self.decode)(row, report) {
                        Some(item) => item,
                        None => continue,
                    },
                },
            };
            if (self.key)(&item) > ino {
                self.waiting = Some(item);
                return Ok(());
            }
            take(report, item);
        }
    }
}
