//! IDs, layout, permissions, and the commands that need no mount.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::support::{Bench, eventually, fuse};

#[test]
fn directories_are_0700_and_files_0600_whatever_the_umask() {
    let bench = Bench::new();
    let file = bench.path("f");
    std::fs::write(&file, b"x").unwrap();
    let binary = super::support::BINARY;
    let script = format!("umask 0; {binary} cp f demo:/");
    let status = bench.command(&[]).get_program().to_owned();
    assert_eq!(status, binary);
    let done = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("SESSIONFS_STORE", bench.store())
        .current_dir(bench.dir.path())
        .status()
        .unwrap();
    assert!(done.success());
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.store()), 0o700);
    assert_eq!(mode(&bench.store().join("demo")), 0o700);
    for entry in std::fs::read_dir(bench.store().join("demo")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn the_longest_id_works_everywhere() {
    let bench = Bench::new();
    let id = format!("Z.{}", "x".repeat(253));
    std::fs::write(bench.path("f"), b"long").unwrap();
    bench.ok(&["cp", "f", &format!("{id}:/f")]);
    assert_eq!(bench.ok(&["cat", &format!("{id}:/f")]), "long");
    if fuse() {
        let mount = bench.empty("m");
        bench.ok(&["mount", &id, mount.to_str().unwrap()]);
        assert_eq!(bench.ok(&["cat", &format!("{id}:/f")]), "long");
        assert!(bench.status(&id)["mounted"].as_bool().unwrap());
        bench.ok(&["umount", &id]);
    }
    bench.ok(&["rm", &id]);
    let left = || std::fs::read_dir(bench.store()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left().all(|name| name == ".registry"), "{:?}", left().collect::<Vec<_>>());
}

#[test]
fn status_and_ls_have_what_programs_rely_on() {
    let bench = Bench::new();
    assert_eq!(bench.ok(&["--json", "ls"]).trim(), "[]");
    std::fs::write(bench.path("f"), vec![1; 5000]).unwrap();
    bench.ok(&["cp", "--size", "2M", "--inodes", "77", "f", "demo:/"]);
    let status = bench.status("demo");
    for field in [
        "session",
        "mounted",
        "pid",
        "mountpoint",
        "bytes_used",
        "bytes_limit",
        "inodes_used",
        "inodes_limit",
        "txid",
        "last_active",
        "uuid",
        "files",
        "dirs",
        "database_bytes",
        "dirty_bytes",
    ] {
        assert!(status.get(field).is_some(), "{field} is missing in {status}");
    }
    assert_eq!(status["bytes_limit"], 2 << 20);
    assert_eq!(status["inodes_limit"], 77);
    assert_eq!(status["files"], 1);
    assert_eq!(status["mounted"], false);
    assert!(status["pid"].is_null());
    let list: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "ls"])).unwrap();
    assert_eq!(list[0]["session"], "demo");
    assert!(bench.ok(&["ls"]).contains("demo"));
    // The cap of a session that is there is changed when it is opened with another.
    bench.ok(&["cp", "--size", "4M", "f", "demo:/g"]);
    assert_eq!(bench.status("demo")["bytes_limit"], 4 << 20);
}

#[test]
fn a_crashed_creation_is_no_session_and_no_obstacle() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.store().join("half")).unwrap();
    std::fs::write(bench.store().join("half/lock"), b"").unwrap();
    assert_eq!(bench.ok(&["--json", "ls"]).trim(), "[]");
    bench.fails(&["status", "half"], 4, &["no session half"]);
    std::fs::write(bench.path("f"), b"x").unwrap();
    bench.ok(&["cp", "f", "half:/"]);
    assert_eq!(bench.ok(&["cat", "half:/f"]), "x");
}

#[test]
fn rm_takes_everything_and_says_how_much() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), b"x").unwrap();
    for session in ["a", "b"] {
        bench.ok(&["cp", "f", &format!("{session}:/")]);
    }
    let output = bench.call(&["rm", "a", "none", "b"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(super::support::text(&output.stderr).contains("no session none"));
    bench.fails(&["rm", "a"], 4, &["no session a"]);
    let left: Vec<_> = std::fs::read_dir(bench.store()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".registry"], "the others are removed all the same");
}

#[test]
fn help_man_and_completions_work_without_a_store() {
    let bench = Bench::new();
    let help = bench.ok(&["--help"]);
    assert!(help.contains("Exit status") && help.contains("sessionfs run ticket-8421"), "{help}");
    assert!(bench.ok(&["man"]).contains(".TH"));
    assert!(bench.ok(&["man", "run"]).contains("grace"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(bench.ok(&["completions", shell]).contains("sessionfs"));
    }
    assert!(!bench.store().exists(), "nothing is made by looking");
}

#[test]
fn check_is_clean_after_a_copy() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), vec![7; 300_000]).unwrap();
    bench.ok(&["cp", "f", "demo:/"]);
    let answer: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "check", "demo"])).unwrap();
    assert_eq!(answer["ok"], true);
    assert!(bench.store().join("demo/session.db").metadata().unwrap().size() > 0);
}

/// A session whose server was killed with work in its journal.
fn killed(bench: &Bench) {
    let at = bench.empty("m");
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    std::fs::write(at.join("file"), b"acknowledged").unwrap();
    let pid = bench.pid("demo");
    super::support::kill(pid, libc::SIGKILL);
    eventually("the server is dead", || !super::support::alive(pid));
    // The kernel ends the connection a moment after the last descriptor went.
    eventually("the mount is dead", || std::fs::File::create(at.join("probe")).is_err());
}

#[test]
fn a_session_whose_server_died_is_recovered_by_whatever_uses_it_next() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    killed(&bench);
    let status = bench.status("demo");
    assert_eq!(status["clean"], false);
    assert!(status["recovery"]["operations"].as_u64().unwrap() >= 2, "{status}");
    let check: serde_json::Value = serde_json::from_str(&bench.ok(&["check", "--json", "demo"])).unwrap();
    assert!(check["ok"].as_bool().unwrap() && check["in_journal"].as_u64().unwrap() >= 2, "{check}");
    assert_eq!(bench.ok(&["cat", "demo:/file"]), "acknowledged");
    let status = bench.status("demo");
    assert!(status["clean"].as_bool().unwrap() && status["recovery"].is_null(), "{status}");
    bench.ok(&["umount", bench.path("m").to_str().unwrap()]);

    killed(&bench);
    assert!(bench.ok(&["sync", "demo"]).contains("1 files"));
    assert_eq!(bench.status("demo")["clean"], true);
    bench.ok(&["umount", bench.path("m").to_str().unwrap()]);
}

#[test]
fn a_lost_journal_is_an_error_with_a_way_on() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    killed(&bench);
    std::fs::remove_file(bench.store().join("demo/session.journal")).unwrap();
    bench.fails(&["cat", "demo:/file"], 21, &["session.journal: it is missing", "sessionfs discard-journal demo"]);
    assert_eq!(bench.call(&["check", "demo"]).status.code(), Some(9));
    assert!(bench.status("demo")["failed"].as_str().unwrap().contains("missing"));
    bench.ok(&["discard-journal", "demo"]);
    bench.ok(&["ls", "demo:/"]);
    bench.ok(&["check", "demo"]);
    bench.ok(&["umount", bench.path("m").to_str().unwrap()]);
}
