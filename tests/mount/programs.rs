//! What programs do: they run from a session, share a database in it, and watch its files.

use std::ffi::CString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::harness::{Session, can_mount};
use crate::process::{self, Peer, eventually};
use crate::sys::errno;

#[test]
#[ignore = "the other process of the tests in this file"]
fn other() {
    let mut opened = None;
    process::serve(|words| {
        match *words {
            ["open-library", path] => return open_library(Path::new(path)),
            ["open-database", path] => opened = Some(database(Path::new(path))),
            ["count"] => return Ok(count(opened.as_ref().unwrap()).to_string()),
            ["add", times] => (0..times.parse().unwrap()).for_each(|_: u32| add_one(opened.as_mut().unwrap())),
            _ => panic!("{words:?}"),
        }
        Ok(String::new())
    });
}

/// A library that this program uses itself, as it is on this machine.
fn library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let is_math = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"libm.so"));
    paths.into_iter().find(is_math)
}

/// Opens it, and calls its `cos`.
fn open_library(path: &Path) -> io::Result<String> {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string, and what it names is the C library's own collection of mathematics, whose `cos` is
    // a function from a double to a double.
    let zero = unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!library.is_null(), "dlopen");
        let cos = libc::dlsym(library, c"cos".as_ptr());
        assert!(!cos.is_null(), "dlsym");
        std::mem::transmute::<*mut libc::c_void, extern "C" fn(f64) -> f64>(cos)(0.0)
    };
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped = maps.lines().filter(|line| line.ends_with(path.to_str().unwrap()) && line.contains("r-xp")).count();
    Ok(format!("cos {zero} mapped {mapped}"))
}

#[test]
fn programs_and_libraries_run_from_a_session() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let (cat, script, library_copy) = (session.path("cat"), session.path("script"), session.path("libcopy.so"));
    fs::copy("/bin/cat", &cat).unwrap();
    fs::write(&script, format!("#!{} -u\nfirst line of input\n", cat.display())).unwrap();
    let library = library();
    if let Some(library) = &library {
        fs::copy(library, &library_copy).unwrap();
    }
    // Everything comes from the store, and nothing from pages that were written here.
    session.remount();
    let denied = Command::new(&script).stdout(Stdio::null()).spawn();
    assert_eq!(errno(denied.map(drop)), libc::EACCES, "no execute permission");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&script).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, fs::read(&script).unwrap(), "a script whose interpreter is in the session, too");

    // A program goes on when its file is replaced, as an update does.
    let mut running =
        Command::new(&cat).arg("-u").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a binary");
    let (mut input, mut output) = (running.stdin.take().unwrap(), BufReader::new(running.stdout.take().unwrap()));
    let mut line = String::new();
    writeln!(input, "before").unwrap();
    output.read_line(&mut line).unwrap();
    // Written by a process that ends: a program that somebody has open for writing cannot be started.
    let update = r"printf '#!/bin/sh\necho updated\n' > update && chmod 755 update";
    assert!(Command::new("sh").args(["-ec", update]).current_dir(session.root()).status().unwrap().success());
    fs::rename(session.path("update"), &cat).unwrap();
    writeln!(input, "after").unwrap();
    output.read_line(&mut line).unwrap();
    drop(input);
    assert!(running.wait().unwrap().success());
    assert_eq!(line, "before\nafter\n");
    assert_eq!(Command::new(&cat).output().unwrap().stdout, b"updated\n");

    if library.is_none() {
        eprintln!("SKIPPED in part: this program has no libm of its own to copy");
        return;
    }
    let mut other = Peer::new("programs::other");
    let said = other.ask(&format!("open-library {}", library_copy.display())).unwrap();
    assert_eq!(said, "cos 1 mapped 1");
    assert!(other.end().success());
}

fn database(path: &Path) -> Connection {
    let database = Connection::open(path).unwrap();
    database.busy_timeout(Duration::from_secs(30)).unwrap();
    let mode: String = database.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal", "SQLite does not find what it needs for a shared index");
    database
        .execute_batch("PRAGMA synchronous = NORMAL; CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
        .unwrap();
    database
}

fn count(database: &Connection) -> i64 {
    database.query_row("SELECT COUNT(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// Adds a row that depends on what all others have added.
fn add_one(database: &mut Connection) {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute("INSERT INTO t SELECT COUNT(*) + 1 FROM t", []).unwrap();
    transaction.commit().unwrap();
}

/// The index of a write-ahead log is mapped memory that two processes share, under locks on byte ranges.
#[test]
fn two_processes_share_a_sqlite_database_in_wal_mode() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("data.db");
    let mut own = database(&path);
    let mut other = Peer::new("programs::other");
    other.ask(&format!("open-database {}", path.display())).unwrap();
    assert!(session.path("data.db-shm").exists());
    // Each sees at once what the other has committed.
    for round in 0..20 {
        add_one(&mut own);
        assert_eq!(other.ask("count").unwrap(), (2 * round + 1).to_string());
        other.ask("add 1").unwrap();
        assert_eq!(count(&own), 2 * round + 2);
    }
    // Both at once, with checkpoints under way and a reader who stays behind.
    let reader = database(&path);
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count(&reader), 40);
    other.tell("add 100");
    for round in 0..100 {
        add_one(&mut own);
        if round % 25 == 0 {
            own.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(0)).unwrap();
        }
    }
    other.answer().unwrap();
    assert_eq!(count(&reader), 40, "a snapshot is a snapshot");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!((count(&reader), count(&own)), (240, 240));
    let busy: i64 = own.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!((busy, session.path("data.db-wal").metadata().unwrap().len()), (0, 0));
    assert!(other.end().success());
    drop((own, reader));
    session.remount();
    let own = Connection::open(&path).unwrap();
    let whole: String = own.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!((whole.as_str(), count(&own)), ("ok", 240));
}

const NODE_WATCHER: &str = r#"
    require("fs").watch(process.argv[1], { recursive: true }, (event, name) => console.log(`${event} ${name}`));
    process.stdin.on("end", () => process.exit()).resume();
    console.log("ready");
"#;

#[test]
fn node_watches_a_tree() {
    if !can_mount() {
        return;
    }
    if !Command::new("node").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no node");
        return;
    }
    let session = Session::new();
    let deep = session.path("src/components/deep");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("old.js"), b"old").unwrap();
    let mut node = Command::new("node");
    node.args(["-e", NODE_WATCHER, "--"]).arg(session.root()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut node = node.spawn().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (output, to) = (node.stdout.take().unwrap(), Arc::clone(&lines));
    let reader = thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).for_each(|line| to.lock().unwrap().push(line));
    });
    let told = |event: &str| lines.lock().unwrap().iter().any(|line| line == event);
    eventually("node has begun", || told("ready"));
    // It says that it is ready before every watch is in place, so each change is made until it is seen.
    eventually("a change of an old file", || {
        fs::write(deep.join("old.js"), b"changed").unwrap();
        told("change src/components/deep/old.js")
    });
    eventually("a new file", || {
        let _ = fs::remove_file(deep.join("new.js"));
        fs::write(deep.join("new.js"), b"new").unwrap();
        told("rename src/components/deep/new.js")
    });
    fs::create_dir_all(session.path("src/added")).unwrap();
    eventually("a change in a new directory", || {
        fs::write(session.path("src/added/file.js"), b"again").unwrap();
        told("change src/added/file.js")
    });
    lines.lock().unwrap().clear();
    fs::remove_file(deep.join("old.js")).unwrap();
    eventually("a file that goes", || told("rename src/components/deep/old.js"));
    // It ends with its input, as it does when this test fails.
    drop(node.stdin.take());
    assert!(node.wait().unwrap().success());
    reader.join().unwrap();
}
