//! The checksums of rows as `docs/format.md` has them, made from the columns as they stand there: for tests that change a
//! column and want only the change to be found.

use rusqlite::{Connection, params};
use sessionfs::base::{Cookie, DataId, FileKind, Ino, Timestamp};
use sessionfs::format::{BlockRow, Canonical, DentryRow, InodeRow, RowSum, XattrRow};

/// Gives the superblock the sum that its columns have now.
pub fn reseal_superblock(sql: &Connection) {
    let number = |column: &str| -> u64 {
        let query = format!("SELECT coalesce({column}, 0) FROM superblock");
        sql.query_row(&query, [], |row| row.get::<_, i64>(0)).unwrap_or_default().cast_unsigned()
    };
    let bytes = |column: &str| -> Vec<u8> {
        let query = format!("SELECT CAST({column} AS BLOB) FROM superblock");
        sql.query_row(&query, [], |row| row.get::<_, Option<Vec<u8>>>(0)).unwrap().unwrap_or_default()
    };
    let all = |row: Canonical, columns: &[&str]| columns.iter().fold(row, |row, column| row.u64(number(column)));
    let row = Canonical::new(b's').bytes(&bytes("uuid")).bytes(&bytes("parent_uuid"));
    let row = all(row, &["parent_txid", "epoch", "txid"]).bytes(&bytes("digest")).bytes(&bytes("hash_algorithm"));
    let row = all(row, &["block_size", "feature_compat", "feature_ro_compat", "feature_incompat"]);
    let row = all(row, &["next_ino", "next_data", "next_pack", "next_cookie", "next_seq", "bytes_limit"]);
    let row = all(row, &["inodes_limit", "inodes", "pieces", "files", "dirs", "bytes"]);
    let row = row.u32(number("clean") as u32);
    let row = row.u64(number("created_s")).u32(number("created_ns") as u32);
    let row = row.u64(number("last_active_s")).u32(number("last_active_ns") as u32);
    sql.execute("UPDATE superblock SET sum = ?1", [row.sum()]).unwrap();
}

/// Gives the rows of all tables the sums that their columns have now. Values that no row can have keep their old sum:
/// they are refused before it is looked at.
pub fn reseal(sql: &Connection) {
    reseal_superblock(sql);
    let inodes =
        "SELECT ino, mode, uid, gid, nlink, rdev, size, pieces, attached, atime_s, atime_ns, mtime_s, mtime_ns,
        ctime_s, ctime_ns, btime_s, btime_ns, target FROM inode";
    each(sql, inodes, |row| {
        let number = |at| row.get::<_, i64>(at).unwrap_or_default();
        let time = |at| Timestamp { secs: number(at), nanos: number(at + 1) as u32 };
        let inode = InodeRow {
            ino: Ino(number(0) as u64),
            mode: number(1) as u32,
            uid: number(2) as u32,
            gid: number(3) as u32,
            nlink: number(4) as u32,
            rdev: number(5) as u32,
            size: number(6) as u64,
            pieces: number(7) as u64,
            attached: number(8) as u32,
            atime: time(9),
            mtime: time(11),
            ctime: time(13),
            btime: time(15),
            target: row.get::<_, Option<Vec<u8>>>(17).unwrap_or_default().unwrap_or_default().into(),
        };
        sql.execute("UPDATE inode SET sum = ?1 WHERE ino = ?2", params![inode.sum(), number(0)])
    });
    each(sql, "SELECT parent, name, ino, kind, cookie FROM dentry", |row| {
        let number = |at| row.get::<_, i64>(at).unwrap_or_default();
        let name: Vec<u8> = row.get(1).unwrap_or_default();
        let kind = FileKind::from_code(number(3) as u32).unwrap_or(FileKind::Regular);
        let (parent, ino, cookie) = (Ino(number(0) as u64), Ino(number(2) as u64), Cookie(number(4) as u64));
        let sum = DentryRow { parent, name: name.as_slice().into(), ino, kind, cookie }.sum();
        sql.execute("UPDATE dentry SET sum = ?1 WHERE parent = ?2 AND name = ?3", params![sum, number(0), name])
    });
    each(sql, "SELECT ino, idx, data_id, mask, shared FROM block", |row| {
        let number = |at| row.get::<_, i64>(at).unwrap_or_default();
        let sum = BlockRow {
            ino: Ino(number(0) as u64),
            index: number(1) as u64,
            data: DataId(number(2) as u64),
            mask: number(3) as u64,
            shared: number(4) != 0,
        }
        .sum();
        sql.execute("UPDATE block SET sum = ?1 WHERE ino = ?2 AND idx = ?3", params![sum, number(0), number(1)])
    });
    each(sql, "SELECT ino, name, value FROM xattr", |row| {
        let (ino, name): (i64, Vec<u8>) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
        let value: Vec<u8> = row.get(2).unwrap_or_default();
        let sum = XattrRow { ino: Ino(ino as u64), name: name.as_slice().into(), value: value.into() }.sum();
        sql.execute("UPDATE xattr SET sum = ?1 WHERE ino = ?2 AND name = ?3", params![sum, ino, name])
    });
}

fn each(sql: &Connection, query: &str, run: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<usize>) {
    let mut query = sql.prepare(query).unwrap();
    let mut rows = query.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        run(row).unwrap();
    }
}
