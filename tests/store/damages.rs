//! Planted damages: each is refused by `open`, or found by `check` under the code that `docs/format.md` gives it.

use std::path::{Path, PathBuf};

use sessionfs::base::limits::BLOCK_SIZE;
use sessionfs::base::{DataId, Ino};
use sessionfs::store::{Store, StoreError, check};

use crate::session::{PACK_BLOCKS, Session, bytes, everything, sql};

/// A closed session with one of everything:
/// inodes 2 dir, 3 file (2 packs), 4 file in 2, 5 symlink in 2, 6 orphan, 7 file that shares a block of 3. Packs: 1
/// full of 3; 2 the rest of 3 and 4, more than half a pack, so that a close leaves it alone; 3 of 6.
fn sample() -> (tempfile::TempDir, PathBuf) {
    let mut session = Session::new();
    let dir = session.dir(Ino::ROOT, "dir");
    let file = session.file(Ino::ROOT, "file");
    for index in 0..PACK_BLOCKS * 3 / 2 {
        session.write(file, index, &bytes(index, BLOCK_SIZE));
    }
    let inner = session.file(dir, "inner");
    session.write(inner, 0, &bytes(9, 5_000));
    session.xattr(inner, "user.a", Some(b"value"), None);
    session.symlink(dir, "link", "../file");
    session.commit();
    let orphan = session.file(Ino::ROOT, "orphan");
    session.write(orphan, 0, &bytes(10, 5_000));
    let copy = session.file(Ino::ROOT, "copy");
    session.share((file, 0), (copy, 0));
    session.allocate(copy, 1);
    session.unlink(Ino::ROOT, "orphan");
    let (dir, _) = session.close();
    let path = dir.path().join("session.db");
    (dir, path)
}

/// Codes that `check` finds, each once.
fn codes(path: &Path) -> Vec<&'static str> {
    let store = Store::open_read_only(path).unwrap();
    let mut last = (0, 0);
    let findings = check(&store, &mut |done, of| {
        assert!(done >= last.0 && done <= of, "{done} of {of} after {last:?}");
        last = (done, of);
    });
    let findings = findings.unwrap();
    assert!(last.0 == last.1 && last.1 > 20);
    assert!(findings.is_sorted());
    let mut codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    codes.dedup();
    codes
}

/// Runs SQL that damages, and gives a superblock that it changed the sum it has then: what is to be found is what the
/// row says, not that it was changed.
fn damage(path: &Path, statement: &str) {
    sql(path, statement);
    if statement.contains("UPDATE superblock") {
        reseal(path);
    }
}

/// The sum of the superblock as `docs/format.md` has it, made from the columns as they stand there.
fn reseal(path: &Path) {
    let row = |query: &str| sql(path, &format!("SELECT {query} FROM superblock"));
    let hex = |column: &str| -> Vec<u8> {
        let text = row(&format!("hex({column})"));
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let mut bytes = vec![b's'];
    let string = |bytes: &mut Vec<u8>, value: &[u8]| {
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(value);
    };
    string(&mut bytes, &hex("uuid"));
    string(&mut bytes, &hex("parent_uuid"));
    let u64s = |bytes: &mut Vec<u8>, columns: &str| {
        for column in columns.split(' ') {
            bytes.extend(row(&format!("coalesce({column}, 0)")).parse::<i64>().unwrap().to_le_bytes());
        }
    };
    u64s(&mut bytes, "parent_txid epoch txid");
    string(&mut bytes, &hex("digest"));
    string(&mut bytes, row("hash_algorithm").as_bytes());
    u64s(&mut bytes, "block_size feature_compat feature_ro_compat feature_incompat");
    u64s(&mut bytes, "next_ino next_data next_pack next_cookie next_seq bytes_limit inodes_limit");
    u64s(&mut bytes, "inodes pieces files dirs bytes");
    for (column, wide) in [
        ("clean", false),
        ("created_s", true),
        ("created_ns", false),
        ("last_active_s", true),
        ("last_active_ns", false),
    ] {
        let value = row(column).parse::<i64>().unwrap();
        bytes.extend(&value.to_le_bytes()[..if wide { 8 } else { 4 }]);
    }
    sql(path, &format!("UPDATE superblock SET sum = {}", xxhash_rust::xxh3::xxh3_64(&bytes) as u32));
}

/// SQL to run on the sample, and the codes it must be found under (others may come along).
const DAMAGES: &[(&str, &[&str])] = &[
    ("UPDATE inode SET mode = 16877 WHERE ino = 3", &["block-kind", "dentry-kind", "digest"]),
    ("UPDATE inode SET mode = 420 WHERE ino = 3", &["inode-mode"]),
    ("UPDATE inode SET mode = 33188 WHERE ino = 1", &["root", "dentry-parent"]),
    ("DELETE FROM inode WHERE ino = 1", &["root", "dentry-parent"]),
    ("DELETE FROM inode WHERE ino = 4", &["dentry-inode", "block-owner", "xattr-owner", "counts"]),
    ("UPDATE inode SET uid = 1 WHERE ino = 3", &["digest"]),
    ("UPDATE inode SET size = size + 1 WHERE ino = 3", &["counts", "digest"]),
    ("UPDATE inode SET size = size + 1 WHERE ino = 2", &["dir-size"]),
    ("UPDATE inode SET size = -1 WHERE ino = 3", &["row-value"]),
    ("UPDATE inode SET uid = 4294967296 WHERE ino = 3", &["row-value"]),
    ("UPDATE inode SET mtime_ns = 1000000000 WHERE ino = 3", &["time-valid"]),
    ("UPDATE inode SET nlink = 2 WHERE ino = 3", &["file-nlink"]),
    ("UPDATE inode SET nlink = 3 WHERE ino = 2", &["dir-nlink"]),
    ("UPDATE inode SET nlink = 0 WHERE ino = 3", &["dentry-orphan", "orphan", "digest"]),
    ("UPDATE inode SET nlink = 1 WHERE ino = 6", &["orphan", "file-nlink", "unreachable"]),
    ("DELETE FROM orphan", &["orphan"]),
    ("INSERT INTO orphan VALUES (3), (99)", &["orphan"]),
    ("UPDATE inode SET pieces = pieces + 1 WHERE ino = 3", &["inode-pieces", "counts"]),
    ("UPDATE inode SET pieces = 1 WHERE ino = 5", &["inode-pieces"]),
    ("UPDATE inode SET attached = 1 WHERE ino = 4", &["inode-attached"]),
    ("UPDATE inode SET target = NULL WHERE ino = 5", &["symlink-target"]),
    ("UPDATE inode SET target = x'61' WHERE ino = 3", &["symlink-target"]),
    ("UPDATE inode SET target = x'6161' WHERE ino = 5", &["symlink-size"]),
    ("UPDATE inode SET since = 99 WHERE ino = 3", &["since"]),
    ("UPDATE dentry SET parent = 3 WHERE name = x'696e6e6572'", &["dentry-parent"]),
    ("UPDATE dentry SET parent = 77 WHERE name = x'696e6e6572'", &["dentry-parent", "unreachable"]),
    ("UPDATE dentry SET ino = 1 WHERE name = x'646972'", &["dentry-root"]),
    ("UPDATE dentry SET parent = 2 WHERE name = x'646972'", &["unreachable"]),
    ("UPDATE dentry SET kind = 10 WHERE ino = 3", &["dentry-kind"]),
    ("UPDATE dentry SET kind = 3 WHERE ino = 3", &["dentry-kind"]),
    ("UPDATE dentry SET name = x'612f62' WHERE ino = 3", &["name-valid"]),
    ("UPDATE dentry SET name = x'2e2e' WHERE ino = 3", &["name-valid"]),
    ("UPDATE dentry SET name = zeroblob(300) WHERE ino = 3", &["row-value"]),
    ("UPDATE dentry SET cookie = 1", &["dentry-cookie"]),
    ("UPDATE dentry SET cookie = 1000 WHERE ino = 3", &["next-ids"]),
    ("INSERT INTO dentry VALUES (2, x'64', 2, 4, 50, 1, 0)", &["dir-names", "dir-nlink"]),
    ("DELETE FROM dentry WHERE ino = 3", &["unreachable", "file-nlink", "dir-size"]),
    ("UPDATE block SET mask = 0 WHERE ino = 4", &["block-mask"]),
    ("UPDATE block SET mask = 1 << (SELECT block_size / 4096 FROM superblock) WHERE ino = 4", &["block-mask"]),
    ("UPDATE block SET mask = 1 WHERE ino = 4", &["inode-pieces", "digest"]),
    ("UPDATE block SET idx = 5 WHERE ino = 4", &["digest"]),
    ("UPDATE block SET shared = 0 WHERE ino = 7", &["block-shared"]),
    ("UPDATE block SET data_id = 2 WHERE ino = 4", &["block-shared", "data-unused", "digest"]),
    ("UPDATE block SET data_id = 99 WHERE ino = 4", &["block-data"]),
    ("UPDATE block SET ino = 2 WHERE ino = 4", &["block-kind"]),
    ("DELETE FROM block WHERE ino = 4", &["data-unused", "inode-pieces", "digest"]),
    ("UPDATE xattr SET value = x'76616c7566'", &["digest"]),
    ("UPDATE xattr SET name = zeroblob(6)", &["name-valid"]),
    ("UPDATE xattr SET ino = 1000", &["xattr-owner"]),
    ("DELETE FROM xattr", &["inode-attached", "digest"]),
    ("UPDATE inode SET sum = (sum + 1) % 4294967296 WHERE ino = 3", &["row-sum"]),
    ("UPDATE inode SET sum = sum + 4294967296 WHERE ino = 3", &["row-value"]),
    ("DELETE FROM data WHERE id = 1", &["block-data"]),
    ("UPDATE data SET len = len - 1 WHERE id = (SELECT data_id FROM block WHERE ino = 4)", &["data-place"]),
    ("UPDATE data SET position = 4000000 WHERE id = (SELECT data_id FROM block WHERE ino = 4)", &["data-place"]),
    ("UPDATE data SET hash = hash + 1 WHERE id = (SELECT data_id FROM block WHERE ino = 4)", &["data-hash", "digest"]),
    ("UPDATE data SET pack = 99 WHERE id = (SELECT data_id FROM block WHERE ino = 4)", &["data-pack"]),
    ("UPDATE data SET pack = -3 WHERE id = (SELECT data_id FROM block WHERE ino = 4)", &["row-value"]),
    ("DELETE FROM pack WHERE id = 1", &["data-pack"]),
    ("UPDATE pack SET codec = 1 - codec WHERE id = 1", &["pack-header"]),
    ("UPDATE pack SET raw_len = 7 WHERE id = 1", &["pack-header"]),
    ("UPDATE pack SET id = 50 WHERE id = 1", &["pack-header", "data-pack", "pack-dead", "next-ids"]),
    ("UPDATE pack SET frame = substr(frame, 1, 100) WHERE id = 1", &["pack-frame"]),
    ("UPDATE pack SET frame = zeroblob(1000) WHERE id = 1", &["pack-frame"]),
    ("INSERT INTO pack SELECT 4, codec, raw_len, frame FROM pack WHERE id = 1", &["pack-dead", "pack-header"]),
    ("UPDATE superblock SET digest = zeroblob(16)", &["digest", "txn"]),
    ("UPDATE superblock SET txid = 1", &["since", "txn"]),
    ("UPDATE superblock SET files = 9", &["counts"]),
    ("UPDATE superblock SET next_ino = 4", &["next-ids"]),
    ("UPDATE superblock SET next_seq = 1", &["next-ids"]),
    ("UPDATE superblock SET feature_compat = 4", &["features"]),
    ("DELETE FROM txn", &["txn"]),
    ("INSERT INTO block_history VALUES (3, 0, 1, 1, 1, 1, 2, 0)", &["history"]),
    ("INSERT INTO checkpoint VALUES (1, 'later', 99, zeroblob(16), 0, 0)", &["history"]),
    // One page for two indexes. What the schema says in words is looked at before (foreign.rs).
    (
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage =
        (SELECT rootpage FROM sqlite_schema WHERE name = 'block_history_shared') WHERE name = 'block_shared'",
        &["sqlite"],
    ),
];

#[test]
fn every_planted_damage_is_found_under_its_code() {
    let (dir, path) = sample();
    assert_eq!(codes(&path), [""; 0], "the sample itself is whole");
    let hurt = dir.path().join("hurt.db");
    for (statement, expected) in DAMAGES {
        std::fs::copy(&path, &hurt).unwrap();
        let before = std::fs::read(&hurt).unwrap();
        damage(&hurt, statement);
        assert_ne!(std::fs::read(&hurt).unwrap(), before, "{statement}: changes nothing");
        let found = codes(&hurt);
        for code in *expected {
            assert!(found.contains(code), "{statement}: expected {code}, found {found:?}");
        }
        read_all(&hurt);
    }
}

#[test]
fn a_changed_column_without_its_sum_is_found_in_every_table() {
    // The row, and a changed value for each column the sum covers.
    let tables: &[(&str, &str, &[&str])] = &[
        (
            "inode",
            "ino = 4",
            &[
                "ino = 60",
                "mode = mode | 2",
                "uid = uid + 1",
                "gid = gid + 1",
                "nlink = 2",
                "rdev = 1",
                "size = size + 1",
                "pieces = pieces + 1",
                "attached = attached + 1",
                "atime_s = atime_s + 1",
                "atime_ns = atime_ns + 1",
                "mtime_s = mtime_s + 1",
                "mtime_ns = mtime_ns + 1",
                "ctime_s = ctime_s + 1",
                "ctime_ns = ctime_ns + 1",
                "btime_s = btime_s + 1",
                "btime_ns = btime_ns + 1",
                "target = x'61'",
            ],
        ),
        ("dentry", "ino = 4", &["parent = 1", "name = x'61'", "ino = 3", "kind = 10", "cookie = cookie + 100"]),
        ("block", "ino = 4", &["ino = 3, idx = 70", "idx = 1", "data_id = 1", "mask = 1", "shared = 1"]),
        ("xattr", "ino = 4", &["ino = 3", "name = x'757365722e62'", "value = x'61'"]),
    ];
    let (dir, path) = sample();
    let hurt = dir.path().join("hurt.db");
    for (table, row, changes) in tables {
        let columns = sql(&path, &format!("SELECT group_concat(name) FROM pragma_table_info('{table}')"));
        let changed = |column: &&str| changes.iter().any(|change| change.starts_with(&format!("{column} =")));
        let left: Vec<&str> = columns.split(',').filter(|column| !changed(column)).collect();
        assert!(left.iter().all(|column| ["since", "sum", "ino", "idx"].contains(column)), "{table}: {left:?}");
        for change in *changes {
            std::fs::copy(&path, &hurt).unwrap();
            let damage = format!("UPDATE {table} SET {change} WHERE {row}");
            assert_eq!(sql(&hurt, &format!("{damage}; SELECT changes()")), "1", "{damage}");
            let found = codes(&hurt);
            assert!(found.contains(&"row-sum"), "{damage}: {found:?}");
        }
    }
    // What nothing but the sum covers.
    for damage in [
        "UPDATE inode SET atime_s = 5 WHERE ino = 4",
        "UPDATE block SET shared = 1 WHERE ino = 4",
        "UPDATE dentry SET cookie = cookie + 1 WHERE parent = 2 AND name = x'6c696e6b'",
    ] {
        std::fs::copy(&path, &hurt).unwrap();
        sql(&hurt, damage);
        assert_eq!(codes(&hurt), ["row-sum"], "{damage}");
    }
}

/// Reads everything; damage may be met, a panic may not.
fn read_all(path: &Path) {
    let Ok(store) = Store::open_read_only(path) else { return };
    for ino in (0..10).map(Ino) {
        let _ = (store.inode(ino), store.directory(ino), store.xattrs(ino));
        for block in store.blocks(ino).unwrap_or_default() {
            let _ = store.data(block.data);
        }
    }
}

#[test]
fn a_damaged_database_can_be_written_to_without_a_panic() {
    let (dir, path) = sample();
    for (at, (statement, _)) in DAMAGES.iter().enumerate() {
        let hurt = dir.path().join(format!("hurt-{at}"));
        std::fs::create_dir(&hurt).unwrap();
        let file = hurt.join("session.db");
        std::fs::copy(&path, &file).unwrap();
        damage(&file, statement);
        let Ok((store, mut writer)) = Store::open(&file) else { continue };
        let mut txn = sessionfs::format::Transaction::default();
        for ino in 2..9 {
            txn.apply(sessionfs::format::Change::DropInode(Ino(ino)));
        }
        let next = store.superblock().unwrap().next;
        let _ = writer.reap_orphans();
        let _ = writer.commit(&txn, next);
        while writer.maintain(std::time::Duration::from_millis(100)).unwrap_or(false) {}
        let _ = writer.close();
    }
}

#[test]
fn what_open_refuses_is_left_as_it_was() {
    type Expected = fn(&StoreError) -> bool;
    let refused: &[(&str, Expected)] = &[
        ("PRAGMA application_id = 7", |error| matches!(error, StoreError::NotOurs(_))),
        ("PRAGMA user_version = 0", |error| matches!(error, StoreError::NotOurs(_))),
        ("PRAGMA user_version = 2", |error| matches!(error, StoreError::Newer { found: 2, known: 1, .. })),
        ("UPDATE superblock SET feature_incompat = 8", |error| matches!(error, StoreError::Features { flags: 8, .. })),
        ("UPDATE superblock SET block_size = 4096", |error| matches!(error, StoreError::Unsupported { .. })),
        ("UPDATE superblock SET hash_algorithm = 'blake3'", |error| matches!(error, StoreError::Unsupported { .. })),
        ("DELETE FROM superblock", |error| matches!(error, StoreError::Damaged(_))),
        ("UPDATE superblock SET txid = -1", |error| matches!(error, StoreError::Damaged(_))),
        ("UPDATE superblock SET digest = x'00'", |error| matches!(error, StoreError::Damaged(_))),
        ("UPDATE superblock SET created_ns = -1", |error| matches!(error, StoreError::Damaged(_))),
        ("DROP TABLE superblock", |error| matches!(error, StoreError::Schema { .. })),
    ];
    let (dir, path) = sample();
    let hurt = dir.path().join("hurt.db");
    for (damage, expected) in refused {
        std::fs::copy(&path, &hurt).unwrap();
        sql(&hurt, damage);
        let before = std::fs::read(&hurt).unwrap();
        for error in [Store::open(&hurt).unwrap_err(), Store::open_read_only(&hurt).unwrap_err()] {
            assert!(expected(&error), "{damage}: {error:?}");
        }
        assert_eq!(std::fs::read(&hurt).unwrap(), before, "{damage}: written to");
    }
    // What forbids only writing.
    std::fs::copy(&path, &hurt).unwrap();
    damage(&hurt, "UPDATE superblock SET feature_ro_compat = 2");
    assert!(matches!(Store::open(&hurt), Err(StoreError::Features { flags: 2, .. })));
    assert_eq!(codes(&hurt), ["features"]);
}

#[test]
fn a_changed_superblock_is_refused_whatever_was_changed() {
    let (dir, path) = sample();
    let hurt = dir.path().join("hurt.db");
    let columns = sql(&path, "SELECT group_concat(name) FROM pragma_table_info('superblock')");
    // The first is the key. Of the others each gets another value of the range it has.
    for column in columns.split(',').skip(1) {
        let change = match column {
            "uuid" | "digest" => format!("zeroblob(length({column}))"),
            "parent_uuid" => "zeroblob(16), parent_txid = 0".to_owned(),
            // Without the UUID it says nothing, and is not looked at.
            "parent_txid" => continue,
            "hash_algorithm" => "'blake3'".to_owned(),
            "clean" => "1 - clean".to_owned(),
            _ => format!("{column} + 1"),
        };
        std::fs::copy(&path, &hurt).unwrap();
        let changed = sql(&hurt, &format!("UPDATE superblock SET {column} = {change}; SELECT changes()"));
        assert_eq!(changed, "1", "{column}");
        let before = std::fs::read(&hurt).unwrap();
        for error in [Store::open(&hurt).unwrap_err(), Store::open_read_only(&hurt).unwrap_err()] {
            let layout = ["hash_algorithm", "block_size"].contains(&column);
            let feature = ["feature_ro_compat", "feature_incompat"].contains(&column);
            match error {
                StoreError::Damaged(text) => assert!(text.contains("superblock"), "{column}: {text}"),
                StoreError::Unsupported { .. } => assert!(layout, "{column}"),
                StoreError::Features { .. } => assert!(feature, "{column}"),
                other => panic!("{column}: {other:?}"),
            }
        }
        assert_eq!(std::fs::read(&hurt).unwrap(), before, "{column}: written to");
    }
}

#[test]
fn a_superblock_that_does_not_fit_the_tables_is_not_written_on() {
    let (dir, path) = sample();
    let hurt = dir.path().join("hurt.db");
    for (statement, named) in [
        ("UPDATE superblock SET next_ino = 7", "next_ino is 7, but there is inode 7"),
        ("UPDATE superblock SET next_data = 2", "next_data is 2"),
        ("UPDATE superblock SET next_pack = 1", "next_pack is 1"),
        ("UPDATE superblock SET txid = txid - 1", "at transaction 1"),
        ("UPDATE superblock SET next_seq = 1", "next_seq 1,"),
        ("UPDATE superblock SET digest = zeroblob(16)", "or with another digest"),
        ("DELETE FROM txn", "ends with no transaction"),
        ("DELETE FROM txn WHERE txid = (SELECT max(txid) FROM txn)", "ends with transaction 1,"),
    ] {
        std::fs::copy(&path, &hurt).unwrap();
        damage(&hurt, statement);
        let before = std::fs::read(&hurt).unwrap();
        match Store::open(&hurt).unwrap_err() {
            StoreError::Damaged(text) => assert!(text.contains(named), "{statement}: {text}"),
            other => panic!("{statement}: {other:?}"),
        }
        assert_eq!(std::fs::read(&hurt).unwrap(), before, "{statement}: written to");
        // What is there can still be looked at, and `check` says what is wrong with it.
        assert!(!codes(&hurt).is_empty(), "{statement}");
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let (_dir, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 4_096, 16_384, 50_000, whole.len() / 2, whole.len() - 100] {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        for error in [Store::open(&path).unwrap_err(), Store::open_read_only(&path).unwrap_err()] {
            assert!(matches!(error, StoreError::Cut { .. }), "{cut} bytes less: {error:?}");
        }
    }
    for left in [0, 1, 99, 100] {
        std::fs::write(&path, &whole[..left]).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Cut { .. })), "{left} bytes");
    }
}

#[test]
fn a_flipped_byte_in_a_pack_spares_all_other_files() {
    let (_dir, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    let in_pack = [0, PACK_BLOCKS, PACK_BLOCKS / 2 + 1];
    let all = in_pack.iter().sum::<u64>() + 1;
    // In a header's id; in a payload, in the page of its row and far behind it.
    for (pack, at) in [(1, 8), (1, 120), (1, 70_000), (2, 45)] {
        std::fs::write(&path, flipped(&path, &whole, pack, at)).unwrap();
        assert_eq!(codes(&path), ["pack-frame"], "byte {at} of pack {pack}");
        let store = Store::open_read_only(&path).unwrap();
        let failed = (1..=all).filter(|id| matches!(store.data(DataId(*id)), Err(StoreError::Damaged(_)))).count();
        let fine = (1..=all).filter(|id| matches!(store.data(DataId(*id)), Ok(Some(_)))).count();
        assert_eq!((failed as u64, failed + fine), (in_pack[pack as usize], all as usize));
        std::fs::write(&path, &whole).unwrap();
    }
}

/// The database with one bit of byte `at` of a pack's frame flipped. The frames lie in the file as they are, page by
/// page; a free page may hold an old copy, so the place is the one that changes what SQLite reads.
fn flipped(path: &Path, whole: &[u8], pack: u64, at: usize) -> Vec<u8> {
    let frame = |from: usize, len| {
        sql(path, &format!("SELECT hex(substr(frame, {}, {len})) FROM pack WHERE id = {pack}", from + 1))
    };
    let hex = frame(at, 24);
    let wanted: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    assert_eq!(wanted.len(), 24);
    for (found, _) in whole.windows(24).enumerate().filter(|(_, bytes)| *bytes == wanted) {
        let mut bad = whole.to_owned();
        bad[found] ^= 0x10;
        std::fs::write(path, &bad).unwrap();
        let read = frame(at, 24);
        std::fs::write(path, whole).unwrap();
        if read != hex {
            return bad;
        }
    }
    panic!("byte {at} of pack {pack} is not in the file");
}

#[test]
fn a_random_flip_is_noticed_or_changes_nothing_and_never_panics() {
    let (_dir, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    let mut state = 42u64;
    let before = everything(&Store::open_read_only(&path).unwrap());
    for _ in 0..400 {
        let mut bad = whole.clone();
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (state >> 33) as usize % bad.len();
        bad[at] ^= 1 << (state & 7);
        std::fs::write(&path, &bad).unwrap();
        read_all(&path);
        // Most of so small a database is free space inside its pages, where a flip hurts nobody.
        match Store::open_read_only(&path) {
            Ok(store) if check(&store, &mut |_, _| ()).is_ok_and(|found| found.is_empty()) => {
                assert_eq!(everything(&store), before, "bit {} of byte {at}", state & 7);
            }
            Ok(_) => {}
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn every_documented_invariant_has_a_planted_damage() {
    let docs = include_str!("../../docs/format.md");
    let table = docs.split("\n## Invariants").nth(1).unwrap();
    let documented: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split(", "))
        .map(|code| code.trim_matches('`'))
        .collect();
    assert!(documented.len() > 40);
    let planted: Vec<&str> = DAMAGES.iter().flat_map(|(_, codes)| codes.iter().copied()).collect();
    for code in &documented {
        // A broken superblock is refused by `open` already; a table that breaks off is what a cut file has.
        assert!(planted.contains(code) || ["superblock", "unreadable"].contains(code), "{code}: no damage planted");
    }
    for code in planted {
        assert!(documented.contains(&code), "{code}: not documented");
    }
}
