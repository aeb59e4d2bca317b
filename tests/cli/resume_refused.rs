//! What is put in the place of a stopped session, or of one whose server died, and is not that session: each is refused
//! with its own code, by every command that would use it, nothing is changed by that, and the right files resume.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use super::support::{Bench, alive, eventually, fuse, kill, text};

/// The session of the table, and what has to do with it.
struct Lab {
    bench: Bench,
}

/// What is done to it, the exit code that follows, and what the message says.
type Case = (&'static str, fn(&Lab), i32, &'static str);

impl Lab {
    /// `demo` with the files `one`, `two` and `three`, stopped after each. `older-1` and `older-2` are its database
    /// after the first and the second; `branch` is the second with another third, made in another store; `other` is
    /// another session.
    fn stopped() -> Lab {
        let lab = Lab { bench: Bench::new() };
        for (at, name) in ["one", "two", "three"].into_iter().enumerate() {
            fs::write(lab.bench.path(name), name.repeat(1_000 + at)).unwrap();
        }
        lab.bench.ok(&["cp", "one", "demo:/"]);
        lab.keep("older-1");
        lab.bench.ok(&["cp", "two", "demo:/"]);
        lab.keep("older-2");
        lab.bench.ok(&["cp", "three", "demo:/"]);
        lab.bench.ok(&["cp", "two", "other:/"]);
        fs::create_dir_all(lab.bench.path("elsewhere/demo")).unwrap();
        fs::copy(lab.bench.path("older-2"), lab.bench.path("elsewhere/demo/session.db")).unwrap();
        for to in ["demo:/three", "demo:/four", "demo:/five"] {
            lab.bench.ok(&["--store", "elsewhere", "cp", "one", to]);
        }
        fs::copy(lab.bench.path("elsewhere/demo/session.db"), lab.bench.path("branch")).unwrap();
        lab
    }

    /// The same, and then a server that has committed `four`, acknowledged `five`, and died.
    fn killed() -> Lab {
        let lab = Lab::stopped();
        let bench = &lab.bench;
        lab.keep("at-stop");
        let at = bench.empty("m");
        for (session, name) in [("other", "six"), ("demo", "zero"), ("demo", "four")] {
            bench.ok(&["mount", session, at.to_str().unwrap()]);
            fs::write(at.join(name), name).unwrap();
            bench.ok(&["sync", session]);
            fs::write(at.join("five"), "five").unwrap();
            let pid = bench.pid(session);
            kill(pid, libc::SIGKILL);
            eventually("the server is dead", || !alive(pid));
            eventually("the mount is dead", || fs::File::create(at.join("probe")).is_err());
            bench.ok(&["umount", at.to_str().unwrap()]);
            if name == "zero" {
                fs::copy(lab.dir().join("session.journal"), bench.path("older.journal")).unwrap();
            }
        }
        lab
    }

    fn dir(&self) -> PathBuf {
        self.bench.store().join("demo")
    }

    fn database(&self) -> PathBuf {
        self.dir().join("session.db")
    }

    fn keep(&self, name: &str) {
        fs::copy(self.database(), self.bench.path(name)).unwrap();
    }

    fn put(&self, name: &str) {
        fs::copy(self.bench.path(name), self.database()).unwrap();
    }

    fn cut(&self, to: impl FnOnce(u64) -> u64) {
        let file = OpenOptions::new().write(true).open(self.database()).unwrap();
        file.set_len(to(file.metadata().unwrap().len())).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir().join(name)).unwrap();
    }

    /// Flips a bit of a byte.
    fn flip(&self, at: usize) {
        let byte = fs::read(self.database()).unwrap()[at];
        self.bench.patch(&self.database(), at as u64, &[byte ^ 0x40]);
    }

    /// Where the session database has its UUID: in the row of the superblock.
    fn superblock(&self) -> usize {
        let uuid = self.bench.status("demo")["uuid"].as_str().unwrap().replace('-', "");
        let uuid: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&uuid[2 * i..2 * i + 2], 16).unwrap()).collect();
        let bytes = fs::read(self.database()).unwrap();
        bytes.windows(16).position(|window| window == uuid).unwrap()
    }

    fn registry(&self) -> PathBuf {
        self.bench.store().join(".registry/demo/entry.json")
    }
}

/// Everything below a directory but the locks, which say who was there last.
fn files(at: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let Ok(entries) = fs::read_dir(at) else { return all };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            all.extend(files(&path));
        } else if name != "lock" && !name.ends_with("-shm") && !name.starts_with("daemon.log") {
            all.push((path.clone(), fs::read(&path).unwrap_or_default()));
        }
    }
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.path().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Of a session that was stopped.
const STOPPED: &[Case] = &[
    ("the copy of the stop before", |lab| lab.put("older-2"), 22, "what came after is missing"),
    ("the copy of the first stop", |lab| lab.put("older-1"), 22, "what came after is missing"),
    ("a copy that went another way", |lab| lab.put("branch"), 22, "another transaction"),
    (
        "another session's",
        |lab| {
            fs::copy(lab.bench.store().join("other/session.db"), lab.database()).unwrap();
        },
        22,
        "another session's",
    ),
    ("no session.db", |lab| lab.remove("session.db"), 22, "session.db is missing"),
    (
        "an empty directory",
        |lab| {
            fs::remove_dir_all(lab.dir()).unwrap();
            fs::create_dir(lab.dir()).unwrap();
        },
        22,
        "session.db is missing",
    ),
    ("no directory", |lab| fs::remove_dir_all(lab.dir()).unwrap(), 22, "session.db is missing"),
    (
        "a link that leads nowhere",
        |lab| {
            lab.remove("session.db");
            std::os::unix::fs::symlink("/nowhere", lab.database()).unwrap();
        },
        22,
        "session.db is missing",
    ),
    ("an empty file", |lab| lab.cut(|_| 0), 22, "truncated"),
    ("1 byte", |lab| lab.cut(|_| 1), 22, "truncated"),
    ("15 bytes", |lab| lab.cut(|_| 15), 22, "truncated"),
    ("16 bytes", |lab| lab.cut(|_| 16), 22, "truncated"),
    ("99 bytes", |lab| lab.cut(|_| 99), 22, "truncated"),
    ("the header alone", |lab| lab.cut(|_| 100), 22, "truncated"),
    ("half a page", |lab| lab.cut(|_| 2_048), 22, "truncated"),
    ("a page", |lab| lab.cut(|_| 4_096), 22, "truncated"),
    ("a third", |lab| lab.cut(|length| length / 3), 22, "truncated"),
    ("half", |lab| lab.cut(|length| length / 2), 22, "truncated"),
    ("a page less", |lab| lab.cut(|length| length - 4_096), 22, "truncated"),
    ("a byte less", |lab| lab.cut(|length| length - 1), 22, "truncated"),
    ("a text", |lab| fs::write(lab.database(), "a text, and no database\n".repeat(500)).unwrap(), 6, "not a session"),
    ("zeros", |lab| fs::write(lab.database(), vec![0; 100_000]).unwrap(), 6, "not a session"),
    (
        "a directory",
        |lab| {
            lab.remove("session.db");
            fs::create_dir(lab.database()).unwrap();
        },
        6,
        "not an ordinary file",
    ),
    ("a flipped bit in the first bytes", |lab| lab.flip(3), 6, "not a session"),
    ("a flipped bit in the application's id", |lab| lab.flip(69), 6, "not a session"),
    ("a newer version", |lab| lab.bench.patch(&lab.database(), 60, &[0, 0, 0x7f, 0xff]), 7, "newer"),
    ("a flipped bit in the UUID", |lab| lab.flip(lab.superblock()), 8, "superblock"),
    ("a flipped bit in the superblock behind it", |lab| lab.flip(lab.superblock() + 20), 8, "superblock"),
    ("a flipped bit in the first page", |lab| lab.flip(100), 8, "damaged"),
    ("an empty registry entry", |lab| fs::write(lab.registry(), "").unwrap(), 16, "entry.json"),
    ("half a registry entry", |lab| fs::write(lab.registry(), "{\"settings\": {").unwrap(), 16, "entry.json"),
    ("a registry entry of another kind", |lab| fs::write(lab.registry(), "[1, 2]").unwrap(), 16, "entry.json"),
];

/// Of a session whose server was killed.
const KILLED: &[Case] = &[
    ("no WAL", |lab| lab.remove("session.db-wal"), 22, "what came after is missing"),
    (
        "neither WAL nor journal",
        |lab| {
            lab.remove("session.db-wal");
            lab.remove("session.journal");
        },
        22,
        "what came after is missing",
    ),
    (
        "the database of the last stop, without a WAL",
        |lab| {
            lab.remove("session.db-wal");
            lab.put("at-stop");
        },
        22,
        "what came after is missing",
    ),
    ("no journal", |lab| lab.remove("session.journal"), 21, "it is missing"),
    ("an empty journal", |lab| fs::write(lab.dir().join("session.journal"), "").unwrap(), 21, "no segment"),
    (
        "the journal of another session",
        |lab| {
            let other = lab.bench.store().join("other/session.journal");
            fs::copy(other, lab.dir().join("session.journal")).unwrap();
        },
        21,
        "do not belong together",
    ),
    (
        "the journal of the mount before",
        |lab| {
            fs::copy(lab.bench.path("older.journal"), lab.dir().join("session.journal")).unwrap();
        },
        21,
        "it is of mount",
    ),
    ("no session.db, and the rest is there", |lab| lab.remove("session.db"), 22, "session.db is missing"),
];

/// Every case of a table, each on a copy of one session.
fn each(lab: &Lab, table: &[Case], found: &dyn Fn(&Bench)) {
    let store = lab.bench.store();
    let whole = lab.bench.path("whole");
    copy(&store, &whole);
    for (name, change, code, word) in table {
        println!("{name}");
        change(lab);
        let before = files(&lab.dir());
        lab.bench.fails(&["cat", "demo:/one"], *code, &[word, "try: "]);
        lab.bench.fails(&["cp", "one", "demo:/new"], *code, &[word]);
        lab.bench.fails(&["ls", "demo:/"], *code, &[word]);
        let said = lab.bench.call(&["--json", "cat", "demo:/one"]);
        let said: serde_json::Value = serde_json::from_slice(&said.stderr).unwrap();
        assert_eq!(*code == 22, said["code"] == "resume_incomplete", "{name}: {said}");
        if *code == 22 {
            let hint = said["hint"].as_str().unwrap();
            assert!(hint.contains("sessionfs accept demo") || hint.contains("sessionfs rm demo"), "{name}: {hint}");
            let last: serde_json::Value =
                serde_json::from_str(&lab.bench.ok(&["--json", "events", "--last", "1", "demo"])).unwrap();
            assert!(
                last[0]["event"] == "refused" && last[0]["error"].as_str().unwrap().contains(word),
                "{name}: {last}"
            );
        }
        // SQLite makes an empty WAL where there is none and should be one.
        let mut after = files(&lab.dir());
        after.retain(|(path, bytes)| !(path.ends_with("session.db-wal") && bytes.is_empty()));
        assert!(after == before, "{name}: something was changed");
        // Back to what it was; the registry keeps what it has seen, unless that is what was changed.
        let entry = fs::read(whole.join(".registry/demo/entry.json")).unwrap();
        let _ = fs::remove_dir_all(lab.dir());
        copy(&whole.join("demo"), &lab.dir());
        if *code == 16 {
            fs::write(lab.registry(), &entry).unwrap();
        }
        assert_eq!(fs::read(lab.registry()).unwrap(), entry, "{name}: a refusal changes no witness");
        found(&lab.bench);
        let _ = fs::remove_dir_all(lab.dir());
        copy(&whole.join("demo"), &lab.dir());
        fs::write(lab.registry(), entry).unwrap();
    }
}

#[test]
fn what_is_not_the_stopped_session_is_refused_and_the_right_file_resumes() {
    let lab = Lab::stopped();
    assert!(STOPPED.len() >= 30);
    each(&lab, STOPPED, &|bench| {
        assert_eq!(bench.ok(&["cat", "demo:/three"]), "three".repeat(1_002));
        assert_eq!(bench.ok(&["ls", "demo:/"]).lines().count(), 3);
        bench.ok(&["check", "demo"]);
    });
}

#[test]
fn what_is_not_the_session_that_died_is_refused_and_the_right_files_recover() {
    if !fuse() {
        return;
    }
    let lab = Lab::killed();
    each(&lab, KILLED, &|bench| {
        assert_eq!(bench.ok(&["cat", "demo:/four"]), "four");
        assert_eq!(bench.ok(&["cat", "demo:/five"]), "five");
        bench.ok(&["check", "demo"]);
    });
}

#[test]
fn what_was_refused_can_be_accepted() {
    let lab = Lab::stopped();
    let bench = &lab.bench;
    for (name, files) in [("older-2", 2), ("branch", 5)] {
        lab.put(name);
        bench.fails(&["cat", "demo:/one"], 22, &["sessionfs accept demo"]);
        let checked = bench.call(&["check", "demo"]);
        assert!(
            checked.status.code() == Some(9) && text(&checked.stdout).contains("witness: its session.db"),
            "{checked:?}"
        );
        assert!(bench.status("demo")["failed"].as_str().unwrap().contains("the store has seen"));
        let said: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "accept", "demo"])).unwrap();
        assert!(said["instead"].is_string() && said["files"] == files, "{said}");
        assert_eq!(bench.ok(&["ls", "demo:/"]).lines().count(), files);
        // Once is enough, and twice no harm.
        assert!(bench.ok(&["accept", "demo"]).contains("is what was last seen of it"));
        // From here it goes on, and another way than the other copy went.
        bench.ok(&["cp", "three", "demo:/"]);
    }
    let events = bench.ok(&["events", "demo"]);
    assert_eq!(events.matches("accepted as it is").count(), 2, "{events}");
    // There is nothing to go on with.
    lab.cut(|_| 0);
    bench.fails(&["accept", "demo"], 22, &["sessionfs rm demo"]);
    bench.ok(&["rm", "demo"]);
    bench.ok(&["cp", "one", "demo:/"]);
    assert_eq!(bench.ok(&["ls", "demo:/"]).lines().count(), 1);
    fs::remove_dir_all(lab.dir()).unwrap();
    bench.fails(&["status", "demo"], 22, &["session.db is missing"]);
    let listed = bench.ok(&["ls"]);
    assert!(listed.contains("demo") && listed.contains("no session database there"), "{listed}");
    bench.ok(&["rm", "demo"]);
    bench.fails(&["status", "demo"], 4, &["no session demo"]);
    let events = bench.ok(&["events", "demo"]);
    assert_eq!(events.matches("removed by rm").count(), 2, "{events}");
}

#[test]
fn a_discarded_journal_is_the_last_commit_and_no_older_database() {
    if !fuse() {
        return;
    }
    let lab = Lab::killed();
    let bench = &lab.bench;
    lab.remove("session.journal");
    let wal = fs::read(lab.dir().join("session.db-wal")).unwrap();
    lab.remove("session.db-wal");
    bench.fails(&["discard-journal", "demo"], 22, &["what came after is missing"]);
    fs::write(lab.dir().join("session.db-wal"), wal).unwrap();
    bench.fails(&["cat", "demo:/four"], 21, &["sessionfs discard-journal demo"]);
    bench.ok(&["discard-journal", "demo"]);
    assert_eq!(bench.ok(&["cat", "demo:/four"]), "four");
    assert!(bench.ok(&["events", "demo"]).contains("journal given up"));
}

#[test]
fn a_session_brought_from_another_store_is_adopted() {
    let lab = Lab::stopped();
    let bench = &lab.bench;
    fs::create_dir_all(bench.store().join("moved")).unwrap();
    fs::copy(lab.database(), bench.store().join("moved/session.db")).unwrap();
    assert_eq!(bench.ok(&["cat", "moved:/two"]), "two".repeat(1_001));
    assert!(bench.ok(&["events", "moved"]).contains("adopted moved: 3 files"));
    // From now on it is known here, and a later state of it from there is as good.
    fs::create_dir_all(bench.path("far/demo")).unwrap();
    fs::copy(bench.store().join("moved/session.db"), bench.path("far/demo/session.db")).unwrap();
    bench.ok(&["--store", "far", "cp", "one", "demo:/more"]);
    fs::copy(bench.path("far/demo/session.db"), bench.store().join("moved/session.db")).unwrap();
    assert_eq!(bench.ok(&["ls", "moved:/"]).lines().count(), 4);
    fs::copy(lab.database(), bench.store().join("moved/session.db")).unwrap();
    bench.fails(&["cat", "moved:/two"], 22, &["what came after is missing"]);
}

#[test]
fn run_and_mount_refuse_too_and_expect_what_was_promised() {
    if !fuse() {
        return;
    }
    let lab = Lab::stopped();
    let bench = &lab.bench;
    let at = bench.empty("m");
    let at = at.to_str().unwrap();
    lab.keep("right");
    lab.put("older-2");
    bench.fails(&["mount", "demo", at], 22, &["what came after is missing"]);
    let run = bench.command(&["--json", "run", "--mount", at, "demo", "--", "true"]).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&run.stderr).unwrap();
    assert_eq!((run.status.code(), said["code"].as_str()), (Some(125), Some("resume_incomplete")), "{said}");
    lab.put("right");
    bench.fails(
        &["mount", "--expect", "one", "--expect", "/none", "--expect", "gone/x", "demo", at],
        22,
        &["it has no /none, gone/x", "without --expect"],
    );
    bench.fails(&["mount", "--expect", "x", "new", at], 22, &["it has no x"]);
    bench.fails(&["status", "new"], 4, &[]);
    bench.ok(&["mount", "--expect", "one", "--expect", "/three", "demo", at]);
    bench.ok(&["umount", "demo"]);
}

#[test]
fn verification_finds_what_a_look_at_the_last_commit_does_not() {
    if !fuse() {
        return;
    }
    let lab = Lab::stopped();
    let bench = &lab.bench;
    let at = bench.empty("m");
    let at = at.to_str().unwrap();
    bench.ok(&["mount", "--verify", "demo", at]);
    assert_eq!(bench.status("demo")["verified"], "ok");
    bench.ok(&["umount", "demo"]);
    assert!(bench.ok(&["events", "demo"]).contains("verified at transaction"));
    let bytes = fs::read(lab.database()).unwrap();
    // In the content of a file: packs are compressed, so it is looked for by trying.
    let hurt = (bytes.len() / 4..bytes.len()).step_by(509).find(|&at| {
        lab.flip(at);
        let found = bench.call(&["check", "demo"]).status.code() == Some(9);
        if !found {
            lab.flip(at);
        }
        found
    });
    assert!(hurt.is_some());
    let refused = bench.call(&["mount", "--verify", "demo", at]);
    assert_eq!(refused.status.code(), Some(8), "{}", text(&refused.stderr));
    assert_eq!(bench.status("demo")["verified"], "failed");
    assert!(bench.ok(&["events", "demo"]).contains("damaged at transaction"));
}
