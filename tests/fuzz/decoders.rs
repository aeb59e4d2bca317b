//! The decoders of single things: what an operation changed, a segment's header, a pack.

use sessionfs::base::Seq;
use sessionfs::format::journal::{HEADER, RecordError, Records, SEGMENT_HEADER, SegmentHeader, changes};
use sessionfs::format::{Codec, Pack, PackBuilder, Transaction};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::harness::Fuzz;

#[test]
fn changes_of_an_operation() {
    Fuzz::new("changes").run(
        |_| (),
        |payload| {
            let (mut records, mut txn) = (Records::default(), Transaction::default());
            let decoded = changes(payload, |change| {
                records.change(&change);
                txn.apply(change);
                Ok::<_, RecordError>(())
            });
            if decoded.is_err() || payload.is_empty() {
                return false;
            }
            records.finish(Seq(1));
            assert!(&records.bytes_mut()[HEADER..] == payload, "it encodes to other bytes");
            true
        },
    );
}

/// Makes the checksum of a segment's header right.
pub fn repair_header(page: &mut [u8]) {
    if page.len() >= 72 {
        let check = xxh3_64(&page[..64]);
        page[64..72].copy_from_slice(&check.to_le_bytes());
    }
}

#[test]
fn header_of_a_segment() {
    Fuzz::new("header").run(
        |page| repair_header(page),
        |page| {
            let Ok(header) = SegmentHeader::decode(page) else { return false };
            let encoded = header.encode();
            assert_eq!(encoded.len(), SEGMENT_HEADER);
            // Four bytes mean nothing.
            let same = |range: std::ops::Range<usize>| encoded[range.clone()] == page[range];
            assert!(same(0..12) && same(16..72), "it encodes to other bytes");
            true
        },
    );
}

/// Makes the checksum of a pack right, and the stored length that of the payload.
pub fn repair_pack(frame: &mut [u8]) {
    if frame.len() < 40 {
        return;
    }
    let stored = frame.len() as u32 - 40;
    frame[24..28].copy_from_slice(&stored.to_le_bytes());
    let mut hasher = Xxh3::new();
    hasher.update(&frame[..32]);
    hasher.update(&frame[40..]);
    let sum = hasher.digest();
    frame[32..40].copy_from_slice(&sum.to_le_bytes());
}

/// The blocks of a pack.
fn blocks(pack: &Pack) -> Vec<(u64, Vec<u8>)> {
    let block = |(id, position, len): (sessionfs::base::DataId, u32, u32)| {
        (id.0, pack.block(position, len).expect("a place that the pack itself gives").to_vec())
    };
    pack.places().map(block).collect()
}

fn pack_is_what_it_encodes_to(frame: &[u8]) -> bool {
    let _ = Pack::describe(frame);
    let Ok(pack) = Pack::decode(frame) else { return false };
    let mut builder = PackBuilder::default();
    let blocks_of_it = blocks(&pack);
    for (id, bytes) in &blocks_of_it {
        builder.push(sessionfs::base::DataId(*id), bytes);
    }
    let again = Pack::decode(&builder.encode(pack.id, 1)).expect("what was just encoded");
    assert_eq!(again.id, pack.id);
    assert!(blocks(&again) == blocks_of_it, "its blocks are others");
    assert!(pack.block(u32::MAX, u32::MAX).is_none());
    true
}

#[test]
fn pack_frame() {
    Fuzz::new("pack").run(|frame| repair_pack(frame), pack_is_what_it_encodes_to);
}

#[test]
fn pack_with_a_damaged_payload_that_is_packed_well() {
    let repack = |frame: &mut Vec<u8>| {
        // The mutation was of the payload as it is; here it is compressed, and all lengths and sums are right.
        if frame.len() < 40 {
            return;
        }
        let raw = frame.split_off(40);
        frame[20..24].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        frame[5] = Codec::Zstd as u8;
        frame.extend(zstd::bulk::compress(&raw, 1).unwrap());
        repair_pack(frame);
    };
    Fuzz::new("pack-raw").run(repack, pack_is_what_it_encodes_to);
}
