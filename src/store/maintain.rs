//! Housekeeping between commits: the WAL copied back, packs rewritten, cold ones packed again, free pages given back.
//! None of it changes what a reader sees, the txid or the digest.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::commit::{Packed, Space, Statements, drop_dead_packs, pack_cold, pack_stored};
use super::rows::{self, Place};
use super::schema::COLD_PACKS;
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

    /// Makes one pack of several that have grown cold, larger and better compressed; when none is left, gives the freed
    /// pages back for about `budget`. Returns whether more is waiting: in the end it never is, and what a step has made
    /// is not taken up again before it is mostly dead.
    ///
    /// A step takes about 30 ms: the longest that a commit can find the writer busy with it.
    pub fn pack_cold(&mut self, budget: Duration) -> Result<bool, StoreError> {
        let until = Instant::now() + budget;
        let done = self.cold_step(until);
        done.map_err(|error| error.on(&self.sql))
    }

    fn cold_step(&mut self, until: Instant) -> Result<bool, StoreError> {
        if wal_waiting(&self.sql)? > WAL_CHECKPOINT_BYTES {
            copy_wal_back(&self.sql)?;
        }
        let loose = loaded(&mut self.space, &self.sql)?.loose(&self.sql)?;
        if loose.is_empty() {
            return vacuum(&self.sql, until, FREE_PAGES_KEPT);
        }
        let (moving, emptied) = self.take_out(&loose, u64::MAX)?;
        let packed: Vec<Packed> =
            (!moving.is_empty()).then(|| pack_cold(&moving, self.state.next.pack)).into_iter().collect();
        self.move_in(&packed, &emptied, COLD_PACKS)?;
        Ok(true)
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
            let victims = victims(&self.sql, loaded(&mut self.space, &self.sql)?, small)?;
            if victims.is_empty() {
                return Ok(false);
            }
            if Instant::now() >= until {
                return Ok(true);
            }
            let (moving, emptied) = self.take_out(&victims, REPACK_STEP)?;
            let packed = pack_stored(&moving, self.state.next.pack);
            self.move_in(&packed, &emptied, 0)?;
        }
    }

    /// What is alive in the first of these packs, up to about so many raw bytes, and the packs it was found in. Damaged
    /// ones are left alone from now on.
    fn take_out(&mut self, victims: &[(PackId, u64)], most: u64) -> Result<(Stored, Vec<PackId>), StoreError> {
        let (mut moving, mut emptied, mut raw) = (Vec::new(), Vec::new(), 0);
        for &(id, raw_len) in victims {
            let living = living(&self.sql, id)?;
            let space = loaded(&mut self.space, &self.sql)?;
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
            if raw >= most {
                break;
            }
        }
        Ok((moving, emptied))
    }

    /// Puts these packs in the place of the emptied ones, in one transaction that also sets incompatible flags.
    fn move_in(&mut self, packed: &[Packed], emptied: &[PackId], incompat: u64) -> Result<(), StoreError> {
        let mut before = self.state.clone();
        if !packed.is_empty() {
            before.features[2] |= incompat;
        }
        let moved = relocate(&mut self.sql, &mut self.space, &before, packed, emptied);
        if moved.is_err() {
            self.space = None;
        }
        self.state = moved?;
        Ok(())
    }
}

/// What is alive of each pack, counted when it is not known.
fn loaded<'s>(space: &'s mut Option<Space>, sql: &Connection) -> Result<&'s mut Space, StoreError> {
    Ok(match space {
        Some(space) => space,
        None => space.insert(Space::load(sql)?),
    })
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

/// The transaction of a rewrite. The superblock becomes what it was with another next pack id.
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
