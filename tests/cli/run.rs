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
fn what_cannot_be_ended_is_named_and_left() {
    if !fuse() || !super::support::is_root() {
        return;
    }
    let bench = Bench::new();
    // Root without the right to signal others, and a process of somebody else: as out of reach as one in state D.
    let mount = bench.empty("run");
    let script = format!(
        "exec setpriv --bounding-set -kill {} run --grace 0 --mount {} demo -- sh -c \
         'echo kept > file; setpriv --reuid 65534 --clear-groups sleep 30 >/dev/null 2>&1 & echo $!; sleep 0.3; exit 4'",
        super::support::BINARY,
        mount.display()
    );
    let started = Instant::now();
    let output = std::process::Command::new("timeout")
        .args(["-s", "KILL", "20", "sh", "-c", &script])
        .env("SESSIONFS_STORE", bench.store())
        .output()
        .unwrap();
    let left: i32 = text(&output.stdout).trim().parse().unwrap();
    let known = alive(left);
    kill(left, libc::SIGKILL);
    assert_eq!(output.status.code(), Some(4), "after {:?}: {}", started.elapsed(), text(&output.stderr));
    let stderr = text(&output.stderr);
    assert!(known && stderr.contains(&format!("left behind: process {left} (sleep, state S)")), "{stderr}");
    assert_eq!(bench.ok(&["cat", "demo:/file"]), "kept\n");
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
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

/// `unshare --pid --fork` of a shell script, with the `/proc` of the namespace outside, and a bound.
fn in_pid_namespace(bench: &Bench, script: &str) -> std::process::Output {
    std::process::Command::new("timeout")
        .args(["-s", "KILL", "20", "unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script])
        .env("SESSIONFS_STORE", bench.store())
        .env("RUN", format!("{} run --grace 1 --mount {}", super::support::BINARY, bench.empty("run").display()))
        .current_dir(bench.dir.path())
        .output()
        .unwrap()
}

/// Leaves one that goes away when asked, and says so in the workspace, and one that does not.
const LEAVE_TWO: &str = "setsid sh -c 'trap \"echo asked > asked; exit\" TERM; echo $$ > polite; \
                         while :; do sleep 0.05; done' & \
                         setsid sh -c 'trap \"\" TERM; echo $$ > stubborn; while :; do sleep 0.1; done' & \
                         while ! [ -s polite -a -s stubborn ]; do sleep 0.01; done; exit 5";

#[test]
fn with_the_proc_of_another_pid_namespace_it_ends_what_is_left() {
    if !fuse() {
        return;
    }
    if !super::support::is_root() {
        eprintln!("SKIPPED: only root may make a PID namespace");
        return;
    }
    let bench = Bench::new();
    std::fs::write(bench.path("leave"), LEAVE_TWO).unwrap();
    let leave = bench.path("leave").display().to_string();
    let started = Instant::now();
    let output = in_pid_namespace(&bench, &format!("exec $RUN demo -- sh {leave}"));
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(6), "the grace is 1 s: {took:?}");
    assert_eq!(bench.ok(&["cat", "demo:/asked"]), "asked\n", "it was asked, and served to the end");
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
    // Not as PID 1: what is beside it is none of its business, what it left is.
    let script = format!(
        "sleep 1000 & beside=$!; $RUN beside -- sh {leave}; status=$?; kill -0 $beside && echo spared; \
         kill -0 $({} cat beside:/stubborn) 2>/dev/null && echo left; exit $status",
        super::support::BINARY
    );
    let output = in_pid_namespace(&bench, &script);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "spared\n");
}

#[test]
fn a_hangup_reaches_the_command_of_a_session_leader() {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::process::CommandExt;
    if !fuse() {
        return;
    }
    let Ok(terminal) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx") else {
        eprintln!("SKIPPED: no pseudo-terminals");
        return;
    };
    let bench = Bench::new();
    // SAFETY: the descriptor is open; TIOCGPTPEER takes flags and opens a new one, or none.
    let side = unsafe {
        assert_eq!(libc::unlockpt(terminal.as_raw_fd()), 0);
        let fd = libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let mut command = bench.run("demo", "trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done");
    command.stdin(side).stdout(Stdio::piped());
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    // It holds our copy of the terminal's other side.
    drop(command);
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    drop(terminal);
    let until = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(child.id() as i32, libc::SIGKILL);
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
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
