//! Whole journals beside the database they belong to.

use sessionfs::format::journal::{RecordHeader, SEGMENT_HEADER, SegmentHeader, record_check};
use sessionfs::store::Store;

use crate::bless::golden;
use crate::decoders::repair_header;
use crate::harness::Fuzz;
use crate::session::{session, use_all};

/// Makes the checksums of the first segment right: of its header, and of record after record, as far as their lengths
/// lead.
pub fn repair(journal: &mut [u8]) {
    if journal.len() < SEGMENT_HEADER {
        return;
    }
    repair_header(journal);
    let Ok(header) = SegmentHeader::decode(journal) else { return };
    let (mut at, mut chain) = (SEGMENT_HEADER, header.check);
    while let Some(header) = journal.get(at..).and_then(RecordHeader::read) {
        if header.kind == 0 && !at.is_multiple_of(4096) {
            at = at.next_multiple_of(4096);
            continue;
        }
        let end = at + header.record_len();
        if header.kind == 0 || end > journal.len() {
            break;
        }
        chain = record_check(&journal[at..end], chain);
        journal[at..at + 8].copy_from_slice(&chain.to_le_bytes());
        at = end;
    }
}

#[test]
fn journal_of_a_session() {
    let database = golden("session.db");
    let (dir, path) = session(&database, None);
    let store = Store::open_read_only(&path).unwrap();
    let journal = dir.path().join("journal");
    Fuzz::new("journal").run(
        |journal| repair(journal),
        |input| {
            std::fs::write(&journal, input).unwrap();
            let Ok(found) = store.inspect_journal(&journal) else { return false };
            if found.operations == 0 {
                return false;
            }
            // What is said to be replayed is replayed, or refused for what it says.
            let (_dir, path) = session(&database, Some(input));
            use_all(&path)
        },
    );
}

#[test]
fn repaired_journals_are_believed() {
    let mut journal = golden("session.journal");
    repair(&mut journal);
    assert!(journal == golden("session.journal"), "nothing was damaged, so nothing is repaired");
    // An inode number in the first record: believed only with its checksums made right.
    journal[SEGMENT_HEADER + 24 + 9] ^= 1;
    let operations = |journal: &[u8]| {
        let (dir, path) = session(&golden("session.db"), Some(journal));
        let store = Store::open_read_only(&path).unwrap();
        store.inspect_journal(&dir.path().join("session.journal")).unwrap().operations
    };
    assert_eq!(operations(&journal), 0);
    repair(&mut journal);
    assert!(operations(&journal) > 10);
}
