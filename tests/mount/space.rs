//! The cap, and what `statfs` says of it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Session, can_mount};
use crate::sys::{self, errno};

const MIB: u64 = 1 << 20;

#[test]
fn statfs_tells_the_cap() {
    if !can_mount() {
        return;
    }
    let mut session = Session::with_limits(64 * MIB, 1000);
    let before = sys::statvfs(&session.root()).unwrap();
    assert_eq!((before.f_bsize, before.f_frsize, before.f_namemax), (4096, 4096, 255));
    assert_eq!((before.f_blocks, before.f_files), (64 * MIB / 4096, 1000));
    fs::write(session.path("f"), vec![1; MIB as usize]).unwrap();
    for _ in 0..2 {
        let after = sys::statvfs(&session.root()).unwrap();
        // A MiB, and a piece for the directory that has a name now.
        assert_eq!(before.f_bfree - after.f_bfree, 257);
        assert_eq!(before.f_ffree - after.f_ffree, 1);
        assert_eq!(after.f_bavail, after.f_bfree);
        session.remount();
    }
}

#[test]
fn the_write_that_would_pass_the_cap_fails() {
    if !can_mount() {
        return;
    }
    let mut session = Session::with_limits(8 * MIB, 1000);
    let path = session.path("f");
    let mut file = File::create(&path).unwrap();
    let mut accepted = 0;
    let error = loop {
        match file.write(&[7; 300_000]) {
            Ok(written) => accepted += written as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let attr = fs::metadata(&path).unwrap();
    assert_eq!((attr.len(), accepted % 4096, attr.blocks() * 512), (accepted, 0, accepted));
    assert_eq!(sys::statvfs(&session.root()).unwrap().f_bfree, 0);
    assert_eq!(accepted, 8 * MIB - 4096, "all but the piece of the root directory");
    // What is there may be overwritten; a name without content still fits; nothing was lost.
    file.write_all_at(&[8; 10_000], 5000).unwrap();
    File::create(session.path("empty")).unwrap();
    assert_eq!(errno(fs::write(session.path("empty"), b"x")), libc::ENOSPC);
    assert_eq!(errno(sys::fallocate(&file, 0, accepted as i64, 1)), libc::ENOSPC);
    file.sync_all().unwrap();
    drop(file);
    session.remount();
    let mut expected = vec![7; accepted as usize];
    expected[5000..15_000].fill(8);
    assert!(fs::read(&path).unwrap() == expected);
    // Room comes back with what gives it back.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(MIB).unwrap();
    fs::write(session.path("empty"), vec![1; 4 * MIB as usize]).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(session.path("other"), vec![1; 3 * MIB as usize]).unwrap();
}

#[test]
fn space_of_files_just_removed_can_be_used_at_once() {
    if !can_mount() {
        return;
    }
    let session = Session::with_limits(16 * MIB, 1000);
    for round in 0..20 {
        thread::scope(|scope| {
            for writer in 0..4 {
                let path = session.path(format!("{round}-{writer}"));
                scope.spawn(move || {
                    let mut file = File::create(&path).unwrap();
                    file.write_all(&[1; 3 << 20]).unwrap();
                    fs::remove_file(&path).unwrap();
                });
            }
        });
    }
}

/// The kernel tells a moment after the unlink that a file is gone, and may write a page back before that.
#[test]
fn a_store_to_a_mapping_fits_as_soon_as_a_file_is_removed() {
    if !can_mount() {
        return;
    }
    let session = Session::with_limits(MIB, 100);
    let room = sys::statvfs(&session.root()).unwrap().f_bfree as usize - 1; // a piece for the names
    let (path, filler) = (session.path("f"), session.path("filler"));
    for round in 0..50 {
        fs::write(&filler, vec![1; room * 4096]).unwrap();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(4096).unwrap();
        let mut map = sys::Map::of(&file, 4096).unwrap();
        assert_eq!(map[0], 0); // so that the page is here, and the store comes right behind the unlink
        fs::remove_file(&filler).unwrap();
        map[0] = 1;
        map.sync().unwrap_or_else(|error| panic!("round {round}: {error}"));
        drop((map, file));
        fs::remove_file(&path).unwrap();
    }
}

/// `SESSIONFS_TEST_CYCLES=10000` is the long form.
#[test]
fn a_file_that_fills_the_cap_can_be_removed_and_written_again_at_once() {
    if !can_mount() {
        return;
    }
    let cycles: u32 = std::env::var("SESSIONFS_TEST_CYCLES").map_or(300, |text| text.parse().unwrap());
    const CAP: u64 = MIB;
    let session = Session::with_limits(CAP, 2);
    let path = session.path("f");
    let content = vec![5; (CAP - 4096) as usize]; // all but the piece of the root directory
    let started = Instant::now();
    for cycle in 0..cycles {
        let refused = |what: &str, error: io::Error| -> ! { panic!("cycle {cycle} of {cycles}, {what}: {error}") };
        // The inode is the only one there may be, the space all there is; what follows comes at once. The file goes
        // with its name, or with the descriptor that outlives its name.
        let mut file = File::create_new(&path).unwrap_or_else(|error| refused("create", error));
        file.write_all(&content).unwrap_or_else(|error| refused("write", error));
        if cycle % 3 == 0 {
            drop(file);
            fs::remove_file(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
            drop(file);
        }
    }
    println!("{cycles} cycles of {CAP} bytes: {:.1?}", started.elapsed());
}

#[test]
fn the_inode_that_would_pass_the_cap_fails() {
    if !can_mount() {
        return;
    }
    let session = Session::with_limits(64 * MIB, 50);
    let made = (0..100).map_while(|i| File::create(session.path(format!("f{i}"))).ok()).count();
    assert_eq!(made, 49, "all but the root directory");
    assert_eq!(errno(fs::create_dir(session.path("d"))), libc::ENOSPC);
    assert_eq!(sys::statvfs(&session.root()).unwrap().f_ffree, 0);
    fs::hard_link(session.path("f0"), session.path("link")).unwrap();
    fs::remove_file(session.path("f1")).unwrap();
    fs::create_dir(session.path("d")).unwrap();
}

#[test]
fn writers_that_meet_at_the_cap_get_exactly_what_there_is() {
    if !can_mount() {
        return;
    }
    let session = Session::with_limits(8 * MIB, 1000);
    for i in 0..4 {
        File::create(session.path(format!("f{i}"))).unwrap();
    }
    let accepted: u64 = thread::scope(|scope| {
        let fill = |i: u64| {
            let mut file = OpenOptions::new().append(true).open(session.path(format!("f{i}"))).unwrap();
            let mut accepted = 0;
            loop {
                match file.write(&vec![i as u8; 4096 * (i as usize + 1)]) {
                    Ok(written) => accepted += written as u64,
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => return accepted,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let writers: Vec<_> = (0..4).map(|i| scope.spawn(move || fill(i))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    assert_eq!(accepted, 8 * MIB - 4096);
    let kept: u64 = (0..4).map(|i| fs::metadata(session.path(format!("f{i}"))).unwrap().len()).sum();
    assert_eq!(kept, accepted);
}

#[test]
fn a_full_session_with_an_unlinked_file_serves_the_others() {
    if !can_mount() {
        return;
    }
    let session = Session::with_limits(8 * MIB, 1000);
    let gone = File::create(session.path("gone")).unwrap();
    gone.write_all_at(&[1; 1 << 20], 0).unwrap();
    fs::remove_file(session.path("gone")).unwrap();
    let mut full = File::create(session.path("full")).unwrap();
    while full.write(&[2; 1 << 20]).is_ok() {}
    let stop = AtomicBool::new(false);
    // Each of these waits for the unlinked file's space, which does not come. Nobody else may wait with them.
    let fail = |i: u32| {
        let file = File::create(session.path(format!("f{i}"))).unwrap();
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(errno(file.write_all_at(b"x", 0)), libc::ENOSPC);
        }
    };
    let mut took: Vec<Duration> = thread::scope(|scope| {
        for i in 0..6 {
            scope.spawn(move || fail(i));
        }
        thread::sleep(Duration::from_millis(100));
        let time = |i: u32| {
            let started = Instant::now();
            fs::set_permissions(session.path("full"), Permissions::from_mode(0o600 + i % 2)).unwrap();
            started.elapsed()
        };
        let took = (0..50).map(time).collect();
        stop.store(true, Ordering::Relaxed);
        took
    });
    took.sort();
    assert!(took[25] < Duration::from_millis(20), "half of the changes took longer than {:?}", took[25]);
    drop(gone);
    fs::write(session.path("f0"), [3; 4096]).unwrap();
}
