//! A commit: content is packed on worker threads first, then packs and rows go into one SQLite transaction, which
//! also carries the digest, the counts and the ids along. It is there whole or not at all.

mod apply;
mod packing;
mod space;
mod statements;

use rusqlite::{Connection, TransactionBehavior};

use self::apply::Apply;
use self::packing::pack;
pub(super) use self::packing::{Packed, pack_cold, pack_stored};
pub(super) use self::space::{Space, drop_dead_packs};
pub(super) use self::statements::Statements;
use super::{NextIds, StoreError, Superblock, Writer, read, superblock};
use crate::base::limits::PACK_LEVEL;
use crate::base::{Ino, Map, Name, PackId, Seq, Set, Timestamp, Txid, failpoint};
use crate::format::{Change, Transaction};

impl Writer {
    /// Commits a transaction durably. `next.pack` is ignored: packs are numbered here. A transaction without changes
    /// commits nothing. After an error the database is what it was before, and the same commit may be tried again.
    pub fn commit(&mut self, txn: &Transaction, next: NextIds) -> Result<Superblock, StoreError> {
        self.commit_at(PACK_LEVEL, txn, next)
    }

    /// The same, compressing with a level of zstd's.
    pub fn commit_at(&mut self, level: i32, txn: &Transaction, next: NextIds) -> Result<Superblock, StoreError> {
        if txn.is_empty() {
            return Ok(self.state.clone());
        }
        self.bound_wal()?;
        let packed = pack(contents(txn), self.state.next.pack, level);
        match write(&mut self.sql, &mut self.space, &self.state, txn, next, &packed) {
            Ok(state) => {
                self.store.written.count(&packed);
                self.state = state.clone();
                Ok(state)
            }
            Err(error) => {
                // It may have been counted on already; it is derived again when it is next needed.
                self.space = None;
                Err(error.on(&self.sql))
            }
        }
    }

    /// Removes every orphan, in one transaction; returns how many there were.
    pub fn reap_orphans(&mut self) -> Result<u64, StoreError> {
        let mut txn = Transaction { last_seq: self.last_seq(), ..Transaction::default() };
        {
            let mut query = self.sql.prepare_cached("SELECT ino FROM orphan ORDER BY ino")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let ino: i64 = row.get(0)?;
                let ino = u64::try_from(ino).map_err(|_| StoreError::Damaged(format!("orphan {ino}: no inode")))?;
                // A damaged row must not take along what has a name.
                match read::inode(&self.sql, Ino(ino))? {
                    Some(row) if !row.is_orphan() => log::warn!("orphan {ino}: has names, so it stays"),
                    _ => txn.apply(Change::DropInode(Ino(ino))),
                }
            }
        }
        failpoint::passed("the orphans are listed and still there");
        let next = self.state.next;
        self.commit(&txn, next)?;
        // Rows of `orphan` with no inode behind them are damage, but not a reason to keep them.
        Ok(txn.inodes.len() as u64)
    }

    /// Changes the caps that are given, durably, and returns what is committed now. They are no part of the state that
    /// txid and digest name: one row is replaced, in a transaction of its own, so the journal need not know of them.
    pub fn set_limits(&mut self, bytes: Option<u64>, inodes: Option<u64>) -> Result<&Superblock, StoreError> {
        let (bytes_limit, inodes_limit) =
            (bytes.unwrap_or(self.state.bytes_limit), inodes.unwrap_or(self.state.inodes_limit));
        if (bytes_limit, inodes_limit) != (self.state.bytes_limit, self.state.inodes_limit) {
            let state = Superblock { bytes_limit, inodes_limit, ..self.state.clone() };
            superblock::write(&self.sql, &state).map_err(|error| error.on(&self.sql))?;
            self.state = state;
        }
        Ok(&self.state)
    }

    /// The last committed transaction.
    pub fn txid(&self) -> Txid {
        self.state.txid
    }

    /// The mount that this writer belongs to.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// The ids to be given next, as last committed.
    pub fn next_ids(&self) -> NextIds {
        self.state.next
    }

    /// The last operation any commit carried.
    fn last_seq(&self) -> Seq {
        Seq(self.state.next.seq.0.saturating_sub(1))
    }
}

/// The content that the transaction's rows name and no commit has seen, ordered by directory and name where the
/// transaction knows them: what a walk reads together then lies together in a pack (`docs/decisions.md`, 1). Files that
/// got no name here follow in the order of their numbers. Content that no row names is left out: it was written and
/// overwritten within the transaction.
fn contents(txn: &Transaction) -> Vec<packing::Item<'_>> {
    let named = txn.dentries.values().flatten().filter_map(|(_, dentry)| dentry.as_ref());
    let places: Map<Ino, (Ino, &Name)> = named
        .filter(|dentry| txn.files.contains_key(&dentry.ino))
        .map(|dentry| (dentry.ino, (dentry.parent, &dentry.name)))
        .collect();
    let mut files: Vec<_> = txn.files.iter().map(|(ino, file)| (places.get(ino), *ino, file)).collect();
    files.sort_unstable_by_key(|&(place, ino, _)| (place.is_none(), place, ino));
    let mut taken = Set::default();
    let rows = files.into_iter().flat_map(|(_, _, file)| file.rows.values());
    rows.filter_map(|row| {
        let bytes = txn.data.get(&row.data)?;
        taken.insert(row.data).then(|| packing::Item::new(row.data, bytes))
    })
    .collect()
}

/// The part of a commit that holds SQLite's write lock.
fn write(
    sql: &mut Connection,
    space: &mut Option<Space>,
    before: &Superblock,
    txn: &Transaction,
    next: NextIds,
    packed: &[Packed],
) -> Result<Superblock, StoreError> {
    let sql = sql.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut state = before.clone();
    state.txid = before.txid.next();
    state.last_active = Timestamp::now();
    state.next = grown(before.next, next, packed.len());
    let mut statements = Statements::prepare(&sql)?;
    failpoint::passed("a commit has begun and holds nothing");
    insert_packs(&mut statements, space, packed)?;
    failpoint::passed("a commit holds its packs and no rows");
    let mut apply = Apply::new(&mut statements, &mut state, before.next.ino, txn, packed);
    apply.inodes()?;
    apply.dentries()?;
    failpoint::passed("a commit holds its rows and dead content is still there");
    let dead = apply.dead_data()?;
    space::release(&sql, &mut statements, space, &dead)?;
    statements.put_txn(&state, txn.last_seq)?;
    drop(statements);
    superblock::write(&sql, &state)?;
    failpoint::passed("a commit is whole and not on the disk");
    sql.commit()?;
    failpoint::passed("a commit is on the disk and nobody was told");
    Ok(state)
}

/// Stores packs and the places of what lies in them.
fn insert_packs(
    statements: &mut Statements<'_>,
    space: &mut Option<Space>,
    packed: &[Packed],
) -> Result<(), StoreError> {
    for pack in packed {
        statements.put_pack(pack)?;
        for &(id, place) in &pack.places {
            statements.put_data(id, place)?;
            if let Some(space) = space {
                space.add(place);
            }
        }
    }
    Ok(())
}

/// The ids after a commit. None ever goes back, whatever the caller says: an id given twice would be two things.
fn grown(before: NextIds, next: NextIds, packs: usize) -> NextIds {
    NextIds {
        ino: before.ino.max(next.ino),
        data: before.data.max(next.data),
        pack: PackId(before.pack.0 + packs as u64),
        cookie: before.cookie.max(next.cookie),
        seq: before.seq.max(next.seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DataId;
    use crate::base::limits::{BLOCK_SIZE, DB_PAGE_SIZE, PIECES_PER_BLOCK};
    use crate::format::{BlockRow, InodeRow};
    use crate::store::{CreateOptions, Store};

    /// A transaction of one file of `blocks` blocks of noise.
    fn noise(root: &InodeRow, blocks: u64) -> Transaction {
        let mut txn = Transaction::default();
        let (size, pieces) = (blocks * BLOCK_SIZE as u64, blocks * u64::from(PIECES_PER_BLOCK));
        let row = InodeRow { ino: Ino(2), mode: 0o100644, nlink: 0, size, pieces, ..root.clone() };
        txn.apply(Change::Inode(&row));
        let mut state = 7u64;
        for index in 0..blocks {
            let mut byte = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            };
            let bytes: Vec<u8> = (0..BLOCK_SIZE).map(|_| byte()).collect();
            let id = DataId(index + 1);
            txn.apply(Change::Fill { id, at: 0, bytes: &bytes });
            let mask = (1 << PIECES_PER_BLOCK) - 1;
            txn.apply(Change::Block(BlockRow { ino: Ino(2), index, data: id, mask, shared: false }));
        }
        txn
    }

    #[test]
    fn a_full_disk_is_said_so_and_the_same_commit_succeeds_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session.db");
        Store::create(&path, &CreateOptions { bytes_limit: 1, inodes_limit: 1, uid: 0, gid: 0 }).unwrap();
        let (store, mut writer) = Store::open(&path).unwrap();
        let before = store.superblock().unwrap();
        // More than a mebibyte of content, room for less than one, room for plenty.
        let (blocks, small, large) =
            ((5 << 18) / BLOCK_SIZE as u64, (15 << 16) / DB_PAGE_SIZE, (15 << 20) / DB_PAGE_SIZE);
        let txn = noise(&store.inode(Ino::ROOT).unwrap().unwrap(), blocks);
        let next = NextIds { ino: Ino(3), data: DataId(blocks + 1), ..before.next };

        writer.sql.pragma_update_and_check(None, "max_page_count", small, |_| Ok(())).unwrap();
        for _ in 0..2 {
            let error = writer.commit(&txn, next).unwrap_err();
            assert!(matches!(error, StoreError::Full), "{error:?}");
            assert_eq!(error.errno(), crate::base::Errno::NoSpc);
            assert_eq!(store.superblock().unwrap(), before);
            assert!(store.data(DataId(1)).unwrap().is_none());
        }
        writer.sql.pragma_update_and_check(None, "max_page_count", large, |_| Ok(())).unwrap();
        let after = writer.commit(&txn, next).unwrap();
        assert_eq!(after.txid, before.txid.next());
        assert_eq!(&*store.data(DataId(blocks)).unwrap().unwrap(), &txn.data[&DataId(blocks)][..]);
        assert_eq!(crate::store::check(&store, &mut |_, _| ()).unwrap(), []);
        assert_eq!(writer.reap_orphans().unwrap(), 1);
        writer.close().unwrap();
    }

    #[test]
    fn ids_never_go_back() {
        let before = NextIds { ino: Ino(9), data: DataId(5), pack: PackId(3), ..NextIds::default() };
        let after = grown(before, NextIds { ino: Ino(4), data: DataId(8), ..NextIds::default() }, 2);
        assert_eq!(after, NextIds { ino: Ino(9), data: DataId(8), pack: PackId(5), ..NextIds::default() });
    }
}
