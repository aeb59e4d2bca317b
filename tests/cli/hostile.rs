//! Session directories that somebody else has prepared: each is refused with its code, or does no harm; nothing panics,
//! nothing hangs, and nothing outside of the session and of the destination is touched.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use super::sums::reseal;
use super::support::{BINARY, Bench, text};

/// Seconds that a command may take.
const PATIENCE: &str = "30";

/// What none of these commands may touch.
const OUTSIDE: &str = "outside";
const KEPT: &[u8] = b"somebody else's";

/// A stopped session: `/tree/file`, `/tree/sub/inner`, `/tree/link`. Inodes 2 tree, then in the order of a copy.
fn prepared() -> Bench {
    let bench = Bench::new();
    let tree = bench.empty("tree");
    fs::create_dir(tree.join("sub")).unwrap();
    fs::write(tree.join("file"), b"content").unwrap();
    fs::write(tree.join("sub/inner"), vec![7; 9000]).unwrap();
    symlink("file", tree.join("link")).unwrap();
    bench.ok(&["cp", "tree", "demo:/"]);
    fs::remove_dir_all(tree).unwrap();
    let outside = bench.empty(OUTSIDE);
    fs::write(outside.join("kept"), KEPT).unwrap();
    bench
}

/// Runs a command to its end, and sees to it that it ended by itself, with a code of ours.
#[track_caller]
fn code(bench: &Bench, what: &str, args: &[&str]) -> (i32, String) {
    let mut child = Command::new("timeout")
        .args(["-k", "1", PATIENCE, BINARY])
        .args(args)
        .env("SESSIONFS_STORE", bench.store())
        .current_dir(bench.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    // A file may have 8 EiB of zeros: no more of it is wanted.
    child.stdout.take().unwrap().take(1 << 20).read_to_end(&mut said).unwrap();
    child.stderr.take().unwrap().read_to_end(&mut said).unwrap();
    let (status, said) = (child.wait().unwrap(), text(&said));
    let code = status.code().unwrap_or_else(|| panic!("{what}, {args:?}: {status:?}: {said}"));
    // A wrong command line would show nothing.
    let is_ours = code != 2 && code <= 24 || code == 141;
    assert!(is_ours && !said.contains("panicked"), "{what}, {args:?}: {code}: {said}");
    (code, said)
}

/// Everything in the bench's directory but the store and the destination.
#[track_caller]
fn untouched(bench: &Bench, what: &str) {
    let mut names: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| !["store", "out"].contains(&name.to_str().unwrap()));
    assert_eq!(names, [OUTSIDE], "{what}");
    let inside: Vec<_> = fs::read_dir(bench.path(OUTSIDE)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(inside, ["kept"], "{what}");
    assert_eq!(fs::read(bench.path(OUTSIDE).join("kept")).unwrap(), KEPT, "{what}");
}

/// Names that no session has, with the sums that they would have. `:file`, `:sub` and `:link` are inode numbers.
const NAMES: &[(&str, &str)] = &[
    ("a name with slashes", "UPDATE dentry SET name = CAST('../../outside/kept' AS BLOB) WHERE ino = :file"),
    ("an absolute name", "UPDATE dentry SET name = CAST('/tmp/x' AS BLOB) WHERE ino = :file"),
    ("a name of two dots", "UPDATE dentry SET name = x'2e2e' WHERE ino = :file"),
    ("a directory named two dots", "UPDATE dentry SET name = x'2e2e' WHERE ino = :sub"),
    ("a name of one dot", "UPDATE dentry SET name = x'2e' WHERE ino = :sub"),
    ("an empty name", "UPDATE dentry SET name = x'' WHERE ino = :file"),
    ("a name with a NUL", "UPDATE dentry SET name = x'610062' WHERE ino = :file"),
    ("a name of 256 bytes", "UPDATE dentry SET name = CAST(printf('%.*c', 256, 'x') AS BLOB) WHERE ino = :file"),
    ("a name of 10 MB", "UPDATE dentry SET name = zeroblob(10000000) WHERE ino = :file"),
    ("a directory in itself", "UPDATE dentry SET ino = 2, kind = 4 WHERE ino = :sub"),
    (
        "a ring of directories",
        "INSERT INTO dentry SELECT :sub, x'72', 2, 4, cookie + 50, since, 0 FROM dentry WHERE ino = 2",
    ),
    (
        "a directory of two parents",
        "INSERT INTO dentry SELECT 1, x'72', :sub, 4, cookie + 50, since, 0 FROM dentry WHERE ino = 2",
    ),
    ("a root in a directory", "UPDATE dentry SET ino = 1, kind = 4 WHERE ino = :sub"),
    ("a name of nothing", "UPDATE dentry SET ino = 4000 WHERE ino = :file"),
    ("a file that is a directory in its name", "UPDATE dentry SET kind = 4 WHERE ino = :file"),
];

/// Numbers, links and content likewise.
const VALUES: &[(&str, &str)] = &[
    ("a file of the largest size", "UPDATE inode SET size = 9223372036854775807 WHERE ino = :file"),
    ("a file of 2^62 bytes", "UPDATE inode SET size = 1 << 62 WHERE ino = :file"),
    ("a negative size", "UPDATE inode SET size = -1 WHERE ino = :file"),
    ("a negative owner", "UPDATE inode SET uid = -1 WHERE ino = :file"),
    ("more links than there are", "UPDATE inode SET nlink = 4000000000 WHERE ino = :file"),
    ("a mode of all bits", "UPDATE inode SET mode = 4294967295 WHERE ino = :file"),
    (
        "a link that leads out, through which a file is written",
        "UPDATE inode SET target = CAST('../../outside' AS BLOB), size = 13 WHERE ino = :link;
      UPDATE dentry SET parent = :link WHERE ino = :file",
    ),
    (
        "a link and a directory of one name",
        "UPDATE inode SET target = CAST('../outside' AS BLOB), size = 10 WHERE ino = :link;
      UPDATE dentry SET name = CAST('sub/' AS BLOB) WHERE ino = :link",
    ),
    ("a link with a NUL", "UPDATE inode SET target = x'610062', size = 3 WHERE ino = :link"),
    ("a link of 10 MB", "UPDATE inode SET target = zeroblob(10000000), size = 10000000 WHERE ino = :link"),
    ("a block far behind the end", "UPDATE block SET idx = 1 << 50 WHERE ino = :file"),
    ("content of a huge length", "UPDATE data SET len = 1 << 40"),
    ("content at a negative place", "UPDATE data SET position = -4096"),
    ("a pack that claims to be large", "UPDATE pack SET raw_len = 1 << 40"),
    // The header's raw length (docs/format.md): the frame decodes to less.
    (
        "a pack whose header claims 4 GiB",
        "UPDATE pack SET frame = CAST(substr(frame, 1, 20) || x'ffffffff' || substr(frame, 25) AS BLOB)",
    ),
    ("a huge transaction", "UPDATE superblock SET txid = 9223372036854775807"),
    ("no inode number left", "UPDATE superblock SET next_ino = 9223372036854775807"),
    ("a negative cap", "UPDATE superblock SET bytes_limit = -1"),
];

#[test]
fn hostile_names_lead_nowhere() {
    rows_do_no_harm(NAMES);
}

#[test]
fn hostile_values_do_no_harm() {
    rows_do_no_harm(VALUES);
}

fn rows_do_no_harm(rows: &[(&str, &str)]) {
    let bench = prepared();
    let database = bench.store().join("demo/session.db");
    let whole = fs::read(&database).unwrap();
    let ino = |name: &str| -> i64 {
        let sql = Connection::open(&database).unwrap();
        sql.query_row("SELECT ino FROM dentry WHERE name = CAST(?1 AS BLOB)", [name], |row| row.get(0)).unwrap()
    };
    let [file, sub, link] = ["file", "sub", "link"].map(|name| ino(name).to_string());
    assert_eq!(ino("tree"), 2);
    for (what, statement) in rows {
        fs::write(&database, &whole).unwrap();
        let sql = Connection::open(&database).unwrap();
        let statement = statement.replace(":file", &file).replace(":sub", &sub).replace(":link", &link);
        sql.execute_batch(&statement).unwrap_or_else(|error| panic!("{what}: {error}"));
        reseal(&sql);
        sql.close().unwrap();
        assert!(fs::read(&database).unwrap() != whole, "{what}: changes nothing");
        let (found, said) = code(&bench, what, &["check", "demo"]);
        assert!([8, 9].contains(&found), "{what}: check ends with {found}");
        assert!(said.len() < 100_000, "{what}: check says {} bytes", said.len());
        bench.empty("out");
        for args in [
            &["ls", "demo:/tree"][..],
            &["cat", "demo:/tree/file"],
            &["export", "demo"],
            &["cp", "demo:/tree", "out"],
            &["cp", "demo:/tree", "out"],
        ] {
            code(&bench, what, args);
            untouched(&bench, what);
        }
        fs::remove_dir_all(bench.path("out")).unwrap();
    }
}

#[test]
fn a_foreign_schema_is_refused_and_nothing_of_it_runs() {
    let bench = prepared();
    let database = bench.store().join("demo/session.db");
    let sql = Connection::open(&database).unwrap();
    sql.execute_batch("CREATE TRIGGER evil AFTER UPDATE ON superblock BEGIN DELETE FROM dentry; END").unwrap();
    sql.close().unwrap();
    fs::write(bench.path(OUTSIDE).join("kept"), KEPT).unwrap();
    for args in
        [&["cat", "demo:/tree/file"][..], &["cp", "outside/kept", "demo:/"], &["check", "demo"], &["export", "demo"]]
    {
        bench.fails(args, 8, &["trigger \"evil\" is foreign", "try: sqlite3"]);
    }
    let sql = Connection::open(&database).unwrap();
    sql.execute_batch("DROP TRIGGER evil").unwrap();
    sql.close().unwrap();
    assert_eq!(bench.ok(&["cat", "demo:/tree/file"]), "content");
}

/// Files of a session and of the registry, what somebody puts in their place, and what `cp` into the session says then.
const PLACES: &[(&str, i32)] = &[
    ("demo/session.db", 6),
    ("demo/session.db-wal", 6),
    ("demo/session.db-shm", 6),
    ("demo/session.db-journal", 6),
    ("demo/lock", 16),
    (".registry/demo/entry.json", 16),
    // Logs: nothing depends on them.
    (".registry/demo/events.jsonl", 0),
    (".registry/demo/commands.jsonl", 0),
    (".registry/demo", 16),
    (".registry", 16),
];

#[test]
fn links_and_fifos_in_a_store_are_neither_followed_nor_waited_for() {
    let bench = prepared();
    let at = |place: &str| bench.store().join(place);
    for (place, expected) in PLACES {
        for kind in ["link to a file", "link to a directory", "fifo"] {
            let what = format!("{place}: {kind}");
            let (here, aside) = (at(place), bench.store().join(".aside"));
            let was = fs::rename(&here, &aside).is_ok();
            match kind {
                "link to a file" => symlink(bench.path(OUTSIDE).join("kept"), &here).unwrap(),
                "link to a directory" => symlink(bench.path(OUTSIDE), &here).unwrap(),
                _ => assert!(Command::new("mkfifo").arg(&here).status().unwrap().success()),
            }
            for args in [
                &["ls"][..],
                &["status", "demo"],
                &["check", "demo"],
                &["events", "demo"],
                &["cat", "demo:/tree/file"],
                &["gc", "--dry-run"],
                &["cp", "outside/kept", "demo:/"],
            ] {
                let (found, said) = code(&bench, &what, args);
                untouched(&bench, &what);
                if args[0] == "cp" {
                    assert_eq!(found, *expected, "{what}: {said}");
                }
            }
            remove(&here);
            if was {
                fs::rename(&aside, &here).unwrap();
            }
            assert_eq!(bench.ok(&["cat", "demo:/tree/file"]), "content", "{what}");
        }
    }
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

#[test]
fn a_link_or_fifo_in_the_place_of_the_journal_is_refused() {
    let bench = prepared();
    // As a mount that died has left it.
    let database = bench.store().join("demo/session.db");
    let sql = Connection::open(&database).unwrap();
    sql.execute_batch("UPDATE superblock SET clean = 0").unwrap();
    reseal(&sql);
    sql.close().unwrap();
    let journal = bench.store().join("demo/session.journal");
    symlink(bench.path(OUTSIDE).join("kept"), &journal).unwrap();
    let (found, said) = code(&bench, "link", &["cat", "demo:/tree/file"]);
    assert!(found == 6 && said.contains("not an ordinary file"), "{found}: {said}");
    fs::remove_file(&journal).unwrap();
    assert!(Command::new("mkfifo").arg(&journal).status().unwrap().success());
    let (found, said) = code(&bench, "fifo", &["cat", "demo:/tree/file"]);
    assert!(found == 6 && said.contains("not an ordinary file"), "{found}: {said}");
    untouched(&bench, "journal");
}
