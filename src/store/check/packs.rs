//! Every pack decoded once, in order, and every place in it looked at.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::Report;
use crate::base::{DataId, Map, PackId};
use crate::format::{Pack, content_hash};
use crate::store::StoreError;
use crate::store::rows::{self, Columns, Place};

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
    while let Some(row) = found.next()? {
        let mut look = Look::new(row, report);
        while let Some((id, place)) = next(report, look.id)? {
            look.at(id, place, report);
        }
        look.end(report);
        step();
    }
    while let Some((id, place)) = next(report, PackId(u64::MAX))? {
        report.add("data-pack", format!("data {id}: pack {} is missing", place.pack));
    }
    Ok(())
}

/// One pack under the eye.
struct Look {
    id: PackId,
    pack: Option<Pack>,
    /// Its directory, with the position at which each block begins.
    directory: Map<DataId, (u32, u32)>,
    live: u64,
}

impl Look {
    fn new(row: &Row<'_>, report: &mut Report) -> Look {
        let id = Columns::new(row, "pack", 0, 1).unsigned("id");
        // A negative id sorts first and names nothing, so it ends as a pack without live data.
        let id = PackId(id.unwrap_or(0));
        let mut look = Look { id, pack: None, directory: Map::default(), live: 0 };
        match decode(row, id) {
            Ok(pack) => {
                look.directory = pack.places().map(|(data, position, len)| (data, (position, len))).collect();
                look.pack = Some(pack);
            }
            Err((code, text)) => report.add(code, format!("pack {id}: {text}")),
        }
        look
    }

    fn at(&mut self, id: DataId, place: Place, report: &mut Report) {
        if place.pack != self.id {
            report.add("data-pack", format!("data {id}: pack {} is missing", place.pack));
            return;
        }
        self.live += 1;
        let Some(pack) = &self.pack else { return };
        let Some(bytes) = pack.block(place.position, place.len) else {
            report.add("data-place", format!("data {id}: lies outside pack {}", self.id));
            return;
        };
        if self.directory.get(&id) != Some(&(place.position, place.len)) {
            report.add("data-place", format!("data {id}: not where the directory of pack {} has it", self.id));
        }
        if content_hash(bytes) != place.hash {
            report.add("data-hash", format!("data {id}: its content in pack {} has another hash", self.id));
        }
    }

    fn end(self, report: &mut Report) {
        if self.live == 0 {
            report.add("pack-dead", format!("pack {}: nothing in it is alive", self.id));
        }
    }
}

fn decode(row: &Row<'_>, id: PackId) -> Result<Pack, (&'static str, String)> {
    let frame = match row.get_ref(3) {
        Ok(ValueRef::Blob(frame)) => frame,
        _ => return Err(("row-value", "frame is no blob".to_owned())),
    };
    let pack = Pack::decode(frame).map_err(|error| ("pack-frame", error.to_string()))?;
    if pack.id != id {
        return Err(("pack-header", format!("its frame says pack {}", pack.id)));
    }
    let columns = (row.get::<_, i64>(1).ok(), row.get::<_, i64>(2).ok());
    let header = (Some(i64::from(pack.codec as u8)), Some(pack.memory() as i64));
    if columns != header {
        return Err(("pack-header", "codec or raw_len are not those of its frame".to_owned()));
    }
    Ok(pack)
}
