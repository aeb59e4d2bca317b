//! `mount`, `umount`, `sync`, and who may have a session when.

use std::process::Stdio;

use super::support::{Bench, alive, eventually, fuse, kill, text};

#[test]
fn mount_serves_until_umount_and_comes_back() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let mount = at.to_str().unwrap();
    let said: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "mount", "demo", mount])).unwrap();
    assert_eq!(said["created"], true);
    std::fs::write(at.join("file"), b"kept").unwrap();
    let status = bench.status("demo");
    assert_eq!(status["mounted"], true);
    assert_eq!(status["mountpoint"], mount);
    assert_eq!(status["pid"], said["pid"]);
    assert!(status["files"].is_u64());
    let synced: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "sync", "demo"])).unwrap();
    assert_eq!(synced["files"], 1);
    let stopped: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "umount", mount])).unwrap();
    assert_eq!(stopped["files"], 1);
    assert_eq!(stopped["bytes"], 4);
    let left: Vec<_> = std::fs::read_dir(bench.store().join("demo"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!left.iter().any(|name| name == "control.sock"), "{left:?}");
    bench.fails(&["umount", mount], 20, &["no session is mounted"]);
    bench.fails(&["umount", "demo"], 20, &["not mounted"]);
    let said: serde_json::Value =
        serde_json::from_str(&bench.ok(&["--json", "mount", "--existing", "demo", mount])).unwrap();
    assert_eq!(said["digest"], stopped["digest"], "what comes back is what was stopped");
    assert_eq!(std::fs::read(at.join("file")).unwrap(), b"kept");
    bench.ok(&["umount", "demo"]);
}

#[test]
fn a_second_user_learns_who_has_the_session() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let (one, two) = (bench.empty("one"), bench.empty("two"));
    bench.ok(&["mount", "demo", one.to_str().unwrap()]);
    let pid = bench.pid("demo").to_string();
    let words = ["in use by process", &pid, one.to_str().unwrap(), "try: sessionfs umount demo"];
    bench.fails(&["mount", "demo", two.to_str().unwrap()], 5, &words);
    let run = bench.run("demo", "true").output().unwrap();
    assert_eq!(run.status.code(), Some(125));
    assert!(text(&run.stderr).contains(&pid));
    bench.fails(&["rm", "demo"], 5, &["mounted", &pid]);
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "demo", two.to_str().unwrap()]);
    bench.ok(&["umount", two.to_str().unwrap()]);
}

#[test]
fn a_busy_mount_is_not_taken_away_unless_that_is_said() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    std::fs::write(at.join("file"), b"x").unwrap();
    let mut user = std::process::Command::new("sleep").arg("1000").current_dir(&at).spawn().unwrap();
    bench.fails(&["umount", "demo"], 13, &["in use by process", &user.id().to_string(), "--lazy"]);
    assert_eq!(std::fs::read(at.join("file")).unwrap(), b"x", "it serves on");
    bench.ok(&["umount", "--lazy", "demo"]);
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(bench.ok(&["cat", "demo:/file"]), "x");
}

#[test]
fn everyone_who_asks_for_the_stop_is_told() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    std::fs::write(at.join("file"), vec![3; 5 << 20]).unwrap();
    let asking: Vec<_> = (0..5)
        .map(|_| bench.command(&["umount", "demo"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in asking {
        let output = child.wait_with_output().unwrap();
        // One that came when all was over finds nothing mounted.
        assert!(matches!(output.status.code(), Some(0 | 20)), "{}", text(&output.stderr));
    }
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
}

#[test]
fn a_full_disk_keeps_the_mount_until_there_is_room() {
    if !fuse() || !super::support::is_root() {
        return;
    }
    let bench = Bench::new();
    let script = format!(
        "mkdir d m && mount -t tmpfs -o size=24m none d && s='{} --store d/store' && $s mount demo m && \
         head -c 13500000 /dev/zero > d/filler && head -c 3000000 /dev/urandom > m/noise; \
         sha256sum < m/noise > before; $s umount m; echo $?; rm d/filler; mount -o remount,size=60m d; \
         for i in $(seq 100); do sleep 0.1; $s umount m 2>/dev/null && break; done; echo $?; $s cat demo:/noise | sha256sum | cmp - before && echo same",
        super::support::BINARY
    );
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(bench.dir.path())
        .output()
        .unwrap();
    let stdout = text(&output.stdout);
    let codes: Vec<&str> = stdout.lines().filter(|line| line.parse::<i32>().is_ok()).collect();
    assert_eq!(codes, ["17", "0"], "{stdout}{}", text(&output.stderr));
    assert!(stdout.ends_with("same\n"), "{stdout}{}", text(&output.stderr));
}

#[test]
fn signals_and_foreign_unmounts_stop_it_in_order() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    for (round, signal) in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, 0].into_iter().enumerate() {
        bench.ok(&["mount", "demo", at.to_str().unwrap()]);
        std::fs::write(at.join(format!("file{round}")), b"x").unwrap();
        let pid = bench.pid("demo");
        if signal != 0 {
            kill(pid, signal);
        } else if super::support::is_root() {
            assert!(std::process::Command::new("umount").arg(&at).status().unwrap().success());
        } else {
            assert!(std::process::Command::new("fusermount3").arg("-u").arg(&at).status().unwrap().success());
        }
        eventually("the server has ended", || !alive(pid));
        let status = bench.status("demo");
        assert!(status["clean"].as_bool().unwrap() && !status["mounted"].as_bool().unwrap(), "{status}");
        assert_eq!(status["files"], round + 1);
        let log = std::fs::read_to_string(bench.store().join("demo/daemon.log")).unwrap();
        let last = log.lines().last().unwrap();
        assert!(last.contains("stopped: transaction") && last.contains("bytes"), "{last}");
    }
}

#[test]
fn foreground_serves_in_this_process() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let mut child = bench
        .command(&["mount", "--foreground", "demo", at.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it is mounted", || {
        bench.call(&["--json", "status", "demo"]).status.success()
            && bench.status("demo")["mounted"] == true
            && std::fs::write(at.join("f"), b"x").is_ok()
            && bench.ok(&["ls", "demo:/"]).contains('f')
    });
    assert_eq!(bench.pid("demo"), child.id() as i32);
    kill(child.id() as i32, libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("committed at transaction"));
    assert!(text(&output.stderr).contains("stopped: transaction"));
    child = bench.command(&["status", "demo"]).stdout(Stdio::null()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_killed_server_leaves_a_dead_mount_that_umount_clears() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let mount = at.to_str().unwrap();
    bench.ok(&["mount", "demo", mount]);
    std::fs::write(at.join("file"), b"x").unwrap();
    bench.ok(&["sync", "demo"]);
    let pid = bench.pid("demo");
    kill(pid, libc::SIGKILL);
    eventually("the server is dead", || !alive(pid));
    // Its socket is still there, and known to be stale.
    assert_eq!(bench.status("demo")["mounted"], false);
    assert!(bench.ok(&["umount", mount]).contains("had died"));
    bench.ok(&["mount", "demo", mount]);
    assert_eq!(std::fs::read(at.join("file")).unwrap(), b"x");
    bench.ok(&["umount", "demo"]);
    bench.ok(&["check", "demo"]);
}

#[test]
fn a_dead_mount_gives_way_to_the_next_one() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let mount = at.to_str().unwrap();
    // Of the same session, and of another.
    for session in ["demo", "demo", "other"] {
        bench.ok(&["mount", session, mount]);
        std::fs::write(at.join("file"), session).unwrap();
        bench.ok(&["sync", session]);
        let held = std::fs::File::open(at.join("file")).unwrap();
        let pid = bench.pid(session);
        kill(pid, libc::SIGKILL);
        eventually("the server is dead", || !alive(pid));
        drop(held);
    }
    bench.ok(&["mount", "demo", mount]);
    assert_eq!(std::fs::read(at.join("file")).unwrap(), b"demo");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(table.lines().filter(|line| line.contains(mount)).count(), 1, "none lies below it");
    bench.ok(&["umount", mount]);
}

#[test]
fn one_directory_serves_one_session_after_the_other() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    for session in ["one", "two", "one"] {
        bench.ok(&["mount", session, at.to_str().unwrap()]);
        bench.ok(&["umount", at.to_str().unwrap()]);
        assert!(!bench.status(session)["mounted"].as_bool().unwrap());
    }
}

#[test]
fn a_dead_mount_nobody_looked_at_is_known_and_is_not_forgotten() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let mount_and_kill = || {
        bench.ok(&["mount", "demo", at.to_str().unwrap()]);
        let pid = bench.pid("demo");
        kill(pid, libc::SIGKILL);
        eventually("the server is dead", || !alive(pid));
    };
    mount_and_kill();
    bench.ok(&["umount", "demo"]);
    mount_and_kill();
    // Another command recovers the session and has its lock for a while; the mount is still there.
    bench.ok(&["ls", "demo:/"]);
    bench.ok(&["umount", "demo"]);
    mount_and_kill();
    bench.ok(&["umount", at.to_str().unwrap()]);
    bench.fails(&["umount", "demo"], 20, &["not mounted"]);
}
