//! A session beside it, killed while it is made and while it is removed: it is there whole, or not at all.

use serde_json::Value;

use crate::report::Report;
use crate::rng::Rng;
use crate::session::{Bench, kill, text};

pub fn create_and_remove(bench: &Bench, rng: &mut Rng, report: &mut Report, nth: u64) {
    let name = format!("{}-beside-{nth}", bench.session);
    let at = bench.path("side");
    let at = at.to_str().unwrap();
    let micros = rng.below(60_000);
    let code = bench.kill_while_starting(&["--json", "mount", &name, at], micros);
    report.killed("while creating");
    let after = format!("{name}, killed after {micros} µs of its creation");
    if !matches!(code, Some(0 | 121)) {
        report.problem(format!("{after}: mount: exit {code:?}"));
    }
    bench.call(&["umount", at]); // There may be nothing to unmount.
    if is_there(bench, &name, &after, report) {
        report.found(bench.findings(&name), &after);
        bench.ok(&["mount", "--existing", &name, at]);
        let there = std::fs::read_dir(at).unwrap().count();
        if there != 0 {
            report.problem(format!("{after}: {there} names in a new session"));
        }
        bench.ok(&["umount", at]);
    } else {
        expect(bench, &["status", &name], 4, &after, report);
    }

    bench.ok(&["mount", &name, at]);
    std::fs::write(format!("{at}/file"), vec![7; 300_000]).unwrap();
    bench.ok(&["umount", at]);
    let micros = rng.below(6_000);
    let mut removing = bench.spawn(&["rm", &name]);
    bench.let_work(micros);
    kill(removing.id() as i32);
    bench.end_of("a killed rm", &mut removing);
    report.killed("while removing");
    let after = format!("{name}, killed after {micros} µs of its removal");
    if is_there(bench, &name, &after, report) {
        report.found(bench.findings(&name), &after);
        if bench.call(&["cat", &format!("{name}:/file")]).stdout != vec![7; 300_000] {
            report.problem(format!("{after}: it is there, and its file is not"));
        }
        bench.ok(&["rm", &name]);
    } else {
        expect(bench, &["status", &name], 4, &after, report);
    }
    // The next removal takes away what one that was killed has left.
    bench.call(&["rm", &name]);
    for entry in std::fs::read_dir(bench.store()).unwrap() {
        let left = entry.unwrap().file_name().into_string().unwrap();
        // The registry outlives what was removed.
        if left != bench.session && left != ".registry" {
            report.problem(format!("{after}: {left} is left in the store"));
        }
    }
}

fn expect(bench: &Bench, args: &[&str], code: i32, after: &str, report: &mut Report) {
    let output = bench.call(args);
    if output.status.code() != Some(code) {
        report.problem(format!("{after}: {args:?}: {} {}", output.status, text(&output.stderr)));
    }
}

/// Whether `ls` shows it; nothing that it shows may be unreadable.
fn is_there(bench: &Bench, name: &str, after: &str, report: &mut Report) -> bool {
    let listed = bench.ok(&["ls"]);
    let sessions = listed.as_array().expect("a list of sessions");
    for session in sessions.iter().filter(|session| session["error"] != Value::Null) {
        report.problem(format!("{after}: ls shows half a session: {session}"));
    }
    sessions.iter().any(|session| session["session"] == name)
}
