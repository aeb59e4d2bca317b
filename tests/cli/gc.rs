//! `gc`, `pin`, `retain`, `rm --all-idle`.

use crate::support::{Bench, fuse};

fn three(bench: &Bench) {
    std::fs::write(bench.path("f"), vec![7; 100_000]).unwrap();
    ["one", "two", "three"].iter().for_each(|name| drop(bench.ok(&["cp", "f", &format!("{name}:/")])));
}

fn names(bench: &Bench) -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "ls"])).unwrap();
    all.as_array().unwrap().iter().map(|one| one["session"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_budget_takes_the_longest_idle_but_no_pinned_one() {
    let bench = Bench::new();
    three(&bench);
    bench.ok(&["pin", "one"]);
    let dry = bench.ok(&["gc", "--dry-run", "--store-bytes", "1"]);
    assert!(dry.contains("two: would go, beyond the store's bytes") && !dry.contains("one:"), "{dry}");
    assert_eq!(names(&bench).len(), 3);
    let done: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "gc", "--store-bytes", "1"])).unwrap();
    assert_eq!(done["removed"].as_array().unwrap().len(), 2, "{done}");
    assert!(done["bytes_freed"].as_u64().unwrap() > 0 && done["removed"][0]["reason"] == "store_bytes", "{done}");
    assert_eq!(names(&bench), ["one"]);
    bench.ok(&["unpin", "one"]);
    assert!(bench.ok(&["rm", "--all-idle"]).starts_with("0 removed"));
    assert!(bench.ok(&["gc", "--store-bytes", "1"]).contains("one: removed"));
    bench.fails(&["pin", "one"], 4, &["no session one"]);
}

#[test]
fn expiry_is_shown() {
    let bench = Bench::new();
    three(&bench);
    bench.ok(&["pin", "one"]);
    bench.ok(&["retain", "two", "1"]);
    let listed = bench.ok(&["ls"]);
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("one").contains("never, pinned") && line("two").contains("Z !"), "{listed}");
    assert!(!line("three").contains('!'), "{listed}");
    let status = bench.status("two");
    assert!(status["idle_days"] == 1 && status["pinned"] == false && status["expires"].is_string(), "{status}");
    bench.ok(&["retain", "two", "default"]);
    assert_eq!(bench.status("two")["idle_days"], 14);
    assert!(bench.status("one")["expires"].is_null());
}

#[test]
fn a_session_that_cannot_be_judged_is_named() {
    let bench = Bench::new();
    three(&bench);
    std::fs::write(bench.store().join("two/session.db"), "no database").unwrap();
    bench.fails(&["gc"], 8, &["two", "last use is unknown"]);
    assert_eq!(names(&bench).len(), 3);
}

#[test]
fn what_is_mounted_stays() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    three(&bench);
    let script = format!("{} gc --store-bytes 1 && echo still > here", crate::support::BINARY);
    let output = bench.run("one", &script).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(&bench), ["one"]);
    assert_eq!(bench.ok(&["cat", "one:/here"]), "still\n");
}
