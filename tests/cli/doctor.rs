//! `doctor`: what it says is so, and it leaves nothing behind.

use std::process::{Command, Output};

use serde_json::Value;

use super::support::{BINARY, Bench, fuse, is_root, text};

/// The answer, and the exit status that goes with it.
#[track_caller]
fn report(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)));
    let code = if report["works"] == true { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{report:#}");
    report
}

#[track_caller]
pub fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// The names in a directory, and how many mounts there are.
fn state(bench: &Bench) -> (Vec<std::ffi::OsString>, usize) {
    let mut names: Vec<_> =
        std::fs::read_dir(bench.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let ours = |line: &&str| line.contains(bench.dir.path().to_str().unwrap());
    (names, std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(ours).count())
}

#[test]
fn a_host_that_can_mount_is_told_so() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let before = state(&bench);
    let found = report(&bench.call(&["--json", "doctor"]));
    assert_eq!(found["works"], true, "{found:#}");
    let mount = check(&found, "mount");
    assert_eq!(mount["level"], "ok", "{found:#}");
    assert!(mount["text"].as_str().unwrap().contains("written, synced, read"), "{mount}");
    assert!(check(&found, "store")["text"].as_str().unwrap().contains("can be made"), "{found:#}");
    // The transport is the one that a mount has.
    let at = bench.empty("m");
    let mounted: Value = serde_json::from_str(&bench.ok(&["--json", "mount", "demo", at.to_str().unwrap()])).unwrap();
    let uring = check(&found, "transport")["text"] == "io_uring";
    assert_eq!(mounted["transport"], if uring { "uring" } else { "device" }, "{found:#}");
    bench.ok(&["umount", "demo"]);
    std::fs::remove_dir(at).unwrap();
    assert_eq!(before.1, state(&bench).1);
    let store = || std::fs::read_dir(bench.store()).unwrap().count();
    let sessions = store();
    let people = bench.ok(&["doctor"]);
    assert!(people.contains("a mount works here"), "{people}");
    assert_eq!(store(), sessions, "nothing is left in the store");
    let by_device = bench.command(&["--json", "doctor"]).env("SESSIONFS_TRANSPORT", "device").output().unwrap();
    assert!(check(&report(&by_device), "transport")["text"].as_str().unwrap().contains("as set"));
}

#[test]
fn without_dev_fuse_it_says_what_to_do() {
    if !is_root() {
        eprintln!("SKIPPED: only root can hide /dev/fuse");
        return;
    }
    let bench = Bench::new();
    let within = |prepare: &str| {
        let script = format!("{prepare} && exec {BINARY} --store store --json doctor");
        report(
            &Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(bench.dir.path()).output().unwrap(),
        )
    };
    let found = within("mount -t tmpfs none /dev");
    assert_eq!(found["works"], false);
    let device = check(&found, "device");
    assert_eq!(device["level"], "failure");
    assert!(device["fix"]["docker"].as_str().unwrap().contains("--device /dev/fuse"), "{device}");
    assert!(device["fix"]["kubernetes"].as_str().unwrap().contains("fuse"), "{device}");
    assert_eq!(device["fix"]["host"], "modprobe fuse");
    assert_eq!(check(&found, "mount")["level"], "failure");
    assert_eq!(state(&bench).0.len(), 0, "nothing is left");
}

#[test]
fn a_store_that_cannot_be_used_is_a_failure() {
    let bench = Bench::new();
    std::fs::write(bench.path("file"), b"").unwrap();
    let found = report(&bench.call(&["--json", "--store", "file", "doctor"]));
    assert_eq!(found["works"], false);
    assert_eq!(check(&found, "store")["level"], "failure", "{found:#}");
    let found = report(&bench.call(&["--json", "--store", "/proc/none", "doctor"]));
    assert_eq!(check(&found, "store")["level"], "failure", "{found:#}");
    if is_root() {
        let script = format!("mkdir d && mount -t tmpfs -o size=1m none d && exec {BINARY} --store d/s --json doctor");
        let output =
            Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(bench.dir.path()).output().unwrap();
        let found = report(&output);
        assert_eq!(check(&found, "space")["level"], "failure", "{found:#}");
        assert_eq!(check(&found, "file system")["level"], "warning", "{found:#}");
    }
}

#[test]
fn a_session_of_a_later_version_is_named() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), b"x").unwrap();
    bench.ok(&["cp", "f", "now:/"]);
    bench.ok(&["cp", "f", "later:/"]);
    // The format version is SQLite's user_version, at byte 60.
    bench.patch(&bench.store().join("later/session.db"), 60, &99_u32.to_be_bytes());
    let output = bench.call(&["--json", "doctor"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let versions = check(&found, "versions");
    assert_eq!(versions["level"], "warning", "{found:#}");
    assert!(versions["text"].as_str().unwrap().contains("a later one has written later"), "{versions}");
}
