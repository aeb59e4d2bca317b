//! `mount`, `umount`, `sync`, and who may have a session when.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::support::{Bench, alive, eventually, fuse, is_root, kill, text};

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

/// Holds a session's lock as another process would, and says this of itself, for so long.
fn hold(bench: &Bench, session: &str, holder: &serde_json::Value, time: Duration) -> std::thread::JoinHandle<()> {
    use std::os::fd::AsRawFd;
    let path = bench.store().join(session).join("lock");
    std::fs::write(&path, holder.to_string()).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: flock is a plain C struct, for which all zeros is a value; the descriptor is open.
    let taken = unsafe {
        let mut range: libc::flock = std::mem::zeroed();
        range.l_type = libc::F_WRLCK as libc::c_short;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range)
    };
    assert_eq!(taken, 0);
    std::thread::spawn(move || {
        std::thread::sleep(time);
        drop(file);
    })
}

#[test]
fn a_holder_that_is_going_is_waited_for_and_a_healthy_one_is_not() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let mount = at.to_str().unwrap();
    bench.ok(&["mount", "demo", mount]);
    bench.ok(&["umount", "demo"]);
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let holder = |pid: u32, leaving: bool| {
        serde_json::json!({ "pid": pid, "command": "mount", "mountpoint": "/elsewhere", "host": "here",
            "since": "2026-01-01T00:00:00Z", "leaving": leaving })
    };
    eventually("the process is a zombie", || !alive(ended.id() as i32));
    let time = Duration::from_millis(700);
    for going in [holder(ended.id(), false), holder(std::process::id(), true)] {
        let held = hold(&bench, "demo", &going, time);
        let started = Instant::now();
        bench.ok(&["mount", "demo", mount]);
        assert!(started.elapsed() >= time, "{going}");
        bench.ok(&["umount", "demo"]);
        let again = hold(&bench, "demo", &going, time);
        assert_eq!(bench.run("demo", "exit 7").status().unwrap().code(), Some(7), "{going}");
        held.join().unwrap();
        again.join().unwrap();
    }
    ended.wait().unwrap();
    let held = hold(&bench, "demo", &holder(std::process::id(), false), Duration::from_secs(3));
    let started = Instant::now();
    bench.fails(&["mount", "demo", mount], 5, &[&format!("in use by process {}", std::process::id()), "/elsewhere"]);
    assert!(started.elapsed() < Duration::from_secs(2), "at once, and not when it is free");
    held.join().unwrap();
}

#[test]
fn a_mount_follows_an_unmount_that_the_server_has_not_noticed_yet() {
    if !fuse() || !is_root() {
        return;
    }
    let bench = Bench::new();
    // A mount of another store's session of the same name does not count.
    let elsewhere = Bench::new();
    let other = elsewhere.empty("m");
    elsewhere.ok(&["mount", "demo", other.to_str().unwrap()]);
    let at = bench.empty("m");
    let mount = at.to_str().unwrap();
    bench.ok(&["mount", "demo", mount]);
    let server = bench.pid("demo");
    kill(server, libc::SIGSTOP);
    let target = std::ffi::CString::new(mount).unwrap();
    // SAFETY: `target` ends in NUL.
    assert_eq!(unsafe { libc::umount2(target.as_ptr(), 0) }, 0, "{}", std::io::Error::last_os_error());
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        kill(server, libc::SIGCONT);
    });
    bench.ok(&["mount", "demo", mount]);
    later.join().unwrap();
    assert_ne!(bench.pid("demo"), server);
    bench.ok(&["umount", "demo"]);
    elsewhere.ok(&["umount", "demo"]);
}

#[test]
fn the_next_run_follows_a_killed_server_at_once() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    for round in 0..5 {
        let mut child = bench.run("demo", "sync .; echo here; exec sleep 1000").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let server = bench.pid("demo");
        kill(server, libc::SIGKILL);
        let next = bench.run("demo", "exit 3").output().unwrap();
        assert_eq!(next.status.code(), Some(3), "round {round}: {}", text(&next.stderr));
        child.wait().unwrap();
    }
}

#[test]
fn of_many_that_mount_at_one_directory_one_does() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let mount = at.to_str().unwrap();
    for round in 0..4 {
        let starting: Vec<_> = (0..6)
            .map(|n| {
                let session = format!("s{n}");
                let mut command = bench.command(&["mount", &session, mount]);
                (session, command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
            })
            .collect();
        let mut mounted = Vec::new();
        for (session, child) in starting {
            let output = child.wait_with_output().unwrap();
            match output.status.code() {
                Some(0) => mounted.push(session),
                code => assert_eq!(code, Some(12), "round {round}: {}", text(&output.stderr)),
            }
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let there = table.lines().filter(|line| line.split(' ').nth(4) == Some(mount)).count();
        assert_eq!((mounted.len(), there), (1, 1), "round {round}: {mounted:?}");
        bench.ok(&["umount", &mounted[0]]);
    }
    assert!(std::fs::read_dir(&at).unwrap().next().is_none());
}

#[test]
fn memory_that_the_server_needs_does_not_wait_for_the_server() {
    if !fuse() {
        return;
    }
    // SAFETY: touches no memory; asks what this process is.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0) } != 0 {
        eprintln!("SKIPPED: PR_SET_IO_FLUSHER is not permitted here");
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    let pid = bench.pid("demo");
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        // Behind the name in parentheses come the state and five numbers, then the flags.
        let flags: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(6).unwrap().parse().unwrap();
        assert_eq!(flags & PF_MEMALLOC_NOIO, PF_MEMALLOC_NOIO, "{stat}");
        threads += 1;
    }
    assert!(threads > 5);
    bench.ok(&["umount", "demo"]);
}

const PR_SET_IO_FLUSHER: libc::c_int = 57;
/// Of <linux/sched.h>.
const PF_MEMALLOC_NOIO: u64 = 0x0008_0000;

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
    bench.ok(&["mount", "killed", mount]);
    std::fs::write(at.join("file"), b"x").unwrap();
    bench.ok(&["sync", "killed"]);
    let pid = bench.pid("killed");
    kill(pid, libc::SIGKILL);
    eventually("the server is dead", || !alive(pid));
    // Its socket is still there, and known to be stale.
    assert_eq!(bench.status("killed")["mounted"], false);
    assert!(bench.ok(&["umount", mount]).contains("had died"));
    bench.ok(&["mount", "killed", mount]);
    assert_eq!(std::fs::read(at.join("file")).unwrap(), b"x");
    bench.ok(&["umount", "killed"]);
    bench.ok(&["check", "killed"]);
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
    for session in ["gives-way", "gives-way", "gives-way-too"] {
        bench.ok(&["mount", session, mount]);
        std::fs::write(at.join("file"), session).unwrap();
        bench.ok(&["sync", session]);
        let held = std::fs::File::open(at.join("file")).unwrap();
        let pid = bench.pid(session);
        kill(pid, libc::SIGKILL);
        eventually("the server is dead", || !alive(pid));
        drop(held);
    }
    bench.ok(&["mount", "gives-way", mount]);
    assert_eq!(std::fs::read(at.join("file")).unwrap(), b"gives-way");
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
        bench.ok(&["mount", "forgotten", at.to_str().unwrap()]);
        let pid = bench.pid("forgotten");
        kill(pid, libc::SIGKILL);
        eventually("the server is dead", || !alive(pid));
    };
    mount_and_kill();
    bench.ok(&["umount", "forgotten"]);
    mount_and_kill();
    // Another command recovers the session and has its lock for a while; the mount is still there.
    bench.ok(&["ls", "forgotten:/"]);
    bench.ok(&["umount", "forgotten"]);
    mount_and_kill();
    bench.ok(&["umount", at.to_str().unwrap()]);
    bench.fails(&["umount", "forgotten"], 20, &["not mounted"]);
}

#[test]
fn a_dead_mount_of_another_store_is_left_alone() {
    if !fuse() {
        return;
    }
    let (ours, other) = (Bench::new(), Bench::new());
    let (here, there) = (ours.empty("m"), other.empty("m"));
    ours.ok(&["mount", "twin", here.to_str().unwrap()]);
    ours.ok(&["umount", "twin"]);
    other.ok(&["mount", "twin", there.to_str().unwrap()]);
    let pid = other.pid("twin");
    kill(pid, libc::SIGKILL);
    eventually("the server is dead", || !alive(pid));
    eventually("the mount is dead", || std::fs::File::create(there.join("probe")).is_err());
    ours.fails(&["umount", "twin"], 20, &["not mounted"]);
    assert!(other.ok(&["umount", "twin"]).contains("the dead mount at"));
}
