//! The whole story of a session, as `docs/semantics.md` promises it: set up once, worked on after that, other versions of
//! the runtime, idle for too long, removed. At every turn the message, the status and the event are the right ones.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use super::gc::age;
use super::support::{Bench, fuse, text};

const TICKET: &str = "ticket-8421";

/// A small project with what people's projects have: modes, links, many small files, a tool that is installed.
const SCAFFOLD: &str = r#"
    git init -q . && git config user.email a@b && git config user.name n
    mkdir -p src tests && printf 'def add(a, b):\n    return a - b\n' > src/calc.py
    printf 'import sys\nsys.path.insert(0, "src")\nfrom calc import add\nassert add(2, 2) == 4, "2 + 2"\nprint("ok")\n' > tests/test_calc.py
    printf '#!/bin/sh\nexec python3 tests/test_calc.py\n' > check && chmod 750 check
    ln -s src/calc.py link && ln check hard && setfattr -n user.owner -v agent src/calc.py
    git add -A && git commit -qm scaffold && echo 1.0 > deps.lock"#;
const INSTALL: &str =
    "sleep 1; mkdir -p vendor; for n in $(seq 300); do echo $n > vendor/m$n; done; chmod -R go-w vendor";

struct Story {
    bench: Bench,
    at: String,
}

impl Story {
    fn call(&self, args: &[&str]) -> Output {
        self.bench.command(args).stdin(std::process::Stdio::null()).output().unwrap()
    }

    /// `run`, `exec` or `setup` in the session; its output, if it ended well.
    #[track_caller]
    fn does(&self, command: &str, options: &[&str], argv: &[&str]) -> (String, String) {
        let args = [&[command, "--mount", &self.at], &[TICKET][..], options, &["--"], argv].concat();
        let output = self.call(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }

    fn manifest(&self) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/manifest");
        self.does("run", &["--existing"], &[script, "--inodes", "."]).0
    }

    fn events(&self) -> Vec<Value> {
        serde_json::from_str(&self.bench.ok(&["--json", "events", TICKET])).unwrap()
    }

    /// The last event of a kind.
    #[track_caller]
    fn last(&self, kind: &str) -> Value {
        self.events().into_iter().rfind(|event| event["event"] == kind).unwrap_or_else(|| panic!("no {kind}"))
    }
}

fn state(of: &Value) -> Value {
    json!([of["uuid"], of["txid"], of["digest"], of["files"], of["dirs"], of["bytes"]])
}

#[test]
fn the_story_of_a_ticket() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("mnt").display().to_string();
    let story = Story { bench, at };
    set_up_once_and_worked_on(&story);
    versions(&story);
    idle_and_gone(&story);
}

fn set_up_once_and_worked_on(story: &Story) {
    let Story { bench, .. } = story;
    story.does("run", &[], &["sh", "-ec", SCAFFOLD]);
    let (said, _) = story.does("setup", &["--key", "deps.lock"], &["sh", "-c", INSTALL]);
    assert_eq!(said, "");
    let before = story.manifest();
    let stopped = story.last("stopped");
    assert_eq!(state(&bench.status(TICKET)["last_stop"]), state(&stopped));
    assert!(before.lines().count() > 330, "{}", before.lines().count());

    // Resumed: the receipt is that of the stop, the tree is the same to the inode number, and nothing is set up again.
    assert_eq!(story.manifest(), before);
    let started = story.last("started");
    assert_eq!((&started["how"], &started["as_stopped"]), (&json!("resumed"), &json!(true)), "{started}");
    assert_eq!(state(&started), state(&stopped));
    let (said, _) = story.does("setup", &["--key", "deps.lock"], &["sh", "-c", INSTALL]);
    assert!(said.contains("done before, ") && said.ends_with(" s saved\n"), "{said}");
    assert_eq!(story.last("set_up_skipped")["saved_millis"], story.last("set_up")["millis"]);

    // Run tests, and patch.
    let failing = story.call(&["exec", "--mount", &story.at, TICKET, "--", "./check"]);
    assert_eq!((failing.status.code(), text(&failing.stdout)), (Some(1), String::new()));
    assert!(text(&failing.stderr).contains("AssertionError: 2 + 2"), "{}", text(&failing.stderr));
    story.does(
        "run",
        &["--expect", "vendor/m300", "--expect", "src/calc.py"],
        &["sed", "-i", "s/a - b/a + b/", "src/calc.py"],
    );
    assert_eq!(story.does("exec", &[], &["./hard"]).0, "ok\n");
    assert_eq!(story.does("exec", &[], &["git", "diff", "--stat"]).0.lines().count(), 2);

    // What is not there is not handed over.
    let missing = story.call(&["run", "--mount", &story.at, "--expect", "dist/bundle.js", TICKET, "--", "true"]);
    assert_eq!(missing.status.code(), Some(125));
    let said = text(&missing.stderr);
    assert!(said.contains("it has no dist/bundle.js") && said.contains("try: "), "{said}");
    assert_eq!(story.last("refused")["opened"], true);

    let figures: Value = serde_json::from_str(&bench.ok(&["--json", "stats", TICKET])).unwrap();
    assert_eq!(figures["all"]["cold"], json!({ "new": 1 }), "{figures}");
    assert!(figures["all"]["avoided_millis"].as_u64().unwrap() >= 1000, "{figures}");
    assert_eq!(figures["all"]["resumes_failed"], 1, "{figures}");
    bench.ok(&["check", TICKET]);
}

fn versions(story: &Story) {
    let Story { bench, .. } = story;
    let count = ["sh", "-c", "ls -A | wc -l"];
    let with = |version: &str, policy: &str| {
        story.does("run", &["--runtime-version", version, "--on-version-change", policy], &count)
    };
    let (there, said) = with("1", "checkpoint");
    assert_eq!((there.as_str(), said.as_str()), ("8\n", ""), "stated for the first time");
    let (kept, said) = with("2", "keep");
    assert_eq!(kept, there);
    assert!(said.contains("runtime version 1 is now 2: it stays as it is"), "{said}");
    assert_eq!(story.last("version_changed")["policy"], "keep");

    // The default: it begins empty, and what was there is a session of its own.
    let stopped = story.last("stopped");
    let (empty, said) = with("3", "checkpoint");
    assert_eq!(empty, "0\n");
    assert!(said.contains(&format!("it begins empty, and what was there is session {TICKET}.before-3")), "{said}");
    let change = story.last("version_changed");
    assert_eq!((&change["policy"], state(&change["before"])), (&json!("checkpoint"), state(&stopped)));
    assert_eq!(story.last("started")["how"], "reset");
    let kept = format!("{TICKET}.before-3");
    assert_eq!(bench.ok(&["cat", &format!("{kept}:/src/calc.py")]), "def add(a, b):\n    return a + b\n");
    assert_eq!(state(&bench.status(&kept)["last_stop"]), state(&stopped));

    // What was set up is gone with the rest, and is done again.
    story.does("run", &[], &["sh", "-c", "echo 1.0 > deps.lock"]);
    assert_eq!(story.does("setup", &["--key", "deps.lock"], &["sh", "-c", INSTALL]).0, "");
    let (empty, said) = with("4", "reset");
    assert_eq!(empty, "0\n");
    assert!(said.contains("it begins empty, and what was there is removed"), "{said}");
    assert_eq!(story.last("version_changed")["policy"], "reset");
    bench.fails(&["status", &format!("{TICKET}.before-4")], 4, &["no session"]);
}

fn idle_and_gone(story: &Story) {
    let Story { bench, .. } = story;
    let kept = format!("{TICKET}.before-3");
    // Two days before its end, it is marked; at its end, it goes, and the event says why.
    age(bench, TICKET, 13);
    age(bench, &kept, 15);
    let listed = bench.ok(&["ls"]);
    let line = listed.lines().find(|line| line.starts_with(&format!("{TICKET} "))).unwrap();
    assert!(line.contains(" ! "), "{listed}");
    let dry = bench.ok(&["gc", "--dry-run"]);
    assert!(
        dry.contains(&format!("{kept}: would go, idle for 15 days")) && !dry.contains(&format!("{TICKET}:")),
        "{dry}"
    );
    let done: Value = serde_json::from_str(&bench.ok(&["--json", "gc"])).unwrap();
    assert_eq!(done["removed"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(
        (&done["removed"][0]["session"], &done["removed"][0]["reason"]),
        (&json!(kept), &json!("idle")),
        "{done}"
    );
    assert!(bench.ok(&["events", "--last", "1", &kept]).contains("removed by gc"));
    bench.fails(&["status", &kept], 4, &["no session"]);
    let expired: Value = serde_json::from_str(&bench.ok(&["--json", "stats", &kept])).unwrap();
    assert_eq!(expired["all"]["openings"], 0, "it was never mounted under this name");

    // Pinned it stays, whatever the clock says.
    age(bench, TICKET, 87);
    bench.ok(&["pin", TICKET]);
    assert!(bench.ok(&["gc"]).starts_with("0 removed"));
    bench.ok(&["unpin", TICKET]);

    // Removed: not while it is mounted; then all of it, and its events stay.
    bench.ok(&["mount", TICKET, &story.at]);
    let refused = bench.fails(&["rm", TICKET], 5, &["is mounted"]);
    assert!(refused.contains(&format!("try: sessionfs umount {TICKET}")), "{refused}");
    bench.ok(&["umount", TICKET]);
    bench.ok(&["rm", TICKET]);
    assert!(!bench.store().join(TICKET).exists());
    let left: Vec<_> = fs::read_dir(bench.store()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".registry"], "no journal, socket or lock is left");
    assert_eq!(story.last("removed")["by"], "rm");
    // And who comes back under the name begins anew, and is told so.
    let (said, _) = story.does("run", &[], &["ls", "-A"]);
    assert_eq!(said, "");
    assert_eq!(story.last("started")["how"], "created");
    let figures: Value = serde_json::from_str(&bench.ok(&["--json", "stats", TICKET])).unwrap();
    let cold = &figures["all"]["cold"];
    assert_eq!((&cold["new"], &cold["version"], &cold["deleted"]), (&json!(1), &json!(2), &json!(1)), "{figures}");
}
