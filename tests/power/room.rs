//! The journal gets new room in quiet moments, and syncs it. When that sync fails, it is a sync of the journal's file that
//! failed: the kernel reports it once, and forgets what it could not write, records included.

use std::time::{Duration, Instant};

use sessionfs::store::Omit;

use crate::cut::{Pattern, Simulation};
use crate::disk::RecordingDisk;
use crate::faults::{Failure, Fault, Kind};
use crate::life::{Place, directory};
use crate::op::{Op, Path};
use crate::survive::{Right, Wreck};
use crate::tape::Event;
use crate::workload::Workload;

fn create(name: &str) -> Op {
    Op::Create(Path(vec![name.as_bytes().to_vec()]))
}

/// Whether some file had more than zeros written to it when a sync of it failed, and something durable before: a journal
/// with records, and not a WAL.
fn failed_over_records(tape: &[Event]) -> bool {
    let failed = tape.iter().position(|event| matches!(event, Event::SyncFailed(_)));
    let Some(at) = failed else { return false };
    let Event::SyncFailed(file) = tape[at] else { return false };
    let is_room = tape[..at].iter().any(|event| matches!(event, Event::Resize { file: of, .. } if *of == file));
    let since = tape[..at].iter().rposition(|event| matches!(event, Event::Sync(of) if *of == file)).unwrap_or(0);
    let records = tape[since..at].iter().any(|event| {
        matches!(event, Event::Write { bytes, file: of, .. }
            if *of == file && bytes.iter().any(|&byte| byte != 0))
    });
    is_room && records
}

/// An fsync, behind which the journal gets room; a file made meanwhile; another fsync. Returns whether the fault was met by
/// the sync of that room, with a record before it.
fn live(nth: u64) -> bool {
    let dir = directory();
    let disk = RecordingDisk::over(dir.path(), false);
    let mut workload = Workload::new(&disk, &Place::at(dir.path()), Omit::default(), true);
    assert_eq!(workload.begin(), Ok(true));
    workload.carry_out(&[create("one")]).unwrap();
    let failure = Failure { errno: libc::EIO, short: false };
    disk.arm(Some(Fault { kind: Some(Kind::Sync), nth, for_ever: false, failure }));
    workload.carry_out(&[Op::Fsync, create("two")]).unwrap();
    let until = Instant::now() + Duration::from_millis(300);
    while disk.state().faults.hit().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    workload.carry_out(&[Op::Fsync]).unwrap();
    workload.kill().unwrap();
    let tape = disk.tape();
    let mut simulation = Simulation::new(&tape);
    simulation.advance(tape.len());
    let wreck = Wreck::of(&simulation.image(&Pattern::NOTHING), true);
    let right = Right { states: workload.right_after_cut(), passed: &workload.snapshots };
    if let Err(violation) = wreck.recover(&right, Omit::default()) {
        panic!("sync {nth} failed, and the fsync behind it succeeded: {violation}");
    }
    failed_over_records(&tape)
}

#[test]
fn a_failed_sync_of_new_room_is_a_failed_sync_of_the_records() {
    // Whether the file is made before the room is synced is a race, which it wins nearly always.
    let met = (0..5).any(|_| (0..3).filter(|&nth| live(nth)).count() > 0);
    assert!(met, "the sync of new room never failed with a record before it");
}
