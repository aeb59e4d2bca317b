//! What a [`Store`] answers: each call one statement, so each sees one committed state.

use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::content::Content;
use super::rows::{self, BLOCK, DENTRY, DENTRY_COLUMNS, INODE, Place, XATTR};
use super::{Store, StoreError, Superblock, Xattr, superblock};
use crate::base::{DataId, Ino, PackId, Txid};
use crate::format::{BlockRow, DentryRow, Digest, InodeRow, Pack, content_hash};

impl Store {
    /// The superblock as last committed.
    pub fn superblock(&self) -> Result<Superblock, StoreError> {
        superblock::read(&*self.pool.get()?)
    }

    /// The digest after a transaction, as far back as the log of commits goes.
    pub fn digest_at(&self, txid: Txid) -> Result<Option<Digest>, StoreError> {
        let query = "SELECT digest FROM txn WHERE txid = ?1";
        let sql = self.pool.get()?;
        let found = sql.query_row(query, [txid.sql()], |row| row.get::<_, [u8; 16]>(0)).optional()?;
        Ok(found.map(|bytes| Digest(u128::from_le_bytes(bytes))))
    }

    /// One inode.
    pub fn inode(&self, ino: Ino) -> Result<Option<InodeRow>, StoreError> {
        inode(&*self.pool.get()?, ino)
    }

    /// A directory's names with the inodes they lead to, in the order of their cookies. Empty for what is no
    /// directory. A name that leads nowhere is damage.
    pub fn directory(&self, ino: Ino) -> Result<Vec<(DentryRow, InodeRow)>, StoreError> {
        // An outer join: with an inner one a lost inode would take its name along in silence.
        let query = format!(
            "SELECT {DENTRY}, {INODE} FROM dentry d LEFT JOIN inode i ON i.ino = d.ino
             WHERE d.parent = ?1 ORDER BY d.cookie"
        );
        collect(&*self.pool.get()?, &query, ino, |row| entry(row, ino))
    }

    /// Whole directories behind one, as [`Store::directory`] has them, by inode number: some `rows` names altogether, or one
    /// directory. Returns also after which to go on; `None` when there are no more. A directory of more than `rows` names is
    /// passed over.
    pub fn directories(&self, after: Ino, rows: usize) -> Result<(Vec<Directory>, Option<Ino>), StoreError> {
        let query = format!(
            "SELECT {DENTRY}, {INODE} FROM dentry d LEFT JOIN inode i ON i.ino = d.ino
             WHERE d.parent > ?1 ORDER BY d.parent"
        );
        let sql = self.pool.get()?;
        let mut query = sql.prepare_cached(&query)?;
        let mut found = query.query([after.sql()])?;
        let (mut all, mut taken, mut next) = (Vec::<Directory>::new(), 0, None);
        while let Some(row) = found.next()? {
            let parent = Ino(row.get::<_, i64>(0)?.cast_unsigned());
            if all.last().is_none_or(|(ino, _)| *ino != parent) {
                if taken >= rows {
                    next = all.last().map(|(ino, _)| *ino);
                    break;
                }
                all.push((parent, Vec::new()));
            }
            let Some((ino, entries)) = all.last_mut() else { break };
            if entries.len() >= rows {
                next = Some(*ino);
                all.pop();
                break;
            }
            entries.push(entry(row, *ino)?);
            taken += 1;
        }
        all.iter_mut().for_each(|(_, entries)| entries.sort_unstable_by_key(|(dentry, _)| dentry.cookie));
        Ok((all, next))
    }

    /// Every name with what it leads to, those of directories first, then the root and the orphans: all of one committed
    /// state.
    pub fn names(&self, each: &mut dyn FnMut(Named<'_>)) -> Result<(), StoreError> {
        let sql = self.pool.get()?;
        let state = sql.unchecked_transaction()?;
        for directories in ["=", "<>"] {
            let query = format!(
                "SELECT {DENTRY}, {INODE} FROM dentry d LEFT JOIN inode i ON i.ino = d.ino
                 WHERE coalesce(i.mode, 0) & {} {directories} {}",
                libc::S_IFMT,
                libc::S_IFDIR
            );
            let mut query = state.prepare_cached(&query)?;
            let mut found = query.query([])?;
            while let Some(row) = found.next()? {
                let parent = Ino(row.get::<_, i64>(0)?.cast_unsigned());
                let (dentry, inode) = entry(row, parent)?;
                each(Named::Name(&dentry, &inode));
            }
        }
        if let Some(root) = inode(&state, Ino::ROOT)? {
            each(Named::Root(&root));
        }
        let mut query = state.prepare_cached("SELECT ino FROM orphan")?;
        let mut found = query.query([])?;
        while let Some(row) = found.next()? {
            let ino = Ino(row.get::<_, i64>(0)?.cast_unsigned());
            if let Some(orphan) = inode(&state, ino)? {
                each(Named::Orphan(&orphan));
            }
        }
        Ok(())
    }

    /// A directory that has a name for the inode. Looks at every name there is: for the rare who know nothing but a
    /// number. What it says is only a hint, its checksum is not looked at.
    pub fn parent(&self, ino: Ino) -> Result<Option<Ino>, StoreError> {
        let query = "SELECT parent FROM dentry WHERE ino = ?1 LIMIT 1";
        let found = self.pool.get()?.query_row(query, [ino.0 as i64], |row| row.get::<_, i64>(0)).optional()?;
        Ok(found.map(|parent| Ino(parent as u64)))
    }

    /// A file's blocks, by index.
    pub fn blocks(&self, ino: Ino) -> Result<Vec<BlockRow>, StoreError> {
        let query = format!("SELECT {BLOCK} FROM block b WHERE b.ino = ?1 ORDER BY b.idx");
        collect(&*self.pool.get()?, &query, ino, |row| Ok(rows::block(row)?.of(ino)?))
    }

    /// An inode's xattrs, by name.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, StoreError> {
        let query = format!("SELECT {XATTR} FROM xattr x WHERE x.ino = ?1 ORDER BY x.name");
        collect(&*self.pool.get()?, &query, ino, |row| {
            let xattr = rows::xattr(row)?.of(ino)?;
            Ok((xattr.name, xattr.value))
        })
    }

    /// The content of a block, its checksums verified. `None`: no such id, which is what a reader sees that was
    /// overtaken by a commit; it looks up the block again.
    pub fn data(&self, id: DataId) -> Result<Option<Content>, StoreError> {
        if id == DataId::ZEROS {
            return Ok(Some(Content::default()));
        }
        let sql = self.pool.get()?;
        let Some(place) = place(&sql, id)? else { return Ok(None) };
        let (pack, next) = self.cache.get(place.pack);
        self.ahead.want(next, &self.pool, &self.cache);
        if let Some(pack) = pack {
            return verified(id, place, pack).map(Some);
        }
        // A repack may have moved the block since: place and pack have to be of one state, so of one statement.
        let Some((place, frame)) = place_and_frame(&sql, id)? else { return Ok(None) };
        drop(sql);
        let pack = Arc::new(decode(place.pack, &frame)?);
        let content = verified(id, place, Arc::clone(&pack))?;
        self.cache.put(&pack);
        Ok(Some(content))
    }
}

/// An inode and how it is reached.
#[derive(Debug)]
pub enum Named<'a> {
    /// By this name; one with several names comes as often.
    Name(&'a DentryRow, &'a InodeRow),
    /// The root directory.
    Root(&'a InodeRow),
    /// No more, but it is open.
    Orphan(&'a InodeRow),
}

/// A directory's inode number, and what [`Store::directory`] has of it.
pub type Directory = (Ino, Vec<(DentryRow, InodeRow)>);

/// A name in directory `ino`, with the inode it leads to.
fn entry(row: &Row<'_>, ino: Ino) -> Result<(DentryRow, InodeRow), StoreError> {
    let dentry = rows::dentry(row)?.of(ino)?;
    if row.get_ref(DENTRY_COLUMNS)? == ValueRef::Null {
        let name = dentry.name.escape_ascii();
        let text = format!("dentry {ino}/\"{name}\": leads to inode {}, which is missing", dentry.ino);
        return Err(StoreError::Damaged(text));
    }
    let inode = rows::inode(row, DENTRY_COLUMNS)?.of(dentry.ino)?;
    Ok((dentry, inode))
}

/// One inode, by its number.
pub(super) fn inode(sql: &Connection, ino: Ino) -> Result<Option<InodeRow>, StoreError> {
    let mut query = sql.prepare_cached(&format!("SELECT {INODE} FROM inode i WHERE i.ino = ?1"))?;
    let found = query.query_row([ino.sql()], |row| Ok(rows::inode(row, 0).and_then(|row| row.of(ino)))).optional()?;
    Ok(found.transpose()?)
}

/// All rows that belong to one inode.
pub(super) fn collect<T>(
    sql: &Connection,
    query: &str,
    ino: Ino,
    decode: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut query = sql.prepare_cached(query)?;
    let mut found = query.query([ino.sql()])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        all.push(decode(row)?);
    }
    Ok(all)
}

fn place(sql: &Connection, id: DataId) -> Result<Option<Place>, StoreError> {
    let mut query = sql.prepare_cached("SELECT id, pack, position, len, hash FROM data WHERE id = ?1")?;
    let found = query.query_row([id.sql()], |row| Ok(rows::place(row))).optional()?;
    Ok(found.transpose()?.map(|(_, place)| place))
}

fn place_and_frame(sql: &Connection, id: DataId) -> Result<Option<(Place, Vec<u8>)>, StoreError> {
    let mut query = sql.prepare_cached(
        "SELECT d.id, d.pack, d.position, d.len, d.hash, p.frame
         FROM data d LEFT JOIN pack p ON p.id = d.pack WHERE d.id = ?1",
    )?;
    let mut found = query.query([id.sql()])?;
    let Some(row) = found.next()? else { return Ok(None) };
    let (_, place) = rows::place(row)?;
    match row.get_ref(5)? {
        ValueRef::Blob(frame) => Ok(Some((place, frame.to_vec()))),
        _ => Err(StoreError::Damaged(format!("pack {}: missing, although data {id} lies in it", place.pack))),
    }
}

/// A pack by its id, if there is one.
pub(super) fn stored_pack(sql: &Connection, id: PackId) -> Result<Option<Pack>, StoreError> {
    let mut query = sql.prepare_cached("SELECT frame FROM pack WHERE id = ?1")?;
    let frame = query.query_row([id.sql()], |row| row.get::<_, Vec<u8>>(0)).optional()?;
    frame.map(|frame| decode(id, &frame)).transpose()
}

/// Decodes a pack, and makes sure that it is that one.
fn decode(id: PackId, frame: &[u8]) -> Result<Pack, StoreError> {
    let wrong = |what: String| StoreError::Damaged(format!("pack {id}: {what}"));
    let pack = Pack::decode(frame).map_err(|error| wrong(error.to_string()))?;
    if pack.id != id { Err(wrong(format!("holds pack {}", pack.id))) } else { Ok(pack) }
}

/// The content at a place, if it is what was once written there.
fn verified(id: DataId, place: Place, pack: Arc<Pack>) -> Result<Content, StoreError> {
    let wrong = |what| StoreError::Damaged(format!("data {id}: {what} (pack {})", place.pack));
    // The hash alone would pass the content of another block, if the row's id is what changed.
    if !pack.places().any(|found| found == (id, place.position, place.len)) {
        return Err(wrong("is not where its pack has it"));
    }
    let content = Content::new(pack, place.position, place.len).ok_or_else(|| wrong("lies outside its pack"))?;
    if content_hash(&content) != place.hash { Err(wrong("content differs from its hash")) } else { Ok(content) }
}
