//! Which packs are still needed, and how much of each. Derived from `data`, kept in memory, never stored: a number
//! that is never written cannot be wrong on disk.

use rusqlite::{Connection, OptionalExtension};

use super::Statements;
use crate::base::limits::{COLD_PACK_MAX, COLD_PACK_MIN, PACK_BLOCKS, PACK_RAW_MAX, PACK_TARGET};
use crate::base::{DataId, Map, PackId, Set};
use crate::format::Codec;
use crate::store::StoreError;
use crate::store::rows::Place;

/// Bytes that a block's entry in the directory of its pack takes.
const ENTRY: u64 = 12;

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
    /// Codecs and raw lengths that were asked for already.
    shapes: Map<PackId, (i64, u64)>,
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
        self.shapes.remove(&pack);
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
        let worth = |id: &PackId, live: &Live| live.raw() * 2 < COLD_PACK_MAX && !self.avoided.contains(id);
        self.packs.iter().filter(|(id, live)| worth(id, live)).map(|(&id, &live)| (id, live)).collect()
    }

    /// Raw bytes of a pack, dead ones included; `None`: there is no such pack.
    pub fn raw_len(&mut self, sql: &Connection, id: PackId) -> Result<Option<u64>, StoreError> {
        Ok(self.shape(sql, id)?.map(|(_, raw_len)| raw_len))
    }

    /// Its codec, as its row says, and its raw bytes.
    fn shape(&mut self, sql: &Connection, id: PackId) -> Result<Option<(i64, u64)>, StoreError> {
        if let Some(&known) = self.shapes.get(&id) {
            return Ok(Some(known));
        }
        let mut query = sql.prepare_cached("SELECT codec, raw_len FROM pack WHERE id = ?1")?;
        let found: Option<(i64, i64)> = query.query_row([id.sql()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let found = found.and_then(|(codec, len)| Some((codec, u64::try_from(len).ok()?)));
        self.shapes.extend(found.map(|shape| (id, shape)));
        Ok(found)
    }

    /// The first packs, in the order of their ids, that commits have made and that fill a cold pack together, with
    /// their raw lengths; none when all that are left would not. A pack that did not compress stays as it is.
    ///
    /// The order is that of the commits, and within each that of directories and names, so neighbours stay neighbours.
    pub fn loose(&mut self, sql: &Connection) -> Result<Vec<(PackId, u64)>, StoreError> {
        let mut ids: Vec<PackId> = self.packs.keys().copied().filter(|id| !self.avoided.contains(id)).collect();
        ids.sort_unstable();
        let (mut loose, mut raw) = (Vec::new(), 0);
        for id in ids {
            let Some((codec, raw_len)) = self.shape(sql, id)? else { continue };
            if codec == Codec::Raw as i64 || raw_len > PACK_RAW_MAX {
                continue;
            }
            let live = self.packs.get(&id).map_or(0, |live| live.raw());
            if raw + live > COLD_PACK_MAX {
                break;
            }
            raw += live;
            loose.push((id, raw_len));
        }
        if raw < COLD_PACK_MIN {
            loose.clear();
        }
        Ok(loose)
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
