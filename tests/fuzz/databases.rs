//! Databases with random values in random columns, with the row's checksum as it was or made right again; and with
//! random bytes in their pages.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use crate::decoders::repair_pack;
use crate::harness::Fuzz;
use crate::mutate::{extreme, mutate};
use crate::op::Rng;
use crate::session::{recovered, session, use_all};
use crate::sums::reseal;

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

/// Databases that have gone wrong, in SQL; the sums are made right behind it. Whether it is served is said too.
const FOUND: &[(&str, &str, bool)] = &[
    ("a cookie that leaves no room for the end of a listing", "UPDATE dentry SET cookie = 1 << 43", true),
    ("the next cookie likewise", "UPDATE superblock SET next_cookie = 1 << 43", false),
    ("an inode number above which there is none", "UPDATE superblock SET next_ino = 9223372036854775807", false),
    ("an epoch above which there is none", "UPDATE superblock SET epoch = 9223372036854775807", false),
    ("pieces that no number of bytes is", "UPDATE superblock SET pieces = 9223372036854775807", false),
    ("names of what has no links", "UPDATE inode SET nlink = 0 WHERE ino > 1", true),
    ("fewer inodes and pieces than there are", "UPDATE superblock SET inodes = 0, pieces = 0", true),
];

#[test]
fn databases_that_have_gone_wrong_before() {
    let whole = recovered();
    let mut fuzz = Fuzz::new("rows");
    for (name, statement, served) in FOUND {
        let input = changed(&whole, |sql| {
            sql.execute_batch(statement).unwrap();
            reseal(sql);
        });
        assert!(input != whole, "{name}");
        let (_dir, path) = session(&input, None);
        assert_eq!(fuzz.try_one(name, &input, || use_all(&path)), *served, "{name}");
    }
}
