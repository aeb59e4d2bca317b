use super::*;
use crate::base::{Cookie, DataId, FileKind, Ino, Name, Timestamp};
use crate::format::{BlockRow, DentryRow, InodeRow};

fn row() -> InodeRow {
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

/// A payload with a change of every kind, and what it should say.
fn sample() -> (Records, Vec<String>) {
    let inode = row();
    let name: Name = b"\x01\xffname".as_slice().into();
    let dentry =
        DentryRow { parent: Ino(1), name: name.clone(), ino: Ino(7), kind: FileKind::Symlink, cookie: Cookie(3) };
    let block = BlockRow { ino: Ino(7), index: 1 << 40, data: DataId(0), mask: 5, shared: true };
    let all = [
        Change::Inode(&inode),
        Change::DropInode(Ino(8)),
        Change::Dentry(&dentry),
        Change::DropDentry { parent: Ino(1), name: &name },
        Change::NewData { id: DataId(4), base: DataId(2), keep: 16384, bytes: &[] },
        Change::Fill { id: DataId(4), at: 16380, bytes: b"data" },
        Change::Cut { id: DataId(4), keep: 1 },
        Change::Block(block),
        Change::DropBlocks { ino: Ino(7), from: 1, until: u64::MAX },
        Change::Xattr { ino: Ino(7), name: &name, value: b"\0value" },
        Change::DropXattr { ino: Ino(7), name: &name },
    ];
    let mut records = Records::default();
    all.iter().for_each(|change| records.change(change));
    records.finish(Seq(11));
    (records, all.iter().map(|change| format!("{change:?}")).collect())
}

fn decoded(payload: &[u8]) -> Result<Vec<String>, RecordError> {
    let mut seen = Vec::new();
    changes(payload, |change| {
        seen.push(format!("{change:?}"));
        Ok::<_, RecordError>(())
    })?;
    Ok(seen)
}

#[test]
fn every_change_comes_back_as_it_was() {
    let (mut records, expected) = sample();
    let bytes = records.bytes_mut();
    let header = RecordHeader::read(bytes).unwrap();
    assert_eq!((header.seq, header.kind(), header.record_len()), (Seq(11), Some(RecordKind::Operation), bytes.len()));
    assert_eq!(decoded(&bytes[HEADER..]).unwrap(), expected);
}

#[test]
fn a_payload_cut_anywhere_is_an_error_or_a_shorter_list() {
    let (mut records, expected) = sample();
    let payload = &records.bytes_mut()[HEADER..];
    for end in 0..payload.len() {
        if let Ok(list) = decoded(&payload[..end]) {
            assert_eq!(list, expected[..list.len()]);
        }
    }
}

#[test]
fn a_checksum_is_believed_only_behind_its_predecessor() {
    let (mut records, _) = sample();
    let bytes = records.bytes_mut();
    let check = record_check(bytes, 1);
    assert_ne!(check, record_check(bytes, 2));
    bytes[HEADER] ^= 1;
    assert_ne!(check, record_check(bytes, 1));
}

#[test]
fn seals_stand_between_operations() {
    let mut records = Records::default();
    records.change(&Change::DropInode(Ino(3)));
    records.finish(Seq(5));
    records.seal(Seq(5));
    records.finish(Seq(6)); // Nothing was changed, so nothing is written.
    let bytes = records.bytes_mut();
    let first = RecordHeader::read(bytes).unwrap();
    let second = RecordHeader::read(&bytes[first.record_len()..]).unwrap();
    assert_eq!((second.kind(), second.seq, second.len), (Some(RecordKind::Seal), Seq(5), 0));
    assert_eq!(bytes.len(), first.record_len() + HEADER);
}
