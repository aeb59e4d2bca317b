//! From dirty content to packs, on as many threads as there are cores and packs to make.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::base::limits::{COLD_PACK_LEVEL, PACK_BLOCKS, PACK_LEVEL, PACK_TARGET};
use crate::base::{DataId, PackId, failpoint};
use crate::format::{PackBuilder, content_hash, content_len};
use crate::store::PacksWritten;
use crate::store::rows::Place;

/// One block's content, waiting to be packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    id: DataId,
    /// Without trailing zeros.
    bytes: &'a [u8],
}

impl<'a> Item<'a> {
    /// Content and its id; trailing zeros are not stored.
    pub fn new(id: DataId, bytes: &'a [u8]) -> Self {
        Item { id, bytes: &bytes[..content_len(bytes)] }
    }
}

/// A pack, ready to be stored.
#[derive(Debug)]
pub(in crate::store) struct Packed {
    /// Its id.
    pub id: PackId,
    /// Its bytes.
    pub frame: Vec<u8>,
    /// Where each block lies in it.
    pub places: Vec<(DataId, Place)>,
}

impl PacksWritten {
    /// Counts what a commit has stored.
    pub(super) fn count(&self, packed: &[Packed]) {
        let raw = packed.iter().flat_map(|pack| &pack.places).map(|(_, place)| u64::from(place.len)).sum();
        let stored = packed.iter().map(|pack| pack.frame.len() as u64).sum();
        self.packs.fetch_add(packed.len() as u64, Ordering::Relaxed);
        self.raw.fetch_add(raw, Ordering::Relaxed);
        self.stored.fetch_add(stored, Ordering::Relaxed);
    }
}

/// Packs content again that was stored before.
pub(in crate::store) fn pack_stored(stored: &[(DataId, Vec<u8>)], first: PackId) -> Vec<Packed> {
    pack(stored.iter().map(|(id, bytes)| Item::new(*id, bytes)).collect(), first, PACK_LEVEL)
}

/// Packs content that was stored before into one pack, on this thread, as small as it will get.
pub(in crate::store) fn pack_cold(stored: &[(DataId, Vec<u8>)], id: PackId) -> Packed {
    let items: Vec<_> = stored.iter().map(|(id, bytes)| Item::new(*id, bytes)).collect();
    encode(id, &items, COLD_PACK_LEVEL)
}

/// Packs all items in their order; the first pack gets the id `first`, the others follow.
pub(super) fn pack(items: Vec<Item<'_>>, first: PackId, level: i32) -> Vec<Packed> {
    let groups = groups(&items);
    let id = |at: usize| PackId(first.0 + at as u64);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    if groups.len() < 2 || cores < 2 {
        // The ordinary small commit: not worth a thread.
        return groups.iter().enumerate().map(|(at, group)| encode(id(at), group, level)).collect();
    }
    let taken = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        while let at = taken.fetch_add(1, Ordering::Relaxed)
            && let Some(group) = groups.get(at)
        {
            made.push(encode(id(at), group, level));
        }
        made
    };
    let mut packed: Vec<Packed> = thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(groups.len())).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            match other.join() {
                Ok(made) => all.extend(made),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    // Ids in the order of the table's key: SQLite appends, and a cold read of a tree goes forward in the file.
    packed.sort_unstable_by_key(|pack| pack.id);
    packed
}

/// Cuts the items into runs, each of which fills a pack.
fn groups<'i, 'a>(items: &'i [Item<'a>]) -> Vec<&'i [Item<'a>]> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, item) in items.iter().enumerate() {
        bytes += item.bytes.len();
        if bytes >= PACK_TARGET || at + 1 - start >= PACK_BLOCKS {
            groups.push(&items[start..=at]);
            (start, bytes) = (at + 1, 0);
        }
    }
    if start < items.len() {
        groups.push(&items[start..]);
    }
    groups
}

fn encode(id: PackId, items: &[Item<'_>], level: i32) -> Packed {
    let mut builder = PackBuilder::default();
    let places = items.iter().map(|item| {
        let position = builder.push(item.id, item.bytes);
        // At most `BLOCK_SIZE`.
        let len = item.bytes.len() as u32;
        (item.id, Place { pack: id, position, len, hash: content_hash(item.bytes) })
    });
    let places = places.collect();
    failpoint::passed("a pack is not compressed yet");
    let frame = builder.encode(id, level);
    failpoint::passed("a pack is compressed and nobody has it");
    Packed { id, frame, places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::BLOCK_SIZE;
    use crate::format::Pack;

    #[test]
    fn every_item_lies_where_its_place_says() {
        let blocks: Vec<Vec<u8>> =
            (0..5_000u32).map(|i| vec![(i % 251) as u8 + 1; (i as usize * 37) % 3_000]).collect();
        let ids = || (1..).map(DataId);
        let items = ids().zip(&blocks).map(|(id, bytes)| Item::new(id, bytes)).collect();
        let packed = pack(items, PackId(10), PACK_LEVEL);
        assert!(packed.len() > 2);
        assert!(packed.iter().map(|pack| pack.id).eq((10..).map(PackId).take(packed.len())));
        let places = packed.iter().flat_map(|pack| {
            let decoded = Pack::decode(&pack.frame).unwrap();
            assert!(decoded.memory() < PACK_TARGET + 3_000 + 12 * PACK_BLOCKS);
            pack.places
                .iter()
                .map(move |&(id, place)| {
                    assert_eq!(place.pack, pack.id);
                    (id, decoded.block(place.position, place.len).unwrap().to_vec())
                })
                .collect::<Vec<_>>()
        });
        assert!(places.eq(ids().zip(blocks)));
    }

    #[test]
    fn blocks_of_zeros_take_no_room_and_do_not_swell_a_pack() {
        let zeros = vec![0; BLOCK_SIZE];
        let items: Vec<_> = (1..=10_000).map(|id| Item::new(DataId(id), &zeros)).collect();
        let packed = pack(items, PackId(1), PACK_LEVEL);
        assert_eq!(packed.len(), 3);
        assert!(packed.iter().all(|pack| pack.places.iter().all(|(_, place)| place.len == 0)));
        assert!(pack(Vec::new(), PackId(1), PACK_LEVEL).is_empty());
    }
}
