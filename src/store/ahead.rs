//! Decoding the packs that a reader will want next, on a thread of their own, while it still copies the one before.
//!
//! A commit puts neighbours into packs whose ids follow each other. So who has come from one pack to the next is going
//! through a large file, or through a tree file by file, and the ones behind it are wanted soon.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::debug;

use super::content::PackCache;
use super::pool::Pool;
use super::read::stored_pack;
use crate::base::PackId;

/// Packs that may wait. What finds no room is loaded by its reader.
const QUEUE: usize = 4;

/// The thread, from the first use to the end of its store.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    queue: OnceLock<Option<Sender<PackId>>>,
}

impl Ahead {
    /// Asks for packs. A hint: nobody is told when one is not there, or cannot be read.
    pub fn want(&self, packs: Range<u64>, pool: &Arc<Pool>, cache: &Arc<PackCache>) {
        if packs.is_empty() {
            return;
        }
        let spawn = || spawn(Arc::clone(pool), Arc::clone(cache));
        if let Some(queue) = self.queue.get_or_init(spawn) {
            for id in packs {
                let _ = queue.try_send(PackId(id));
            }
        }
    }
}

fn spawn(pool: Arc<Pool>, cache: Arc<PackCache>) -> Option<Sender<PackId>> {
    let (sender, wanted) = bounded(QUEUE);
    let body = move || load(&pool, &cache, &wanted);
    match thread::Builder::new().name("read-ahead".into()).spawn(body) {
        Ok(_) => Some(sender),
        Err(error) => {
            debug!("nothing is read ahead: {error}");
            None
        }
    }
}

fn load(pool: &Pool, cache: &PackCache, wanted: &Receiver<PackId>) {
    for id in wanted {
        if !cache.begin(id) {
            continue;
        }
        // Whoever wants it meets the same failure, and is told.
        let pack = pool.get().and_then(|sql| stored_pack(&sql, id)).unwrap_or_else(|error| {
            debug!("not read ahead: {error}");
            None
        });
        cache.end(pack.map(Arc::new));
    }
}
