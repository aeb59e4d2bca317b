//! Writes the corpus: small inputs that decode, each named after what it is.

use std::fs;
use std::path::Path;

use sessionfs::base::{Cookie, DataId, FileKind, Ino, Name, PackId, Seq, Timestamp};
use sessionfs::format::journal::{HEADER, RecordHeader, Records, SegmentHeader};
use sessionfs::format::{BlockRow, Change, DentryRow, InodeRow, PackBuilder};

use crate::decoders::repair_pack;
use crate::harness::{corpus, corpus_dir};
use crate::journals::repair;

pub fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)).unwrap()
}

fn write(name: &str, bytes: &[u8]) {
    fs::create_dir_all(corpus_dir()).unwrap();
    fs::write(corpus_dir().join(name), bytes).unwrap();
}

fn inode() -> InodeRow {
    InodeRow {
        ino: Ino(7),
        mode: 0o120777,
        uid: 1,
        gid: 2,
        nlink: 3,
        rdev: 4,
        size: 5,
        pieces: 6,
        attached: 9,
        atime: Timestamp::new(-1, 999_999_999),
        mtime: Timestamp::new(i64::MAX, 0),
        ctime: Timestamp::new(i64::MIN, 1),
        btime: Timestamp::new(0, 0),
        target: b"\xff/x".as_slice().into(),
    }
}

/// The payload of an operation with a change of every kind.
fn every_change() -> Vec<u8> {
    let (inode, name): (_, Name) = (inode(), b"\x01\xffname".as_slice().into());
    let dentry =
        DentryRow { parent: Ino(1), name: name.clone(), ino: Ino(7), kind: FileKind::Symlink, cookie: Cookie(3) };
    let all = [
        Change::Inode(&inode),
        Change::DropInode(Ino(8)),
        Change::Dentry(&dentry),
        Change::DropDentry { parent: Ino(1), name: &name },
        Change::NewData { id: DataId(4), base: DataId(2), keep: 16384, bytes: &[] },
        Change::Fill { id: DataId(4), at: 16380, bytes: b"data" },
        Change::Cut { id: DataId(4), keep: 1 },
        Change::Block(BlockRow { ino: Ino(7), index: 9, data: DataId(4), mask: 5, shared: true }),
        Change::DropBlocks { ino: Ino(7), from: 1, until: 20 },
        Change::Xattr { ino: Ino(7), name: &name, value: b"\0value" },
        Change::DropXattr { ino: Ino(7), name: &name },
    ];
    let mut records = Records::default();
    all.iter().for_each(|change| records.change(change));
    records.finish(Seq(11));
    records.bytes_mut()[HEADER..].to_vec()
}

fn pack(blocks: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut builder = PackBuilder::default();
    for (id, bytes) in blocks {
        builder.push(DataId(*id), bytes);
    }
    builder.encode(PackId(3), 1)
}

/// A pack of one block, a byte longer than a block is. Everything else about it is right.
fn longer_block(noise: &[u8]) -> Vec<u8> {
    let content: Vec<u8> = noise.iter().copied().cycle().take(16_385).collect();
    let raw = [&1u64.to_le_bytes()[..], &16_385u32.to_le_bytes(), &content].concat();
    let mut frame = pack(&[]);
    frame[16..20].copy_from_slice(&1u32.to_le_bytes());
    frame[20..24].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    frame[5] = 1;
    frame.truncate(40);
    frame.extend(zstd::bulk::compress(&raw, 1).unwrap());
    repair_pack(&mut frame);
    frame
}

/// The journal up to its first operation, and behind it the seal of a number that has none above it.
fn last_seal(mut journal: Vec<u8>) -> Vec<u8> {
    let end = 4096 + RecordHeader::read(&journal[4096..]).unwrap().record_len();
    journal.truncate(end);
    journal.extend_from_slice(&[0; 8]);
    journal.extend_from_slice(&u64::MAX.to_le_bytes());
    journal.extend_from_slice(&[0, 0, 0, 0, 2, 0, 0, 0]);
    repair(&mut journal);
    journal
}

/// The payloads of the operations in the golden journal.
fn operations(journal: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut found) = (4096, Vec::new());
    while let Some(header) = journal.get(at..).and_then(RecordHeader::read) {
        if header.kind == 0 && !at.is_multiple_of(4096) {
            at = at.next_multiple_of(4096);
            continue;
        }
        let Some(payload) = journal.get(at + HEADER..at + header.record_len()) else { break };
        if header.kind != 1 {
            break;
        }
        found.push(payload.to_vec());
        at += header.record_len();
    }
    found
}

fn bless() {
    write("changes-one-of-every-kind", &every_change());
    let mut real = operations(&golden("session.journal"));
    real.sort_by_key(Vec::len);
    assert!(real.len() > 10);
    for (name, at) in [("smallest", 0), ("middle", real.len() / 2), ("larger", real.len() * 3 / 4)] {
        write(&format!("changes-{name}-of-the-golden-session"), &real[at]);
    }
    write("header-plain", &SegmentHeader::new([7; 16], 3, 0xdead_beef, Seq(9), u64::MAX).encode()[..100]);
    write("header-first-of-the-golden-session", &golden("session.journal")[..100]);
    let words: Vec<u8> = b"words and words ".repeat(200);
    write("pack-two-blocks-compressed", &pack(&[(7, words.clone()), (9, vec![1; 3000])]));
    let mut state = 7u64;
    let noise = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..900).map(noise).collect();
    write("pack-raw-noise", &pack(&[(1, noise[..500].to_vec()), (2, Vec::new()), (3, noise[500..].to_vec())]));
    write("pack-of-nothing", &pack(&[]));
    write("pack-raw-a-block-longer-than-a-block", &longer_block(&noise));
    write("journal-of-the-golden-session", &golden("session.journal"));
    write("journal-with-a-seal-of-the-last-number-there-is", &last_seal(golden("session.journal")));
}

#[test]
fn the_corpus_is_there_and_can_be_made() {
    if std::env::var_os("FUZZ_BLESS").is_some() {
        bless();
    }
    let files = fs::read_dir(corpus_dir()).unwrap().count();
    let known: usize = ["changes", "header", "pack", "journal"].iter().map(|decoder| corpus(decoder).len()).sum();
    assert_eq!(files, known, "every file belongs to a decoder");
    assert!(!corpus("changes")[0].1.is_empty());
    let one = corpus("changes").into_iter().find(|(name, _)| name == "changes-one-of-every-kind").unwrap().1;
    assert!(one == every_change(), "a payload encodes otherwise than when the corpus was made");
}
