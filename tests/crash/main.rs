//! A child process that is killed at every named failpoint of the program (`base::failpoint`), and recovered.
//!
//! Where to kill is found by counting: a first child counts how often it passes each one. `CRASH_EVERY=1` kills at every
//! passing and not only at the first, one between and the last; `CRASH_SEED=n` is another script.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod child;
mod crowd;
mod kill;
mod script;
mod verify;
mod versions;

#[path = "../model/op.rs"]
mod op;
#[path = "../model/perform.rs"]
mod perform;
#[path = "../model/reference.rs"]
mod reference;
#[path = "../model/snapshot.rs"]
mod snapshot;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sessionfs::base::limits::DIRTY_COMMIT;
use sessionfs::store::{Omit, Store};
use tempfile::TempDir;

use child::{Job, database};
use kill::{Counts, Life, Plan, Spot, each, print_counts, spots};
use verify::States;

/// The process that is killed. Started by the tests below, and nothing by itself.
#[test]
#[ignore = "what the others start as a child"]
fn child() {
    child::main();
}

fn seed() -> u64 {
    let seed = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("CRASH_SEED={seed}");
    seed
}

/// Ends the process when a test takes far too long: a recovery that hangs is a failure.
fn watchdog() {
    let patience = if std::env::var_os("CRASH_EVERY").is_some() { 24 * 3600 } else { 600 };
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(patience));
        eprintln!("a test hangs");
        std::process::abort();
    });
}

/// A run of the script that nobody kills, and the states it goes through.
fn counted(seed: u64) -> (Counts, States) {
    let dir = TempDir::new().unwrap();
    let plan = Plan { job: Job::Work, dir: dir.path(), seed, omit: false };
    let life = plan.run(None);
    let states = States::new(seed, &life.answers).unwrap();
    (life.counts, states)
}

/// A child killed somewhere in the script. How often something is passed differs a little from run to run, for there is
/// a timer; one that lives is replaced by one that is to die where that one has passed last.
fn killed(seed: u64, spot: &Spot, omit: bool) -> (TempDir, Life) {
    let mut spot = spot.clone();
    loop {
        let dir = TempDir::new().unwrap();
        let life = Plan { job: Job::Work, dir: dir.path(), seed, omit }.run(Some(&spot));
        if life.killed || spot.passing <= 1 {
            return (dir, life);
        }
        spot.passing = life.counts.get(&spot.name).copied().unwrap_or(1).min(spot.passing - 1);
    }
}

fn panic_if_any(failures: Vec<String>, of: usize) {
    assert!(failures.is_empty(), "{} of {of} kills:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn nothing_acknowledged_is_lost_wherever_a_child_is_killed() {
    watchdog();
    let (seed, started) = (seed(), Instant::now());
    let (counts, states) = counted(seed);
    print_counts("the script", &counts);
    let spots = spots(&counts, seed);
    let outcomes = each(&spots, |spot| {
        let (dir, life) = killed(seed, spot, false);
        let verified = states
            .begins_with(&life.answers)
            .and_then(|()| states.verify(dir.path(), life.answers.len(), Omit::default()));
        (life, verified.map_err(|what| format!("{spot:?}: {what}")))
    });
    let kills = outcomes.iter().filter(|(life, _)| life.killed).count();
    let acknowledged: BTreeSet<usize> = outcomes.iter().map(|(life, _)| life.answers.len()).collect();
    let further =
        outcomes.iter().filter(|(life, state)| state.as_ref().is_ok_and(|&at| at > life.answers.len())).count();
    println!(
        "{kills} of {} children killed, after {} different numbers of {} operations; {further} times the operation under way is there too; {:.1?}",
        spots.len(),
        acknowledged.len(),
        states.len(),
        started.elapsed()
    );
    panic_if_any(outcomes.into_iter().filter_map(|(_, verified)| verified.err()).collect(), spots.len());
    assert_eq!(kills, spots.len());
    assert!(further > 0 && further < kills, "{further}");
}

#[test]
fn the_same_harness_reports_losses_when_no_records_are_written() {
    watchdog();
    let seed = seed();
    let (_, states) = counted(seed);
    let dir = TempDir::new().unwrap();
    let counts = Plan { job: Job::Work, dir: dir.path(), seed, omit: true }.run(None).counts;
    let omit = Omit { append: true, ..Omit::default() };
    // Everything since the commit before is at stake there.
    let spots = passings(&counts, "a sealed transaction is not committed yet");
    let lost = each(&spots, |spot| {
        let (dir, life) = killed(seed, spot, true);
        life.killed.then(|| states.verify(dir.path(), life.answers.len(), omit).is_err())
    });
    let kills = lost.iter().flatten().count();
    let losses = lost.iter().flatten().filter(|&&lost| lost).count();
    println!("{losses} of {kills} kills lost something, as they should");
    assert!(kills > 5 && losses * 4 >= kills * 3, "{losses} of {kills}");
}

/// Every passing of one failpoint.
fn passings(counts: &Counts, name: &str) -> Vec<Spot> {
    (1..=counts[name]).map(|passing| Spot { name: name.to_owned(), passing }).collect()
}

/// A session whose journal holds more than one commit takes, and how many operations were acknowledged.
fn much_to_recover(seed: u64) -> (TempDir, usize) {
    let mut tries = (0..5).map(|_| {
        let dir = TempDir::new().unwrap();
        let life = Plan { job: Job::Pile, dir: dir.path(), seed, omit: false }.run(None);
        assert!(life.killed);
        let store = Store::open_read_only(&database(dir.path())).unwrap();
        let found = store.inspect_journal(&dir.path().join("session.journal")).unwrap();
        println!("{} KiB to recover after {} operations", found.bytes >> 10, life.answers.len());
        (found.bytes, dir, life.answers.len())
    });
    // On a machine that stands still for a second a timer commits in between.
    let (_, dir, acknowledged) = tries.find(|(bytes, ..)| *bytes as usize >= DIRTY_COMMIT).unwrap();
    (dir, acknowledged)
}

fn copy(dir: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn a_recovery_that_is_killed_anywhere_is_done_again() {
    watchdog();
    let (seed, started) = (seed(), Instant::now());
    let (_, states) = counted(seed);
    let (base, acknowledged) = much_to_recover(seed);
    let state = states.verify(copy(base.path()).path(), acknowledged, Omit::default()).unwrap();

    let recover = |dir: &Path, spot: Option<&Spot>| Plan { job: Job::Recover, dir, seed, omit: false }.run(spot);
    let counts = recover(copy(base.path()).path(), None).counts;
    print_counts("the recovery", &counts);
    assert!(counts["a replayed transaction is not committed yet"] >= 2, "recovery commits in parts");
    let spots = spots(&counts, seed);
    let outcomes = each(&spots, |spot| {
        let dir = copy(base.path());
        let life = recover(dir.path(), Some(spot));
        let verified = states.verify_one_of(dir.path(), &[state], Omit::default());
        (life.killed, verified.map_err(|what| format!("{spot:?}: {what}")))
    });
    let kills = outcomes.iter().filter(|(killed, _)| *killed).count();
    println!("{kills} of {} recoveries killed; {:.1?}", spots.len(), started.elapsed());
    panic_if_any(outcomes.into_iter().filter_map(|(_, verified)| verified.err()).collect(), spots.len());
    assert!(kills * 10 >= spots.len() * 9, "only {kills} of {} were reached", spots.len());

    // One after the other, each on what the one before has left.
    let chain: Vec<&Spot> = spots.iter().filter(|spot| spot.passing <= 2).collect();
    let kills = chain.iter().filter(|spot| recover(base.path(), Some(spot)).killed).count();
    println!("{kills} recoveries of the same session killed one after the other");
    states.verify_one_of(base.path(), &[state], Omit::default()).unwrap();
    assert!(kills > 10, "{kills}");
}

#[test]
fn a_session_whose_creation_was_killed_is_there_whole_or_not_at_all() {
    watchdog();
    let dir = TempDir::new().unwrap();
    let create = |dir: &Path, spot: Option<&Spot>| Plan { job: Job::Create, dir, seed: 0, omit: false }.run(spot);
    let counts = create(dir.path(), None).counts;
    print_counts("creation and stop", &counts);
    let all: Vec<Spot> = counts.keys().flat_map(|name| passings(&counts, name)).collect();
    let outcomes = each(&all, |spot| {
        let dir = TempDir::new().unwrap();
        let life = create(dir.path(), Some(spot));
        let place = dir.path().join("store/a-session");
        let was_there = database(&place).exists();
        let session = child::open_session(dir.path()).map_err(|error| format!("{spot:?}: {error}"))?;
        assert_eq!(session.created(), !was_there, "{spot:?}");
        let names = session.fs().usage().inodes;
        session.stop().map_err(|error| format!("{spot:?}: stop: {error}"))?;
        verify::check(&place).map_err(|what| format!("{spot:?}: {what}"))?;
        let left: BTreeSet<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let expected = ["lock", "session.db"].map(Into::into).into();
        if names != 1 || left != expected {
            return Err(format!("{spot:?}: {names} inodes, {left:?}"));
        }
        Ok(life.killed)
    });
    let kills = outcomes.iter().filter(|outcome| **outcome == Ok(true)).count();
    println!("{kills} of {} creations and stops killed", all.len());
    panic_if_any(outcomes.into_iter().filter_map(Result::err).collect(), all.len());
    assert_eq!(kills, all.len());
}

#[test]
fn no_version_of_a_session_is_lost_wherever_its_change_is_killed() {
    watchdog();
    let dir = TempDir::new().unwrap();
    let change = |dir: &Path, spot: Option<&Spot>| Plan { job: Job::Versions, dir, seed: 0, omit: false }.run(spot);
    let counts = change(dir.path(), None).counts;
    print_counts("changes of the version", &counts);
    let spots = spots(&counts, 1);
    let outcomes = each(&spots, |spot| {
        let dir = TempDir::new().unwrap();
        let life = change(dir.path(), Some(spot));
        let verified = versions::verify(dir.path(), life.answers.len());
        (life.killed, verified.map_err(|what| format!("{spot:?}: {what}")))
    });
    let kills = outcomes.iter().filter(|(killed, _)| *killed).count();
    println!("{kills} of {} changes killed", spots.len());
    panic_if_any(outcomes.into_iter().filter_map(|(_, verified)| verified.err()).collect(), spots.len());
    assert_eq!(kills, spots.len());
}

#[test]
fn what_any_of_several_threads_was_told_is_kept() {
    watchdog();
    let seed = seed();
    let crowd = |dir: &Path, spot: Option<&Spot>| Plan { job: Job::Crowd, dir, seed, omit: false }.run(spot);
    let counts = crowd(TempDir::new().unwrap().path(), None).counts;
    // Those passed by many at once.
    let counts: Counts = counts.into_iter().filter(|&(_, count)| count >= 8).collect();
    print_counts("the crowd", &counts);
    let spots = spots(&counts, seed);
    let outcomes = each(&spots, |spot| {
        let dir = TempDir::new().unwrap();
        let life = crowd(dir.path(), Some(spot));
        let verified = crowd::verify(dir.path(), &life.crowd).map_err(|what| format!("{spot:?}: {what}"));
        (life.killed, verified)
    });
    let kills = outcomes.iter().filter(|(killed, _)| *killed).count();
    println!("{kills} of {} crowds killed", spots.len());
    panic_if_any(outcomes.into_iter().filter_map(|(_, verified)| verified.err()).collect(), spots.len());
    assert!(kills * 2 > spots.len(), "only {kills} of {} were reached", spots.len());
}

/// The names that stand in the sources.
fn names_in_sources(at: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in_sources(&path, found);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("failpoint::passed(\"").skip(1).filter_map(|rest| rest.split_once('"'));
            found.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_failpoint_of_the_program_is_passed_by_one_of_the_jobs() {
    watchdog();
    let seed = seed();
    let mut passed: BTreeSet<String> = counted(seed).0.into_keys().collect();
    let spot = Spot { name: "a sealed transaction is not committed yet".to_owned(), passing: 1 };
    let (dir, _) = killed(seed, &spot, false);
    for job in [Job::Recover, Job::Create, Job::Versions] {
        passed.extend(Plan { job, dir: dir.path(), seed, omit: false }.run(None).counts.into_keys());
    }
    let mut names = BTreeSet::new();
    names_in_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
    println!("{} failpoints", names.len());
    let missed: Vec<_> = names.difference(&passed).collect();
    assert!(names.len() > 40 && missed.is_empty(), "never passed: {missed:#?}");
}
