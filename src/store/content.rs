//! Content of blocks: decoded packs, kept for readers up to a bound.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::limits::PACK_CACHE_BYTES;
use crate::base::{Map, PackId};
use crate::format::Pack;

/// Bytes an entry is charged besides its pack, so that a great many one-file packs stay bounded too.
const ENTRY_COST: usize = 512;

/// The bytes of one block, still inside the decoded pack they came in. Zeros follow them to the end of the block.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// `None`: the block of zeros, of which nothing is stored.
    pack: Option<Arc<Pack>>,
    position: u32,
    len: u32,
}

impl Content {
    /// The bytes at this place of the pack; `None` when it ends before them.
    pub(super) fn new(pack: Arc<Pack>, position: u32, len: u32) -> Option<Content> {
        pack.block(position, len)?;
        Some(Content { pack: Some(pack), position, len })
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // The place was looked at when this was made.
        self.pack.as_ref().and_then(|pack| pack.block(self.position, self.len)).unwrap_or_default()
    }
}

/// Decoded packs, the least recently used of them dropped first. A pack never changes and its id is never given
/// again, so nothing here can be out of date; a pack that died meanwhile is named by no data row any more.
#[derive(Debug, Default)]
pub(super) struct PackCache {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packs: Map<PackId, (Arc<Pack>, u64)>,
    /// Last use to pack: the front is what goes first.
    order: BTreeMap<u64, PackId>,
    clock: u64,
    bytes: usize,
}

impl PackCache {
    /// A pack, if it is here.
    pub fn get(&self, id: PackId) -> Option<Arc<Pack>> {
        let state = &mut *self.state.lock();
        let (pack, used) = state.packs.get_mut(&id)?;
        // A sequential read asks for its pack many times in a row: only a change of pack moves it in the order.
        if *used != state.clock {
            state.order.remove(used);
            state.clock += 1;
            *used = state.clock;
            state.order.insert(state.clock, id);
        }
        Some(Arc::clone(pack))
    }

    /// Keeps a pack.
    pub fn put(&self, pack: &Arc<Pack>) {
        let state = &mut *self.state.lock();
        if state.packs.contains_key(&pack.id) {
            return; // Two readers met the same miss.
        }
        state.clock += 1;
        state.packs.insert(pack.id, (Arc::clone(pack), state.clock));
        state.order.insert(state.clock, pack.id);
        state.bytes += pack.memory() + ENTRY_COST;
        while state.bytes > PACK_CACHE_BYTES
            && let Some((_, oldest)) = state.order.pop_first()
        {
            if let Some((gone, _)) = state.packs.remove(&oldest) {
                state.bytes -= gone.memory() + ENTRY_COST;
            }
        }
    }

    #[cfg(test)]
    fn len_and_bytes(&self) -> (usize, usize) {
        let state = self.state.lock();
        assert_eq!(state.packs.len(), state.order.len());
        (state.packs.len(), state.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DataId;
    use crate::base::limits::BLOCK_SIZE;
    use crate::format::PackBuilder;

    fn pack(id: u64, bytes: usize) -> Arc<Pack> {
        let mut builder = PackBuilder::default();
        builder.push(DataId(id), &vec![7; bytes]);
        Arc::new(Pack::decode(&builder.encode(PackId(id), 1)).unwrap())
    }

    #[test]
    fn the_cache_keeps_what_is_used_and_stays_within_its_bound() {
        let cache = PackCache::default();
        for id in 1..=10 * (PACK_CACHE_BYTES / BLOCK_SIZE) as u64 {
            cache.put(&pack(id, BLOCK_SIZE));
            assert!(cache.get(PackId(1)).is_some(), "used again and again, so never the oldest ({id})");
        }
        let (packs, bytes) = cache.len_and_bytes();
        let fit = PACK_CACHE_BYTES / BLOCK_SIZE;
        assert!(bytes <= PACK_CACHE_BYTES && packs > fit * 3 / 4, "{packs} packs, {bytes} bytes");
        assert!(cache.get(PackId(2)).is_none());
    }

    #[test]
    fn tiny_packs_are_bounded_too() {
        let cache = PackCache::default();
        let before = cache.len_and_bytes();
        cache.put(&pack(1, 1));
        cache.put(&pack(1, 1));
        assert_eq!(before, (0, 0));
        assert_eq!(cache.len_and_bytes().0, 1);
        assert!(cache.len_and_bytes().1 > ENTRY_COST);
    }

    #[test]
    fn a_place_outside_the_pack_gives_no_content() {
        assert_eq!(&*Content::new(pack(1, 10), 0, 10).unwrap(), &[7; 10]);
        assert!(Content::new(pack(1, 10), 1, 10).is_none());
        assert!(Content::new(pack(1, 10), u32::MAX, u32::MAX).is_none());
        assert!(Content::default().is_empty());
    }
}
