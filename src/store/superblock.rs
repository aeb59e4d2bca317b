//! Reading and writing the superblock: the row that opening a session database begins with.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, named_params};

use super::rows::{Bad, Columns, Summed};
use super::schema::{HASH_ALGORITHM, KNOWN_INCOMPAT, KNOWN_RO_COMPAT};
use super::{NextIds, StoreError, Superblock};
use crate::base::limits::{BLOCK_SIZE, COOKIE_MAX, COUNTER_MAX, INODE_PIECES_MAX};
use crate::base::{Cookie, DataId, Ino, PackId, Seq, Txid};
use crate::format::{Canonical, Counts, Digest, RowSum};

/// What the superblock says about the layout: looked at before anything else is believed.
#[derive(Debug)]
pub(super) struct Layout {
    hash_algorithm: String,
    block_size: u64,
    /// Unknown ones are harmless.
    pub compat: u64,
    /// Unknown ones forbid writing.
    pub ro_compat: u64,
    /// Unknown ones forbid reading.
    pub incompat: u64,
}

impl Layout {
    /// Refuses what this program was not made for, naming the file.
    pub fn verify(&self, path: &Path, writing: bool) -> Result<(), StoreError> {
        let ro_compat = if writing { self.ro_compat & !KNOWN_RO_COMPAT } else { 0 };
        let flags = self.incompat & !KNOWN_INCOMPAT | ro_compat;
        let unsupported = |what| Err(StoreError::Unsupported { path: path.to_owned(), what });
        if flags != 0 {
            return Err(StoreError::Features { path: path.to_owned(), flags });
        }
        if self.block_size != BLOCK_SIZE as u64 {
            return unsupported(format!("its blocks have {} bytes", self.block_size));
        }
        if self.hash_algorithm != HASH_ALGORITHM {
            return unsupported(format!("its hash is {:?}", self.hash_algorithm));
        }
        Ok(())
    }
}

/// Reads the layout.
pub(super) fn layout(sql: &Connection) -> Result<Layout, StoreError> {
    const QUERY: &str = "SELECT id, hash_algorithm, block_size, feature_compat, feature_ro_compat, feature_incompat
        FROM superblock WHERE id = 1";
    let mut query = sql.prepare_cached(QUERY)?;
    let mut rows = query.query([])?;
    let row = rows.next()?.ok_or_else(missing)?;
    let mut from = Columns::new(row, "superblock", 0, 1);
    from.integer("id")?;
    Ok(Layout {
        hash_algorithm: from.text("hash_algorithm")?.to_owned(),
        block_size: from.unsigned("block_size")?,
        compat: from.bits("feature_compat")?,
        ro_compat: from.bits("feature_ro_compat")?,
        incompat: from.bits("feature_incompat")?,
    })
}

impl RowSum for Superblock {
    /// All columns in their order. The name of the hash and the block size are constants: [`Layout::verify`] has
    /// compared them.
    fn sum(&self) -> u32 {
        let parent = self.parent.as_ref().map_or(&[][..], |(uuid, _)| uuid);
        let parent_txid = self.parent.map_or(0, |(_, txid)| txid.0);
        let [compat, ro_compat, incompat] = self.features;
        let next = &self.next;
        let counts = &self.counts;
        Canonical::new(b's')
            .bytes(&self.uuid)
            .bytes(parent)
            .u64(parent_txid)
            .u64(self.epoch)
            .u64(self.txid.0)
            .bytes(&self.digest.0.to_le_bytes())
            .bytes(HASH_ALGORITHM.as_bytes())
            .u64(BLOCK_SIZE as u64)
            .u64(compat)
            .u64(ro_compat)
            .u64(incompat)
            .u64(next.ino.0)
            .u64(next.data.0)
            .u64(next.pack.0)
            .u64(next.cookie.0)
            .u64(next.seq.0)
            .u64(self.bytes_limit)
            .u64(self.inodes_limit)
            .u64(counts.inodes)
            .u64(counts.pieces)
            .u64(counts.files)
            .u64(counts.dirs)
            .u64(counts.bytes)
            .u32(self.clean.into())
            .time(self.created)
            .time(self.last_active)
            .sum()
    }
}

/// Reads the superblock as this connection's snapshot has it.
pub(super) fn read(sql: &Connection) -> Result<Superblock, StoreError> {
    const QUERY: &str = "SELECT id, uuid, parent_uuid, parent_txid, epoch, txid, digest,
        inodes, pieces, files, dirs, bytes, next_ino, next_data, next_pack, next_cookie, next_seq,
        bytes_limit, inodes_limit, clean, created_s, created_ns, last_active_s, last_active_ns,
        feature_compat, feature_ro_compat, feature_incompat, sum
        FROM superblock WHERE id = 1";
    let mut query = sql.prepare_cached(QUERY)?;
    let found = query.query_row([], |row| Ok(decode(row))).optional()?;
    Ok(found.ok_or_else(missing)??)
}

fn missing() -> StoreError {
    StoreError::Damaged("superblock: the row is missing".to_owned())
}

fn decode(row: &rusqlite::Row<'_>) -> Result<Superblock, Bad> {
    let mut from = Columns::new(row, "superblock", 0, 1);
    from.integer("id")?;
    let uuid = from.array("uuid")?;
    let parent = from.optional_bytes("parent_uuid", 16)?;
    let parent = match parent {
        None => {
            from.skip();
            None
        }
        Some(bytes) => {
            let uuid = bytes.try_into().map_err(|_| from.bad("row-value", "parent_uuid is no UUID"))?;
            Some((uuid, Txid(from.unsigned("parent_txid")?)))
        }
    };
    let superblock = Superblock {
        uuid,
        parent,
        epoch: from.up_to("epoch", COUNTER_MAX)?,
        txid: Txid(from.up_to("txid", COUNTER_MAX)?),
        digest: Digest(u128::from_le_bytes(from.array("digest")?)),
        counts: Counts {
            inodes: from.unsigned("inodes")?,
            pieces: from.up_to("pieces", INODE_PIECES_MAX)?,
            files: from.unsigned("files")?,
            dirs: from.unsigned("dirs")?,
            bytes: from.bits("bytes")?,
        },
        next: NextIds {
            ino: Ino(from.up_to("next_ino", COUNTER_MAX)?),
            data: DataId(from.up_to("next_data", COUNTER_MAX)?),
            pack: PackId(from.up_to("next_pack", COUNTER_MAX)?),
            cookie: Cookie(from.up_to("next_cookie", COOKIE_MAX)?),
            seq: Seq(from.up_to("next_seq", COUNTER_MAX)?),
        },
        bytes_limit: from.unsigned("bytes_limit")?,
        inodes_limit: from.unsigned("inodes_limit")?,
        clean: from.flag("clean")?,
        created: from.time("created")?,
        last_active: from.time("last_active")?,
        features: [from.bits("feature_compat")?, from.bits("feature_ro_compat")?, from.bits("feature_incompat")?],
    };
    let (superblock, bad) = Summed::new(superblock, &mut from)?.parts();
    bad.map_or(Ok(superblock), Err)
}

/// Holds the superblock against the tables, before anybody writes: an id that is given a second time overwrites what
/// has it, and a commit on a digest that is not that of the rows carries the mistake on. Each takes one look at the end
/// of a b-tree.
pub(super) fn verify_rows(sql: &Connection, superblock: &Superblock) -> Result<(), StoreError> {
    let next = &superblock.next;
    let ids = [
        ("inode", "SELECT max(ino) FROM inode", "next_ino", next.ino.0),
        ("data", "SELECT max(id) FROM data", "next_data", next.data.0),
        ("pack", "SELECT max(id) FROM pack", "next_pack", next.pack.0),
    ];
    for (table, query, column, next) in ids {
        let last: Option<i64> = sql.query_row(query, [], |row| row.get(0))?;
        if let Some(last) = last.filter(|&last| last >= next as i64) {
            return Err(StoreError::Damaged(format!("superblock: {column} is {next}, but there is {table} {last}")));
        }
    }
    let last = sql
        .query_row("SELECT txid, seq, digest FROM txn ORDER BY txid DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
        .optional()?;
    let fits = match &last {
        None => superblock.txid == Txid(0),
        Some((txid, seq, digest)) => {
            *txid == superblock.txid.sql()
                && *seq < superblock.next.seq.sql()
                && **digest == superblock.digest.0.to_le_bytes()
        }
    };
    if fits {
        return Ok(());
    }
    let line = last.map_or("no transaction".to_owned(), |(txid, seq, _)| format!("transaction {txid}, sequence {seq}"));
    Err(StoreError::Damaged(format!(
        "superblock: it is at transaction {}, next_seq {}, and the log of commits ends with {line}, or with another digest",
        superblock.txid.0, superblock.next.seq.0
    )))
}

/// Writes the superblock: the whole row of a new database, or every field that can change of an old one.
pub(super) fn write(sql: &Connection, to: &Superblock) -> Result<(), StoreError> {
    const UPSERT: &str = "INSERT INTO superblock (id, uuid, parent_uuid, parent_txid, epoch, txid, digest,
        hash_algorithm, block_size, feature_compat, feature_ro_compat, feature_incompat,
        next_ino, next_data, next_pack, next_cookie, next_seq, bytes_limit, inodes_limit,
        inodes, pieces, files, dirs, bytes, clean, created_s, created_ns, last_active_s, last_active_ns, sum)
        VALUES (1, :uuid, :parent_uuid, :parent_txid, :epoch, :txid, :digest, :hash, :block_size,
        :compat, :ro_compat, :incompat,
        :next_ino, :next_data, :next_pack, :next_cookie, :next_seq, :bytes_limit, :inodes_limit,
        :inodes, :pieces, :files, :dirs, :bytes, :clean, :created_s, :created_ns, :active_s, :active_ns, :sum)
        ON CONFLICT (id) DO UPDATE SET epoch = :epoch, txid = :txid, digest = :digest, feature_incompat = :incompat,
        next_ino = :next_ino, next_data = :next_data, next_pack = :next_pack, next_cookie = :next_cookie,
        next_seq = :next_seq, bytes_limit = :bytes_limit, inodes_limit = :inodes_limit, inodes = :inodes,
        pieces = :pieces, files = :files, dirs = :dirs, bytes = :bytes, clean = :clean,
        last_active_s = :active_s, last_active_ns = :active_ns, sum = :sum";
    // A cap as SQLite keeps it. "No limit" may be said as `u64::MAX`, which means as much as 2^63 − 1.
    let clamp = |limit: u64| limit.min(i64::MAX as u64);
    let to = &Superblock { bytes_limit: clamp(to.bytes_limit), inodes_limit: clamp(to.inodes_limit), ..to.clone() };
    sql.prepare_cached(UPSERT)?.execute(named_params! {
        ":uuid": to.uuid,
        ":parent_uuid": to.parent.map(|(uuid, _)| uuid),
        ":parent_txid": to.parent.map(|(_, txid)| txid.sql()),
        ":epoch": to.epoch as i64, // Counted up by one a mount.
        ":txid": to.txid.sql(),
        ":digest": to.digest.0.to_le_bytes(),
        ":hash": HASH_ALGORITHM,
        ":block_size": BLOCK_SIZE as i64,
        ":next_ino": to.next.ino.sql(),
        ":next_data": to.next.data.sql(),
        ":next_pack": to.next.pack.sql(),
        ":next_cookie": to.next.cookie.sql(),
        ":next_seq": to.next.seq.sql(),
        ":bytes_limit": to.bytes_limit as i64, // Bounded above.
        ":inodes_limit": to.inodes_limit as i64,
        ":inodes": to.counts.inodes as i64,
        ":pieces": to.counts.pieces as i64,
        ":files": to.counts.files as i64,
        ":dirs": to.counts.dirs as i64,
        ":bytes": to.counts.bytes as i64, // Bit for bit: sparse files can add up to more than 2^63.
        ":clean": to.clean,
        ":created_s": { to.created.secs },
        ":created_ns": to.created.nanos,
        ":active_s": { to.last_active.secs },
        ":active_ns": to.last_active.nanos,
        ":compat": to.features[0] as i64, // Bit for bit.
        ":ro_compat": to.features[1] as i64,
        ":incompat": to.features[2] as i64,
        ":sum": to.sum(),
    })?;
    Ok(())
}
