//! `run`: statuses, signals, orphans, deaths.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::support::{Bench, alive, eventually, fuse, kill, text};

#[test]
fn the_workspace_comes_back() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let script = "echo line >> log; cat log; pwd; echo $PWD $SESSIONFS_SESSION $SESSIONFS_MOUNT";
    let mount = bench.path("run").display().to_string();
    let first = bench.run("demo", script).output().unwrap();
    assert_eq!(text(&first.stdout), format!("line\n{mount}\n{mount} demo {mount}\n"));
    assert_eq!(text(&first.stderr), "", "an entrypoint is silent");
    let second = bench.run("demo", script).output().unwrap();
    assert!(text(&second.stdout).starts_with("line\nline\n"));
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0, "nobody else saw the mount");
}

#[test]
fn the_status_is_the_commands() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let mount = bench.empty("run");
    let mount = mount.to_str().unwrap();
    for (command, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["no-such-command"], 127),
        (&["/etc/passwd"], 126),
        (&["/"], 126),
    ] {
        let args: Vec<&str> = ["run", "--mount", mount, "demo", "--"].iter().chain(command).copied().collect();
        assert_eq!(bench.call(&args).status.code(), Some(code), "{command:?}");
    }
    for args in [
        &["run", "--mount", mount, "demo"][..],
        &["run", "--mount", mount, "bad/id", "--", "true"],
        &["run", "--mount", mount, "--existing", "none", "--", "true"],
        &["run", "--mount", "/proc", "demo", "--", "true"],
    ] {
        assert_eq!(bench.call(args).status.code(), Some(125), "{args:?}");
    }
}

#[test]
fn signals_reach_the_command_and_its_status_comes_back() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGINT, "INT"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGQUIT, "QUIT"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGUSR2, "USR2"),
        (libc::SIGWINCH, "WINCH"),
    ] {
        let script =
            format!("trap 'echo got {name}; exit 7' {name}; touch ready; echo ready; while :; do sleep 0.05; done");
        let mut child = bench.run("demo", &script).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        kill(child.id() as i32, signal);
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, format!("ready\ngot {name}\n"));
        assert_eq!(child.wait().unwrap().code(), Some(7), "{name}");
    }
}

#[test]
fn what_the_command_leaves_is_ended() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    // One that goes away when asked, one that does not, both in sessions of their own with their parents gone.
    let script = "setsid sh -c 'echo $$ > polite; exec sleep 1000' & \
                  setsid sh -c 'trap \"\" TERM; echo $$ > stubborn; while :; do sleep 0.1; done' & \
                  while ! [ -s polite -a -s stubborn ]; do sleep 0.01; done; exit 5";
    let started = Instant::now();
    let output = bench.run("demo", script).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "the grace is 1 s: {took:?}");
    for name in ["polite", "stubborn"] {
        let pid: i32 = bench.ok(&["cat", &format!("demo:/{name}")]).trim().parse().unwrap();
        assert!(!alive(pid), "{name}");
    }
}

#[test]
fn a_dead_server_ends_the_command_and_loses_nothing_committed() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let script = "echo precious > file; sync file; echo $$; exec sleep 1000";
    let mut child = bench.run("demo", script).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let command: i32 = line.trim().parse().unwrap();
    kill(bench.pid("demo"), libc::SIGKILL);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(121));
    assert!(text(&output.stderr).contains("server died (killed by signal 9)"), "{}", text(&output.stderr));
    assert!(!alive(command));
    assert_eq!(bench.ok(&["cat", "demo:/file"]), "precious\n");
}

#[test]
fn a_dead_supervisor_takes_everything_with_it_in_order() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let script = "echo kept > file; sh -c 'sleep 1000; :' & echo $! > child; echo ready; wait";
    let mut child = bench.run("demo", script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let server = bench.pid("demo");
    kill(child.id() as i32, libc::SIGKILL);
    child.wait().unwrap();
    eventually("the server has ended", || !alive(server));
    assert!(bench.status("demo")["clean"].as_bool().unwrap(), "the server stopped in order");
    assert_eq!(bench.ok(&["cat", "demo:/file"]), "kept\n");
    let left: i32 = bench.ok(&["cat", "demo:/child"]).trim().parse().unwrap();
    assert!(!alive(left), "nothing of the command is left");
}

#[test]
fn as_pid_1_it_reaps_and_ends_everything() {
    if !fuse() || !super::support::is_root() {
        return;
    }
    let bench = Bench::new();
    let mount = bench.empty("run");
    // Forty orphans, reaped while the command runs: no zombie is left when it looks.
    let script =
        "for i in $(seq 40); do (sh -c 'exit 0' &) ; done; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    let output = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", super::support::BINARY, "run", "--mount"])
        .arg(&mount)
        .args(["demo", "--", "sh", "-c", script])
        .env("SESSIONFS_STORE", bench.store())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), "0");
}

#[test]
fn the_command_starts_with_signals_as_they_were_given() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let script = "grep -E 'SigBlk|SigIgn' /proc/self/status";
    let inside = text(&bench.run("demo", script).output().unwrap().stdout);
    let outside = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    assert_eq!(inside, text(&outside.stdout));
}

#[test]
fn signals_that_were_ignored_before_do_not_hang_it() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let mount = bench.empty("run");
    let script = format!(
        "trap '' TERM CHLD HUP INT; exec {} run --mount {} demo -- sh -c 'echo x > f; exit 3'",
        super::support::BINARY,
        mount.display()
    );
    let started = Instant::now();
    let status = std::process::Command::new("timeout")
        .args(["-s", "KILL", "20", "sh", "-c", &script])
        .env("SESSIONFS_STORE", bench.store())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(3), "after {:?}", started.elapsed());
}

#[test]
fn the_command_holds_nothing_of_ours() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let output = bench.run("demo", "ls -l /proc/self/fd").stdin(Stdio::null()).output().unwrap();
    let listed = text(&output.stdout);
    for secret in ["/dev/fuse", "lock", "session.db", "control.sock", "signalfd"] {
        assert!(!listed.contains(secret), "{secret} is open in the command: {listed}");
    }
}
