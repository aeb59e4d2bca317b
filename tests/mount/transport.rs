//! What only one of the two transports can do, and what many callers at once get.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Session, by_ring, can_mount};
use crate::sys::{self, errno};

const CALLERS: usize = 64;

#[test]
fn a_file_without_a_name_gets_one_by_link() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(session.root());
    if !by_ring() {
        assert_eq!(errno(opened), libc::EOPNOTSUPP, "fuser cannot carry it");
        return;
    }
    let mut file = opened.unwrap();
    file.write_all(b"nowhere").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read_dir(session.root()).unwrap().count(), 0);
    sys::link_open(&file, &session.path("somewhere")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    assert_eq!(fs::read(session.path("somewhere")).unwrap(), b"nowhere");
    drop(file);

    // One that never gets a name gives its space back.
    let before = sys::statvfs(&session.root()).unwrap().f_bfree;
    let again = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(session.root()).unwrap();
    again.write_all_at(&[7; 1 << 20], 0).unwrap();
    assert!(sys::statvfs(&session.root()).unwrap().f_bfree < before);
    drop(again);
    let patience = Instant::now() + Duration::from_secs(10);
    while sys::statvfs(&session.root()).unwrap().f_bfree != before {
        assert!(Instant::now() < patience, "the space of a file without a name did not come back");
        thread::sleep(Duration::from_millis(10));
    }
}

/// More callers than a processor has threads, all waiting for the disk again and again, do not keep one another, or
/// somebody who only looks, from getting on.
#[test]
fn more_callers_than_threads() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let busy = AtomicUsize::new(CALLERS);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (session, busy) = (&session, &busy);
            scope.spawn(move || {
                let file = File::create(session.path(format!("f{caller}"))).unwrap();
                for round in 0..20_u64 {
                    file.write_all_at(&[caller as u8; 4096], round * 4096).unwrap();
                    file.sync_all().unwrap();
                }
                busy.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut looks = 0;
        while busy.load(Ordering::Relaxed) > 0 {
            assert_eq!(errno(fs::metadata(session.path(format!("missing{looks}")))), libc::ENOENT);
            looks += 1;
        }
        assert!(looks > 20, "{looks} looks");
    });
    for caller in 0..CALLERS {
        assert_eq!(fs::read(session.path(format!("f{caller}"))).unwrap(), vec![caller as u8; 20 * 4096]);
    }
}
