//! Putting a transaction's rows in, and carrying digest, counts and dead content along.
//!
//! The digest follows by subtraction: what a row was goes out, what it becomes comes in. What a row was is asked of
//! SQLite by primary key, and not even that for inodes the last commit had not numbered yet.
//!
//! An orphan is in no digest, and neither is anything that belongs to it. So an inode has three lives here: in the
//! digest (its blocks and xattrs are tracked one by one), out of it (they are not), and the two moves between, which
//! take everything out before the changes or put everything in after them.

use super::{Packed, Statements};
use crate::base::{DataId, Ino, Map, Set};
use crate::format::{BlockRow, DentryRow, FileChanges, InodeRow, Transaction, content_hash};
use crate::store::{StoreError, Superblock};

/// One transaction being put in.
pub(super) struct Apply<'a, 'c> {
    sql: &'a mut Statements<'c>,
    state: &'a mut Superblock,
    txn: &'a Transaction,
    /// Inodes from this number on have no rows yet.
    first_new: Ino,
    /// Hashes of the content this commit brings.
    fresh: Map<DataId, u64>,
    /// Content the transaction's rows name.
    named: Set<DataId>,
    /// Content that a row named and names no more, and whether that row was marked as shared.
    released: Map<DataId, bool>,
}

impl<'a, 'c> Apply<'a, 'c> {
    /// Begins. `state` holds digest and counts as they were and gets them as they become.
    pub fn new(
        sql: &'a mut Statements<'c>,
        state: &'a mut Superblock,
        first_new: Ino,
        txn: &'a Transaction,
        packed: &[Packed],
    ) -> Self {
        let places = packed.iter().flat_map(|pack| &pack.places);
        let fresh = places.map(|(id, place)| (*id, place.hash)).collect();
        let named = txn.files.values().flat_map(|file| file.rows.values().map(|row| row.data)).collect();
        Apply { sql, state, txn, first_new, fresh, named, released: Map::default() }
    }

    /// Every inode the transaction touches, with its blocks and xattrs, in the order of the tables.
    pub fn inodes(&mut self) -> Result<(), StoreError> {
        let txn = self.txn;
        let mut touched: Vec<Ino> =
            txn.inodes.keys().chain(txn.files.keys()).chain(txn.xattrs.keys()).copied().collect();
        touched.sort_unstable();
        touched.dedup();
        for ino in touched {
            let old = if ino < self.first_new { self.sql.inode(ino)? } else { None };
            match (txn.inodes.get(&ino), old) {
                (Some(None), old) => self.drop_inode(ino, old)?,
                (Some(Some(new)), old) => self.put_inode(ino, old, new, true)?,
                (None, Some(old)) => self.put_inode(ino, Some(old.clone()), &old, false)?,
                (None, None) => {
                    let text = format!("inode {ino}: missing, although its content or xattrs are changed");
                    return Err(StoreError::Damaged(text));
                }
            }
        }
        Ok(())
    }

    fn drop_inode(&mut self, ino: Ino, old: Option<InodeRow>) -> Result<(), StoreError> {
        if ino >= self.first_new {
            return Ok(()); // It came and went within this transaction.
        }
        if let Some(old) = old {
            if !old.is_orphan() {
                self.leave_digest(&old)?;
                self.state.digest.remove_inode(&old);
            }
            self.uncount(&old)?;
        }
        for (row, _) in self.sql.blocks(ino, 0, u64::MAX)? {
            self.release(&row);
        }
        self.sql.drop_blocks(ino, 0, u64::MAX)?;
        self.sql.drop_xattrs(ino)?;
        self.sql.drop_orphan(ino)?;
        self.sql.drop_inode(ino)
    }

    /// An inode that stays, with its blocks and xattrs. `changed`: its own row has a new value.
    fn put_inode(&mut self, ino: Ino, old: Option<InodeRow>, new: &InodeRow, changed: bool) -> Result<(), StoreError> {
        let was_in = old.as_ref().is_some_and(|old| !old.is_orphan());
        let is_in = !new.is_orphan();
        let moves = old.is_some() && was_in != is_in;
        if let Some(old) = old.as_ref().filter(|_| was_in && !is_in) {
            self.leave_digest(old)?;
        }
        if changed {
            if let Some(old) = &old {
                self.uncount(old)?;
            }
            if let Some(old) = old.as_ref().filter(|_| was_in) {
                self.state.digest.remove_inode(old);
            }
            self.state.counts.add(new);
            if is_in {
                self.state.digest.add_inode(new);
            }
            self.sql.put_inode(new, self.state.txid)?;
        }
        let tracked = is_in && !moves;
        let txn = self.txn;
        if let Some(file) = txn.files.get(&ino) {
            self.blocks(ino, file, old.is_some(), tracked)?;
        }
        if txn.xattrs.contains_key(&ino) {
            // An inode with nothing attached has no xattr to ask for.
            self.xattrs(ino, old.as_ref().is_some_and(|old| old.attached > 0), tracked)?;
        }
        match (was_in, is_in) {
            (_, false) if moves || old.is_none() => self.sql.put_orphan(ino),
            (false, true) if moves => {
                self.sql.drop_orphan(ino)?;
                self.enter_digest(new)
            }
            _ => Ok(()),
        }
    }

    /// Takes all blocks and xattrs an inode has now out of the digest.
    fn leave_digest(&mut self, row: &InodeRow) -> Result<(), StoreError> {
        for (block, hash) in self.sql.blocks(row.ino, 0, u64::MAX)? {
            self.state.digest.remove_block(&block, hash);
        }
        for xattr in self.sql.xattrs(row.ino)? {
            self.state.digest.remove_xattr(xattr.ino, &xattr.name, &xattr.value);
        }
        Ok(())
    }

    /// Puts all blocks and xattrs an inode has now into the digest.
    fn enter_digest(&mut self, row: &InodeRow) -> Result<(), StoreError> {
        for (block, hash) in self.sql.blocks(row.ino, 0, u64::MAX)? {
            self.state.digest.add_block(&block, hash);
        }
        for xattr in self.sql.xattrs(row.ino)? {
            self.state.digest.add_xattr(xattr.ino, &xattr.name, &xattr.value);
        }
        Ok(())
    }

    /// Counts an inode out. Only damage can make a count go below nothing, and it must not end in a panic.
    fn uncount(&mut self, row: &InodeRow) -> Result<(), StoreError> {
        let counts = &self.state.counts;
        let typed = if row.is_dir() { counts.dirs } else { counts.files };
        let counted = row.is_orphan() || typed > 0 || !matches!(row.mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
        if counts.inodes == 0 || counts.pieces < row.pieces || !counted {
            return Err(StoreError::Damaged(format!("superblock: counts less than inode {} alone", row.ino)));
        }
        self.state.counts.subtract(row);
        Ok(())
    }

    /// A file's dropped ranges first, then its new rows.
    fn blocks(&mut self, ino: Ino, file: &FileChanges, existed: bool, tracked: bool) -> Result<(), StoreError> {
        if existed {
            for &(from, until) in &file.dropped {
                for (row, hash) in self.sql.blocks(ino, from, until)? {
                    self.take_out(&row, hash, tracked);
                }
                self.sql.drop_blocks(ino, from, until)?;
            }
        }
        for row in file.rows.values() {
            if existed {
                for (old, hash) in self.sql.blocks(ino, row.index, row.index + 1)? {
                    self.take_out(&old, hash, tracked);
                }
            }
            // Asked even when nobody tracks it: a row must never name content that is not there.
            let hash = self.hash(row)?;
            if tracked {
                self.state.digest.add_block(row, hash);
            }
            self.sql.put_block(row, self.state.txid)?;
        }
        Ok(())
    }

    fn take_out(&mut self, row: &BlockRow, hash: u64, tracked: bool) {
        if tracked {
            self.state.digest.remove_block(row, hash);
        }
        self.release(row);
    }

    fn release(&mut self, row: &BlockRow) {
        if row.data != DataId::ZEROS {
            *self.released.entry(row.data).or_default() |= row.shared;
        }
    }

    fn hash(&mut self, row: &BlockRow) -> Result<u64, StoreError> {
        if row.data == DataId::ZEROS {
            return Ok(content_hash(&[]));
        }
        match self.fresh.get(&row.data) {
            Some(&hash) => Ok(hash),
            None => self.sql.hash(row),
        }
    }

    fn xattrs(&mut self, ino: Ino, had_some: bool, tracked: bool) -> Result<(), StoreError> {
        let txn = self.txn;
        for (name, value) in &txn.xattrs[&ino] {
            let old = if had_some { self.sql.xattr(ino, name)? } else { None };
            if let Some(old) = old.filter(|_| tracked) {
                self.state.digest.remove_xattr(ino, name, &old);
            }
            match value {
                Some(value) => {
                    if tracked {
                        self.state.digest.add_xattr(ino, name, value);
                    }
                    self.sql.put_xattr(ino, name, value, self.state.txid)?;
                }
                None => self.sql.drop_xattr(ino, name)?,
            }
        }
        Ok(())
    }

    /// Every name the transaction touches, in the order of the table.
    pub fn dentries(&mut self) -> Result<(), StoreError> {
        let mut parents: Vec<_> = self.txn.dentries.iter().collect();
        parents.sort_unstable_by_key(|(ino, _)| **ino);
        for (&parent, names) in parents {
            let mut names: Vec<_> = names.iter().collect();
            names.sort_unstable_by_key(|(name, _)| *name);
            for (name, new) in names {
                self.dentry(parent, name, new.as_ref())?;
            }
        }
        Ok(())
    }

    fn dentry(&mut self, parent: Ino, name: &[u8], new: Option<&DentryRow>) -> Result<(), StoreError> {
        let old = if parent < self.first_new { self.sql.dentry(parent, name)? } else { None };
        if let Some(old) = &old {
            self.state.digest.remove_dentry(old);
        }
        match new {
            Some(new) => {
                self.state.digest.add_dentry(new);
                self.sql.put_dentry(new, self.state.txid)
            }
            None if old.is_some() => self.sql.drop_dentry(parent, name),
            None => Ok(()),
        }
    }

    /// The content that no row names any more, now that all rows are in.
    pub fn dead_data(&mut self) -> Result<Vec<DataId>, StoreError> {
        let mut dead = Vec::new();
        for (&id, &shared) in &self.released {
            // What this transaction names elsewhere has moved or been copied, and may not carry the mark in the old
            // row: the copy was made after that row was committed.
            let alive = self.named.contains(&id) || shared && self.sql.is_shared(id)?;
            if !alive {
                dead.push(id);
            }
        }
        dead.sort_unstable();
        Ok(dead)
    }
}
