//! Every statement of a commit, prepared once and held for its length.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::Packed;
use crate::base::{DataId, Ino, PackId, Seq, Txid};
use crate::format::{BlockRow, DentryRow, InodeRow, Pack, RowSum, XattrRow, content_hash};
use crate::store::rows::{self, BLOCK, BLOCK_COLUMNS, Columns, DENTRY, INODE, Place, XATTR};
use crate::store::schema::TXN_KEPT;
use crate::store::{StoreError, Superblock};

/// The statements. Rows are looked up by primary key alone.
pub(in crate::store) struct Statements<'c> {
    inode: CachedStatement<'c>,
    put_inode: CachedStatement<'c>,
    drop_inode: CachedStatement<'c>,
    dentry: CachedStatement<'c>,
    put_dentry: CachedStatement<'c>,
    drop_dentry: CachedStatement<'c>,
    blocks: CachedStatement<'c>,
    put_block: CachedStatement<'c>,
    drop_blocks: CachedStatement<'c>,
    shared: CachedStatement<'c>,
    xattrs: CachedStatement<'c>,
    xattr: CachedStatement<'c>,
    put_xattr: CachedStatement<'c>,
    drop_xattr: CachedStatement<'c>,
    drop_xattrs: CachedStatement<'c>,
    put_orphan: CachedStatement<'c>,
    drop_orphan: CachedStatement<'c>,
    hash: CachedStatement<'c>,
    put_data: CachedStatement<'c>,
    move_data: CachedStatement<'c>,
    drop_data: CachedStatement<'c>,
    put_pack: CachedStatement<'c>,
    drop_pack: CachedStatement<'c>,
    put_txn: CachedStatement<'c>,
    trim_txn: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    /// Prepares all of them, or finds them in the connection's cache.
    pub fn prepare(sql: &'c Connection) -> Result<Self, StoreError> {
        Ok(Statements {
            inode: sql.prepare_cached(&format!("SELECT {INODE} FROM inode i WHERE i.ino = ?1"))?,
            put_inode: sql.prepare_cached(
                "REPLACE INTO inode (ino, since, mode, uid, gid, nlink, rdev, size, pieces, attached, atime_s, atime_ns,
                 mtime_s, mtime_ns, ctime_s, ctime_ns, btime_s, btime_ns, target, sum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
            )?,
            drop_inode: sql.prepare_cached("DELETE FROM inode WHERE ino = ?1")?,
            dentry: sql.prepare_cached(&format!("SELECT {DENTRY} FROM dentry d WHERE d.parent = ?1 AND d.name = ?2"))?,
            put_dentry: sql.prepare_cached(
                "REPLACE INTO dentry (parent, name, ino, kind, cookie, since, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
            drop_dentry: sql.prepare_cached("DELETE FROM dentry WHERE parent = ?1 AND name = ?2")?,
            blocks: sql.prepare_cached(&format!(
                "SELECT {BLOCK}, t.hash FROM block b LEFT JOIN data t ON t.id = b.data_id
                 WHERE b.ino = ?1 AND b.idx >= ?2 AND b.idx < ?3 ORDER BY b.idx"
            ))?,
            put_block: sql.prepare_cached(
                "REPLACE INTO block (ino, idx, data_id, mask, shared, since, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
            drop_blocks: sql.prepare_cached("DELETE FROM block WHERE ino = ?1 AND idx >= ?2 AND idx < ?3")?,
            shared: sql.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM block WHERE data_id = ?1 AND shared = 1)
                 OR EXISTS (SELECT 1 FROM block_history WHERE data_id = ?1 AND shared = 1)",
            )?,
            xattrs: sql.prepare_cached(&format!("SELECT {XATTR} FROM xattr x WHERE x.ino = ?1"))?,
            xattr: sql.prepare_cached("SELECT value FROM xattr WHERE ino = ?1 AND name = ?2")?,
            put_xattr: sql.prepare_cached(
                "INSERT INTO xattr (ino, name, value, since, sum) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (ino, name) DO UPDATE SET value = ?3, since = ?4, sum = ?5",
            )?,
            drop_xattr: sql.prepare_cached("DELETE FROM xattr WHERE ino = ?1 AND name = ?2")?,
            drop_xattrs: sql.prepare_cached("DELETE FROM xattr WHERE ino = ?1")?,
            put_orphan: sql.prepare_cached("REPLACE INTO orphan (ino) VALUES (?1)")?,
            drop_orphan: sql.prepare_cached("DELETE FROM orphan WHERE ino = ?1")?,
            hash: sql.prepare_cached("SELECT hash FROM data WHERE id = ?1")?,
            put_data: sql
                .prepare_cached("INSERT INTO data (id, pack, position, len, hash) VALUES (?1, ?2, ?3, ?4, ?5)")?,
            move_data: sql.prepare_cached("UPDATE data SET pack = ?2, position = ?3 WHERE id = ?1")?,
            drop_data: sql.prepare_cached("DELETE FROM data WHERE id = ?1 RETURNING pack, len")?,
            put_pack: sql.prepare_cached("INSERT INTO pack (id, codec, raw_len, frame) VALUES (?1, ?2, ?3, ?4)")?,
            drop_pack: sql.prepare_cached("DELETE FROM pack WHERE id = ?1")?,
            put_txn: sql.prepare_cached(
                "INSERT INTO txn (txid, epoch, seq, time_s, time_ns, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            trim_txn: sql.prepare_cached("DELETE FROM txn WHERE txid <= ?1")?,
        })
    }

    /// One inode.
    pub fn inode(&mut self, ino: Ino) -> Result<Option<InodeRow>, StoreError> {
        let found =
            self.inode.query_row([ino.sql()], |row| Ok(rows::inode(row, 0).and_then(|row| row.of(ino)))).optional()?;
        Ok(found.transpose()?)
    }

    /// Writes one inode.
    pub fn put_inode(&mut self, row: &InodeRow, since: Txid) -> Result<(), StoreError> {
        let target = Some(&row.target[..]).filter(|target| !target.is_empty());
        self.put_inode.execute(params![
            row.ino.sql(),
            since.sql(),
            row.mode,
            row.uid,
            row.gid,
            row.nlink,
            row.rdev,
            row.size as i64,   // At most FILE_SIZE_MAX.
            row.pieces as i64, // Fewer than bytes.
            row.attached,
            { row.atime.secs },
            row.atime.nanos,
            { row.mtime.secs },
            row.mtime.nanos,
            { row.ctime.secs },
            row.ctime.nanos,
            { row.btime.secs },
            row.btime.nanos,
            target,
            row.sum(),
        ])?;
        Ok(())
    }

    /// Deletes one inode.
    pub fn drop_inode(&mut self, ino: Ino) -> Result<(), StoreError> {
        run(&mut self.drop_inode, ino)
    }

    /// One name.
    pub fn dentry(&mut self, parent: Ino, name: &[u8]) -> Result<Option<DentryRow>, StoreError> {
        let found = self
            .dentry
            .query_row(params![parent.sql(), name], |row| Ok(rows::dentry(row).and_then(|row| row.of(parent))))
            .optional()?;
        Ok(found.transpose()?)
    }

    /// Writes one name.
    pub fn put_dentry(&mut self, row: &DentryRow, since: Txid) -> Result<(), StoreError> {
        let kind = row.kind as u8;
        self.put_dentry.execute(params![
            row.parent.sql(),
            &row.name[..],
            row.ino.sql(),
            kind,
            row.cookie.sql(),
            since.sql(),
            row.sum(),
        ])?;
        Ok(())
    }

    /// Deletes one name.
    pub fn drop_dentry(&mut self, parent: Ino, name: &[u8]) -> Result<(), StoreError> {
        self.drop_dentry.execute(params![parent.sql(), name])?;
        Ok(())
    }

    /// The blocks `from..until` of a file, each with the hash of its content.
    pub fn blocks(&mut self, ino: Ino, from: u64, until: u64) -> Result<Vec<(BlockRow, u64)>, StoreError> {
        let mut found = self.blocks.query([ino.sql(), index(from), index(until)])?;
        let mut blocks = Vec::new();
        while let Some(row) = found.next()? {
            let block = rows::block(row)?.of(ino)?;
            let hash = if block.data == DataId::ZEROS {
                content_hash(&[])
            } else {
                row.get::<_, Option<i64>>(BLOCK_COLUMNS)?.ok_or_else(|| missing(&block))?.cast_unsigned()
            };
            blocks.push((block, hash));
        }
        Ok(blocks)
    }

    /// Writes one block.
    pub fn put_block(&mut self, row: &BlockRow, since: Txid) -> Result<(), StoreError> {
        self.put_block.execute(params![
            row.ino.sql(),
            index(row.index),
            row.data.sql(),
            row.mask.cast_signed(),
            row.shared,
            since.sql(),
            row.sum(),
        ])?;
        Ok(())
    }

    /// Deletes the blocks `from..until` of a file.
    pub fn drop_blocks(&mut self, ino: Ino, from: u64, until: u64) -> Result<(), StoreError> {
        self.drop_blocks.execute([ino.sql(), index(from), index(until)])?;
        Ok(())
    }

    /// Whether a block, live or in history, that is marked as shared names this content.
    pub fn is_shared(&mut self, id: DataId) -> Result<bool, StoreError> {
        Ok(self.shared.query_row([id.sql()], |row| row.get(0))?)
    }

    /// All xattrs of an inode.
    pub fn xattrs(&mut self, ino: Ino) -> Result<Vec<crate::format::XattrRow>, StoreError> {
        let mut found = self.xattrs.query([ino.sql()])?;
        let mut xattrs = Vec::new();
        while let Some(row) = found.next()? {
            xattrs.push(rows::xattr(row)?.of(ino)?);
        }
        Ok(xattrs)
    }

    /// The value of one xattr.
    pub fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.xattr.query_row(params![ino.sql(), name], |row| row.get(0)).optional()?)
    }

    /// Writes one xattr.
    pub fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8], since: Txid) -> Result<(), StoreError> {
        let sum = XattrRow { ino, name: name.into(), value: value.into() }.sum();
        self.put_xattr.execute(params![ino.sql(), name, value, since.sql(), sum])?;
        Ok(())
    }

    /// Deletes one xattr.
    pub fn drop_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), StoreError> {
        self.drop_xattr.execute(params![ino.sql(), name])?;
        Ok(())
    }

    /// Deletes all xattrs of an inode.
    pub fn drop_xattrs(&mut self, ino: Ino) -> Result<(), StoreError> {
        run(&mut self.drop_xattrs, ino)
    }

    /// Marks an inode as an orphan.
    pub fn put_orphan(&mut self, ino: Ino) -> Result<(), StoreError> {
        run(&mut self.put_orphan, ino)
    }

    /// Takes the mark away.
    pub fn drop_orphan(&mut self, ino: Ino) -> Result<(), StoreError> {
        run(&mut self.drop_orphan, ino)
    }

    /// The hash of content that is stored already.
    pub fn hash(&mut self, row: &BlockRow) -> Result<u64, StoreError> {
        let found = self.hash.query_row([row.data.sql()], |row| row.get::<_, i64>(0)).optional()?;
        Ok(found.ok_or_else(|| missing(row))?.cast_unsigned())
    }

    /// Stores where content lies.
    pub fn put_data(&mut self, id: DataId, place: Place) -> Result<(), StoreError> {
        let Place { pack, position, len, hash } = place;
        self.put_data.execute(params![id.sql(), pack.sql(), position, len, hash.cast_signed()])?;
        Ok(())
    }

    /// Says that content lies elsewhere now.
    pub fn move_data(&mut self, id: DataId, place: Place) -> Result<(), StoreError> {
        self.move_data.execute(params![id.sql(), place.pack.sql(), place.position])?;
        Ok(())
    }

    /// Deletes dead content; returns the pack it lay in and its length.
    pub fn drop_data(&mut self, id: DataId) -> Result<Option<(PackId, u64)>, StoreError> {
        let mut found = self.drop_data.query([id.sql()])?;
        // A statement with RETURNING is done only when it has been stepped to its end.
        let mut gone = None;
        while let Some(row) = found.next()? {
            let mut from = Columns::new(row, "data", 0, 0);
            gone = Some((PackId(from.unsigned("pack")?), from.unsigned("len")?));
        }
        Ok(gone)
    }

    /// Stores a pack.
    pub fn put_pack(&mut self, pack: &Packed) -> Result<(), StoreError> {
        let (codec, raw_len) =
            Pack::describe(&pack.frame).ok_or_else(|| StoreError::Io(format!("pack {} was not encoded", pack.id)))?;
        self.put_pack.execute(params![pack.id.sql(), codec as u8, raw_len, pack.frame])?;
        Ok(())
    }

    /// Deletes a pack.
    pub fn drop_pack(&mut self, id: PackId) -> Result<(), StoreError> {
        self.drop_pack.execute([id.sql()])?;
        Ok(())
    }

    /// Writes this commit's line into the log of commits, and forgets an old one.
    pub fn put_txn(&mut self, state: &Superblock, seq: Seq) -> Result<(), StoreError> {
        let (txid, time) = (state.txid, state.last_active);
        // Epochs are counted up by one a mount.
        let epoch = state.epoch as i64;
        let digest = state.digest.0.to_le_bytes();
        self.put_txn.execute(params![txid.sql(), epoch, seq.sql(), { time.secs }, time.nanos, digest])?;
        self.trim_txn.execute([Txid(txid.0.saturating_sub(TXN_KEPT)).sql()])?;
        Ok(())
    }
}

fn run(statement: &mut CachedStatement<'_>, ino: Ino) -> Result<(), StoreError> {
    statement.execute([ino.sql()])?;
    Ok(())
}

/// A block index for SQLite; "to the end of the file" may be said as `u64::MAX`.
fn index(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn missing(row: &BlockRow) -> StoreError {
    StoreError::Damaged(format!("block {}/{}: names data {}, which is missing", row.ino, row.index, row.data))
}
