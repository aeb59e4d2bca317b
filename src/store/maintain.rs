//! Housekeeping between commits: the WAL copied back, packs rewritten, free pages given back. None of it changes
//! what a reader sees, the txid or the digest.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::commit::{Packed, Space, Statements, drop_dead_packs, pack_stored};
use super::rows::{self, Place};
use super::{StoreError, Superblock, Writer, superblock};
use crate::base::limits::{PACK_TARGET, WAL_CHECKPOINT_BYTES};
use crate::base::{DataId, PackId, failpoint};
use crate::format::{Pack, content_hash};

/// How long a close spends on housekeeping.
const CLOSE_BUDGET: Duration = Duration::from_millis(700);

/// Raw bytes that one rewriting transaction takes in: some 30 ms of work, between which the clock is looked at.
const REPACK_STEP: u64 = 4 << 20;

/// Small packs that have to come together before they are merged: each holds one fsync's worth of data, and below
/// this number joining them costs more writing than it will ever save.
const SMALL_PACKS: usize = 16;

/// Free pages that are kept while mounted: the next commits use them again.
const FREE_PAGES_KEPT: u64 = 1_024;

/// Pages given back in one transaction.
const VACUUM_STEP: u64 = 256;

impl Writer {
    /// Does waiting housekeeping for about `budget`: copies the WAL back, rewrites packs that are mostly dead.
    /// Returns whether more is waiting.
    ///
    /// The first call of a mount also counts what is alive in each pack, which reads the `data` table once.
    pub fn maintain(&mut self, budget: Duration) -> Result<bool, StoreError> {
        let until = Instant::now() + budget;
        let done = self.housekeep(until);
        done.map_err(|error| error.on(&self.sql))
    }

    fn housekeep(&mut self, until: Instant) -> Result<bool, StoreError> {
        if wal_waiting(&self.sql)? > WAL_CHECKPOINT_BYTES {
            copy_wal_back(&self.sql)?;
        }
        let more_packs = self.repack(until, SMALL_PACKS)?;
        let (free, pages) = (pragma(&self.sql, "freelist_count")?, pragma(&self.sql, "page_count")?);
        let more_pages =
            if free > FREE_PAGES_KEPT && free > pages / 4 { vacuum(&self.sql, until, FREE_PAGES_KEPT)? } else { false };
        Ok(more_packs || more_pages)
    }

    /// Keeps the WAL bounded under a load that leaves no time for [`Writer::maintain`].
    pub(super) fn bound_wal(&mut self) -> Result<(), StoreError> {
        if wal_waiting(&self.sql)? > 2 * WAL_CHECKPOINT_BYTES {
            copy_wal_back(&self.sql).map_err(|error| error.on(&self.sql))?;
        }
        Ok(())
    }

    /// The last housekeeping, before a close. The session is whole without it, so its failures are only noted.
    pub(super) fn tidy(&mut self) {
        let until = Instant::now() + CLOSE_BUDGET;
        let done = self.repack(until, 2).and_then(|_| vacuum(&self.sql, until, 0));
        if let Err(error) = done {
            log::warn!("{}: not tidied up: {error}", self.path.display());
        }
    }

    /// Rewrites packs until none needs it or the time is over; returns whether any is left. `small`: how many small
    /// packs are worth merging.
    fn repack(&mut self, until: Instant, small: usize) -> Result<bool, StoreError> {
        loop {
            let space = match &mut self.space {
                Some(space) => space,
                None => self.space.insert(Space::load(&self.sql)?),
            };
            let victims = victims(&self.sql, space, small)?;
            if victims.is_empty() {
                return Ok(false);
            }
            if Instant::now() >= until {
                return Ok(true);
            }
            self.rewrite(&victims)?;
        }
    }

    /// Moves what is alive in the first of these packs into new ones, in one transaction.
    fn rewrite(&mut self, victims: &[(PackId, u64)]) -> Result<(), StoreError> {
        let (mut moving, mut emptied, mut raw) = (Vec::new(), Vec::new(), 0);
        for &(id, raw_len) in victims {
            let living = living(&self.sql, id)?;
            let Some(space) = &mut self.space else { break };
            match living {
                // Everything the `data` table says is in it was found in it.
                Some(living) if living.len() as u64 == space.blocks(id) => {
                    emptied.push(id);
                    moving.extend(living);
                }
                // Damaged: what the reads of it report must not be washed away by a fresh checksum.
                _ => space.avoid(id),
            }
            raw += raw_len;
            if raw >= REPACK_STEP {
                break;
            }
        }
        let packed = pack_stored(&moving, self.state.next.pack);
        let moved = relocate(&mut self.sql, &mut self.space, &self.state, &packed, &emptied);
        if moved.is_err() {
            self.space = None;
        }
        self.state = moved?;
        Ok(())
    }
}

/// Packs worth rewriting, with their raw length, in the order of their ids: those that are less than half alive, and
/// small ones once there are `enough`. Rewriting leaves full packs and at most one small one, so it comes to an end.
fn victims(sql: &Connection, space: &mut Space, enough: usize) -> Result<Vec<(PackId, u64)>, StoreError> {
    let (mut dead, mut small) = (Vec::new(), Vec::new());
    for (id, live) in space.candidates() {
        let Some(raw_len) = space.raw_len(sql, id)? else {
            space.avoid(id); // The pack itself is missing.
            continue;
        };
        if live.raw() * 2 < raw_len {
            dead.push((id, raw_len));
        } else if live.is_small() && raw_len < PACK_TARGET as u64 / 2 {
            small.push((id, raw_len));
        }
    }
    if small.len() >= enough {
        dead.append(&mut small);
    }
    dead.sort_unstable();
    Ok(dead)
}

/// Blocks and their content.
type Stored = Vec<(DataId, Vec<u8>)>;

/// The blocks of a pack that still lie there, in their order. `None`: the pack is damaged, or one of them is.
fn living(sql: &Connection, id: PackId) -> Result<Option<Stored>, StoreError> {
    let mut query = sql.prepare_cached("SELECT frame FROM pack WHERE id = ?1")?;
    let Some(frame) = query.query_row([id.sql()], |row| row.get::<_, Vec<u8>>(0)).optional()? else {
        return Ok(None);
    };
    let Ok(pack) = Pack::decode(&frame) else { return Ok(None) };
    let mut query = sql.prepare_cached("SELECT id, pack, position, len, hash FROM data WHERE id = ?1")?;
    let mut living = Vec::new();
    for (data, position, len) in pack.places() {
        let found = query.query_row([data.sql()], |row| Ok(rows::place(row))).optional()?;
        let Some((_, place)) = found.transpose()? else { continue };
        if place.pack != id {
            continue; // Moved by an earlier rewrite.
        }
        match pack.block(position, len) {
            Some(bytes) if (place.position, place.len) == (position, len) && content_hash(bytes) == place.hash => {
                living.push((data, bytes.to_vec()))
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(living))
}

/// The transaction of a rewrite. The superblock changes in its next pack id and in nothing else.
fn relocate(
    sql: &mut Connection,
    space: &mut Option<Space>,
    before: &Superblock,
    packed: &[Packed],
    emptied: &[PackId],
) -> Result<Superblock, StoreError> {
    let sql = sql.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut state = before.clone();
    state.next.pack = PackId(before.next.pack.0 + packed.len() as u64);
    let mut statements = Statements::prepare(&sql)?;
    if let Some(space) = space {
        emptied.iter().for_each(|&id| space.forget(id));
    }
    for pack in packed {
        statements.put_pack(pack)?;
        for &(id, place) in &pack.places {
            move_block(&mut statements, space, id, place)?;
        }
    }
    drop_dead_packs(&sql, &mut statements, space, emptied)?;
    drop(statements);
    superblock::write(&sql, &state)?;
    failpoint::passed("packs are rewritten and their old place still counts");
    sql.commit()?;
    failpoint::passed("rewritten packs are on the disk and nobody was told");
    Ok(state)
}

fn move_block(
    statements: &mut Statements<'_>,
    space: &mut Option<Space>,
    id: DataId,
    place: Place,
) -> Result<(), StoreError> {
    statements.move_data(id, place)?;
    space.iter_mut().for_each(|space| space.add(place));
    Ok(())
}

/// Bytes of the WAL that are not in the database file yet. The WAL's own length says nothing: it is written again
/// from its start and never made shorter.
fn wal_waiting(sql: &Connection) -> Result<u64, StoreError> {
    let (frames, copied) = checkpoint(sql, "NOOP")?;
    Ok(frames.saturating_sub(copied) * pragma(sql, "page_size")?)
}

/// Copies back what no reader needs in the WAL any more. It waits for nobody, so a reader from outside can only make
/// it copy less.
pub(super) fn copy_wal_back(sql: &Connection) -> Result<(), StoreError> {
    failpoint::passed("the WAL is not copied back yet");
    checkpoint(sql, "PASSIVE")?;
    failpoint::passed("the WAL is copied back");
    Ok(())
}

/// Frames in the WAL, and how many of them are copied.
fn checkpoint(sql: &Connection, mode: &str) -> Result<(u64, u64), StoreError> {
    let mut query = sql.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    let (frames, copied): (i64, i64) = query.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
    // SQLite says -1 where there is no WAL.
    Ok((u64::try_from(frames).unwrap_or(0), u64::try_from(copied).unwrap_or(0)))
}

fn pragma(sql: &Connection, name: &str) -> Result<u64, StoreError> {
    let value: i64 = sql.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(value).unwrap_or(0))
}

/// Gives free pages back to the disk, down to `keep`; returns whether the time was over before.
fn vacuum(sql: &Connection, until: Instant, keep: u64) -> Result<bool, StoreError> {
    loop {
        let free = pragma(sql, "freelist_count")?;
        if free <= keep {
            return Ok(false);
        }
        if Instant::now() >= until {
            return Ok(true);
        }
        failpoint::passed("free pages are not given back yet");
        let step = VACUUM_STEP.min(free - keep);
        let mut statement = sql.prepare(&format!("PRAGMA incremental_vacuum({step})"))?;
        let mut pages = statement.query([])?;
        // It frees one page a step.
        while pages.next()?.is_some() {}
        drop(pages);
        if pragma(sql, "freelist_count")? >= free {
            return Ok(false); // Nothing moved; trying again would not either.
        }
    }
}
