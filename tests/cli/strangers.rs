//! Another user of the host: what they can reach of a session, its mount and its socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::support::{BINARY, Bench, fuse, is_root, text};

const NOBODY: &str = "65534";

/// A session of ours, mounted at `m`, in a directory that everybody may look into and write to. None where nobody else
/// can be had.
fn ours(options: &[&str]) -> Option<Bench> {
    if !is_root() || !fuse() {
        eprintln!("SKIPPED: only root can become somebody else");
        return None;
    }
    let bench = Bench::new();
    mode(bench.dir.path(), 0o777);
    // The build's directory may be root's alone.
    fs::copy(BINARY, bench.path("sessionfs")).unwrap();
    fs::write(bench.path("f"), b"private\n").unwrap();
    bench.ok(&["cp", "f", "demo:/"]);
    bench.empty("m");
    bench.ok(&[&["mount"], options, &["demo", "m"]].concat());
    Some(bench)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a script as nobody.
fn as_nobody(bench: &Bench, script: &str) -> Output {
    Command::new("timeout")
        .args(["-k", "1", "30", "setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .args(["sh", "-c", script])
        .env("SESSIONFS_STORE", bench.store())
        .env("HOME", "/nonexistent")
        .current_dir(bench.dir.path())
        .output()
        .unwrap()
}

#[track_caller]
fn refused(bench: &Bench, script: &str) -> String {
    let output = as_nobody(bench, script);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(!output.status.success() && output.status.code() != Some(124), "{script}: {:?}: {said}", output.status);
    // Not because it could not be tried.
    assert!(
        ![2, 124, 126, 127].contains(&output.status.code().unwrap()) || !script.contains("sessionfs"),
        "{script}: {said}"
    );
    assert!(!said.contains("private"), "{script}: {said}");
    said
}

/// Everything that nobody may try on a session that is not theirs.
const ATTEMPTS: &[&str] = &[
    "ls store",
    "ls store/demo",
    "cat store/demo/session.db",
    "cat store/demo/lock",
    "cat store/.registry/demo/entry.json",
    "touch store/planted",
    "mkdir store/planted",
    "ln -s /etc store/demo/scratch",
    "mv store/demo store/other",
    "flock -n store/demo/lock true",
    "ls m",
    "cat m/f",
    "stat m/f",
    "touch m/planted",
    "umount m",
    "umount -l m",
    "./sessionfs status demo",
    "./sessionfs cat demo:/f",
    "./sessionfs export demo",
    "./sessionfs cp f demo:/planted",
    "./sessionfs check demo",
    "./sessionfs events demo",
    "./sessionfs log demo",
    "./sessionfs du demo",
    "./sessionfs metrics demo",
    "./sessionfs trace --count 1 demo",
    "./sessionfs exec demo -- cat f",
    "./sessionfs setup demo --key f -- cat f",
    "./sessionfs umount demo",
    "./sessionfs umount m",
    "./sessionfs umount --lazy demo",
    "./sessionfs run --mount m demo -- cat f",
    "./sessionfs mount demo m",
    "./sessionfs rm demo",
    "./sessionfs pin demo",
    "./sessionfs ls",
];

#[track_caller]
fn still_whole(bench: &Bench) {
    assert_eq!(bench.status("demo")["mounted"], true);
    assert_eq!(fs::read(bench.path("m/f")).unwrap(), b"private\n");
    assert_eq!(bench.ok(&["ls", "demo:/"]).lines().count(), 1, "{}", bench.ok(&["ls", "demo:/"]));
}

#[test]
fn another_user_reaches_nothing() {
    let Some(bench) = ours(&[]) else { return };
    for attempt in ATTEMPTS {
        refused(&bench, attempt);
    }
    still_whole(&bench);
    bench.ok(&["umount", "demo"]);
    // Stopped, it is as closed.
    for attempt in ATTEMPTS.iter().filter(|attempt| attempt.contains("store") || attempt.starts_with("./")) {
        refused(&bench, attempt);
    }
    assert_eq!(bench.ok(&["cat", "demo:/f"]), "private\n");
}

#[test]
fn the_socket_asks_who_it_is() {
    let Some(bench) = ours(&[]) else { return };
    // As careless as an owner can be: the way to the socket stands open.
    let session = bench.store().join("demo");
    mode(&bench.store(), 0o755);
    mode(&session, 0o755);
    mode(&session.join("control.sock"), 0o666);
    mode(&session.join("lock"), 0o644);
    let said = refused(&bench, "./sessionfs cat demo:/f");
    assert!(said.contains("not your session"), "{said}");
    for attempt in [
        "./sessionfs umount demo",
        "./sessionfs resize demo --size 2G",
        "./sessionfs cp f demo:/planted",
        "./sessionfs exec demo -- cat f",
        "./sessionfs trace --count 1 demo",
    ] {
        refused(&bench, attempt);
    }
    // A lock that may be read cannot be taken.
    refused(&bench, "flock -n -x store/demo/lock true && ./sessionfs umount demo");
    still_whole(&bench);
    bench.ok(&["umount", "demo"]);
}

#[test]
fn with_allow_other_modes_decide_and_set_id_and_devices_do_nothing() {
    let Some(bench) = ours(&["--allow-other"]) else { return };
    let at = |name: &str| bench.path("m").join(name);
    mode(&at("f"), 0o644);
    assert!(as_nobody(&bench, "cat m/f").status.success(), "this is what --allow-other is for");
    mode(&at("f"), 0o600);
    refused(&bench, "cat m/f");
    fs::copy("/usr/bin/id", at("id")).unwrap();
    mode(&at("id"), 0o6755);
    let output = as_nobody(&bench, "m/id -u; m/id -g");
    assert_eq!(text(&output.stdout), format!("{NOBODY}\n{NOBODY}\n"), "{}", text(&output.stderr));
    for (name, device) in [("zero", "c 1 5"), ("fuse", "c 10 229")] {
        let made = format!("mknod -m 666 m/{name} {device}");
        assert!(Command::new("sh").args(["-c", &made]).current_dir(bench.dir.path()).status().unwrap().success());
        // Not for root either.
        assert_eq!(fs::File::open(at(name)).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "{name}");
        refused(&bench, &format!("head -c 1 m/{name}"));
    }
    // And the store is as closed as before.
    refused(&bench, "ls store");
    refused(&bench, "./sessionfs status demo");
    bench.ok(&["umount", "demo"]);
}
