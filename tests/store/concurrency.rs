//! Readers on other threads while commits replace, packs die and packs are rewritten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use sessionfs::base::{DataId, Ino};

use crate::session::{Session, bytes};

/// The first eight bytes of a block say which round wrote it; the rest follows from them.
fn stamped(round: u64) -> Vec<u8> {
    let mut content = round.to_le_bytes().to_vec();
    content.extend(bytes(round, 9_000));
    content
}

#[test]
fn readers_meet_old_or_new_content_and_nothing_else() {
    let mut session = Session::new();
    let files: Vec<Ino> = (0..30).map(|i| session.file(Ino::ROOT, &format!("{i}"))).collect();
    for (at, &file) in files.iter().enumerate() {
        session.write(file, 0, &stamped(at as u64));
    }
    session.commit();
    let done = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, done, reads) = (Arc::clone(&session.store), Arc::clone(&done), Arc::clone(&reads));
            let files = files.clone();
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for &file in &files {
                        let block = store.blocks(file).unwrap()[0];
                        // Overtaken by a commit: ask for the block again.
                        let Some(content) = store.data(block.data).unwrap() else { continue };
                        let round = u64::from_le_bytes(content[..8].try_into().unwrap());
                        assert_eq!(&content[..], &stamped(round)[..]);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for round in 0..150 {
        for offset in 0..4 {
            let file = files[(round * 7 + offset * 11) % files.len()];
            session.write(file, 0, &stamped(1_000 + (round * 10 + offset) as u64));
        }
        session.commit();
        session.writer.maintain(Duration::from_millis(20)).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert!(reads.load(Ordering::Relaxed) > 100);
    assert!(session.store.data(DataId(1)).unwrap().is_none());
    session.assert_clean();
}
