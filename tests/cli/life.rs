//! The life of a session: what a stop leaves is what the next mount finds and says; a change of the runtime version
//! is never mistaken for a loss; and all of it is in the log of events.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::support::{Bench, eventually, fuse, kill, text};

/// Runs a script in a session; returns its receipt and what it wrote.
fn run(bench: &Bench, session: &str, options: &[&str], script: &str) -> (Value, String) {
    let at = bench.empty("run");
    let mut command: Command = bench.command(&["--json", "run", "--mount", at.to_str().unwrap()]);
    let output = command.args(options).args([session, "--", "sh", "-c", script]).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    (serde_json::from_str(stderr.lines().next().unwrap()).unwrap(), text(&output.stdout))
}

fn events(bench: &Bench, session: &str) -> Vec<Value> {
    let events: Value = serde_json::from_str(&bench.ok(&["--json", "events", session])).unwrap();
    events.as_array().unwrap().clone()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

/// The fields that name a state.
fn state(of: &Value) -> Vec<&Value> {
    ["uuid", "txid", "digest", "files", "dirs", "bytes"].map(|field| &of[field]).to_vec()
}

#[test]
fn a_ticket_is_set_up_once_and_worked_on_after_that() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let work = "if [ -e .set-up ]; then
            echo run tests and patch; cat node_modules/left/index.js; echo patched >> src/main.js
        else
            echo set up; mkdir -p src node_modules/left; echo 'exports' > node_modules/left/index.js
            echo 'main' > src/main.js; ln src/main.js src/link.js; touch .set-up
        fi";
    let (began, said) = run(&bench, "ticket-8421", &[], work);
    assert_eq!((began["how"].as_str(), said.as_str()), (Some("created"), "set up\n"), "{began}");
    let log = events(&bench, "ticket-8421");
    assert_eq!(kinds(&log), ["started", "stopped"]);
    assert!(log[1]["by"] == "run" && log[1]["millis"].is_u64() && log[1]["reason"] == "signal 15", "{}", log[1]);
    let stopped = log[1].clone();
    assert_eq!(state(&bench.status("ticket-8421")["last_stop"]), state(&stopped));

    let expected = ["--expect", ".set-up", "--expect", "node_modules/left/index.js"];
    let (resumed, said) = run(&bench, "ticket-8421", &expected, work);
    assert_eq!(said, "run tests and patch\nexports\n");
    assert_eq!((resumed["how"].as_str(), resumed["as_stopped"].as_bool()), (Some("resumed"), Some(true)), "{resumed}");
    assert_eq!(state(&resumed), state(&stopped), "the receipt of the resume is that of the stop");
    assert_eq!(resumed["epoch"].as_u64().unwrap(), stopped["epoch"].as_u64().unwrap() + 1);

    // For people.
    let at = bench.empty("m");
    let said = bench.ok(&["mount", "ticket-8421", at.to_str().unwrap()]);
    let (before, _) = said.split_once(", as the stop of 20").unwrap_or_else(|| panic!("{said}"));
    assert!(before.starts_with("resumed ticket-8421: 3 files, 4 directories, 21 B, transaction "), "{said}");
    let pid = bench.pid("ticket-8421");
    fs::write(at.join("more"), "acknowledged").unwrap();
    eventually("the witness of this mount is kept", || {
        let entry = fs::read_to_string(bench.store().join(".registry/ticket-8421/entry.json")).unwrap();
        let entry: Value = serde_json::from_str(&entry).unwrap();
        entry["witness"]["epoch"].as_u64() > entry["last_stop"]["epoch"].as_u64()
    });
    kill(pid, libc::SIGKILL);
    eventually("the server is dead", || !super::support::alive(pid));
    eventually("the mount is dead", || fs::File::create(at.join("probe")).is_err());
    let again = bench.command(&["mount", "ticket-8421", at.to_str().unwrap()]).output().unwrap();
    let said = text(&again.stdout);
    // A second may have passed, and with it a commit.
    let how = ["operations replayed): 4 files", "(nothing to replay): 4 files"];
    assert!(said.starts_with("recovered ticket-8421 (") && how.iter().any(|how| said.contains(how)), "{said}");
    assert_eq!(bench.status("ticket-8421")["verified"], "none");
    bench.ok(&["umount", "ticket-8421"]);

    let log = events(&bench, "ticket-8421");
    assert_eq!(
        kinds(&log),
        ["started", "stopped", "started", "stopped", "started", "started", "stopped"],
        "the killed one has not stopped"
    );
    assert_eq!(log[6]["reason"], "umount");
    // Looking leaves nothing there, changing does.
    bench.ok(&["cat", "ticket-8421:/more"]);
    assert_eq!(events(&bench, "ticket-8421").len(), 7);
    fs::write(bench.path("f"), "x").unwrap();
    bench.ok(&["cp", "f", "ticket-8421:/"]);
    assert_eq!(kinds(&events(&bench, "ticket-8421"))[7..], ["stopped"]);
    assert_eq!(bench.ok(&["events", "--last", "2", "ticket-8421"]).lines().count(), 2);
    bench.ok(&["rm", "ticket-8421"]);
    assert!(bench.ok(&["events", "--last", "1", "ticket-8421"]).contains("removed by rm"));
    bench.fails(&["events", "never"], 4, &["no session never"]);
}

#[test]
fn another_runtime_version_is_an_event_and_no_loss() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let version = |version: &str, policy: &[&str], script: &str| {
        let options = [&["--runtime-version", version], policy].concat();
        run(&bench, "ticket-8421", &options, script)
    };
    let list = "ls -A";
    run(&bench, "ticket-8421", &["--size", "64M"], "echo old > old; ln old link");
    // The first statement changes nothing.
    let (ready, said) = version("1.0", &[], list);
    assert_eq!((said.as_str(), ready["runtime_version"].as_str()), ("link\nold\n", Some("1.0")), "{ready}");
    assert!(ready["version_change"]["from"].is_null() && ready["version_change"]["to"] == "1.0", "{ready}");
    assert!(version("1.0", &[], list).0["version_change"].is_null(), "the same again is no change");
    // And none stated is not another.
    assert_eq!(run(&bench, "ticket-8421", &[], list).1, "link\nold\n");

    let (ready, said) = version("1.1", &["--on-version-change", "keep"], list);
    assert_eq!((said.as_str(), ready["how"].as_str()), ("link\nold\n", Some("resumed")), "{ready}");
    assert_eq!(ready["version_change"]["policy"], "keep");
    let before = bench.status("ticket-8421");

    // A checkpoint is what happens unless another policy is stated.
    let (ready, said) = version("2.0/b", &[], "ls -A; echo new > new");
    assert_eq!((said.as_str(), ready["how"].as_str()), ("", Some("reset")), "{ready}");
    let change = &ready["version_change"];
    assert_eq!((change["from"].as_str(), change["policy"].as_str()), (Some("1.1"), Some("checkpoint")), "{change}");
    assert_eq!(change["kept_as"], "ticket-8421.before-2.0-b");
    assert_eq!(state(&change["before"]), state(&before["last_stop"]));
    assert_ne!(ready["uuid"], before["uuid"]);
    let kept = bench.status("ticket-8421.before-2.0-b");
    assert_eq!(state(&kept["last_stop"]), state(&before["last_stop"]));
    assert_eq!((kept["runtime_version"].as_str(), kept["bytes_limit"].as_u64()), (Some("1.1"), Some(64 << 20)));
    assert_eq!(run(&bench, "ticket-8421.before-2.0-b", &[], "cat link").1, "old\n");
    assert_eq!(kinds(&events(&bench, "ticket-8421.before-2.0-b"))[0], "split_off");
    let now = bench.status("ticket-8421");
    assert_eq!((now["runtime_version"].as_str(), now["bytes_limit"].as_u64()), (Some("2.0/b"), Some(64 << 20)));

    let at = bench.empty("m");
    let at = at.to_str().unwrap();
    let reset = ["mount", "--runtime-version", "3", "--on-version-change", "reset", "ticket-8421", at];
    let reset = bench.command(&reset).output().unwrap();
    assert!(text(&reset.stdout).starts_with("began ticket-8421 anew: empty, runtime version 3"), "{reset:?}");
    let warned = "ticket-8421: runtime version 2.0/b is now 3: it begins empty, and what was there is removed";
    assert!(text(&reset.stderr).contains(warned), "{reset:?}");
    assert_eq!(bench.ok(&["ls", "ticket-8421:/"]), "");
    bench.ok(&["umount", "ticket-8421"]);

    // A name that is taken, also by one that was removed, gets a number; and the caller is told without being asked.
    bench.ok(&["rm", "ticket-8421.before-2.0-b"]);
    let plain =
        bench.command(&["run", "--mount", at, "ticket-8421", "--runtime-version", "2.0/b", "--", "true"]).output();
    let said = text(&plain.unwrap().stderr);
    assert!(
        said.contains("runtime version 3 is now 2.0/b: it begins empty") && said.contains("before-2.0-b.2"),
        "{said}"
    );
    // Both can come from the environment, the policy also from the settings.
    let mut set = bench.command(&["run", "--mount", at, "ticket-8421", "--", "true"]);
    set.env("SESSIONFS_RUNTIME_VERSION", "5").env("SESSIONFS_RUNTIME_VERSION_POLICY", "keep");
    let said = text(&set.output().unwrap().stderr);
    assert!(said.contains("runtime version 2.0/b is now 5: it stays as it is"), "{said}");
    let changes: Vec<Value> =
        events(&bench, "ticket-8421").into_iter().filter(|event| event["event"] == "version_changed").collect();
    let told: Vec<&str> = changes.iter().map(|change| change["to"].as_str().unwrap()).collect();
    assert_eq!(told, ["1.0", "1.1", "2.0/b", "3", "2.0/b", "5"]);
    assert!(bench.ok(&["events", "ticket-8421"]).contains("what was there is session ticket-8421.before-2.0-b\n"));
    assert_eq!(bench.status("ticket-8421")["verified"], "none");
    bench.ok(&["check", "ticket-8421"]);
    bench.ok(&["check", "ticket-8421.before-2.0-b.2"]);
}

#[test]
fn what_was_acknowledged_goes_with_the_old_version_and_long_names_fit() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let long = "x".repeat(255);
    let at = bench.empty("m");
    let at = at.to_str().unwrap();
    bench.ok(&["mount", "--runtime-version", "1", &long, at]);
    fs::write(bench.path("m/file"), "acknowledged").unwrap();
    let pid = bench.pid(&long);
    kill(pid, libc::SIGKILL);
    eventually("the server is dead", || !super::support::alive(pid));
    eventually("the mount is dead", || fs::File::create(bench.path("m/probe")).is_err());
    bench.ok(&["umount", at]);
    let (ready, _) = run(&bench, &long, &["--runtime-version", &"v".repeat(300)], "true");
    let kept = ready["version_change"]["kept_as"].as_str().unwrap();
    assert_eq!(kept.len(), 255);
    assert_eq!(bench.ok(&["cat", &format!("{kept}:/file")]), "acknowledged");
    // An older copy is not taken for the old version.
    let database = bench.store().join(&long).join("session.db");
    fs::copy(&database, bench.path("older")).unwrap();
    fs::write(bench.path("f"), "x").unwrap();
    bench.ok(&["cp", "f", &format!("{long}:/")]);
    fs::copy(bench.path("older"), &database).unwrap();
    bench.fails(&["mount", "--runtime-version", "2", &long, at], 22, &["what came after is missing"]);
    let nothing = ["mount", "--on-version-change", "keep", &long, at];
    assert_eq!(bench.call(&nothing).status.code(), Some(2), "a policy without a version");
}
