//! Which packs are still needed, and how much of each. Derived from `data`, kept in memory, never stored: a number
//! that is never written cannot be wrong on disk.

use rusqlite::Connection;

use super::Statements;
use crate::base::{DataId, Map, PackId};
use crate::store::StoreError;
use crate::store::rows::Place;

/// What of a pack is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Live {
    /// Blocks. A block can be empty, so bytes alone would not tell a dead pack.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// The live part of every pack.
#[derive(Debug, Default)]
pub(in crate::store) struct Space {
    packs: Map<PackId, Live>,
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
                self.packs.remove(&pack);
            }
        }
    }

    /// What is alive of a pack; `None`: nothing.
    pub fn live(&self, pack: PackId) -> Option<Live> {
        self.packs.get(&pack).copied()
    }

    /// All packs with something alive in them.
    pub fn packs(&self) -> impl Iterator<Item = (PackId, Live)> + '_ {
        self.packs.iter().map(|(&id, &live)| (id, live))
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
        if space.live(pack).is_none() {
            statements.drop_pack(pack)?;
        }
    }
    Ok(())
}
