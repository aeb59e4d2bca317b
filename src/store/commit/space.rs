//! Which packs are still needed, and how much of each. Derived from `data`, kept in memory, never stored: a number
//! that is never written cannot be wrong on disk.

use rusqlite::{Connection, OptionalExtension};

use super::Statements;
use super::packing::PACK_BLOCKS;
use crate::base::limits::{PACK_MAX, PACK_TARGET};
use crate::base::{DataId, Map, PackId, Set};
use crate::store::StoreError;
use crate::store::rows::Place;

/// Bytes that a block's entry in the directory of its pack takes.
const ENTRY: u64 = 12;

/// The most raw bytes a pack of ours has.
const PACK_RAW_MAX: u64 = PACK_MAX as u64 + PACK_BLOCKS as u64 * ENTRY;

/// What of a pack is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Live {
    /// Blocks. A block can be empty, so bytes alone would not tell a dead pack.
    blocks: u64,
    /// Bytes of them.
    bytes: u64,
}

impl Live {
    /// Raw bytes of a pack that held this and nothing else.
    pub fn raw(self) -> u64 {
        self.bytes.saturating_add(self.blocks * ENTRY)
    }

    /// Whether it would leave more than half a pack free.
    pub fn is_small(self) -> bool {
        self.bytes < PACK_TARGET as u64 / 2 && self.blocks < PACK_BLOCKS as u64 / 2
    }
}

/// The live part of every pack.
#[derive(Debug, Default)]
pub(in crate::store) struct Space {
    packs: Map<PackId, Live>,
    /// Raw lengths that were asked for already.
    raw_lens: Map<PackId, u64>,
    /// Packs that cannot be rewritten, because something in them is damaged.
    avoided: Set<PackId>,
}

impl Space {
    /// Counts what `data` has now.
    pub fn load(sql: &Connection) -> Result<Space, StoreError> {
        let mut query = sql.prepare_cached("SELECT pack, len FROM data")?;
        let mut rows = query.query([])?;
        let mut space = Space::default();
        while let Some(row) = rows.next()? {
            let (pack, len): (i64, i64) = (row.get(0)?, row.get(1)?);
            // Damage shall not stop a commit here; the read that meets the row and `check` report it.
            space.count(PackId(pack.cast_unsigned()), u64::try_from(len).unwrap_or(0));
        }
        Ok(space)
    }

    fn count(&mut self, pack: PackId, len: u64) {
        let live = self.packs.entry(pack).or_default();
        live.blocks += 1;
        live.bytes = live.bytes.saturating_add(len);
    }

    /// Counts a new block in.
    pub fn add(&mut self, place: Place) {
        self.count(place.pack, place.len.into());
    }

    /// Counts a block out.
    fn remove(&mut self, pack: PackId, len: u64) {
        if let Some(live) = self.packs.get_mut(&pack) {
            live.blocks -= 1;
            live.bytes = live.bytes.saturating_sub(len);
            if live.blocks == 0 {
                self.forget(pack);
            }
        }
    }

    /// Says that nothing is alive in a pack: it died, or all of it was moved.
    pub fn forget(&mut self, pack: PackId) {
        self.packs.remove(&pack);
        self.raw_lens.remove(&pack);
    }

    /// Blocks alive in a pack.
    pub fn blocks(&self, pack: PackId) -> u64 {
        self.packs.get(&pack).map_or(0, |live| live.blocks)
    }

    /// Leaves a pack out of [`Space::candidates`] from now on.
    pub fn avoid(&mut self, pack: PackId) {
        self.avoided.insert(pack);
    }

    /// Packs with so little alive that rewriting could pay.
    pub fn candidates(&self) -> Vec<(PackId, Live)> {
        let worth = |id: &PackId, live: &Live| live.raw() * 2 < PACK_RAW_MAX && !self.avoided.contains(id);
        self.packs.iter().filter(|(id, live)| worth(id, live)).map(|(&id, &live)| (id, live)).collect()
    }

    /// Raw bytes of a pack, dead ones included; `None`: there is no such pack.
    pub fn raw_len(&mut self, sql: &Connection, id: PackId) -> Result<Option<u64>, StoreError> {
        if let Some(&known) = self.raw_lens.get(&id) {
            return Ok(Some(known));
        }
        let mut query = sql.prepare_cached("SELECT raw_len FROM pack WHERE id = ?1")?;
        let found: Option<i64> = query.query_row([id.sql()], |row| row.get(0)).optional()?;
        let found = found.and_then(|len| u64::try_from(len).ok());
        self.raw_lens.extend(found.map(|len| (id, len)));
        Ok(found)
    }
}

/// Deletes dead data, and the packs in which nothing is alive any more.
pub(super) fn release(
    sql: &Connection,
    statements: &mut Statements<'_>,
    space: &mut Option<Space>,
    dead: &[DataId],
) -> Result<(), StoreError> {
    let mut touched = Vec::new();
    for &id in dead {
        let Some((pack, len)) = statements.drop_data(id)? else {
            return Err(StoreError::Damaged(format!("data {id}: missing, although a block names it")));
        };
        touched.push(pack);
        if let Some(space) = space {
            space.remove(pack, len);
        }
    }
    touched.sort_unstable();
    touched.dedup();
    drop_dead_packs(sql, statements, space, &touched)
}

/// Deletes those of these packs in which nothing is alive.
pub(in crate::store) fn drop_dead_packs(
    sql: &Connection,
    statements: &mut Statements<'_>,
    space: &mut Option<Space>,
    packs: &[PackId],
) -> Result<(), StoreError> {
    if packs.is_empty() {
        return Ok(());
    }
    // Loaded after the rows were deleted, and within their transaction: it needs no correction.
    let space = match space {
        Some(space) => space,
        None => space.insert(Space::load(sql)?),
    };
    for &pack in packs {
        if !space.packs.contains_key(&pack) {
            statements.drop_pack(pack)?;
        }
    }
    Ok(())
}
