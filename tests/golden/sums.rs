//! The checksum of the superblock as `docs/format.md` has it, made from the columns as they stand there: for tests that
//! change a column and want only the change to be found.

use rusqlite::Connection;
use sessionfs::format::Canonical;

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
