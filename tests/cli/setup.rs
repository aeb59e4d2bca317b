//! `setup`: once for what a step depends on.

use std::process::{Output, Stdio};

use super::support::{Bench, fuse, text};

fn setup(bench: &Bench, args: &[&str]) -> Output {
    let mount = bench.empty("exec").display().to_string();
    let args: Vec<&str> = ["setup", "demo", "--mount", &mount].iter().chain(args).copied().collect();
    bench.command(&args).stdin(Stdio::null()).output().unwrap()
}

fn events(bench: &Bench) -> Vec<serde_json::Value> {
    let all: Vec<serde_json::Value> = serde_json::from_str(&bench.ok(&["--json", "events", "demo"])).unwrap();
    all.into_iter().filter(|event| event["event"].as_str().unwrap().starts_with("set_up")).collect()
}

#[test]
fn a_step_is_done_once_for_what_it_depends_on() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    bench.run("demo", "echo 1 > lock").output().unwrap();
    let install = ["--key", "lock", "--", "sh", "-c", "sleep 0.3; cat lock >> installed"];
    let times = || bench.ok(&["cat", "demo:/installed"]);

    let done = setup(&bench, &install);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(times(), "1\n");
    // In another mount, and twice in the same.
    for _ in 0..2 {
        let skipped = setup(&bench, &install);
        assert!(skipped.status.success() && text(&skipped.stdout).contains("done before"), "{}", text(&skipped.stdout));
    }
    assert_eq!(times(), "1\n");
    bench.run("demo", "echo 2 > lock").output().unwrap();
    assert!(setup(&bench, &install).status.success());
    assert_eq!(times(), "1\n2\n");

    let seen = events(&bench);
    let kinds: Vec<&str> = seen.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["set_up", "set_up_skipped", "set_up_skipped", "set_up"]);
    assert_eq!((&seen[0]["why"], &seen[3]["why"]), (&"first".into(), &"key_changed".into()));
    assert_eq!(seen[1]["saved_millis"], seen[0]["millis"]);
    assert!(seen[0]["millis"].as_u64().unwrap() >= 300, "{}", seen[0]);
    assert_ne!(seen[0]["key"], seen[3]["key"]);

    // It moves with the session's state, and a session that begins anew is without it.
    let (copied, mount) = (bench.path("copied"), bench.path("exec"));
    std::fs::create_dir_all(copied.join("demo")).unwrap();
    std::fs::copy(bench.store().join("demo/session.db"), copied.join("demo/session.db")).unwrap();
    let args = ["--store", copied.to_str().unwrap(), "--json", "setup", "demo", "--mount", mount.to_str().unwrap()]
        .iter()
        .chain(&install)
        .copied()
        .collect::<Vec<_>>();
    let there = bench.ok(&args);
    let said: serde_json::Value = serde_json::from_str(there.lines().last().unwrap()).unwrap();
    assert_eq!(said["setUp"]["skipped"], true, "{there}");
    bench.ok(&["rm", "demo"]);
    bench.run("demo", "echo 2 > lock").output().unwrap();
    assert!(setup(&bench, &install).status.success());
    assert_eq!(times(), "2\n");
}

#[test]
fn a_failure_is_not_remembered_and_two_at_once_do_it_once() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    bench.run("demo", "echo 1 > lock").output().unwrap();
    let fails = ["--key", "lock", "--", "sh", "-c", "echo x >> tried; exit 5"];
    for _ in 0..2 {
        assert_eq!(setup(&bench, &fails).status.code(), Some(5));
    }
    assert_eq!(setup(&bench, &["--timeout", "1", "--key", "lock", "--", "sleep", "100"]).status.code(), Some(124));
    assert_eq!(bench.ok(&["cat", "demo:/tried"]), "x\nx\n");
    assert!(events(&bench).iter().all(|event| event["event"] == "set_up" && event["exit"] != 0));
    let missing = setup(&bench, &["--key", "none", "--", "true"]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(text(&missing.stderr).contains("none"), "{}", text(&missing.stderr));

    let once = ["--key", "lock", "--", "sh", "-c", "echo x >> once; sleep 0.5"];
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| setup(&bench, &once));
        (setup(&bench, &once), one.join().unwrap())
    });
    assert!(one.status.success() && other.status.success(), "{} {}", text(&one.stderr), text(&other.stderr));
    assert_eq!(bench.ok(&["cat", "demo:/once"]), "x\n");
}
