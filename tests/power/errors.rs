//! Every call to the disk fails once: with an error, with no room, half-way through a write, for a moment or for ever.

use std::collections::BTreeMap;

use sessionfs::store::Omit;

use crate::cut::{Image, Pattern, Simulation};
use crate::disk::RecordingDisk;
use crate::faults::{Failure, Fault, Kind};
use crate::life::{Place, directory};
use crate::op::Op;
use crate::script::script;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::survive::{Right, Wreck};
use crate::watchdog::{Watchdog, panics};
use crate::workload::Workload;

/// Lives with a fault that are run when nobody asks for more.
const LIVES: u64 = 100;

const EIO: Failure = Failure { errno: libc::EIO, short: false };
const ENOSPC: Failure = Failure { errno: libc::ENOSPC, short: false };
const SHORT: Failure = Failure { errno: libc::EIO, short: true };
const SHORT_ENOSPC: Failure = Failure { errno: libc::ENOSPC, short: true };

/// How the call with this number may fail.
fn variants(nth: u64) -> [Fault; 6] {
    let fault = |failure, for_ever| Fault { kind: None, nth, for_ever, failure };
    [
        fault(EIO, false),
        fault(ENOSPC, true),
        fault(SHORT, false),
        fault(ENOSPC, false),
        fault(EIO, true),
        fault(SHORT_ENOSPC, false),
    ]
}

/// What became of a life with a fault in it.
struct Life {
    /// The kind of call that failed, if it came to that.
    hit: Option<Kind>,
    calls: u64,
    violation: Option<String>,
}

/// One life: the script with this fault, then a stop or a kill, then recoveries from what is on the disk, and from what
/// a power cut at this moment leaves of it.
fn live(script: &[Op], fault: Option<Fault>, stop: bool, omit: Omit) -> Life {
    let dir = directory();
    let disk = RecordingDisk::over(dir.path(), false);
    let mut workload = Workload::new(&disk, &Place::at(dir.path()), omit, true);
    disk.arm(fault);
    let before = panics();
    let outcome = workload.begin().and_then(|begun| if begun { workload.run(script, stop) } else { Ok(()) });
    let (hit, calls) = {
        let state = disk.state();
        (state.faults.hit(), state.faults.total())
    };
    let checked = outcome.and_then(|()| workload.kill()).and_then(|()| comes_back(&workload, calls));
    let violation = match checked {
        _ if panics() > before => Some("a panic".to_owned()),
        checked => checked.err(),
    };
    Life { hit, calls, violation }
}

/// Recovers what a life has left, without faults.
fn comes_back(workload: &Workload, seed: u64) -> Result<(), String> {
    let tape = workload.disk.tape();
    let mut simulation = Simulation::new(&tape);
    simulation.advance(tape.len());
    let acknowledged = workload.right_after_kill();
    let durable = workload.right_after_cut();
    let torn = Pattern::all(seed)[9];
    for (what, pattern, states) in [
        ("a kill", Pattern::EVERYTHING, &acknowledged),
        ("a power cut", Pattern::NOTHING, &durable),
        ("a power cut with torn writes", torn, &durable),
    ] {
        let image = simulation.image(&pattern);
        let wreck = Wreck::of(&image, true);
        if !workload.created && !image.has("session.db") {
            wreck.place.create(&wreck.disk).map_err(|error| format!("creating it again: {error}"))?;
        }
        let right = Right { states: states.clone(), passed: &workload.snapshots };
        wreck.recover(&right, Omit::default()).map_err(|violation| format!("after {what}: {violation}"))?;
        if pattern.keeps_everything() {
            wreck.goes_on().map_err(|violation| format!("after {what}: {violation}"))?;
        }
    }
    Ok(())
}

/// What was tried and found.
#[derive(Default)]
struct Tally {
    hits: BTreeMap<Kind, u64>,
    violations: Vec<String>,
}

impl Tally {
    fn add(&mut self, what: &str, life: Life) {
        if let Some(kind) = life.hit {
            *self.hits.entry(kind).or_default() += 1;
        }
        let hit = life.hit;
        self.violations.extend(life.violation.map(|violation| format!("{what} ({hit:?}): {violation}")));
    }

    fn conclude(self, what: &str) {
        let faults: u64 = self.hits.values().sum();
        println!("{what}: faults {faults}, violations {}; by kind: {:?}", self.violations.len(), self.hits);
        assert!(faults > 0, "no fault was met at all");
        let first: Vec<&String> = self.violations.iter().take(5).collect();
        assert!(first.is_empty(), "{} violations, the first of them: {first:#?}", self.violations.len());
    }
}

/// Of so many calls one fails, in one way after the other; in every way when each one does.
fn each_fault(total: u64, seed: u64, stride: Option<u64>, lives: u64, mut run: impl FnMut(Fault)) {
    let stride = stride.unwrap_or((total / lives).max(1));
    println!("POWER_SEED={seed} POWER_STRIDE={stride}: {total} calls");
    for nth in (seed % stride..total).step_by(stride as usize) {
        let all = variants(nth);
        let turn = (nth / stride) as usize % all.len();
        let chosen = if stride == 1 { &all[..] } else { &all[turn..=turn] };
        chosen.iter().for_each(|fault| run(*fault));
    }
}

#[test]
fn every_call_to_the_disk_may_fail() {
    let settings = Settings::get();
    let watchdog = Watchdog::new();
    let mut tally = Tally::default();
    for seed in settings.seeds() {
        let script = script(seed, settings.operations / 2);
        let total = live(&script, None, true, Omit::default()).calls;
        let mut stop = false;
        each_fault(total, seed, settings.stride, LIVES, |fault| {
            let what = format!("seed {seed}, {fault:?}");
            watchdog.doing(what.clone());
            stop = !stop;
            tally.add(&what, live(&script, Some(fault), stop, Omit::default()));
        });
    }
    tally.conclude("errors in a life");
}

/// What a kill leaves of a session with much in its journal.
fn killed(seed: u64, operations: usize) -> (Image, Snapshot) {
    let dir = directory();
    let disk = RecordingDisk::over(dir.path(), false);
    let mut workload = Workload::new(&disk, &Place::at(dir.path()), Omit::default(), false);
    assert_eq!(workload.begin(), Ok(true));
    workload.run(&script(seed, operations), false).unwrap();
    let tape = disk.tape();
    let mut simulation = Simulation::new(&tape);
    simulation.advance(tape.len());
    (simulation.image(&Pattern::EVERYTHING), workload.snapshots.pop().unwrap())
}

/// A recovery with this fault, a stop or a kill behind it, and a recovery without faults from what that leaves.
fn recover(image: &Image, state: &Snapshot, fault: Option<Fault>, stop: bool) -> Life {
    let wreck = Wreck::of(image, false);
    let before = panics();
    wreck.disk.arm(fault);
    let mut served = None;
    // Whatever it says: what was there is there, and nobody has changed anything.
    if let Ok(fs) = wreck.place.start(&wreck.disk, Omit::default()) {
        // A read that fails is an error; one that succeeds is right.
        served = Snapshot::of_fs(&fs).ok().and_then(|found| found.difference(state));
        if stop {
            let _ = fs.stop();
        } else {
            fs.abandon();
        }
    }
    let (hit, calls) = {
        let state = wreck.disk.state();
        (state.faults.hit(), state.faults.total())
    };
    let tape = wreck.disk.tape();
    let mut simulation = Simulation::new(&tape);
    simulation.advance(tape.len());
    let right = Right { states: vec![state], passed: std::slice::from_ref(state) };
    let patterns = [Pattern::EVERYTHING, Pattern::NOTHING, Pattern::all(calls)[9]];
    let violation = patterns.iter().find_map(|pattern| {
        let again = Wreck::of(&simulation.image(pattern), true);
        again.recover(&right, Omit::default()).err().map(|violation| format!("{pattern:?}: {violation}"))
    });
    let panicked = (panics() > before).then(|| "a panic".to_owned());
    let served = served.map(|difference| format!("served: {difference}"));
    Life { hit, calls, violation: panicked.or(served).or(violation) }
}

#[test]
fn every_call_of_a_recovery_may_fail() {
    let settings = Settings::get();
    let watchdog = Watchdog::new();
    let mut tally = Tally::default();
    for seed in settings.seeds() {
        let (image, state) = killed(seed, settings.operations / 2);
        let total = recover(&image, &state, None, true).calls;
        let mut stop = false;
        each_fault(total, seed, settings.stride, LIVES / 2, |fault| {
            let what = format!("seed {seed}, {fault:?}");
            watchdog.doing(what.clone());
            stop = !stop;
            tally.add(&what, recover(&image, &state, Some(fault), stop));
        });
    }
    tally.conclude("errors in a recovery");
}
