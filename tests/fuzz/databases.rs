//! Databases with random values in random columns, with the row's checksum as it was or made right again; and with
//! random bytes in their pages.

use rusqlite::types::Value;
use rusqlite::{Connection, params};
use sessionfs::base::{Cookie, DataId, FileKind, Ino, Timestamp};
use sessionfs::format::{BlockRow, DentryRow, InodeRow, RowSum, XattrRow};

use crate::decoders::repair_pack;
use crate::harness::Fuzz;
use crate::mutate::{extreme, mutate};
use crate::op::Rng;
use crate::session::{recovered, session, use_all};
use crate::sums::reseal_superblock;

const TABLES: [&str; 9] = ["superblock", "txn", "inode", "dentry", "block", "data", "pack", "xattr", "orphan"];

/// Puts a random value into a random column of a random row of a table. False when a constraint forbids it.
fn damage(sql: &Connection, rng: &mut Rng, table: &str) -> bool {
    let column = |rng: &mut Rng| -> (String, String) {
        let mut query = sql.prepare(&format!("SELECT name, type FROM pragma_table_info('{table}')")).unwrap();
        let all: Vec<_> =
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        all[rng.below(all.len() as u64) as usize].clone()
    };
    let keys: String = sql
        .query_row(
            &format!("SELECT coalesce(group_concat(name), 'rowid') FROM pragma_table_info('{table}') WHERE pk > 0"),
            [],
            |row| row.get(0),
        )
        .unwrap();
    let rows: i64 = sql.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    if rows == 0 {
        return false;
    }
    let at = rng.below(rows as u64);
    let (name, kind) = column(rng);
    let old: Value =
        sql.query_row(&format!("SELECT {name} FROM {table} LIMIT 1 OFFSET {at}"), [], |row| row.get(0)).unwrap();
    let new = match (kind.as_str(), old) {
        _ if rng.below(10) == 0 => Value::Null,
        ("INTEGER", Value::Integer(old)) => Value::Integer(match rng.below(4) {
            0 => old.wrapping_add(1),
            1 => old.wrapping_sub(1),
            2 => old ^ 1 << rng.below(63),
            _ => extreme(rng).cast_signed(),
        }),
        ("INTEGER", _) => Value::Integer(extreme(rng).cast_signed()),
        (_, Value::Blob(mut bytes)) => {
            mutate(rng, &mut bytes, &[]);
            if table == "pack" && rng.below(2) == 0 {
                repair_pack(&mut bytes);
            }
            Value::Blob(bytes)
        }
        ("TEXT", _) => Value::Text("other".into()),
        _ => Value::Blob(vec![rng.next() as u8; rng.below(70_000) as usize]),
    };
    let update =
        format!("UPDATE {table} SET {name} = ?1 WHERE ({keys}) = (SELECT {keys} FROM {table} LIMIT 1 OFFSET {at})");
    sql.execute(&update, params![new]).is_ok()
}

/// Gives the rows of all tables the sums that their columns have now. Values that no row can have keep their old sum:
/// they are refused before it is looked at.
fn reseal(sql: &Connection) {
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

/// Damages databases until the time is over, and uses them. Some must be refused, and some served.
fn fuzz(name: &'static str, damage: impl Fn(&mut Rng, &[u8]) -> Vec<u8>) {
    let whole = recovered();
    let mut fuzz = Fuzz::new(name);
    let (mut inputs, mut served) = (0u64, 0u64);
    while fuzz.goes_on() {
        let input = damage(&mut fuzz.rng, &whole);
        let (_dir, path) = session(&input, None);
        served += u64::from(fuzz.try_one("a damaged database", &input, || use_all(&path)));
        inputs += 1;
    }
    println!("{name}: {inputs} inputs, {served} served");
    assert!(served > 0 && served < inputs, "{served} of {inputs}");
}

/// The database after SQL has changed it.
fn changed(whole: &[u8], change: impl FnOnce(&Connection)) -> Vec<u8> {
    let (_dir, path) = session(whole, None);
    let sql = Connection::open(&path).unwrap();
    change(&sql);
    drop(sql);
    std::fs::read(path).unwrap()
}

#[test]
fn resealing_an_undamaged_database_changes_nothing() {
    let whole = recovered();
    let sums = |database: &[u8]| {
        let (_dir, path) = session(database, None);
        let sql = Connection::open(path).unwrap();
        let all = "SELECT group_concat(sum) FROM (SELECT sum FROM superblock UNION ALL SELECT sum FROM inode UNION ALL
            SELECT sum FROM dentry UNION ALL SELECT sum FROM block UNION ALL SELECT sum FROM xattr)";
        sql.query_row(all, [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(sums(&whole), sums(&changed(&whole, reseal)));
}

#[test]
fn rows_with_random_values() {
    fuzz("rows", |rng, whole| {
        changed(whole, |sql| {
            for _ in 0..1 + rng.below(2) {
                let table = TABLES[rng.below(TABLES.len() as u64) as usize];
                while !damage(sql, rng, table) && table != "orphan" {}
            }
            if rng.below(3) > 0 {
                reseal(sql);
            }
        })
    });
}

#[test]
fn pages_with_random_bytes() {
    fuzz("pages", |rng, whole| {
        let mut bytes = whole.to_vec();
        mutate(rng, &mut bytes, &[]);
        bytes
    });
}
