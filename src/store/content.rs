//! Content of blocks: decoded packs, kept for readers up to a bound.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::base::limits::PACK_CACHE_BYTES;
use crate::base::{Map, PackId};
use crate::format::Pack;

/// Bytes an entry is charged besides its pack, so that a great many one-file packs stay bounded too.
const ENTRY_COST: usize = 512;

/// Packs wanted ahead of a reader that goes from pack to pack: one is decoded while the other is waited for.
const AHEAD: u64 = 2;

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
    /// What was being read ahead is here, or will not come.
    arrived: Condvar,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    packs: Map<PackId, (Arc<Pack>, u64)>,
    /// Last use to pack: the front is what goes first.
    order: BTreeMap<u64, PackId>,
    clock: u64,
    bytes: usize,
    /// What a reader asked for last.
    last: PackId,
    /// What is being read ahead.
    coming: Option<PackId>,
}

impl PackCache {
    /// A pack, if it is here or comes in a moment, and the packs that should be read ahead now.
    pub fn get(&self, id: PackId) -> (Option<Arc<Pack>>, Range<u64>) {
        let mut state = self.state.lock();
        let next = state.ahead_of(id);
        while state.coming == Some(id) {
            self.arrived.wait(&mut state);
        }
        let found = state.find(id);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        (found, next)
    }

    /// How often a pack that was asked for was here, and how often it was not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Begins to read a pack ahead; false when it is here. [`PackCache::end`] must follow.
    pub fn begin(&self, id: PackId) -> bool {
        let mut state = self.state.lock();
        let missing = !state.packs.contains_key(&id);
        state.coming = missing.then_some(id);
        missing
    }

    /// Ends it, with the pack if there is one.
    pub fn end(&self, pack: Option<Arc<Pack>>) {
        let mut state = self.state.lock();
        state.coming = None;
        if let Some(pack) = pack {
            state.put(&pack);
        }
        self.arrived.notify_all();
    }

    /// Keeps a pack.
    pub fn put(&self, pack: &Arc<Pack>) {
        self.state.lock().put(pack);
    }

    #[cfg(test)]
    fn len_and_bytes(&self) -> (usize, usize) {
        let state = self.state.lock();
        assert_eq!(state.packs.len(), state.order.len());
        (state.packs.len(), state.bytes)
    }
}

impl State {
    /// What to read ahead of a reader that asks for this pack: nothing, unless it comes from the one before.
    fn ahead_of(&mut self, id: PackId) -> Range<u64> {
        let before = std::mem::replace(&mut self.last, id);
        let end = id.0 + 1 + AHEAD;
        if before.0 + 1 != id.0 {
            return end..end;
        }
        let known = |&next: &u64| self.packs.contains_key(&PackId(next)) || self.coming == Some(PackId(next));
        (id.0 + 1..end).find(|next| !known(next)).unwrap_or(end)..end
    }

    fn find(&mut self, id: PackId) -> Option<Arc<Pack>> {
        let (pack, used) = self.packs.get_mut(&id)?;
        // A sequential read asks for its pack many times in a row: only a change of pack moves it in the order.
        if *used != self.clock {
            self.order.remove(used);
            self.clock += 1;
            *used = self.clock;
            self.order.insert(self.clock, id);
        }
        Some(Arc::clone(pack))
    }

    fn put(&mut self, pack: &Arc<Pack>) {
        if self.packs.contains_key(&pack.id) {
            return; // Two readers met the same miss.
        }
        self.clock += 1;
        self.packs.insert(pack.id, (Arc::clone(pack), self.clock));
        self.order.insert(self.clock, pack.id);
        self.bytes += pack.memory() + ENTRY_COST;
        while self.bytes > PACK_CACHE_BYTES
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some((gone, _)) = self.packs.remove(&oldest) {
                self.bytes -= gone.memory() + ENTRY_COST;
            }
        }
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
            assert!(cache.get(PackId(1)).0.is_some(), "used again and again, so never the oldest ({id})");
        }
        let (packs, bytes) = cache.len_and_bytes();
        let fit = PACK_CACHE_BYTES / BLOCK_SIZE;
        assert!(bytes <= PACK_CACHE_BYTES && packs > fit * 3 / 4, "{packs} packs, {bytes} bytes");
        assert!(cache.get(PackId(2)).0.is_none());
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
    fn who_goes_from_pack_to_pack_is_read_ahead_of() {
        let cache = PackCache::default();
        let wanted = |id| cache.get(PackId(id)).1.collect::<Vec<u64>>();
        assert_eq!(wanted(10), [0u64; 0]);
        assert_eq!(wanted(10), [0u64; 0], "the same again");
        assert_eq!(wanted(11), [12, 13]);
        cache.put(&pack(12, 1));
        assert_eq!(wanted(12), [13, 14]);
        cache.put(&pack(14, 1));
        assert!(cache.begin(PackId(13)) && !cache.begin(PackId(14)));
        assert_eq!(wanted(20), [0u64; 0], "it went elsewhere");
        assert_eq!(wanted(19), [0u64; 0], "backwards");
    }

    #[test]
    fn a_reader_waits_for_what_is_coming() {
        let cache = PackCache::default();
        for coming in [Some(Arc::clone(&pack(1, 1))), None] {
            let there = coming.is_some();
            let id = PackId(if there { 1 } else { 2 });
            assert!(cache.begin(id));
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| cache.get(id).0.is_some());
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(!reader.is_finished());
                cache.end(coming);
                assert_eq!(reader.join().unwrap(), there);
            });
        }
    }

    #[test]
    fn a_place_outside_the_pack_gives_no_content() {
        assert_eq!(&*Content::new(pack(1, 10), 0, 10).unwrap(), &[7; 10]);
        assert!(Content::new(pack(1, 10), 1, 10).is_none());
        assert!(Content::new(pack(1, 10), u32::MAX, u32::MAX).is_none());
        assert!(Content::default().is_empty());
    }
}
