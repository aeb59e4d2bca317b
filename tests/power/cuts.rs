//! Power cuts.

use sessionfs::store::Omit;

use crate::cut::{Pattern, Simulation};
use crate::script::script;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::survive::Wreck;
use crate::sweep::{Recording, Report, Sweep, cut_everywhere, places};

#[test]
fn what_was_fsynced_survives_a_cut_at_every_sync() {
    let settings = Settings::get();
    let mut all = Report::default();
    for seed in settings.seeds() {
        println!("POWER_SEED={seed}");
        let recording = Recording::of(&script(seed, settings.operations), Omit::default());
        let places = places(&recording.tape, settings.random_places, seed);
        all.add(cut_everywhere(&recording, &places, settings.sweep(seed)));
    }
    all.conclude("cuts of a session");
}

/// A recovery is cut, too, and so is the stop behind it: what it had found stays found.
#[test]
fn a_cut_during_recovery_or_stop_loses_nothing_that_was_recovered() {
    let settings = Settings::get();
    let mut all = Report::default();
    for seed in settings.seeds() {
        println!("POWER_SEED={seed}");
        let recording = Recording::of(&script(seed, settings.operations), Omit::default());
        let places = places(&recording.tape, settings.random_places, seed);
        let mut simulation = Simulation::new(&recording.tape);
        for at in places.into_iter().step_by(settings.recoveries_every).skip(1) {
            simulation.advance(at);
            let patterns = Pattern::all(seed + at as u64);
            let image = simulation.image(&patterns[at % patterns.len()]);
            if !image.has("session.db") {
                continue; // Nothing to recover: the session was not created yet.
            }
            all.add(cut_recovery(&Wreck::of(&image, false), settings.sweep(seed + at as u64)));
        }
    }
    all.conclude("cuts of a recovery and its stop");
}

fn cut_recovery(wreck: &Wreck, sweep: Sweep) -> Report {
    let fs = wreck.place.start(&wreck.disk, Omit::default()).unwrap();
    let found = Snapshot::of_fs(&fs).unwrap();
    fs.stop().unwrap();
    let recording = Recording { tape: wreck.disk.tape(), states: vec![found] };
    let places = places(&recording.tape, 5, sweep.seed);
    cut_everywhere(&recording, &places, sweep)
}
