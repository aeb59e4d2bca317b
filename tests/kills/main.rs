//! `kill -9` of the server loses nothing: the built binary as a black box, worker processes that write down what was
//! acknowledged, kills at random moments, and a comparison with what comes back.
//!
//! `SESSIONFS_KILLS` is the number of kills (20), `SESSIONFS_KILLS_SEED` the seed, `SESSIONFS` another binary to test.
//! With `SESSIONFS_KILLS_WORK_ONLY` every kill is one under work, and none of a mount, a stop, `run`, `rm` or a creation.

#![allow(clippy::unwrap_used)] // What fails here is meant to panic.

mod compare;
mod cycle;
mod ends;
mod history;
mod op;
mod plan;
mod report;
mod rng;
mod scan;
mod session;
mod side;
#[allow(dead_code)] // Shared with the tests of the mount, which need more of it.
#[path = "../mount/sys.rs"]
mod sys;
mod tree;
mod watch;
mod worker;

use cycle::Cycles;
use rng::Rng;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// Whether this machine can mount. Where it cannot, the test fails, unless it is said that this is known: then it says
/// aloud that it was skipped.
fn can_mount() -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(error) = opened {
        eprintln!("SKIPPED: /dev/fuse: {error}");
        let known = std::env::var_os("SESSIONFS_TEST_NO_FUSE").is_some_and(|value| value == "1");
        assert!(known, "no /dev/fuse ({error}); SESSIONFS_TEST_NO_FUSE=1 skips");
        return false;
    }
    true
}

#[test]
fn what_was_acknowledged_survives_every_kill() {
    if !can_mount() {
        return;
    }
    let kills = number("SESSIONFS_KILLS").unwrap_or(20);
    let seed = number("SESSIONFS_KILLS_SEED").unwrap_or_else(rng::from_the_clock);
    println!("seed {seed}, {kills} kills");
    let mut cycles = Cycles::new(seed);
    cycles.work_only = std::env::var_os("SESSIONFS_KILLS_WORK_ONLY").is_some();
    let began = std::time::Instant::now();
    let mut said = 0;
    while cycles.report.kills < kills {
        cycles.one();
        if cycles.report.kills >= said + 100 {
            said = cycles.report.kills;
            println!("{said} kills, {} problems, {:.0?}", cycles.report.problems.len(), began.elapsed());
        }
    }
    cycles.finish();
    println!("{}", cycles.report);
    assert!(cycles.report.kills >= kills && cycles.report.acknowledged > 0, "it did what it was to do");
    assert!(cycles.report.is_clean(), "seed {seed}: {} problems", cycles.report.problems.len());
}

/// The positive control: the same kills, the same comparison, and no journal.
#[test]
fn without_the_journal_the_same_kills_lose_operations() {
    if !can_mount() {
        return;
    }
    let seed = number("SESSIONFS_KILLS_SEED").unwrap_or_else(rng::from_the_clock);
    println!("seed {seed}; losses are what is expected here");
    let mut cycles = Cycles::new(seed);
    // A kill right behind a commit loses nothing: one of so many does not come there.
    while cycles.report.kills < 10 && cycles.report.lost == 0 {
        cycles.one_without_journal();
    }
    println!("{}", cycles.report);
    assert!(cycles.report.lost > 0 && cycles.report.kills_with_losses > 0, "seed {seed}: nothing was found missing");
    assert_eq!(cycles.report.mixtures, 0, "seed {seed}: what the last commit left is a state that there was");
}

/// The comparison is what all rests on, so it has to see the loss of any single operation.
#[test]
fn the_comparison_sees_the_loss_of_any_one_operation() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let mut tree = tree::Tree::rooted("w0");
        for _ in 0..150 {
            let op = plan::next(&tree, 0, &mut rng);
            let mut after = tree.clone();
            after.apply(&op, op.length());
            let differences = compare::differences(&after, &tree);
            assert_eq!(differences.is_empty(), !op.changes(&tree), "{op:?}: {differences:?}");
            assert!(compare::differences(&after, &after.clone()).is_empty());
            if !differences.is_empty() {
                seen.insert(op.name());
            }
            tree = after;
        }
    }
    for name in ["Create", "Mkdir", "Symlink", "Write", "Append", "Truncate", "Rename", "Link", "Unlink", "Rmdir"] {
        assert!(seen.contains(name), "{name} was never seen: {seen:?}");
    }
    for name in ["Chmod", "SetXattr", "RemoveXattr", "Punch", "Store", "Exchange"] {
        assert!(seen.contains(name), "{name} was never seen: {seen:?}");
    }
}
