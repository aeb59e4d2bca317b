//! `sessionfs trace`, and the hot files of `sessionfs top`: real mounts, by both transports.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "cli/support.rs"]
#[allow(dead_code)]
mod support;

use support::{Bench, eventually, fuse, kill};

/// What is looked for is not there: a name that tells that a tracer is there already, and one that all it has to tell is told.
const BEGIN: &str = "begin-of-the-trace";
const END: &str = "end-of-the-trace";

/// The transports of this machine.
fn transports() -> Vec<&'static str> {
    let uring = fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|on| on.trim() == "Y");
    if !uring {
        eprintln!("SKIPPED: no io_uring for FUSE on this machine: by /dev/fuse alone");
    }
    if uring { vec!["device", "uring"] } else { vec!["device"] }
}

fn mount(bench: &Bench, id: &str, transport: &str) -> PathBuf {
    let at = bench.empty(&format!("at-{id}"));
    bench.ok(&["mount", id, at.to_str().unwrap(), "--transport", transport]);
    at
}

/// A tracer at work.
struct Tracer {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Tracer {
    fn start(bench: &Bench, args: &[&str]) -> Tracer {
        let mut command = bench.command(&["--json", "trace"]);
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Tracer { child, lines }
    }

    /// The same, at work when this returns: it has told of a lookup here, which its filter must let pass.
    fn ready(bench: &Bench, args: &[&str], at: &Path) -> Tracer {
        let mut tracer = Tracer::start(bench, args);
        let (sender, done) = std::sync::mpsc::channel::<()>();
        let at = at.to_owned();
        // The kernel remembers what is not there: another name each time.
        let asking = std::thread::spawn(move || {
            let mut n = 0;
            while done.try_recv().is_err() {
                fs::metadata(at.join(format!("{BEGIN}-{n}"))).unwrap_err();
                n += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(tracer.next().is_some(), "it ended before it began");
        sender.send(()).unwrap();
        asking.join().unwrap();
        tracer
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).unwrap();
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// What it tells until it has told of a lookup of this name, without what it told before.
    fn until(&mut self, at: &Path, end: &str) -> Vec<Value> {
        fs::metadata(at.join(end)).unwrap_err();
        let mut told = Vec::new();
        loop {
            let one = self.next().expect("it tells until the end");
            if is_at(&one, end) {
                return told;
            }
            if one["path"].as_str().is_none_or(|path| !path.contains(BEGIN)) {
                told.push(one);
            }
        }
    }

    fn wait(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

fn is_at(told: &Value, name: &str) -> bool {
    told["path"].as_str() == Some(&format!("/{name}"))
}

/// `op path` of each.
fn words(told: &[Value]) -> Vec<String> {
    told.iter().map(|of| format!("{} {}", of["op"].as_str().unwrap(), of["path"].as_str().unwrap_or("?"))).collect()
}

#[test]
fn operations_are_told_with_path_errno_size_and_caller() {
    if !fuse() {
        return;
    }
    for transport in transports() {
        let bench = Bench::new();
        let at = mount(&bench, "demo", transport);
        fs::create_dir_all(at.join("old/deep")).unwrap();
        fs::write(at.join("old/deep/file"), [1; 300]).unwrap();
        let open = fs::OpenOptions::new().read(true).write(true).open(at.join("old/deep/file")).unwrap();
        let mut tracer = Tracer::ready(&bench, &["demo"], &at);
        open.write_all_at(&[7; 100], 50).unwrap();
        open.sync_all().unwrap();
        fs::create_dir(at.join("new")).unwrap();
        fs::write(at.join("new/f\u{1}"), b"12345").unwrap();
        fs::rename(at.join("new/f\u{1}"), at.join("old/g")).unwrap();
        // Paths are those of when it is told: here all of that has been.
        let mut told = tracer.until(&at, "in-between");
        fs::hard_link(at.join("old/g"), at.join("new/h")).unwrap();
        fs::remove_dir(at.join("old")).unwrap_err();
        fs::write(at.join("gone"), b"x").unwrap();
        fs::remove_file(at.join("gone")).unwrap();
        told.extend(tracer.until(&at, END));
        // SAFETY: gettid cannot fail and touches no memory.
        let me = unsafe { libc::gettid() } as u32;
        let find = |op: &str, path: &str| {
            let found = told.iter().find(|of| of["op"] == op && of["path"] == path);
            found.unwrap_or_else(|| panic!("{transport}: {op} {path} is not in {:#?}", words(&told)))
        };
        let write = find("write", "/old/deep/file");
        assert_eq!((&write["offset"], &write["size"], &write["errno"]), (&50.into(), &100.into(), &Value::Null));
        assert_eq!(write["pid"], me, "{transport}");
        assert!(write["nanos"].as_u64().unwrap() > 0);
        assert!(write["at"].as_str().unwrap().ends_with('Z'));
        find("fsync", "/old/deep/file");
        find("mkdir", "/new");
        find("create", "/new/f\u{1}");
        assert_eq!(find("rename", "/new/f\u{1}")["to"], "/old/g");
        assert_eq!(find("link", "/old/g")["to"], "/new/h");
        assert_eq!(find("rmdir", "/old")["errno"], "ENOTEMPTY");
        // What is gone when it is told of is told by the name that it had.
        assert_eq!(find("write", "/gone")["size"], 1);
        assert_eq!(find("unlink", "/gone")["pid"], me);
        let pids = told.iter().filter(|of| of["op"] != "read").map(|of| of["pid"].as_u64().unwrap());
        assert!(pids.into_iter().all(|pid| pid != 0), "{transport}: {told:#?}");

        // The text has the same, and its path is the last word, whatever is in it.
        let traced = bench.command(&["trace", "--op", "mkdir", "--count", "1", "demo"]).stdout(Stdio::piped()).spawn();
        let traced = traced.unwrap();
        let (mut n, until) = (0, Instant::now() + Duration::from_secs(10));
        let mut traced = traced;
        while traced.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "it never saw a mkdir");
            fs::create_dir(at.join(format!("a b\n{n}"))).unwrap();
            n += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        let said = traced.wait_with_output().unwrap();
        assert!(said.status.success());
        let said = String::from_utf8(said.stdout).unwrap();
        let (front, path) = said.split_once(" /").unwrap();
        assert!(path.starts_with("a b\\n") && path.lines().count() == 1, "{said}");
        let front: Vec<&str> = front.split_whitespace().collect();
        assert_eq!((front[1], front[4], front[5], front[6]), (&*me.to_string(), "mkdir", "ok", "-"), "{said}");

        drop(open);
        bench.ok(&["umount", "demo"]);
        let (status, rest) = tracer.wait();
        assert_eq!(status.code(), Some(0), "the end of the session is its end");
        assert!(rest.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{rest}");
    }
}

#[test]
fn filters_leave_out_the_rest_and_two_tracers_do_not_mind_each_other() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = mount(&bench, "demo", transports()[0]);
    fs::create_dir_all(at.join("src/lib")).unwrap();
    let mut by_op = Tracer::ready(&bench, &["--op", "write,lookup", "demo"], &at);
    let lookups = ["--path", "begin*", "--path", "end*"];
    let mut by_path = Tracer::ready(&bench, &[&["--path", "/src/lib", "demo"], &lookups[..]].concat(), &at);
    let mut failed = Tracer::ready(&bench, &["--errors", "demo"], &at);
    fs::write(at.join("src/a"), b"1").unwrap();
    fs::write(at.join("src/lib/b"), b"2").unwrap();
    fs::rename(at.join("src/a"), at.join("src/lib/c")).unwrap();
    fs::create_dir(at.join("src")).unwrap_err();
    fs::remove_dir(at.join("src")).unwrap_err();

    let told = by_op.until(&at, END);
    let writes: Vec<String> = words(&told).into_iter().filter(|of| of.starts_with("write")).collect();
    // A path is the one at the time of telling, which may be after the rename.
    assert!(["write /src/a", "write /src/lib/c"].contains(&writes[0].as_str()), "{writes:?}");
    assert_eq!(writes[1..], ["write /src/lib/b"]);
    assert!(told.iter().all(|of| of["op"] == "write" || of["op"] == "lookup"), "{told:#?}");

    // The kernel remembers the first END.
    let below =
        |of: &Value| ["path", "to"].iter().any(|key| of[*key].as_str().is_some_and(|p| p.starts_with("/src/lib")));
    let mut told = Vec::new();
    while let Some(one) = by_path.next().filter(|one| !is_at(one, END)) {
        told.push(one);
    }
    told.retain(|of| !of["path"].as_str().unwrap().contains(BEGIN));
    assert!(told.iter().all(below), "{told:#?}");
    let has = |told: &[Value], words_of: &str| words(told).iter().any(|of| of == words_of);
    assert!(has(&told, "create /src/lib/b") && has(&told, "write /src/lib/b") && has(&told, "rename /src/a"));

    let mut told = Vec::new();
    while let Some(one) = failed.next().filter(|one| !is_at(one, END)) {
        told.push(one);
    }
    assert!(told.iter().all(|of| of["errno"].is_string()), "{told:#?}");
    assert!(told.iter().any(|of| of["op"] == "rmdir" && of["errno"] == "ENOTEMPTY"), "{told:#?}");

    // One that nothing is slow enough for tells nothing, and ends with the session like the others.
    let slow = Tracer::start(&bench, &["--slow", "100s", "demo"]);
    for (args, words) in [
        (&["trace", "--op", "x", "demo"][..], "lseek"),
        (&["trace", "--slow", "5", "demo"], "no duration"),
        (&["trace", "--path", "a//b", "demo"], "a//b"),
    ] {
        let refused = bench.call(args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(support::text(&refused.stderr).contains(words), "{args:?}: {}", support::text(&refused.stderr));
    }
    bench.ok(&["umount", "demo"]);
    let (status, rest) = slow.wait();
    assert_eq!((status.code(), &*rest), (Some(0), ""));
    for tracer in [by_op, by_path, failed] {
        assert_eq!(tracer.wait().0.code(), Some(0));
    }
    bench.fails(&["trace", "demo"], 20, &["not mounted", "sessionfs status demo"]);
}

#[test]
fn who_reads_too_slowly_is_told_what_is_lost_and_holds_up_nobody() {
    if !fuse() {
        return;
    }
    const WRITES: u64 = 30_000;
    for transport in transports() {
        let bench = Bench::new();
        let at = mount(&bench, "demo", transport);
        let file = fs::File::create(at.join("f")).unwrap();
        let write = || {
            let begun = Instant::now();
            (0..WRITES).for_each(|n| file.write_all_at(b"x", n).unwrap());
            begun.elapsed()
        };
        let alone = write();
        // Nothing is read before all is written: the pipe, the socket and the queue are full long before.
        let mut tracer = Tracer::ready(&bench, &["--op", "write,lookup", "demo"], &at);
        let watched = write();
        eprintln!("{transport}: {WRITES} writes took {alone:?} alone, {watched:?} watched");
        // Nobody has waited for it; that it costs something is no matter of this test.
        assert!(watched < alone * 8 + Duration::from_secs(5), "{transport}: {watched:?}, {alone:?} without");
        let (sender, seen) = std::sync::mpsc::channel::<()>();
        let reading = std::thread::spawn(move || {
            let (mut told, mut lost) = (0, 0);
            while let Some(one) = tracer.next() {
                match one["lost"].as_u64() {
                    Some(more) => lost += more,
                    None => told += u64::from(one["op"] == "write"),
                }
                if one["path"].as_str().is_some_and(|path| path.contains(END)) {
                    let _ = sender.send(());
                }
            }
            (told, lost, tracer.child.wait().unwrap())
        });
        let mut asked = 0;
        while seen.recv_timeout(Duration::from_millis(20)).is_err() {
            fs::metadata(at.join(format!("{END}-{asked}"))).unwrap_err();
            asked += 1;
        }
        drop(file);
        bench.ok(&["umount", "demo"]);
        let (told, lost, status) = reading.join().unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(lost > 0, "{transport}: nothing lost of {WRITES}");
        // Those at the begin and at the end may be among the lost.
        let lookups = 2000 + asked;
        assert!(
            (WRITES..=WRITES + lookups).contains(&(told + lost)),
            "{transport}: {told} told, {lost} lost of {WRITES}"
        );
    }
}

#[test]
fn a_tracer_that_goes_leaves_its_place_to_another() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = mount(&bench, "demo", transports()[0]);
    // As many as there may be, none of which has anything to tell.
    let quiet = ["--op", "readlink", "demo"];
    let mut tracers: Vec<Tracer> = (0..8).map(|_| Tracer::start(&bench, &quiet)).collect();
    // The server has a thread for each that waits for its end.
    let server = bench.pid("demo");
    let watching = || {
        let tasks = fs::read_dir(format!("/proc/{server}/task")).unwrap().flatten();
        tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it == "control-hangup\n"))
            .count()
    };
    eventually("all are there", || watching() == 8);
    bench.fails(&["trace", "demo"], 1, &["8 watch"]);
    let mut first = tracers.remove(0);
    kill(first.child.id() as i32, libc::SIGINT);
    assert!(!first.child.wait().unwrap().success());
    // Though nothing happens on the mount.
    eventually("its place is free", || watching() == 7);
    // Nobody reads what it has to tell: told at the next operation.
    let Tracer { child: mut deaf, lines } = Tracer::ready(&bench, &["demo"], &at);
    drop(lines);
    eventually("it ends", || {
        fs::create_dir(at.join("d")).unwrap();
        fs::remove_dir(at.join("d")).unwrap();
        deaf.try_wait().unwrap().is_some()
    });
    assert_eq!(deaf.wait().unwrap().code(), Some(141));
    // What it writes into the mount itself is not told, or it would never come to an end.
    let log = fs::File::create(at.join("log")).unwrap();
    let mut own = bench.command(&["--json", "trace", "--op", "write", "demo"]).stdout(log).spawn().unwrap();
    eventually("it writes", || {
        fs::write(at.join("g"), b"x").unwrap();
        fs::metadata(at.join("log")).unwrap().len() > 0
    });
    fs::write(at.join("last"), b"x").unwrap();
    eventually("it has told all", || fs::read_to_string(at.join("log")).unwrap().contains("\"/last\""));
    assert!(!fs::read_to_string(at.join("log")).unwrap().contains("/log"));
    kill(own.id() as i32, libc::SIGTERM);
    own.wait().unwrap();

    // A server that is killed is no end as it should be.
    let mut left = tracers.remove(0);
    kill(server, libc::SIGKILL);
    assert_eq!(left.child.wait().unwrap().code(), Some(121));
    for mut tracer in tracers {
        tracer.child.wait().unwrap();
    }
    bench.ok(&["umount", "demo"]);
}

#[test]
fn top_names_the_files_that_most_is_about() {
    if !fuse() {
        return;
    }
    for transport in transports() {
        let bench = Bench::new();
        let at = mount(&bench, "demo", transport);
        fs::create_dir(at.join("d")).unwrap();
        let large = fs::File::create(at.join("d/large")).unwrap();
        let busy = fs::File::create(at.join("busy")).unwrap();
        let top =
            bench.command(&["--json", "top", "demo", "--interval", "2", "--count", "1"]).stdout(Stdio::piped()).spawn();
        let top = top.unwrap();
        std::thread::sleep(Duration::from_millis(500));
        (0..400).for_each(|n| busy.write_all_at(b"x", n).unwrap());
        large.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        for n in 0..100 {
            (&fs::File::create(at.join("d").join(n.to_string())).unwrap()).write_all(b"").unwrap();
        }
        let said = top.wait_with_output().unwrap();
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        let hot = |path: &str| {
            let found = said["hot"].as_array().unwrap().iter().find(|of| of["path"] == path);
            found.unwrap_or_else(|| panic!("{transport}: {path} is not in {said:#}"))
        };
        assert_eq!((&hot("/busy")["operations"], &hot("/busy")["bytes"]), (&401.into(), &400.into()));
        assert_eq!(hot("/d/large")["bytes"], 1 << 20);
        assert!(hot("/d")["operations"].as_u64().unwrap() >= 200, "a lookup and a create of each: {said:#}");
        assert_eq!(said["hot"][0]["path"], "/busy");
        assert_eq!((&said["hot"][0]["session"], &said["lost"]), (&"demo".into(), &0.into()));
        assert!(said["operations"].as_array().unwrap().iter().any(|of| of["op"] == "write"));
        drop((busy, large));
        let text = bench.ok(&["top", "demo", "--interval", "0.2", "--count", "2"]);
        assert!(!text.contains('\x1b'), "{text}");
        bench.ok(&["umount", "demo"]);
    }
}
