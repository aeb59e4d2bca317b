//! A recorded life, and the power cut again and again along it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use sessionfs::store::Omit;

use crate::cut::{Image, Pattern, Simulation};
use crate::disk::RecordingDisk;
use crate::life::{Place, directory};
use crate::op::{Op, Rng};
use crate::snapshot::Snapshot;
use crate::survive::{Right, Wreck};
use crate::tape::{Event, Mark};
use crate::workload::Workload;

/// A life on disk, and the states it went through.
pub struct Recording {
    pub tape: Vec<Event>,
    pub states: Vec<Snapshot>,
}

impl Recording {
    pub fn of(script: &[Op], omit: Omit) -> Recording {
        let dir = directory();
        let disk = RecordingDisk::over(dir.path(), false);
        let mut workload = Workload::new(&disk, &Place::at(dir.path()), omit, false);
        assert_eq!(workload.begin(), Ok(true));
        workload.run(script, true).unwrap();
        Recording { tape: disk.tape(), states: workload.snapshots }
    }
}

impl Recording {
    /// Whether state `k` is like one of these: some operations change nothing.
    fn is_one_of(&self, k: usize, range: RangeInclusive<usize>) -> bool {
        range.contains(&k) || self.states[range].iter().any(|state| state.is_like(&self.states[k]))
    }
}

/// Where on a tape the power is cut: just before and just behind each sync, at some random places, and at its end.
pub fn places(tape: &[Event], random: usize, seed: u64) -> Vec<usize> {
    let syncs = (0..tape.len()).filter(|&at| tape[at].is_boundary()).flat_map(|at| [at, at + 1]);
    let mut rng = Rng(seed | 1);
    let others = (0..random).map(|_| rng.below(tape.len() as u64) as usize);
    let mut places: Vec<usize> = syncs.chain(others.collect::<Vec<_>>()).chain([tape.len()]).collect();
    // Before these there is no disk at all.
    let present = tape.iter().take_while(|event| matches!(event, Event::Present { .. })).count();
    places.retain(|&at| at >= present);
    places.sort_unstable();
    places.dedup();
    places
}

/// What the workload knew at some place on the tape.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    created: bool,
    began: usize,
    durable: usize,
}

impl Known {
    fn hear(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Mark(Mark::Created) => self.created = true,
                Event::Mark(Mark::Began(k)) => self.began = *k,
                Event::Mark(Mark::Durable(k)) => self.durable = *k,
                _ => {}
            }
        }
    }
}

/// How a sweep is done.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    pub seed: u64,
    /// For the recoveries.
    pub omit: Omit,
    /// After every so many recoveries it is seen whether the session goes on, which takes longer than they do.
    pub goes_on_every: usize,
}

/// What a sweep did and found.
#[derive(Debug, Default)]
pub struct Report {
    pub cuts: usize,
    pub images: usize,
    pub recoveries: usize,
    pub violations: Vec<String>,
}

impl Report {
    pub fn add(&mut self, other: Report) {
        self.cuts += other.cuts;
        self.images += other.images;
        self.recoveries += other.recoveries;
        self.violations.extend(other.violations);
    }

    /// Prints the counts, and fails if anything was violated.
    pub fn conclude(self, what: &str) {
        let Report { cuts, images, recoveries, violations } = &self;
        println!("{what}: cuts {cuts}, disks {images}, recoveries {recoveries}, violations {}", violations.len());
        let first: Vec<&String> = violations.iter().take(5).collect();
        assert!(violations.is_empty(), "{what}: {} violations, the first of them: {first:#?}", violations.len());
    }
}

/// Cuts the power at these places, in every way, and looks at what comes back.
pub fn cut_everywhere(recording: &Recording, places: &[usize], sweep: Sweep) -> Report {
    let seed = sweep.seed;
    let mut report = Report::default();
    let mut simulation = Simulation::new(&recording.tape);
    let (mut known, mut heard) = (Known::default(), 0);
    known.created = matches!(recording.tape[0], Event::Present { .. });
    // A disk that was seen before gives the state it gave.
    let mut seen: BTreeMap<u64, Result<usize, String>> = BTreeMap::new();
    for &at in places {
        simulation.advance(at);
        known.hear(&recording.tape[heard..at]);
        heard = at;
        report.cuts += 1;
        let mut patterns = Pattern::all(seed.wrapping_add(at as u64));
        if !simulation.has_doubts() {
            patterns.truncate(1);
        }
        for pattern in patterns {
            let image = simulation.image(&pattern);
            report.images += 1;
            let outcome = seen.entry(image.hash()).or_insert_with(|| {
                report.recoveries += 1;
                let goes_on = report.recoveries.is_multiple_of(sweep.goes_on_every);
                survives(recording, known, &image, sweep.omit, goes_on)
            });
            let violation = match outcome {
                Ok(k) if recording.is_one_of(*k, known.durable..=known.began) => None,
                Ok(k) => Some(format!("lost: back at operation {k}")),
                Err(what) => Some(what.clone()),
            };
            if let Some(what) = violation {
                report.violations.push(format!("seed {seed}, cut at {at} ({known:?}), {pattern:?}: {what}"));
            }
        }
    }
    report
}

/// Which state a disk comes back with.
fn survives(recording: &Recording, known: Known, image: &Image, omit: Omit, goes_on: bool) -> Result<usize, String> {
    let wreck = Wreck::of(image, true);
    if !known.created && !image.has("session.db") {
        // Nobody was told that there is a session; creating it again has to work.
        wreck.place.create(&wreck.disk).map_err(|error| format!("creating it again: {error}"))?;
    }
    let states = recording.states[..=known.began].iter().collect();
    let state = wreck.recover(&Right { states, passed: &recording.states }, omit)?;
    if goes_on {
        wreck.goes_on()?;
    }
    Ok(state)
}
