//! Locks between processes: flock, records of a process (POSIX) and of an open file (OFD). The kernel keeps them all by
//! itself; what is shown is that it does, on every name of a file, and that they end with whoever has them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;

use crate::harness::{Session, can_mount};
use crate::process::{self, Peer, eventually};
use crate::sys::{self, errno};

/// The three kinds, as the commands of the other process name them.
const KINDS: [&str; 3] = ["flock", "posix", "ofd"];

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Takes or gives back a lock on `length` bytes from `start` on, which flock does not know of.
fn lock(file: &File, kind: &str, what: &str, start: i64, length: i64) -> io::Result<()> {
    let (how, wait) = what.strip_suffix("-wait").map_or((what, false), |how| (how, true));
    let record = match how {
        "read" => libc::F_RDLCK,
        "write" => libc::F_WRLCK,
        "none" => libc::F_UNLCK,
        _ => panic!("{what}"),
    };
    let command = match (kind, wait) {
        ("posix", false) => libc::F_SETLK,
        ("posix", true) => libc::F_SETLKW,
        ("ofd", false) => libc::F_OFD_SETLK,
        ("ofd", true) => libc::F_OFD_SETLKW,
        _ => {
            return match (how, wait) {
                ("read", true) => file.lock_shared(),
                ("write", true) => file.lock(),
                ("read", false) => file.try_lock_shared().map_err(refused),
                ("write", false) => file.try_lock().map_err(refused),
                _ => file.unlock(),
            };
        }
    };
    sys::record_lock(file, command, record, start, length).map(drop)
}

/// The error with its number, which the standard library leaves out.
fn refused(error: TryLockError) -> io::Error {
    match error {
        TryLockError::WouldBlock => io::Error::from_raw_os_error(libc::EWOULDBLOCK),
        TryLockError::Error(error) => error,
    }
}

/// What would be in the way of a write lock here: its kind, its process, its place.
fn holder(file: &File, command: i32, start: i64, length: i64) -> Option<(i32, i32, i64, i64)> {
    let found = sys::record_lock(file, command, libc::F_WRLCK, start, length).unwrap();
    let kind = i32::from(found.l_type);
    (kind != libc::F_UNLCK).then_some((kind, found.l_pid, found.l_start, found.l_len))
}

#[test]
#[ignore = "the other process of the tests in this file"]
fn other() {
    let mut files: HashMap<String, File> = HashMap::new();
    process::serve(|words| {
        let number = |word: &str| word.parse::<i64>().unwrap();
        match *words {
            ["open", name, path] => {
                files.insert(name.to_owned(), OpenOptions::new().read(true).write(true).open(path)?);
            }
            ["close", name] => sys::close(files.remove(name).unwrap())?,
            ["lock", name, kind, what] => lock(&files[name], kind, what, 0, 0)?,
            ["lock", name, kind, what, start, length] => {
                lock(&files[name], kind, what, number(start), number(length))?;
            }
            ["count", name, kind, times] => (0..number(times)).for_each(|_| count(&files[name], kind)),
            _ => panic!("{words:?}"),
        }
        Ok(String::new())
    });
}

/// Adds one to the number in a file, safely only under a lock.
fn count(file: &File, kind: &str) {
    lock(file, kind, "write-wait", 0, 0).unwrap();
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).unwrap();
    thread::yield_now();
    file.write_all_at(&(u64::from_ne_bytes(bytes) + 1).to_ne_bytes(), 0).unwrap();
    lock(file, kind, "none", 0, 0).unwrap();
}

/// Another process, with these files open under the names they have.
fn peer(session: &Session, names: &[&str]) -> Peer {
    let mut peer = Peer::new("locks::other");
    for name in names {
        peer.ask(&format!("open {name} {}", session.path(name).display())).unwrap();
    }
    peer
}

/// How many wait for a lock on this file, as the kernel tells: it may leave one out while others come and go.
fn waiting(file: &File) -> usize {
    let attr = file.metadata().unwrap();
    let (major, minor) = (libc::major(attr.dev()), libc::minor(attr.dev()));
    let inode = format!(" {major:02x}:{minor:02x}:{} ", attr.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains("->") && line.contains(&inode)).count()
}

#[test]
fn flock_between_processes() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    let file = read_write(&path);
    fs::hard_link(&path, session.path("link")).unwrap();
    let mut other = peer(&session, &["f", "link"]);
    let mut refused = |what: &str| assert_eq!(errno(other.ask(what)), libc::EWOULDBLOCK, "{what}");

    file.lock_shared().unwrap();
    refused("lock f flock write");
    refused("lock link flock write");
    file.lock().unwrap();
    refused("lock f flock read");
    // A second descriptor of the same process is somebody else; a copy of the first is the same.
    assert!(read_write(&path).try_lock().is_err());
    let copy = file.try_clone().unwrap();
    copy.try_lock().unwrap();
    drop(file);
    refused("lock f flock read");
    // The lock is the file's: it goes along with a rename, and a new file of the name has none.
    fs::rename(&path, session.path("renamed")).unwrap();
    let new = read_write(&path);
    new.try_lock().unwrap();
    refused("lock link flock read");
    // Record locks are another matter.
    other.ask("lock f posix write 0 1").unwrap();
    other.ask("lock link ofd write 1 1").unwrap();
    fs::remove_file(session.path("renamed")).unwrap();
    fs::remove_file(session.path("link")).unwrap();
    assert_eq!(errno(other.ask("lock link flock write")), libc::EWOULDBLOCK, "without a name");
    drop(copy);
    // Another thread that was just starting a program may have had a copy as well.
    eventually("the last copy is closed", || other.ask("lock link flock write").is_ok());
}

#[test]
fn record_locks_of_processes() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    let file = read_write(&path);
    fs::hard_link(&path, session.path("link")).unwrap();
    let mut other = peer(&session, &["f", "link"]);
    let refused = |result: io::Result<String>| assert_eq!(errno(result), libc::EAGAIN);
    let own = |what: &str, start: i64, length: i64| lock(&file, "posix", what, start, length);

    // Ranges behind the end of an empty file, one of them without an end.
    own("write", 100, 50).unwrap();
    own("read", 1 << 40, 0).unwrap();
    refused(other.ask("lock f posix read 149 1"));
    refused(other.ask("lock link posix write 0 0"));
    other.ask("lock f posix write 150 10").unwrap();
    other.ask("lock f posix read 2000000000000 5").unwrap();
    refused(other.ask("lock f posix write 2000000000000 5"));
    assert_eq!(errno(own("read", 155, 1)), libc::EAGAIN);
    let pid = other.pid() as i32;
    assert_eq!(holder(&file, libc::F_GETLK, 0, 0), Some((libc::F_WRLCK, pid, 150, 10)));
    assert_eq!(holder(&file, libc::F_GETLK, 0, 150), None, "what this process has is not in its way");
    // A range given back in the middle leaves two, each of which can become another kind.
    own("none", 110, 10).unwrap();
    own("read", 120, 5).unwrap();
    other.ask("lock f posix write 110 10").unwrap();
    other.ask("lock f posix read 120 5").unwrap();
    refused(other.ask("lock f posix read 109 1"));
    refused(other.ask("lock f posix read 125 1"));
    other.ask("lock f posix none 110 15").unwrap();

    // Closing any descriptor of the file, by any name, gives everything back.
    drop(File::open(session.path("link")).unwrap());
    other.ask("lock f posix write 100 50").unwrap();
    assert_eq!(errno(own("write", 100, 1)), libc::EAGAIN);
    other.ask("close link").unwrap();
    own("write", 0, 0).unwrap();
    refused(other.ask("lock f posix read 0 1"));
    own("none", 0, 0).unwrap();
    // So does the end, whatever it is.
    other.ask("lock f posix write 0 0").unwrap();
    assert!(other.end().success());
    own("write", 0, 0).unwrap();
    own("none", 0, 0).unwrap();
    let mut killed = peer(&session, &["f"]);
    killed.ask("lock f posix write 0 0").unwrap();
    killed.kill();
    assert_eq!(killed.end().signal(), Some(libc::SIGKILL));
    own("write", 0, 0).unwrap();
}

#[test]
fn record_locks_of_open_files() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let path = session.path("f");
    let (file, second) = (read_write(&path), read_write(&path));
    let mut other = peer(&session, &["f"]);
    lock(&file, "ofd", "write", 10, 10).unwrap();
    assert_eq!(errno(lock(&second, "ofd", "read", 15, 1)), libc::EAGAIN, "in the same process");
    assert_eq!(errno(lock(&second, "posix", "read", 15, 1)), libc::EAGAIN, "the two kinds see each other");
    assert_eq!(errno(other.ask("lock f ofd read 15 1")), libc::EAGAIN);
    assert_eq!(errno(other.ask("lock f posix read 15 1")), libc::EAGAIN);
    assert_eq!(holder(&second, libc::F_OFD_GETLK, 0, 0), Some((libc::F_WRLCK, -1, 10, 10)), "nobody's in particular");
    lock(&second, "ofd", "write", 20, 10).unwrap();
    // It stays until the last copy of its own descriptor is closed.
    let copy = file.try_clone().unwrap();
    drop((second, file));
    assert_eq!(errno(other.ask("lock f ofd read 10 10")), libc::EAGAIN);
    eventually("that of the second is closed", || other.ask("lock f ofd write 20 10").is_ok());
    drop(copy);
    eventually("the last copy is closed", || other.ask("lock f ofd write 0 0").is_ok());
    assert_eq!(errno(lock(&read_write(&path), "ofd", "read", 0, 1)), libc::EAGAIN);
    other.ask("close f").unwrap();
    lock(&read_write(&path), "ofd", "write", 0, 0).unwrap();
}

#[test]
fn who_waits_for_a_lock_gets_it_when_it_is_given_back() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let file = read_write(&session.path("f"));
    for kind in KINDS {
        for release in ["lock f KIND none", "close f", "end", "kill"] {
            let what = format!("{kind}, {release}");
            let (mut first, mut second) = (peer(&session, &["f"]), peer(&session, &["f"]));
            first.ask(&format!("lock f {kind} write")).unwrap();
            second.tell(&format!("lock f {kind} write-wait"));
            eventually(&what, || waiting(&file) == 1);
            assert!(second.is_silent(), "{what}");
            match release {
                "end" => assert!(first.end().success()),
                "kill" => drop(first),
                _ => drop(first.ask(&release.replace("KIND", kind)).unwrap()),
            }
            second.answer().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(waiting(&file), 0);
            assert_eq!(errno(peer(&session, &["f"]).ask(&format!("lock f {kind} read"))), libc::EAGAIN, "{what}");
        }
        // Who is killed while waiting is not in anybody's way.
        lock(&file, kind, "write", 0, 0).unwrap();
        let mut waiter = peer(&session, &["f"]);
        waiter.tell(&format!("lock f {kind} write-wait"));
        eventually(kind, || waiting(&file) == 1);
        drop(waiter);
        eventually(kind, || waiting(&file) == 0);
        lock(&file, kind, "none", 0, 0).unwrap();
        peer(&session, &["f"]).ask(&format!("lock f {kind} write")).unwrap();
    }
}

#[test]
fn a_deadlock_is_refused() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let (one, two) = (read_write(&session.path("one")), read_write(&session.path("two")));
    let mut others = [peer(&session, &["one", "two"]), peer(&session, &["one", "two"])];
    // A ring of three processes, over two files.
    lock(&one, "posix", "write", 0, 1).unwrap();
    others[0].ask("lock one posix write 1 1").unwrap();
    others[1].ask("lock two posix write").unwrap();
    others[0].tell("lock two posix write-wait");
    eventually("the first waits", || waiting(&two) == 1);
    others[1].tell("lock one posix write-wait 0 1");
    eventually("the second waits", || waiting(&one) == 1);
    assert_eq!(errno(lock(&one, "posix", "write-wait", 1, 1)), libc::EDEADLK);
    // What was had before is had still, and the others go on when it is given back.
    assert!(others.iter().all(Peer::is_silent));
    lock(&one, "posix", "none", 0, 0).unwrap();
    others[1].answer().unwrap();
    others[1].ask("lock two posix none").unwrap();
    others[0].answer().unwrap();
}

#[test]
fn counting_under_a_lock_loses_nothing() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    for kind in KINDS {
        let path = session.path(kind);
        fs::write(&path, 0_u64.to_ne_bytes()).unwrap();
        let mut others: Vec<Peer> = (0..4).map(|_| peer(&session, &[kind])).collect();
        others.iter_mut().for_each(|other| other.tell(&format!("count {kind} {kind} 200")));
        others.iter().for_each(|other| drop(other.answer().unwrap()));
        assert_eq!(fs::read(&path).unwrap(), 800_u64.to_ne_bytes(), "{kind}");
    }
}

#[test]
fn locks_on_a_dead_mount_block_nobody_on_the_next() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    for kind in KINDS {
        fs::write(session.path(kind), kind).unwrap();
    }
    let before = fs::metadata(session.path("flock")).unwrap().ino();
    let (mut holder, mut waiters) = (peer(&session, &KINDS), Vec::new());
    for kind in KINDS {
        holder.ask(&format!("lock {kind} {kind} write")).unwrap();
        let file = File::open(session.path(kind)).unwrap();
        let mut waiter = peer(&session, &[kind]);
        waiter.tell(&format!("lock {kind} {kind} write-wait"));
        eventually("it waits", || waiting(&file) == 1);
        waiters.push(waiter);
    }
    session.crash();
    assert_eq!(fs::metadata(session.path("flock")).unwrap().ino(), before);
    let mut next = peer(&session, &KINDS);
    for kind in KINDS {
        assert_eq!(fs::read_to_string(session.path(kind)).unwrap(), kind);
        next.ask(&format!("lock {kind} {kind} write")).unwrap_or_else(|error| panic!("{kind}: {error}"));
        // And the other way round: what is locked here is nothing to those who still are there.
        let there = holder.ask(&format!("lock {kind} {kind} none")).map_err(|error| error.raw_os_error().unwrap());
        assert!(matches!(there, Ok(_) | Err(libc::ENOTCONN | libc::EIO)), "{kind}: {there:?}");
    }
    // Neither who has a lock there nor who waits for one is held up at the end.
    assert!(holder.end().success());
    for waiter in waiters {
        let there = waiter.answer().map_err(|error| error.raw_os_error().unwrap());
        assert!(matches!(there, Ok(_) | Err(libc::ENOTCONN | libc::EIO)), "{there:?}");
        assert!(waiter.end().success());
    }
}
