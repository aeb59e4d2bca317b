//! Caps changed while the session is in use: one that was reported is there after any cut, and of one that was not, it is
//! the old or the new.

use sessionfs::base::Ino;
use sessionfs::store::Omit;

use crate::cut::{Pattern, Simulation};
use crate::disk::RecordingDisk;
use crate::life::{BYTES_LIMIT, INODES_LIMIT, Place, directory};
use crate::perform::ROOT_USER;
use crate::survive::Wreck;

#[test]
fn caps_that_were_reported_survive_a_cut() {
    let dir = directory();
    let disk = RecordingDisk::over(dir.path(), false);
    let place = Place::at(dir.path());
    place.create(&disk).unwrap();
    let fs = place.start(&disk, Omit::default()).unwrap();
    // Where on the tape each was asked for and reported.
    let mut caps = vec![(0, disk.tape().len(), (BYTES_LIMIT, INODES_LIMIT))];
    for round in 1..=6_u64 {
        fs.mknod(&ROOT_USER, Ino::ROOT, format!("f{round}").as_bytes(), libc::S_IFREG | 0o600, 0).unwrap();
        if round % 3 == 0 {
            fs.commit().unwrap();
        }
        let new = (round % 4 * (1 << 20) + (1 << 16), 100 * round);
        let asked = disk.tape().len();
        fs.set_limits(Some(new.0), Some(new.1)).unwrap();
        caps.push((asked, disk.tape().len(), new));
    }
    fs.abandon();
    let tape = disk.tape();
    let mut simulation = Simulation::new(&tape);
    let mut cuts = 0;
    for at in caps[0].1..=tape.len() {
        simulation.advance(at);
        let reported = caps.iter().rposition(|&(_, reported, _)| reported <= at).unwrap();
        let asked = caps.iter().rposition(|&(asked, _, _)| asked <= at).unwrap();
        for pattern in Pattern::all(at as u64) {
            let wreck = Wreck::of(&simulation.image(&pattern), true);
            let fs = wreck.place.start(&wreck.disk, Omit::default()).unwrap();
            let usage = fs.usage();
            fs.abandon();
            let found = (usage.bytes_limit, usage.inodes_limit);
            let right = caps[reported..=asked].iter().any(|&(_, _, caps)| caps == found);
            assert!(right, "cut at {at} of {}, {pattern:?}: {found:?}, reported was {:?}", tape.len(), caps[reported]);
            cuts += 1;
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 100);
}
