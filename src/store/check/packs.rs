//! Every pack decoded once, in order, and every place in it looked at.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::Report;
use crate::base::{DataId, Map, PackId};
use crate::format::{Pack, content_hash};
use crate::store::StoreError;
use crate::store::rows::{self, Columns, Place};

/// Packs that are read before they are decoded, on as many threads as there are cores: bounds the memory.
const BATCH: usize = 32;

/// Goes through packs and data side by side, both in the order of pack ids. `step` is called for every pack.
pub(super) fn packs(sql: &Connection, report: &mut Report, step: &mut dyn FnMut()) -> Result<(), StoreError> {
    let mut packs = sql.prepare("SELECT id, codec, raw_len, frame FROM pack ORDER BY id")?;
    let mut data = sql.prepare("SELECT id, pack, position, len, hash FROM data ORDER BY pack, id")?;
    let mut places = data.query([])?;
    let mut waiting = None;
    let mut next = |report: &mut Report, until: PackId| -> Result<Option<(DataId, Place)>, StoreError> {
        loop {
            let place = match waiting.take() {
                Some(place) => place,
                None => match places.next()?.map(rows::place) {
                    None => return Ok(None),
                    Some(Ok(place)) => place,
                    Some(Err(bad)) => {
                        report.add(bad.code, bad.text);
                        continue;
                    }
                },
            };
            if place.1.pack > until {
                waiting = Some(place);
                return Ok(None);
            }
            return Ok(Some(place));
        }
    };
    let mut found = packs.query([])?;
    let mut batch = Vec::new();
    loop {
        let row = found.next()?;
        let end = row.is_none();
        if let Some(row) = row {
            let mut stored = Stored::new(row);
            while let Some(place) = next(report, stored.id)? {
                stored.places.push(place);
            }
            batch.push(stored);
        }
        if end || batch.len() >= BATCH {
            for (code, text) in look_at(&batch) {
                report.add(code, text);
            }
            batch.drain(..).for_each(|_| step());
        }
        if end {
            break;
        }
    }
    while let Some((id, place)) = next(report, PackId(u64::MAX))? {
        report.add("data-pack", format!("data {id}: pack {} is missing", place.pack));
    }
    Ok(())
}

/// A code and a text.
type Found = (&'static str, String);

/// Looks at all of these, each thread at what is next; the findings are in the order of the packs.
fn look_at(batch: &[Stored]) -> Vec<Found> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let taken = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let at = taken.fetch_add(1, Ordering::Relaxed)
            && let Some(stored) = batch.get(at)
        {
            found.push((at, stored.look_at()));
        }
        found
    };
    let mut found = thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(batch.len())).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            match other.join() {
                Ok(found) => all.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    found.sort_unstable_by_key(|(at, _)| *at);
    found.into_iter().flat_map(|(_, found)| found).collect()
}

/// One row of `pack`, with the data rows that come up to it.
struct Stored {
    id: PackId,
    codec: Option<i64>,
    raw_len: Option<i64>,
    frame: Option<Vec<u8>>,
    places: Vec<(DataId, Place)>,
}

impl Stored {
    fn new(row: &Row<'_>) -> Stored {
        let id = Columns::new(row, "pack", 0, 1).unsigned("id");
        let frame = match row.get_ref(3) {
            Ok(ValueRef::Blob(frame)) => Some(frame.to_vec()),
            _ => None,
        };
        Stored {
            // A negative id sorts first and names nothing, so it ends as a pack without live data.
            id: PackId(id.unwrap_or(0)),
            codec: row.get(1).ok(),
            raw_len: row.get(2).ok(),
            frame,
            places: Vec::new(),
        }
    }

    fn decode(&self) -> Result<Pack, Found> {
        let frame = self.frame.as_ref().ok_or(("row-value", "frame is no blob".to_owned()))?;
        let pack = Pack::decode(frame).map_err(|error| ("pack-frame", error.to_string()))?;
        if pack.id != self.id {
            return Err(("pack-header", format!("its frame says pack {}", pack.id)));
        }
        let header = (Some(i64::from(pack.codec as u8)), Some(pack.memory() as i64));
        if (self.codec, self.raw_len) != header {
            return Err(("pack-header", "codec or raw_len are not those of its frame".to_owned()));
        }
        Ok(pack)
    }

    fn look_at(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let pack = self.decode().map_err(|(code, text)| found.push((code, format!("pack {}: {text}", self.id)))).ok();
        // Its directory, with the place at which each block lies.
        let directory: Map<DataId, (u32, u32)> =
            pack.iter().flat_map(Pack::places).map(|(data, position, len)| (data, (position, len))).collect();
        let mut live = 0;
        for &(id, place) in &self.places {
            if place.pack != self.id {
                found.push(("data-pack", format!("data {id}: pack {} is missing", place.pack)));
                continue;
            }
            live += 1;
            let Some(pack) = &pack else { continue };
            let Some(bytes) = pack.block(place.position, place.len) else {
                found.push(("data-place", format!("data {id}: lies outside pack {}", self.id)));
                continue;
            };
            if directory.get(&id) != Some(&(place.position, place.len)) {
                found.push(("data-place", format!("data {id}: not where the directory of pack {} has it", self.id)));
            }
            if content_hash(bytes) != place.hash {
                found.push(("data-hash", format!("data {id}: its content in pack {} has another hash", self.id)));
            }
        }
        if live == 0 {
            found.push(("pack-dead", format!("pack {}: nothing in it is alive", self.id)));
        }
        found
    }
}
