//! Positive controls: with one of the journal's measures left out, or on a disk that lies, the same sweep has to find
//! what is then lost. A sweep that finds nothing there would find nothing anywhere.

use std::collections::BTreeSet;

use sessionfs::format::journal::SegmentHeader;
use sessionfs::store::Omit;

use crate::op::Op;
use crate::script::{path, recycling, script};
use crate::settings::Settings;
use crate::sweep::{Recording, Report, Sweep, cut_everywhere, places};
use crate::tape::Event;

/// Few of the operations of an ordinary sweep will do.
const OPERATIONS: usize = 10;

fn sweep(recording: &Recording, omit: Omit) -> Report {
    let places = places(&recording.tape, 0, 1);
    cut_everywhere(recording, &places, Sweep { seed: 1, omit, goes_on_every: usize::MAX })
}

fn count(report: &Report, what: &str) -> usize {
    report.violations.iter().filter(|violation| violation.contains(what)).count()
}

fn is_sync(tape: &[Event], at: usize) -> bool {
    matches!(tape.get(at), Some(Event::Sync(_)))
}

/// Whether a segment of a journal was begun a second time.
fn is_recycled(tape: &[Event]) -> bool {
    let mut begun = BTreeSet::new();
    tape.iter().any(|event| match event {
        Event::Write { file, at, bytes } => SegmentHeader::decode(bytes).is_ok() && !begun.insert((*file, *at)),
        _ => false,
    })
}

#[test]
fn records_that_are_not_appended_are_missed() {
    let omit = Omit { append: true, ..Omit::default() };
    let report = sweep(&Recording::of(&script(1, OPERATIONS), omit), omit);
    println!("not appended: {} violations at {} cuts", report.violations.len(), report.cuts);
    assert!(count(&report, "lost: ") > 0, "{report:#?}");
}

#[test]
fn a_sync_that_is_left_out_is_missed() {
    let omit = Omit { sync: true, ..Omit::default() };
    let report = sweep(&Recording::of(&script(1, OPERATIONS), omit), omit);
    println!("not synced: {} violations at {} cuts", report.violations.len(), report.cuts);
    assert!(count(&report, "lost: ") > 0, "{report:#?}");
}

#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let mut recording = Recording::of(&script(1, OPERATIONS), Omit::default());
    let created = recording.tape.iter().position(|event| matches!(event, Event::Mark(_))).unwrap();
    let mut at = 0;
    recording.tape.retain(|event| {
        at += 1;
        at <= created || !matches!(event, Event::Sync(_))
    });
    let report = sweep(&recording, Omit::default());
    println!("a lying disk: {} violations at {} cuts", report.violations.len(), report.cuts);
    assert!(count(&report, "lost: ") > 0, "{report:#?}");
}

#[test]
fn checksums_that_are_not_looked_at_let_mixtures_through() {
    // Content that fills its records: a damaged one is more often wrong than unreadable.
    let write = |at| Op::Write { path: path("d"), at, len: 60_000, byte: at as u8 };
    let script: Vec<Op> = [Op::Create(path("d"))].into_iter().chain((0..30).map(|i| write(i * 9_999))).collect();
    let recording = Recording::of(&script, Omit::default());
    let omit = Omit { chain: true, ..Omit::default() };
    let places = places(&recording.tape, 20, 1);
    let report = cut_everywhere(&recording, &places, Sweep { seed: 1, omit, goes_on_every: usize::MAX });
    println!("not checked: {} violations at {} cuts", report.violations.len(), report.cuts);
    assert!(count(&report, "a mixture: ") > 0, "{report:#?}");
}

/// Segments are written again and again here: behind a torn record stand whole ones of an earlier use.
#[test]
fn a_torn_record_is_not_followed_by_those_of_an_earlier_use_of_its_segment() {
    let settings = Settings::get();
    let recording = Recording::of(&recycling(), Omit::default());
    let all = places(&recording.tape, 0, 1);
    // Just before a sync is where most is in doubt.
    let late: Vec<usize> = all[all.len() / 2..].iter().copied().filter(|&at| is_sync(&recording.tape, at)).collect();
    let chosen: Vec<usize> = late.iter().copied().step_by(late.len().div_ceil(settings.recycled_places)).collect();
    assert!(is_recycled(&recording.tape[..chosen[0]]), "no segment is written a second time before the cuts");
    let unchecked =
        Sweep { omit: Omit { chain: true, ..Omit::default() }, goes_on_every: usize::MAX, ..settings.sweep(1) };
    let report = cut_everywhere(&recording, &chosen, unchecked);
    println!("recycled, not checked: {} violations at {} cuts", report.violations.len(), report.cuts);
    assert!(!report.violations.is_empty(), "{report:#?}");
    cut_everywhere(&recording, &chosen, settings.sweep(1)).conclude("cuts of a journal with recycled segments");
}
