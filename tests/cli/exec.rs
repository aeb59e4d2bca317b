//! `exec`: statuses, streams, the end of everything, who comes in and who leaves last.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::support::{Bench, alive, eventually, fuse, is_root, kill, text};

/// A bench with a session that holds a file.
fn bench() -> Option<Bench> {
    if !fuse() {
        return None;
    }
    let bench = Bench::new();
    let output = bench.run("demo", "echo kept > file; mkdir sub").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(bench)
}

/// `exec` of a shell script, at a mount point of this bench where it has to be mounted.
fn exec(bench: &Bench, options: &[&str], script: &str) -> std::process::Command {
    let mount = bench.empty("exec").display().to_string();
    let mut args = vec!["exec", "--mount", &mount];
    args.extend(options);
    args.extend(["demo", "--", "sh", "-c", script]);
    bench.command(&args)
}

/// A mount for everybody.
fn mounted(bench: &Bench) -> String {
    let mount = bench.empty("mount").display().to_string();
    bench.ok(&["mount", "demo", &mount]);
    mount
}

/// A `run` that stays until its standard input ends.
fn running(bench: &Bench) -> Child {
    let mut command = bench.run("demo", "echo ready; cat > /dev/null");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn commands(bench: &Bench) -> Vec<serde_json::Value> {
    serde_json::from_str(&bench.ok(&["log", "--json", "demo"])).unwrap()
}

/// In each of the three ways that a session can be reached, the same happens.
#[test]
fn a_command_runs_where_the_session_is_and_its_status_comes_back() {
    let Some(bench) = bench() else { return };
    let look = |expected: &str| {
        let output =
            exec(&bench, &[], "pwd; cat file; echo $SESSIONFS_SESSION $SESSIONFS_MOUNT $PWD; echo aside >&2; exit 3");
        let output = output.stdin_null().output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), format!("{expected}\nkept\ndemo {expected} {expected}\n"));
        assert_eq!(text(&output.stderr), "aside\n");
    };
    look(&bench.path("exec").display().to_string());
    assert!(bench.status("demo")["clean"].as_bool().unwrap(), "it was mounted for the command alone");

    let mount = mounted(&bench);
    look(&mount);
    assert_eq!(bench.status("demo")["mountpoint"], mount.as_str(), "somebody else's mount stays");
    bench.ok(&["umount", "demo"]);

    let mut run = running(&bench);
    look(&bench.path("run").display().to_string());
    drop(run.stdin.take());
    assert!(run.wait().unwrap().success());
}

trait StdinNull {
    fn stdin_null(self) -> Self;
}

impl StdinNull for std::process::Command {
    fn stdin_null(mut self) -> Self {
        self.stdin(Stdio::null());
        self
    }
}

#[test]
fn options_hold_and_failures_have_their_statuses() {
    let Some(bench) = bench() else { return };
    let mount = mounted(&bench);
    let args = ["--cwd", "sub", "--env", "A=1", "--env", "B=x=y"];
    let output = exec(&bench, &args, "pwd; echo $A $B; cat").stdin_null().output().unwrap();
    assert_eq!(text(&output.stdout), format!("{mount}/sub\n1 x=y\n"));
    let mut child = exec(&bench, &[], "cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"passed on").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "passed on");

    for (args, code) in [
        (&["demo", "--", "no-such-command"][..], 127),
        (&["demo", "--", "/etc/passwd"], 126),
        (&["demo", "--", "sh", "-c", "kill -9 $$"], 137),
        (&["demo", "--", "sh", "-c", "kill -TERM $$"], 143),
        (&["--cwd", "none", "demo", "--", "true"], 125),
        (&["--user", "no-such-user", "demo", "--", "true"], 125),
        (&["none", "--", "true"], 125),
        (&["bad/id", "--", "true"], 125),
        (&["--timeout", "0", "demo", "--", "true"], 125),
        (&["--timeout", "3601", "demo", "--", "true"], 125),
        (&["--env", "=x", "demo", "--", "true"], 125),
        (&["demo"], 125),
    ] {
        let args: Vec<&str> = ["exec"].iter().chain(args).copied().collect();
        let output = bench.call(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert_eq!(output.stderr.is_empty(), code > 128, "{args:?}");
    }
    bench.ok(&["umount", "demo"]);
}

#[test]
fn events_are_those_of_the_service() {
    let Some(bench) = bench() else { return };
    mounted(&bench);
    let events = |script: &str, options: &[&str]| -> (Vec<serde_json::Value>, Option<i32>) {
        let mut args = vec!["--json"];
        args.extend(options);
        let output = exec(&bench, &args, script).stdin_null().output().unwrap();
        assert_eq!(text(&output.stderr), "");
        let lines = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, output.status.code())
    };
    let (lines, code) = events("echo out; sleep 0.3; echo err >&2; exit 3", &[]);
    let expected = [
        r#"{"contentStart":{}}"#,
        r#"{"contentDelta":{"stdout":"out\n"}}"#,
        r#"{"contentDelta":{"stderr":"err\n"}}"#,
        r#"{"contentStop":{"exitCode":3,"status":"COMPLETED"}}"#,
    ];
    let expected: Vec<serde_json::Value> = expected.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines, code), (expected, Some(3)));

    let (lines, code) = events("echo before; sleep 100", &["--timeout", "1"]);
    assert_eq!(lines.last().unwrap()["contentStop"], serde_json::json!({ "exitCode": -1, "status": "TIMED_OUT" }));
    assert_eq!((lines.len(), code), (3, Some(124)));

    // Any bytes: those that are text, those that are not, and a character that comes in two pieces.
    let (lines, _) = events(r"printf 'a\303'; sleep 0.2; printf '\251'; sleep 0.2; printf '\377\000'", &[]);
    let texts: String = lines.iter().filter_map(|line| line["contentDelta"]["stdout"].as_str()).collect();
    let raw: Vec<&str> = lines.iter().filter_map(|line| line["contentDelta"]["stdoutBase64"].as_str()).collect();
    assert_eq!((texts.as_str(), &raw[..]), ("aé", &["/wA="][..]));
    bench.ok(&["umount", "demo"]);
}

/// Megabytes of output in the test; SESSIONFS_EXEC_MB=1024 for all of what is promised.
#[test]
fn any_amount_of_output_comes_whole_and_in_order() {
    let Some(bench) = bench() else { return };
    mounted(&bench);
    let megabytes: u64 = std::env::var("SESSIONFS_EXEC_MB").map_or(64, |text| text.parse().unwrap());
    let lines = megabytes * (1 << 20) / 10;
    // Ten bytes a line, on both streams at a time.
    let script = format!("seq -f %09.0f {lines} >&2 & seq -f %09.0f {lines}; wait");
    let mut child =
        exec(&bench, &[], &script).stdin_null().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let check = move |stream: Box<dyn Read + Send>| {
        let mut expected = 0_u64;
        for line in BufReader::with_capacity(1 << 20, stream).lines() {
            expected += 1;
            assert_eq!(line.unwrap().parse::<u64>().unwrap(), expected);
            // Slow now and then, so that the command has to wait.
            if expected.is_multiple_of(2_000_000) {
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        assert_eq!(expected, lines);
    };
    let other = std::thread::spawn(move || check(Box::new(err)));
    check(Box::new(out));
    other.join().unwrap();
    assert!(child.wait().unwrap().success());
    bench.ok(&["umount", "demo"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_command_as_in_a_pipe() {
    let Some(bench) = bench() else { return };
    mounted(&bench);
    for json in [&[][..], &["--json"]] {
        let mut child = exec(&bench, json, "yes").stdin_null().stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 20];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(141), "{json:?}");
    }
    bench.ok(&["umount", "demo"]);
}

/// What stays behind keeps neither us nor our reader; and it lives, as long as its mount.
#[test]
fn a_command_that_forks_away_is_not_waited_for() {
    let Some(bench) = bench() else { return };
    let started = Instant::now();
    let script = "(echo $$ > daemon.pid; exec sh -c 'echo $$ > daemon.pid; exec sleep 1000') & \
                  while ! [ -s daemon.pid ]; do sleep 0.01; done; sleep 0.1; echo done";
    let mut run = running(&bench);
    let output = exec(&bench, &[], script).stdin_null().output().unwrap();
    assert_eq!(text(&output.stdout), "done\n", "{}", text(&output.stderr));
    assert!(started.elapsed() < Duration::from_secs(30));
    let pid: i32 = bench.ok(&["cat", "demo:/daemon.pid"]).trim().parse().unwrap();
    assert!(alive(pid));
    drop(run.stdin.take());
    assert!(run.wait().unwrap().success());
    eventually("what an exec has left ends with the run", || !alive(pid));
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
}

#[test]
fn signals_reach_the_command() {
    let Some(bench) = bench() else { return };
    mounted(&bench);
    for (signal, name) in [(libc::SIGTERM, "TERM"), (libc::SIGINT, "INT"), (libc::SIGUSR1, "USR1")] {
        let script = format!("trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done");
        let mut child = exec(&bench, &[], &script).stdin_null().stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        kill(child.id() as i32, signal);
        out.read_line(&mut line).unwrap();
        assert_eq!(line, format!("ready\ngot {name}\n"));
        assert_eq!(child.wait().unwrap().code(), Some(7), "{name}");
    }
    // Killed, it takes the command with it.
    let mut child = exec(&bench, &[], "echo $$; exec sleep 1000").stdin_null().stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let pid = line.trim().parse().unwrap();
    eventually("the command ends with its exec", || !alive(pid));
    bench.ok(&["umount", "demo"]);
}

/// Each of two hundred goes on in a child of its own every few milliseconds, half of them in sessions of their own.
const BOMB: &str = "
import os, time
for number in range(200):
    if os.fork() == 0:
        if number % 2: os.setsid()
        while True:
            if os.fork(): os._exit(0)
            time.sleep(0.01)
print('going', flush=True)
time.sleep(1000)
";

#[test]
fn a_timeout_ends_everything_that_was_started() {
    let Some(bench) = bench() else { return };
    let mark = bench.path("mark-of-this-bomb").display().to_string();
    let count = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|process| process.path().join("cmdline"));
        processes.filter(|path| std::fs::read(path).is_ok_and(|line| text(&line).contains(&mark))).count()
    };
    let mount = bench.empty("exec").display().to_string();
    let started = Instant::now();
    let args = ["exec", "--mount", &mount, "--timeout", "3", "demo", "--", "python3", "-c", BOMB, &mark];
    let output = bench.command(&args).stdin_null().output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(count(), 0);
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
    let log = commands(&bench);
    let last = log.last().unwrap();
    assert_eq!((&last["status"], &last["exit"]), (&"TIMED_OUT".into(), &serde_json::json!(-1)), "{last}");
}

/// On a session that is not mounted, the first mounts it and the last has it committed, whichever that is.
#[test]
fn a_hundred_at_a_time_share_a_mount_that_ends_with_the_last() {
    let Some(bench) = bench() else { return };
    let script =
        |n: usize| format!("echo begin {n}; sleep 0.{}; echo {n} > file-{n}; cat file-{n}; exit {}", n % 5, n % 7);
    let children: Vec<Child> = (0..100)
        .map(|n| {
            exec(&bench, &[], &script(n)).stdin_null().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some((n % 7) as i32), "{n}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), format!("begin {n}\n{n}\n"));
    }
    let status = bench.status("demo");
    assert!(status["clean"].as_bool().unwrap() && !status["mounted"].as_bool().unwrap(), "{status}");
    assert_eq!(status["files"], 101);
    let log = commands(&bench);
    assert_eq!(log.iter().filter(|record| record["by"] == "exec").count(), 100);
}

#[test]
fn a_mount_for_a_command_outlives_that_command_while_others_are_there() {
    let Some(bench) = bench() else { return };
    let mut first = exec(&bench, &[], "echo ready; sleep 0.5").stdin_null().stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let second = exec(&bench, &[], "sleep 1; echo more > more").stdin_null().spawn().unwrap();
    eventually("the second is in", || {
        bench.ok(&["ls", "demo:/"]).contains("file") && first.try_wait().unwrap().is_some()
    });
    assert!(
        bench.status("demo")["mounted"].as_bool().unwrap(),
        "the one that mounted it is gone, and was not the last"
    );
    assert!(second.wait_with_output().unwrap().status.success());
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
    assert_eq!(bench.ok(&["cat", "demo:/more"]), "more\n");
    // Killed with its command, the mount goes, too.
    let mut lone = exec(&bench, &[], "echo ready; sleep 1000").stdin_null().stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(lone.stdout.take().unwrap()).read_line(&mut line).unwrap();
    lone.kill().unwrap();
    lone.wait().unwrap();
    eventually("nobody is left", || !bench.status("demo")["mounted"].as_bool().unwrap());
    assert!(bench.status("demo")["clean"].as_bool().unwrap());
}

#[test]
fn another_user_is_who_was_asked_for() {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return;
    }
    let mount = bench.empty("mount").display().to_string();
    std::fs::set_permissions(bench.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench.ok(&["mount", "--allow-other", "demo", &mount]);
    let output =
        exec(&bench, &["--user", "nobody"], "id -u; id -G; echo $USER; cat file").stdin_null().output().unwrap();
    let lines = text(&output.stdout);
    assert!(
        lines.starts_with("65534\n65534\nnobody\n") && lines.ends_with("kept\n"),
        "{lines} {}",
        text(&output.stderr)
    );
    let output = exec(&bench, &["--user", "4000:4001"], "id -u; id -g").stdin_null().output().unwrap();
    assert_eq!(text(&output.stdout), "4000\n4001\n");
    bench.ok(&["umount", "demo"]);
    // Where others are not let in, it is said.
    bench.ok(&["mount", "demo", &mount]);
    let output = exec(&bench, &["--user", "nobody"], "true").stdin_null().output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("--allow-other"), "{}", text(&output.stderr));
    bench.ok(&["umount", "demo"]);
}

#[test]
fn the_log_says_what_was_run_and_what_it_changed() {
    let Some(bench) = bench() else { return };
    mounted(&bench);
    let script =
        "for n in 1 2 3; do printf 12345 > new-$n; done; rm new-3; mv file moved; seq 100; echo bad >&2; exit 9";
    exec(&bench, &["--cwd", "/"], "cat file").stdin_null().output().unwrap();
    exec(&bench, &[], script).stdin_null().output().unwrap();
    bench.ok(&["umount", "demo"]);
    let log = commands(&bench);
    let by: Vec<&str> = log.iter().map(|record| record["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["run", "exec", "exec"]);
    assert_eq!(log[0]["changed"], serde_json::json!({ "files": 1, "bytes": 5 }), "{}", log[0]);
    let last = &log[2];
    assert_eq!(last["changed"], serde_json::json!({ "files": 4, "bytes": 15 }), "{last}");
    assert_eq!((&last["exit"], &last["stderr"]), (&serde_json::json!(9), &"bad\n".into()));
    let out = last["stdout"].as_str().unwrap();
    assert!(out.starts_with("81\n") && out.ends_with("100\n"), "{out}");
    let shown = bench.ok(&["log", "--last", "1", "--output", "demo"]);
    assert!(shown.lines().next().unwrap().contains("sh -c for n") && shown.ends_with("    err| bad\n"), "{shown}");
    assert!(bench.ok(&["log", "demo"]).contains("COMMAND\n"));
    bench.fails(&["log", "none"], 4, &["none"]);
}

#[test]
fn two_lanes_share_a_session_and_what_that_saved_is_shown() {
    if !fuse() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/two-lanes");
    let mut command = std::process::Command::new(script);
    command.arg(super::support::BINARY).env_remove("SESSIONFS_CONFIG").env_remove("SESSIONFS_LOG");
    let output = command.stdin_null().output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 steps passed over"), "{}", text(&output.stdout));
}
