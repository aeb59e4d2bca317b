//! The namespace: links, renames, special files, every kind of name, and listing while names come and go.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use crate::harness::{Session, can_mount, can_mount_as_root};
use crate::sys::{self, Dir, errno};

#[test]
fn rename_and_its_flags() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let [a, b, d, e] = ["a", "b", "d", "e"].map(|name| session.path(name));
    fs::write(&a, b"a").unwrap();
    fs::write(&b, b"b").unwrap();
    assert_eq!(errno(sys::rename2(&a, &b, libc::RENAME_NOREPLACE)), libc::EEXIST);
    sys::rename2(&a, &b, libc::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    assert_eq!(errno(sys::rename2(&a, &b, libc::RENAME_WHITEOUT)), libc::EINVAL);
    sys::rename2(&a, &session.path("c"), libc::RENAME_NOREPLACE).unwrap();
    assert_eq!(errno(fs::metadata(&a)), libc::ENOENT);
    assert_eq!(errno(sys::rename2(&a, &b, libc::RENAME_EXCHANGE)), libc::ENOENT);

    fs::create_dir(&d).unwrap();
    fs::create_dir(&e).unwrap();
    fs::write(e.join("inside"), b"").unwrap();
    assert_eq!(errno(fs::rename(&d, &e)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(&e, e.join("below"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(&b, &d)), libc::EISDIR);
    assert_eq!(errno(fs::rename(&d, &b)), libc::ENOTDIR);
    fs::rename(&e, &d).unwrap();
    assert!(d.join("inside").exists() && !e.exists());
    // A directory and a file change places, and link counts go along.
    sys::rename2(&d, &b, libc::RENAME_EXCHANGE).unwrap();
    assert!(b.join("inside").exists() && d.is_file());
    assert_eq!(fs::metadata(session.root()).unwrap().nlink(), 3);
}

#[test]
fn hard_links_are_one_file() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let (a, b) = (session.path("a"), session.path("b"));
    fs::write(&a, b"one").unwrap();
    fs::hard_link(&a, &b).unwrap();
    assert_eq!(errno(fs::hard_link(&a, &b)), libc::EEXIST);
    fs::write(&b, b"two").unwrap();
    for _ in 0..2 {
        assert_eq!(fs::read(&a).unwrap(), b"two");
        let (left, right) = (fs::metadata(&a).unwrap(), fs::metadata(&b).unwrap());
        assert_eq!((left.ino(), left.nlink()), (right.ino(), 2));
        session.remount();
    }
    fs::create_dir(session.path("dir")).unwrap();
    assert_eq!(errno(fs::hard_link(session.path("dir"), session.path("no"))), libc::EPERM);
    fs::remove_file(&a).unwrap();
    assert_eq!(fs::metadata(&b).unwrap().nlink(), 1);
}

#[test]
fn the_65001st_link_is_refused() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let file = session.path("file");
    fs::write(&file, b"").unwrap();
    for i in 1..65_000 {
        fs::hard_link(&file, session.path(format!("link{i}"))).unwrap();
    }
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 65_000);
    assert_eq!(errno(fs::hard_link(&file, session.path("one more"))), libc::EMLINK);
    fs::remove_file(session.path("link1")).unwrap();
    fs::hard_link(&file, session.path("one more")).unwrap();
}

#[test]
fn symbolic_links() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let (link, target) = (session.path("link"), session.path("target"));
    symlink("target", &link).unwrap();
    assert_eq!(errno(fs::read(&link)), libc::ENOENT);
    fs::write(&target, b"text").unwrap();
    symlink("loop", session.path("loop")).unwrap();
    symlink("x".repeat(4095), session.path("long")).unwrap();
    assert_eq!(errno(symlink("x".repeat(4096), session.path("longer"))), libc::ENAMETOOLONG);
    for _ in 0..2 {
        assert_eq!(fs::read(&link).unwrap(), b"text");
        assert_eq!(fs::read_link(&link).unwrap(), OsString::from("target"));
        assert_eq!(fs::symlink_metadata(&link).unwrap().len(), 6);
        assert_eq!(errno(fs::read(session.path("loop"))), libc::ELOOP);
        assert_eq!(fs::read_link(session.path("long")).unwrap().as_os_str().len(), 4095);
        session.remount();
    }
}

#[test]
fn fifos_and_sockets() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let (fifo, socket) = (session.path("fifo"), session.path("socket"));
    sys::mknod(&fifo, libc::S_IFIFO | 0o640, 0).unwrap();
    let writer = thread::spawn({
        let fifo = fifo.clone();
        move || OpenOptions::new().write(true).open(fifo).unwrap().write_all(b"through the fifo").unwrap()
    });
    let mut text = String::new();
    File::open(&fifo).unwrap().read_to_string(&mut text).unwrap();
    writer.join().unwrap();
    assert_eq!(text, "through the fifo");

    let listener = UnixListener::bind(&socket).unwrap();
    let client = thread::spawn({
        let socket = socket.clone();
        move || UnixStream::connect(socket).unwrap().write_all(b"hello").unwrap()
    });
    text.clear();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    client.join().unwrap();
    assert_eq!(text, "hello");
    drop(listener);
    session.remount();
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
}

#[test]
fn device_nodes_keep_their_number_and_cannot_be_opened() {
    if !can_mount_as_root() {
        return;
    }
    let mut session = Session::new();
    let number = libc::makedev(1, 3);
    sys::mknod(&session.path("null"), libc::S_IFCHR | 0o666, number).unwrap();
    sys::mknod(&session.path("disk"), libc::S_IFBLK | 0o600, libc::makedev(259, 0x12345)).unwrap();
    session.remount();
    let null = fs::symlink_metadata(session.path("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), number);
    assert_eq!(fs::symlink_metadata(session.path("disk")).unwrap().rdev(), libc::makedev(259, 0x12345));
    assert_eq!(errno(File::open(session.path("null"))), libc::EACCES);
}

#[test]
fn a_name_is_any_bytes() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let names: [&[u8]; 7] = [&all, b"\xff\xfe", b" ", b"...", "e\u{301}".as_bytes(), "\u{e9}".as_bytes(), b"\n\t\"'\\"];
    for name in names {
        fs::write(session.named(name), name).unwrap();
    }
    for _ in 0..2 {
        let found: HashSet<Vec<u8>> =
            fs::read_dir(session.root()).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
        assert_eq!(found, names.iter().map(|name| name.to_vec()).collect());
        for name in names {
            assert_eq!(fs::read(session.named(name)).unwrap(), name);
        }
        session.remount();
    }
    fs::write(session.named(&[b'n'; 255]), b"").unwrap();
    assert_eq!(errno(fs::write(session.named(&[b'n'; 256]), b"")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(session.named(&[b'n'; 256]))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(session.named(b" "), session.named(&[b'n'; 256]))), libc::ENAMETOOLONG);
}

#[test]
fn a_missing_name_that_appears_is_seen() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| session.path(name));
    // The kernel remembers that there is no such name, until there is.
    for path in [&a, &b, &c] {
        assert_eq!(errno(fs::metadata(path)), libc::ENOENT);
    }
    fs::write(&a, b"").unwrap();
    fs::hard_link(&a, &b).unwrap();
    fs::rename(&a, &c).unwrap();
    assert!(b.exists() && c.exists() && !a.exists());
    fs::create_dir(&a).unwrap();
    assert!(a.is_dir());
}

#[test]
fn listing_is_stable_while_names_come_and_go() {
    if !can_mount() {
        return;
    }
    const NAMES: usize = 10_000;
    let session = Session::new();
    let dir = session.path("dir");
    fs::create_dir(&dir).unwrap();
    for i in 0..NAMES {
        File::create(dir.join(format!("stays{i}"))).unwrap();
        if i % 4 == 0 {
            File::create(dir.join(format!("goes{i}"))).unwrap();
        }
    }
    let mut seen: BTreeMap<OsString, usize> = BTreeMap::new();
    let mut listing = Dir::open(&dir).unwrap();
    for step in 0.. {
        let Some(name) = listing.next() else { break };
        *seen.entry(name).or_default() += 1;
        if step % 5 == 0 && step / 5 < NAMES / 4 {
            fs::remove_file(dir.join(format!("goes{}", (step / 5) * 4))).unwrap();
            File::create(dir.join(format!("comes{step}"))).unwrap();
            if step % 50 == 0 {
                fs::rename(dir.join(format!("comes{step}")), dir.join(format!("moved{step}"))).unwrap();
            }
        }
    }
    for i in 0..NAMES {
        assert_eq!(seen.get(&OsString::from(format!("stays{i}"))), Some(&1), "stays{i}");
    }
    assert!(seen.values().all(|times| *times == 1), "a name was listed twice");
    assert_eq!(Dir::open(&dir).unwrap().count() - 2, fs::read_dir(&dir).unwrap().count());
}

#[test]
fn a_listing_can_go_back_to_a_place_it_remembers() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    for i in 0..3000 {
        File::create(session.path(format!("name{i}"))).unwrap();
    }
    let mut listing = Dir::open(&session.root()).unwrap();
    let mut places = Vec::new();
    loop {
        let place = listing.tell();
        match listing.next() {
            Some(name) => places.push((place, name)),
            None => break,
        }
    }
    assert_eq!(places.len(), 3002);
    for (place, name) in places.iter().rev().step_by(97) {
        listing.seek(*place);
        assert_eq!(listing.next().as_ref(), Some(name));
    }
}
