//! `gc`, `pin`, `retain`, `rm --all-idle`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

/// Which of the two it was is what tells an expiry from a removal later.
#[test]
fn the_event_tells_who_removed_it() {
    let bench = Bench::new();
    three(&bench);
    age(&bench, "one", 15);
    assert!(bench.ok(&["rm", "--all-idle"]).contains("one: removed"));
    bench.ok(&["rm", "two"]);
    assert!(bench.ok(&["events", "--last", "1", "one"]).contains("removed by rm --all-idle,"));
    assert!(bench.ok(&["events", "--last", "1", "two"]).contains("removed by rm,"));
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

/// Sessions of one content each, so old that they go; `store` must not have them yet.
fn old(bench: &Bench, names: &[String]) {
    std::fs::write(bench.path("f"), vec![7; 100_000]).unwrap();
    bench.ok(&["cp", "f", "template:/"]);
    let template = bench.store().join("template/session.db");
    for name in names {
        std::fs::create_dir(bench.store().join(name)).unwrap();
        std::fs::copy(&template, bench.store().join(name).join("session.db")).unwrap();
        age(bench, name, 20);
    }
    bench.ok(&["rm", "template"]);
}

/// Makes a session one that nobody has used for so many days, as far as its session database tells.
pub fn age(bench: &Bench, session: &str, days: i64) {
    let sql = rusqlite::Connection::open(bench.store().join(session).join("session.db")).unwrap();
    let changed = sql.execute("UPDATE superblock SET last_active_s = last_active_s - ?1", [days * 86_400]).unwrap();
    assert_eq!(changed, 1);
    super::sums::reseal_superblock(&sql);
}

/// What is left of removals that were cut short.
fn leftovers(bench: &Bench) -> usize {
    let entries = std::fs::read_dir(bench.store()).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter(|name| name.to_string_lossy().starts_with(".removed-")).count()
}

#[test]
fn a_kill_amid_gc_leaves_every_session_whole_or_gone() {
    let bench = Bench::new();
    let group = |name: &str, count: usize| (0..count).map(|n| format!("{name}-{n}")).collect::<Vec<String>>();
    let (idle, pinned) = (group("idle", 120), group("pinned", 10));
    old(&bench, &[idle.clone(), pinned.clone()].concat());
    let pin: Vec<&str> = ["pin"].into_iter().chain(pinned.iter().map(String::as_str)).collect();
    bench.ok(&pin);
    let seed = std::env::var("SESSIONFS_TEST_SEED")
        .map_or_else(|_| u64::from(std::process::id()), |text| text.parse().unwrap());
    println!("SESSIONFS_TEST_SEED={seed}");
    let mut random = seed;
    let (mut kills, mut left) = (0, names(&bench).len());
    while left > pinned.len() && kills < 30 {
        let mut gc = bench.command(&["gc"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Judging all of them comes first: it is killed a moment after it has begun to remove.
        let listed = || std::fs::read_dir(bench.store()).unwrap().count();
        let before = listed();
        while listed() == before && gc.try_wait().unwrap().is_none() {}
        std::thread::sleep(Duration::from_micros((random >> 33) % 2_000));
        gc.kill().unwrap();
        kills += usize::from(!gc.wait().unwrap().success());
        let now = names(&bench);
        // All that are listed are whole, and pinned ones are among them.
        for name in now.iter().skip(kills % 7).step_by(7) {
            bench.ok(&["check", name]);
        }
        assert!(pinned.iter().all(|name| now.contains(name)), "{now:?}");
        assert!(now.len() <= left);
        left = now.len();
    }
    println!("{kills} kills");
    assert!(kills > 3, "too quick to be killed: {kills}");
    // The next one finishes what they have begun.
    bench.ok(&["gc"]);
    assert_eq!(names(&bench).into_iter().collect::<BTreeSet<_>>(), pinned.iter().cloned().collect());
    assert_eq!(leftovers(&bench), 0);
    pinned.iter().for_each(|name| drop(bench.ok(&["check", name])));
    // A name that was taken is free.
    bench.ok(&["cp", "f", "idle-0:/"]);
}

/// Uses an old session again and again, and makes new ones; its name, if it was not taken before that.
fn work(bench: &Bench, name: &str) -> Option<String> {
    let at = bench.empty(&format!("at-{name}"));
    let mut alive = false;
    for round in 0..4 {
        let args = [
            "run",
            "--existing",
            "--mount",
            at.to_str().unwrap(),
            name,
            "--",
            "sh",
            "-c",
            "cat f | wc -c; echo x >> log",
        ];
        let output = bench.command(&args).output().unwrap();
        let was_there = output.status.success();
        let said = String::from_utf8_lossy(&output.stderr);
        // Taken before its first use, or there for good.
        assert!(was_there || !alive && said.contains("no session"), "{name} {round}: {said}");
        alive |= was_there;
        let new = format!("new-{name}-{round}");
        let made = bench.command(&["run", "--mount", at.to_str().unwrap(), &new, "--", "true"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    alive.then(|| name.to_owned())
}

#[test]
fn gc_beside_real_mounts_takes_exactly_what_the_rules_say() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let group = |name: &str, count: usize| (0..count).map(|n| format!("{name}-{n}")).collect::<Vec<String>>();
    let (idle, busy) = (group("idle", 40), group("busy", 8));
    old(&bench, &[idle.clone(), busy.clone(), vec!["pinned".into(), "mounted".into()]].concat());
    bench.ok(&["pin", "pinned"]);
    let at = bench.empty("mounted-at");
    bench.ok(&["mount", "mounted", at.to_str().unwrap()]);
    let ends = AtomicBool::new(false);
    let work = &|name: &String| work(&bench, name);
    let used = std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut rounds = 0;
            while !ends.load(Ordering::Relaxed) {
                bench.ok(&["gc"]);
                rounds += 1;
            }
            rounds
        });
        let workers: Vec<_> =
            busy.chunks(4).map(|some| scope.spawn(move || some.iter().filter_map(work).collect::<Vec<_>>())).collect();
        let used: Vec<String> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        ends.store(true, Ordering::Relaxed);
        println!(
            "{} collections, {} of {} busy ones were there in time",
            collecting.join().unwrap(),
            used.len(),
            busy.len()
        );
        used
    });
    let mut expected: BTreeSet<String> = used.iter().cloned().collect();
    expected.extend(["pinned".to_owned(), "mounted".to_owned()]);
    expected.extend(busy.iter().flat_map(|name| (0..4).map(move |round| format!("new-{name}-{round}"))));
    assert_eq!(names(&bench).into_iter().collect::<BTreeSet<_>>(), expected);
    for name in &used {
        assert_eq!(bench.ok(&["cat", &format!("{name}:/log")]), "x\n".repeat(4), "{name}");
    }
    assert_eq!(std::fs::read(at.join("f")).unwrap().len(), 100_000, "what is mounted stays, and works");
    bench.ok(&["umount", "mounted"]);
    assert_eq!(leftovers(&bench), 0);
}
