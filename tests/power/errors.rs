//! Every call to the disk fails once: with an error, with no room, half-way through a write, for a moment or for ever.

use std::collections::BTreeMap;

use sessionfs::store::Omit;

use crate::cut::{Pattern, Simulation};
use crate::disk::RecordingDisk;
use crate::faults::{Failure, Fault, Kind};
use crate::life::Place;
use crate::op::Op;
use crate::script::script;
use crate::settings::Settings;
use crate::survive::{Right, Wreck};
use crate::watchdog::{Watchdog, panics};
use crate::workload::Workload;

/// Lives with a fault that are run when nobody asks for more.
const LIVES: u64 = 150;

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
    let dir = tempfile::tempdir().unwrap();
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

#[test]
fn every_call_to_the_disk_may_fail() {
    let settings = Settings::get();
    let watchdog = Watchdog::new();
    let (mut hits, mut violations) = (BTreeMap::<Kind, u64>::new(), Vec::new());
    for seed in settings.seeds() {
        let script = script(seed, settings.operations / 2);
        let total = live(&script, None, true, Omit::default()).calls;
        let stride = settings.stride.unwrap_or((total / LIVES).max(1));
        println!("POWER_SEED={seed} POWER_STRIDE={stride}: {total} calls");
        for nth in (seed % stride..total).step_by(stride as usize) {
            let all = variants(nth);
            // Each in its turn, unless all are wanted.
            let turn = (nth / stride) as usize % all.len();
            let chosen = if stride == 1 { &all[..] } else { &all[turn..=turn] };
            for (i, fault) in chosen.iter().enumerate() {
                watchdog.doing(format!("seed {seed}: {fault:?}"));
                let stop = (nth as usize + i).is_multiple_of(2);
                let life = live(&script, Some(*fault), stop, Omit::default());
                if let Some(kind) = life.hit {
                    *hits.entry(kind).or_default() += 1;
                }
                let kind = life.hit;
                violations.extend(life.violation.map(|what| format!("seed {seed}, {fault:?} ({kind:?}): {what}")));
            }
        }
    }
    println!("faults {}, violations {}; by kind: {hits:?}", hits.values().sum::<u64>(), violations.len());
    assert!(hits.values().sum::<u64>() > 0, "no fault was met at all");
    let first: Vec<&String> = violations.iter().take(10).collect();
    assert!(violations.is_empty(), "{} violations, the first of them: {first:#?}", violations.len());
}
