//! How many requests the kernel sends: each is a round trip that a caller waits for.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use crate::harness::{Session, can_mount};

const NONE: [&str; 0] = [];

#[test]
fn a_small_file_is_created_in_four() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    fs::create_dir(session.path("d")).unwrap();
    File::create(session.path("d/first")).unwrap();
    fs::metadata(session.path("d")).unwrap();
    let path = session.path("d/f");
    let requests = session.requests(|| {
        let mut file = File::create(&path).unwrap();
        file.write_all(&[1; 4096]).unwrap();
    });
    // The kernel asks for `security.capability` before the first write to an inode it has just met; there is no other
    // way to tell it than to have no xattrs at all.
    assert_eq!(requests, ["LOOKUP", "CREATE", "GETXATTR", "WRITE"]);
    // With `default_permissions` the kernel looks at a changed directory's mode again before it goes through it.
    let look = || assert!(fs::metadata(session.path("d/first")).unwrap().is_file());
    assert_eq!(session.requests(look), ["GETATTR"]);
    let requests = session.requests(|| {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for i in 0..10 {
            file.write_all_at(&[2; 100], i * 100).unwrap();
        }
    });
    assert_eq!(requests, ["WRITE"; 10], "a GETXATTR for each write?");
}

#[test]
fn what_is_known_costs_nothing() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    fs::create_dir(session.path("d")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(session.path("d").join(name), vec![7; 100_000]).unwrap();
    }
    std::os::unix::fs::symlink("a", session.path("d/link")).unwrap();
    let walk = || {
        for entry in fs::read_dir(session.path("d")).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    };
    let read = || {
        let mut content = Vec::new();
        File::open(session.path("d/a")).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, vec![7; 100_000]);
    };
    let missing = || assert!(fs::metadata(session.path("d/missing")).is_err());
    let link = || assert_eq!(fs::read_link(session.path("d/link")).unwrap().as_os_str(), "a");
    walk();
    read();
    missing();
    link();
    walk();
    assert_eq!(session.requests(read), NONE, "open, read and close of a file in the page cache");
    assert_eq!(session.requests(missing), NONE, "a name that is not there");
    assert_eq!(session.requests(link), NONE, "a symbolic link");
    assert_eq!(session.requests(walk), NONE, "a directory");
}

#[test]
fn a_cold_directory_comes_in_one_piece() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    for i in 0..100 {
        fs::write(session.path(format!("f{i}")), b"x").unwrap();
    }
    session.remount();
    let requests = session.requests(|| {
        for entry in fs::read_dir(session.root()).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    });
    // The last one answers that there is nothing more.
    assert_eq!(requests, ["READDIRPLUS", "READDIRPLUS"]);
    let requests = session.requests(|| assert_eq!(fs::read(session.path("f5")).unwrap(), b"x"));
    assert_eq!(requests, ["READ"], "no OPEN, no FLUSH, no RELEASE");
}
