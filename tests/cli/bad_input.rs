//! Everything that can be wrong from outside: a message one can act on, and its own exit code.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::support::{BINARY, Bench, fuse, is_root, text};

/// A session with a small and a large file, stopped.
fn session(bench: &Bench) -> std::path::PathBuf {
    std::fs::write(bench.path("small"), b"small file\n").unwrap();
    // Bytes that do not compress, so that the file's packs are where the database's bytes are.
    let mut state = 1u64;
    let noise: Vec<u8> = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    std::fs::write(bench.path("large"), noise).unwrap();
    bench.ok(&["cp", "small", "demo:/"]);
    bench.ok(&["cp", "large", "demo:/"]);
    bench.store().join("demo/session.db")
}

#[test]
fn ids_that_break_the_rule() {
    let bench = Bench::new();
    let long = "x".repeat(256);
    for bad in ["", ".", "..", ".hidden", ".registry", "../demo", "_x", "a/b", "a b", "ü", long.as_str()] {
        bench.fails(&["status", bad], 3, &["A-Z a-z 0-9"]);
    }
    bench.fails(&["cat", ".x:/f"], 3, &["not a session ID"]);
    assert!(!bench.store().exists());
}

#[test]
fn sessions_that_are_not_there() {
    let bench = Bench::new();
    let at = bench.empty("m");
    let at = at.to_str().unwrap();
    bench.fails(&["status", "none"], 4, &["no session none", "try: sessionfs ls"]);
    bench.fails(&["check", "none"], 4, &["no session none"]);
    bench.fails(&["cat", "none:/x"], 4, &["no session none"]);
    bench.fails(&["mount", "--existing", "none", at], 4, &["no session none"]);
    assert!(!bench.store().exists(), "asking makes nothing");
}

#[test]
fn mount_points_that_cannot_be_used() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    std::fs::write(bench.path("file"), b"").unwrap();
    bench.empty("full/x");
    bench.fails(&["mount", "demo", "none"], 10, &["does not exist", "mkdir -p none"]);
    bench.fails(&["mount", "demo", "file"], 10, &["not a directory"]);
    bench.fails(&["mount", "demo", "full"], 11, &["not empty"]);
    bench.fails(&["mount", "demo", "/proc"], 12, &["mount point already", "proc"]);
    let at = bench.empty("m");
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    bench.fails(&["mount", "other", at.to_str().unwrap()], 12, &["sessionfs:demo", "sessionfs umount"]);
    bench.ok(&["umount", "demo"]);
    assert_eq!(bench.ok(&["--json", "ls"]).matches("\"session\"").count(), 1, "a refusal creates no session");
}

#[test]
fn limits_that_nothing_fits_under() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), b"").unwrap();
    bench.fails(&["cp", "--size", "1K", "f", "demo:/"], 2, &["at least 65536 bytes"]);
    bench.fails(&["cp", "--inodes", "1", "f", "demo:/"], 2, &["at least 2 inodes"]);
    assert_eq!(bench.call(&["cp", "--size", "much", "f", "demo:/"]).status.code(), Some(2));
    assert_eq!(bench.ok(&["--json", "ls"]).trim(), "[]");
}

#[test]
fn a_cap_below_what_is_used_is_taken_and_said() {
    let bench = Bench::new();
    session(&bench);
    let said = bench.call(&["cp", "--size", "128K", "small", "demo:/again"]);
    let stderr = text(&said.stderr);
    assert!(stderr.contains("session demo uses 1.0 MiB of 128 KiB: nothing new fits"), "{stderr}");
    assert_eq!(said.status.code(), Some(18), "{stderr}");
    assert_eq!(bench.status("demo")["bytes_limit"], 128 << 10);
    if fuse() {
        let said = bench
            .command(&["run", "--inodes", "2", "demo", "--mount"])
            .arg(bench.empty("m"))
            .args(["--", "true"])
            .output();
        let said = said.unwrap();
        assert_eq!(said.status.code(), Some(0));
        assert!(text(&said.stderr).contains("inodes of 2: nothing new fits"), "{}", text(&said.stderr));
    }
    bench.ok(&["cp", "--size", "4M", "--inodes", "9", "small", "demo:/again"]);
    let large = bench.call(&["cp", "--size", "99999999999T", "small", "demo:/again"]);
    assert!(text(&large.stderr).contains("is too large"), "{}", text(&large.stderr));
    bench.fails(
        &["cp", "--inodes", "9223372036854775808", "small", "demo:/again"],
        2,
        &["has at most 9223372036854775807"],
    );
}

#[test]
fn what_programs_read_is_one_document_and_tells_the_status() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), b"x").unwrap();
    for name in ["one", "two"] {
        bench.ok(&["cp", "f", &format!("{name}:/")]);
    }
    let removed = bench.call(&["--json", "rm", "one", "none", "two"]);
    let said: serde_json::Value = serde_json::from_slice(&removed.stdout).unwrap();
    assert_eq!((said[0]["session"].as_str(), said[1]["session"].as_str()), (Some("one"), Some("two")), "{said}");
    assert_eq!(removed.status.code(), Some(4));
    for args in [&["--json", "run", ".bad", "--", "true"][..], &["--json", "run", "demo"]] {
        let output = bench.call(args);
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!((output.status.code(), said["exit"].as_i64()), (Some(125), Some(125)), "{args:?}: {said}");
    }
}

#[test]
fn a_store_of_no_name() {
    let bench = Bench::new();
    let unset =
        bench.command(&["ls"]).env("SESSIONFS_STORE", "").env("XDG_DATA_HOME", bench.dir.path()).output().unwrap();
    assert_eq!(unset.status.code(), Some(0), "{}", text(&unset.stderr));
    bench.fails(&["--store", "", "ls"], 2, &["name of a directory is missing"]);
    assert!(bench.ok(&["man", "run"]).contains(r"<\fISESSION\fR> \fB\-\-\fR <\fICMD\fR>..."));
}

#[test]
fn a_database_that_is_not_ours() {
    let bench = Bench::new();
    let database = session(&bench);
    for content in [&b"hello, I am a text file, not a database at all\n"[..], b"", &[0; 100_000]] {
        std::fs::write(&database, content).unwrap();
        for args in [&["status", "demo"][..], &["check", "demo"], &["cat", "demo:/small"]] {
            let output = bench.call(args);
            let code = output.status.code().unwrap();
            assert!([6, 8, 22].contains(&code), "{args:?} of {} bytes: {code} {}", content.len(), text(&output.stderr));
        }
        assert_eq!(std::fs::read(&database).unwrap(), content, "it is not touched");
    }
    std::fs::write(&database, b"text").unwrap();
    bench.fails(&["status", "demo"], 6, &["not a session database"]);
    // The others are listed all the same, and it with what is wrong.
    std::fs::write(bench.path("f"), b"").unwrap();
    bench.ok(&["cp", "f", "fine:/"]);
    let listed = bench.ok(&["ls"]);
    assert!(listed.contains("fine") && listed.contains("not a session database"), "{listed}");
}

#[test]
fn a_database_of_a_newer_version() {
    let bench = Bench::new();
    let database = session(&bench);
    // SQLite keeps `user_version` at offset 60; ours counts the format there.
    bench.patch(&database, 60, &[0, 0, 0x7f, 0xff]);
    bench.fails(&["status", "demo"], 7, &["newer"]);
    bench.fails(&["cat", "demo:/small"], 7, &["newer"]);
}

#[test]
fn a_truncated_database() {
    let bench = Bench::new();
    let database = session(&bench);
    let length = database.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&database).unwrap().set_len(length / 2).unwrap();
    let output = bench.call(&["check", "demo"]);
    assert!([8, 9].contains(&output.status.code().unwrap()), "{:?} {}", output.status, text(&output.stderr));
}

#[test]
fn a_flipped_byte_is_found_and_never_served() {
    let bench = Bench::new();
    let database = session(&bench);
    let bytes = std::fs::read(&database).unwrap();
    // In the middle of the large file's data, which is most of the database.
    let at = bytes.len() / 2;
    bench.patch(&database, at as u64, &[bytes[at] ^ 0x10]);
    let check = bench.call(&["check", "demo"]);
    assert_eq!(check.status.code(), Some(9), "{}{}", text(&check.stdout), text(&check.stderr));
    bench.fails(&["cat", "demo:/large"], 8, &["input/output error"]);
    assert_eq!(bench.ok(&["cat", "demo:/small"]), "small file\n");
}

#[test]
fn a_store_that_cannot_be_used() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), b"").unwrap();
    bench.fails(&["--store", "f", "ls"], 16, &["cannot be read"]);
    bench.fails(&["--store", "f", "cp", "f", "demo:/"], 16, &["store at"]);
    bench.fails(&["--store", "/proc/none", "cp", "f", "demo:/"], 16, &["cannot be created"]);
    if is_root() {
        // Root is not stopped by a mode; a read-only mount stops it, too.
        let script = format!("mkdir ro && mount -t tmpfs -o ro none ro && exec {BINARY} --store ro/store cp f demo:/");
        let output =
            Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(bench.dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(16), "{}", text(&output.stderr));
    } else {
        let store = bench.empty("store");
        std::fs::set_permissions(&store, PermissionsExt::from_mode(0o500)).unwrap();
        bench.fails(&["cp", "f", "demo:/"], 16, &["cannot be created"]);
    }
}

#[test]
fn a_full_disk_under_the_store() {
    if !is_root() {
        eprintln!("SKIPPED: only root can mount a small disk");
        return;
    }
    let bench = Bench::new();
    std::fs::write(bench.path("big"), vec![0x5a; 64 << 10]).unwrap();
    // Bytes that do not compress, more than the disk holds.
    let script = format!(
        "mkdir d && mount -t tmpfs -o size=16m none d && head -c 20000000 /dev/urandom > noise && \
         {BINARY} --store d/store cp big demo:/ && {BINARY} --store d/store cp noise demo:/; echo $?; \
         mount -o remount,size=60m d; {BINARY} --store d/store cat demo:/big | cmp - big && echo same"
    );
    let output =
        Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(bench.dir.path()).output().unwrap();
    let stdout = text(&output.stdout);
    let code = stdout.lines().next().unwrap_or_default();
    assert_eq!(code, "17", "{stdout}{}", text(&output.stderr));
    assert!(stdout.contains("same"), "what was there is still there: {stdout}{}", text(&output.stderr));
}

#[test]
fn no_dev_fuse() {
    if !is_root() {
        eprintln!("SKIPPED: only root can hide /dev/fuse");
        return;
    }
    let bench = Bench::new();
    bench.empty("m");
    let within = |prepare: &str, call: &str| {
        let script = format!("{prepare} && exec {BINARY} --store store {call}");
        Command::new("unshare").args(["-m", "sh", "-c", &script]).current_dir(bench.dir.path()).output().unwrap()
    };
    let hidden = within("mount -t tmpfs none /dev", "mount demo m");
    assert_eq!(hidden.status.code(), Some(14), "{}", text(&hidden.stderr));
    assert!(text(&hidden.stderr).contains("--device /dev/fuse"), "{}", text(&hidden.stderr));
    let run = within("mount -t tmpfs none /dev", "run --mount m demo -- true");
    assert_eq!(run.status.code(), Some(125));
    let closed = within(
        "mount -t tmpfs none /dev && mknod -m 600 /dev/fuse c 10 229 && mknod -m 666 /dev/null c 1 3",
        "mount demo m",
    );
    // Root opens it whatever its mode; an ordinary user is told about the mode (see user.rs).
    assert_eq!(closed.status.code(), Some(0), "{}", text(&closed.stderr));
    assert!(
        !bench.store().join("demo/control.sock").exists() || bench.call(&["umount", "--lazy", "demo"]).status.success()
    );
}

#[test]
fn a_transport_this_machine_does_not_have() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let at = at.to_str().unwrap();
    let switched_on = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    if switched_on.is_ok_and(|on| on.trim() == "Y") {
        bench.ok(&["mount", "demo", at, "--transport", "uring"]);
        bench.ok(&["umount", "demo"]);
    } else {
        bench.fails(&["mount", "demo", at, "--transport", "uring"], 15, &["io_uring", "--transport auto"]);
    }
    bench.ok(&["mount", "demo", at, "--transport", "device"]);
    bench.ok(&["umount", "demo"]);
}
