//! The four figures against histories worked out by hand: logs as they are on disk, and what each line comes to.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

use std::collections::BTreeMap;

use sessionfs::session::{Cold, CommandRecord, Event, History};

const RECEIPT: &str = r#""uuid":"u","epoch":1,"txid":1,"digest":"00","files":1,"dirs":1,"bytes":1"#;

/// At this second of an hour.
fn at(second: u32) -> String {
    format!("2026-11-23T10:{:02}:{:02}Z", second / 60, second % 60)
}

/// Mounted, after half a second of opening.
fn started(second: u32, how: &str, as_stopped: bool) -> String {
    format!(
        r#"{{"at":"{}","event":"started","by":"mount","mountpoint":"/mnt","opening_millis":500,"how":"{how}",{RECEIPT},
        "last_stop":null,"as_stopped":{as_stopped},"recovery":null,"runtime_version":null}}"#,
        at(second)
    )
}

fn stopped(second: u32, first_used_millis: &str) -> String {
    format!(
        r#"{{"at":"{}","event":"stopped","by":"mount","reason":"umount","millis":1,"first_used_millis":{first_used_millis},{RECEIPT}}}"#,
        at(second)
    )
}

fn other(second: u32, rest: &str) -> String {
    format!(r#"{{"at":"{}",{rest}}}"#, at(second))
}

fn set_up(second: u32, step: &str, why: &str, millis: u64, exit: i32) -> String {
    let rest = format!(r#""event":"set_up","step":"{step}","key":"k","why":"{why}","millis":{millis},"exit":{exit}"#);
    other(second, &rest)
}

fn skipped(second: u32, step: &str, saved: u64) -> String {
    other(second, &format!(r#""event":"set_up_skipped","step":"{step}","key":"k","saved_millis":{saved}"#))
}

fn refused(second: u32, opened: bool) -> String {
    other(second, &format!(r#""event":"refused","by":"mount","opened":{opened},"error":"why""#))
}

fn removed(second: u32, by: &str) -> String {
    other(second, &format!(r#""event":"removed","by":"{by}","freed":1"#))
}

fn command(second: u32, by: &str, millis: u64, exit: i32) -> CommandRecord {
    let text = format!(
        r#"{{"started":"{}","millis":{millis},"by":"{by}","argv":["x"],"cwd":null,"user":null,"exit":{exit},
        "status":"COMPLETED","changed":null,"stdout":"","stderr":""}}"#,
        at(second)
    );
    serde_json::from_str(&text).unwrap()
}

fn history(events: &[String], commands: &[CommandRecord]) -> History {
    let events: Vec<Event> = events.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    History::of(&events, commands)
}

#[test]
fn minutes_avoided_are_those_that_each_resume_would_have_spent_again() {
    let history = history(
        &[
            started(0, "created", false),
            set_up(60, "install", "first", 60_000, 0),
            set_up(90, "build", "first", 30_000, 1), // failed: nothing was done
            set_up(120, "build", "first", 30_000, 0),
            skipped(121, "install", 60_000), // done in this very opening: 0
            stopped(130, "null"),
            started(200, "resumed", true),
            skipped(201, "install", 60_000), // +60 s
            skipped(202, "install", 60_000), // again in the same opening: 0
            skipped(203, "build", 30_000),   // +30 s
            stopped(210, "null"),
            started(300, "resumed", true),
            skipped(301, "install", 60_000), // +60 s
            set_up(340, "build", "key_changed", 40_000, 0),
            skipped(341, "build", 40_000), // done in this opening: 0
            stopped(350, "null"),
            skipped(360, "install", 60_000), // in no opening: 0
        ],
        &[],
    );
    assert_eq!((history.avoided_millis, history.steps_avoided), (150_000, 3));
    assert_eq!((history.steps_millis, history.steps_done), (60_000 + 30_000 + 40_000, 3));
    // Two resumes: 75 s, 1.25 min, each.
    assert_eq!((history.openings, history.resumes_good, history.resumes_failed), (3, 2, 0));
}

#[test]
fn a_resume_that_failed_has_avoided_nothing() {
    let history = history(
        &[
            started(0, "created", false),
            set_up(1, "install", "first", 60_000, 0),
            stopped(2, "null"),
            started(10, "resumed", true), // good 1: +60 s
            skipped(11, "install", 60_000),
            stopped(12, "null"),
            started(20, "resumed", false), // not as its stop left it: 0
            skipped(21, "install", 60_000),
            stopped(22, "null"),
            started(30, "resumed", true), // found damaged while open: 0
            skipped(31, "install", 60_000),
            other(32, r#""event":"verified","txid":3,"findings":1,"first":"x","millis":5"#),
            stopped(33, "null"),
            started(40, "resumed", true), // good 2: nobody set anything up
            stopped(41, "null"),
        ],
        &[],
    );
    // 60 s by two that went well: half a minute each.
    assert_eq!((history.avoided_millis, history.steps_avoided), (60_000, 1));
    assert_eq!((history.resumes_good, history.resumes_failed), (2, 2));
}

#[test]
fn a_resume_went_well_when_it_brought_back_what_was_stopped() {
    let finding = r#""event":"verified","txid":3,"findings":2,"first":"x","at":"2026-11-23T10:00:00Z","millis":5"#;
    let sound = finding.replace("\"findings\":2,\"first\":\"x\"", "\"findings\":0,\"first\":null");
    let verified = |second: u32, text: &str| {
        let text = text.replace(r#","at":"2026-11-23T10:00:00Z""#, "");
        other(second, &text)
    };
    let history = history(
        &[
            started(0, "created", false), // no resume
            stopped(1, "null"),
            started(10, "resumed", true), // good: 1
            verified(11, &sound),
            stopped(12, "null"),
            started(20, "resumed", false), // not as its stop left it: failed 1
            stopped(21, "null"),
            started(30, "recovered", false), // nothing a stop has left: good 2
            started(40, "recovered", false), // the one before crashed as well: good 3
            stopped(41, "null"),
            refused(50, false),            // failed 2
            refused(51, false),            // failed 3
            started(60, "adopted", false), // good 4
            stopped(61, "null"),
            started(70, "resumed", true), // opened, and without an expected file: failed 4
            refused(71, true),
            stopped(72, "null"),
            started(80, "resumed", true), // found damaged while open: failed 5
            verified(81, finding),
            stopped(82, "null"),
            started(90, "reset", false), // no resume
            stopped(91, "null"),
        ],
        &[],
    );
    assert_eq!((history.resumes_good, history.resumes_failed, history.resumes()), (4, 5, 9));
    // Started at 0, 10, 20, 30, 40, 60, 70, 80 and 90; that at 70 was refused, and so not mounted.
    assert_eq!(history.openings, 8);
}

/// A session that should have been there, is not, and is asked for by the files in it: the one that is made for that is
/// taken away again, which no event says.
#[test]
fn what_is_refused_is_no_opening_and_leaves_its_reason_to_the_next() {
    let expired = history(
        &[
            started(0, "created", false), // new
            stopped(1, "null"),
            removed(10, "gc"),
            started(20, "created", false), // without an expected file: failed 1
            refused(21, true),
            stopped(22, "null"),
            started(30, "created", false), // again: failed 2
            refused(31, true),
            stopped(32, "null"),
            started(40, "created", false), // now it may be empty: expired
            stopped(41, "null"),
            started(50, "resumed", true), // good 1
            stopped(51, "null"),
        ],
        &[],
    );
    assert_eq!(expired.cold, BTreeMap::from([(Cold::New, 1), (Cold::Expired, 1)]));
    assert_eq!((expired.openings, expired.resumes_good, expired.resumes_failed), (3, 1, 2));

    let version = history(
        &[
            started(0, "created", false), // new
            stopped(1, "null"),
            started(10, "reset", false), // begins empty, without an expected file: failed 1; it stays
            refused(11, true),
            stopped(12, "null"),
            started(20, "resumed", true), // good 1, and cold: version
            stopped(21, "null"),
            started(30, "resumed", true), // good 2, warm
            stopped(31, "null"),
        ],
        &[],
    );
    assert_eq!(version.cold, BTreeMap::from([(Cold::New, 1), (Cold::Version, 1)]));
    assert_eq!((version.openings, version.resumes_good, version.resumes_failed), (3, 2, 1));

    // What was removed once is not the reason for a session that a command has made since, or that was brought here.
    let made = started(20, "created", false).replace(r#""mountpoint":"/mnt""#, r#""mountpoint":null"#);
    for then in [made, started(20, "adopted", false)] {
        let events = [removed(10, "rm"), then, started(30, "resumed", true), started(40, "created", false)];
        assert_eq!(history(&events, &[]).cold, BTreeMap::from([(Cold::New, 1)]));
    }
}

#[test]
fn a_step_is_done_again_only_where_it_was_done_before() {
    // Never done: a refusal in between does not make it done again.
    let lint = [
        started(0, "resumed", true), // warm
        stopped(1, "null"),
        refused(10, false),
        started(20, "resumed", true), // warm
        set_up(21, "lint", "first", 10, 0),
    ];
    assert_eq!(history(&lint, &[]).cold, BTreeMap::new());
    // Tried, and failed.
    let build = [
        started(0, "resumed", true), // warm
        set_up(1, "build", "first", 10, 1),
        stopped(2, "null"),
        started(10, "resumed", true), // warm
        set_up(11, "build", "first", 10, 0),
    ];
    assert_eq!(history(&build, &[]).cold, BTreeMap::new());
    // The log begins behind the time it was done; that it was, is seen where it was passed over.
    let install = [
        started(0, "resumed", true), // warm
        skipped(1, "install", 10),
        stopped(2, "null"),
        started(10, "resumed", true), // damaged: its mark is gone
        set_up(11, "install", "first", 10, 0),
    ];
    assert_eq!(history(&install, &[]).cold, BTreeMap::from([(Cold::Damaged, 1)]));
}

#[test]
fn an_opening_ends_where_it_could_not_be_stopped() {
    let findings = r#""event":"verified","txid":3,"findings":2,"first":"x","millis":5"#;
    let not_stopped = r#""event":"not_stopped","by":"mount","error":"the disk is full""#;
    let history = history(
        &[
            started(0, "resumed", true), // good: what is found later was not found while it was open
            other(10, not_stopped),
            other(20, findings),
            started(30, "recovered", false), // good
        ],
        &[],
    );
    assert_eq!((history.openings, history.resumes_good, history.resumes_failed), (2, 2, 0));
}

#[test]
fn an_opening_is_cold_for_one_reason() {
    let history = history(
        &[
            started(0, "created", false), // new
            set_up(1, "install", "first", 10, 0),
            stopped(2, "null"),
            started(10, "resumed", true), // warm
            skipped(11, "install", 10),
            stopped(12, "null"),
            started(20, "resumed", true), // key
            set_up(21, "install", "key_changed", 10, 0),
            set_up(22, "lint", "first", 10, 0), // a step that is new: no reason of its own
            stopped(23, "null"),
            removed(30, "gc"),
            started(31, "created", false), // expired
            set_up(32, "install", "first", 10, 0),
            stopped(33, "null"),
            removed(34, "rm"),
            started(35, "created", false), // deleted
            stopped(36, "null"),
            started(40, "reset", false), // version
            set_up(41, "install", "first", 10, 0),
            stopped(42, "null"),
            refused(50, false),
            removed(51, "rm"),
            started(52, "created", false), // damaged: that is why it was removed
            set_up(53, "install", "first", 10, 0),
            stopped(54, "null"),
            started(60, "resumed", true), // damaged: its mark is gone, without another key
            set_up(61, "install", "first", 10, 0),
            stopped(62, "null"),
            started(70, "resumed", true), // warm: a step that was never done
            set_up(71, "new-step", "first", 10, 0),
            stopped(72, "null"),
        ],
        &[],
    );
    let expected = [
        (Cold::New, 1),
        (Cold::Expired, 1),
        (Cold::Deleted, 1),
        (Cold::Version, 1),
        (Cold::Damaged, 2),
        (Cold::Key, 1),
    ];
    assert_eq!(history.cold, BTreeMap::from(expected));
    assert_eq!((history.cold_openings(), history.openings), (7, 9));
    let idle = |by| history_of_removal(by).cold[&Cold::Expired];
    assert_eq!((idle("gc"), idle("rm --all-idle")), (1, 1));
    assert_eq!(history_of_removal("rm").cold[&Cold::Deleted], 1);
}

fn history_of_removal(by: &str) -> History {
    history(&[started(0, "created", false), stopped(1, "null"), removed(2, by), started(3, "created", false)], &[])
}

#[test]
fn the_first_action_is_the_first_command_that_succeeded_or_the_first_use() {
    let history = history(
        &[
            started(0, "created", false), // no resume: not counted
            stopped(50, "1"),
            // Began at 99.5 s. Commands: one fails, one succeeds from 104 s to 105 s: 5,500 ms. First use at 107 s: later.
            started(100, "resumed", true),
            stopped(150, "7000"),
            // First use 250 ms after 200 s, before any command: 750 ms.
            started(200, "resumed", true),
            stopped(250, "250"),
            // What was used was used by set-up; a command succeeds from 320 s to 330 s: 30,500 ms.
            started(300, "resumed", true),
            set_up(310, "install", "key_changed", 9_000, 0),
            stopped(350, "10"),
            // Nobody did anything.
            started(400, "resumed", true),
            stopped(450, "null"),
            // Crashed, and only a command is known, from 501 s to 502 s: 2,500 ms.
            started(500, "recovered", false),
            // Goes on, from 600 s; nothing yet.
            started(600, "recovered", false),
        ],
        &[
            command(10, "run", 10, 0),
            command(101, "exec", 1_000, 1),
            command(104, "exec", 1_000, 0),
            command(106, "exec", 1_000, 0),
            command(225, "run", 0, 0),
            command(305, "setup", 4_000, 0), // no action of its own
            command(320, "exec", 10_000, 0),
            command(460, "exec", 10, 0), // between openings
            command(501, "exec", 1_000, 0),
        ],
    );
    assert_eq!(history.first_action_millis, [5_500, 750, 30_500, 2_500]);
    assert_eq!((history.first_action_unknown, history.first_action_median()), (2, Some(2_500)));
}

#[test]
fn nothing_half_and_several_come_to_what_they_are() {
    let none = history(&[], &[]);
    assert_eq!(none, History::default());
    assert_eq!((none.first_action_median(), none.resumes()), (None, 0));

    // A log that begins in the middle: what was before is not guessed at.
    let cut =
        history(&[skipped(1, "install", 5), stopped(2, "3"), started(3, "resumed", true), stopped(4, "1000")], &[]);
    assert_eq!((cut.openings, cut.resumes_good, cut.avoided_millis), (1, 1, 0));
    assert_eq!(cut.first_action_millis, [1_500]);
    assert_eq!(cut.since.unwrap().to_string(), at(1));

    let mut sum = History::default();
    for of in [&cut, &none, &cut] {
        sum.add(of);
    }
    assert_eq!((sum.openings, sum.resumes_good, sum.first_action_millis.len()), (2, 2, 2));
    assert_eq!(sum.since, cut.since);
}

/// Logs as earlier versions wrote them lack what was added since.
#[test]
fn events_without_newer_fields_are_read() {
    let old = started(5, "resumed", true).replace(r#""opening_millis":500,"#, "");
    let refused = other(7, r#""event":"refused","by":"mount","error":"why""#);
    let stopped = stopped(6, "null").replace(r#""first_used_millis":null,"#, "");
    let history = history(&[old, stopped, refused], &[command(5, "exec", 100, 0)]);
    assert_eq!((history.resumes_good, history.resumes_failed), (1, 1));
    assert_eq!(history.first_action_millis, [100]);
}
