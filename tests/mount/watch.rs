//! Who watches a directory is told of what changes in it through the mount: inotify.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Session, can_mount};
use crate::process::eventually;
use crate::sys;

/// An integer's bytes, out of an event.
pub fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// Everything but accesses, which no test here is about.
const CHANGES: u32 = libc::IN_CREATE
    | libc::IN_MODIFY
    | libc::IN_CLOSE_WRITE
    | libc::IN_MOVED_FROM
    | libc::IN_MOVED_TO
    | libc::IN_DELETE
    | libc::IN_ATTRIB
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF;

const INOTIFY_NAMES: [(u32, &str); 12] = [
    (libc::IN_CREATE, "CREATE"),
    (libc::IN_MODIFY, "MODIFY"),
    (libc::IN_CLOSE_WRITE, "CLOSE_WRITE"),
    (libc::IN_MOVED_FROM, "MOVED_FROM"),
    (libc::IN_MOVED_TO, "MOVED_TO"),
    (libc::IN_DELETE, "DELETE"),
    (libc::IN_ATTRIB, "ATTRIB"),
    (libc::IN_DELETE_SELF, "DELETE_SELF"),
    (libc::IN_MOVE_SELF, "MOVE_SELF"),
    (libc::IN_IGNORED, "IGNORED"),
    (libc::IN_UNMOUNT, "UNMOUNT"),
    (libc::IN_Q_OVERFLOW, "OVERFLOW"),
];

/// One event, the directory (or file) watched by the path it was watched by.
#[derive(Debug)]
struct Event {
    watched: PathBuf,
    kind: &'static str,
    is_dir: bool,
    name: String,
    cookie: u32,
}

struct Inotify {
    queue: File,
    watched: HashMap<i32, PathBuf>,
}

impl Inotify {
    fn new() -> Inotify {
        // SAFETY: a new descriptor, which nobody else has.
        let queue = unsafe {
            let fd = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            File::from_raw_fd(fd)
        };
        Inotify { queue, watched: HashMap::new() }
    }

    fn watch(&mut self, path: &Path) {
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the descriptor is open, the path a C string.
        let watch = unsafe { libc::inotify_add_watch(self.queue.as_raw_fd(), name.as_ptr(), CHANGES) };
        assert!(watch >= 0, "{}: {}", path.display(), io::Error::last_os_error());
        self.watched.insert(watch, path.to_owned());
    }

    /// What has happened. A call that has returned has left its events here already; but a file is closed later where
    /// another thread of this process was just starting a program, which has every descriptor until it is loaded.
    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = match self.queue.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return events,
                Err(error) => panic!("{error}"),
            };
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let [mask, cookie, length] = [4, 8, 12].map(|at| u32::from_ne_bytes(number(rest, at)));
                let (event, others) = rest.split_at(16 + length as usize);
                let name = String::from_utf8_lossy(event[16..].split(|b| *b == 0).next().unwrap_or_default());
                let is_dir = mask & libc::IN_ISDIR != 0;
                let watched = self.watched.get(&i32::from_ne_bytes(number(rest, 0))).cloned().unwrap_or_default();
                for (_, kind) in INOTIFY_NAMES.iter().filter(|(bit, _)| mask & bit != 0) {
                    events.push(Event { watched: watched.clone(), kind, is_dir, name: name.clone().into(), cookie });
                }
                rest = others;
            }
        }
    }

    /// So many events, or whatever there is, as lines; the two halves of a rename, known by their cookie, have the same
    /// number.
    fn lines(&mut self, count: usize) -> Vec<String> {
        let mut events = self.events();
        let deadline = Instant::now() + Duration::from_secs(10);
        while events.len() < count && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
            events.extend(self.events());
        }
        let mut cookies = Vec::new();
        let mut line = |event: Event| {
            let watched = event.watched.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut line = format!("{watched} {}{}", event.kind, if event.is_dir { " dir" } else { "" });
            if !event.name.is_empty() {
                line = format!("{line} {}", event.name);
            }
            if event.cookie != 0 {
                if !cookies.contains(&event.cookie) {
                    cookies.push(event.cookie);
                }
                let number = cookies.iter().position(|known| *known == event.cookie).unwrap() + 1;
                line = format!("{line} #{number}");
            }
            line
        };
        events.into_iter().map(&mut line).collect()
    }
}

fn shell(script: &str, directory: &Path) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

#[test]
fn inotify_tells_what_every_call_changes() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let root = session.root();
    let (d, e) = (root.join("d"), root.join("e"));
    fs::create_dir(&d).unwrap();
    fs::create_dir(&e).unwrap();
    let at = |name: &str| d.join(name);
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(at(name)).unwrap();
    let mut inotify = Inotify::new();
    inotify.watch(&d);
    inotify.watch(&e);
    let mut told = |what: &str, events: &[&str]| assert_eq!(inotify.lines(events.len()), events, "{what}");

    let mut file = File::create(at("f")).unwrap();
    told("create", &["d CREATE f"]);
    file.write_all(b"content").unwrap();
    told("write", &["d MODIFY f"]);
    drop(file);
    told("close", &["d CLOSE_WRITE f"]);
    drop(File::open(at("f")).unwrap());
    fs::read(at("f")).unwrap();
    fs::read_dir(&d).unwrap().count();
    told("reading", &[]);
    shell("echo more >> f", &d);
    told("another process", &["d MODIFY f", "d CLOSE_WRITE f"]);
    let file = open("f");
    file.set_len(100).unwrap();
    told("ftruncate", &["d MODIFY f"]);
    sys::fallocate(&file, 0, 0, 8192).unwrap();
    told("fallocate", &["d MODIFY f"]);
    sys::copy_range(&file, 0, &file, 4096, 100).unwrap();
    told("copy_file_range", &["d MODIFY f"]);
    let mut map = sys::Map::of(&file, 4096).unwrap();
    map[0] = 1;
    map.sync().unwrap();
    drop(map);
    told("a store to a mapping, of which Linux tells nobody", &[]);
    drop(file);
    told("close", &["d CLOSE_WRITE f"]);
    drop(OpenOptions::new().write(true).truncate(true).open(at("f")).unwrap());
    told("O_TRUNC", &["d MODIFY f", "d CLOSE_WRITE f"]);

    fs::set_permissions(at("f"), Permissions::from_mode(0o600)).unwrap();
    told("chmod", &["d ATTRIB f"]);
    sys::set_times(&at("f"), sys::NOW, sys::NOW).unwrap();
    told("utimensat", &["d ATTRIB f"]);
    sys::set_xattr(&at("f"), c"user.x", b"1", 0).unwrap();
    sys::remove_xattr(&at("f"), c"user.x").unwrap();
    told("xattrs", &["d ATTRIB f"]); // the kernel makes one of two that are the same

    fs::hard_link(at("f"), at("link")).unwrap();
    symlink("f", at("symlink")).unwrap();
    sys::mknod(&at("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    fs::create_dir(at("sub")).unwrap();
    told("new names", &["d CREATE link", "d CREATE symlink", "d CREATE fifo", "d CREATE dir sub"]);
    fs::write(at("sub/file"), b"").unwrap();
    told("within a directory of its own", &[]);

    fs::rename(at("f"), at("g")).unwrap();
    told("rename", &["d MOVED_FROM f #1", "d MOVED_TO g #1"]);
    fs::rename(at("g"), e.join("h")).unwrap();
    fs::rename(at("sub"), e.join("sub")).unwrap();
    let moves = ["d MOVED_FROM g #1", "e MOVED_TO h #1", "d MOVED_FROM dir sub #2", "e MOVED_TO dir sub #2"];
    told("rename to another directory", &moves);
    fs::rename(at("fifo"), at("symlink")).unwrap();
    told("rename over a name", &["d MOVED_FROM fifo #1", "d MOVED_TO symlink #1"]);
    sys::rename2(&at("symlink"), &e.join("h"), libc::RENAME_EXCHANGE).unwrap();
    let moves = ["d MOVED_FROM symlink #1", "e MOVED_TO h #1", "e MOVED_FROM h #2", "d MOVED_TO symlink #2"];
    told("rename of two for each other", &moves);
    fs::rename(at("link"), root.join("out")).unwrap();
    told("rename out of sight", &["d MOVED_FROM link #1"]);
    fs::rename(root.join("out"), at("in")).unwrap();
    told("and into it", &["d MOVED_TO in #1"]);

    fs::remove_file(at("in")).unwrap();
    fs::remove_dir_all(e.join("sub")).unwrap();
    told("removing", &["d DELETE in", "e DELETE dir sub"]);
}

#[test]
fn a_file_that_is_watched_tells_of_itself_until_it_is_gone() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("f");
    fs::write(&path, b"content").unwrap();
    session.remount();
    let mut inotify = Inotify::new();
    inotify.watch(&path);
    let mut told = |what: &str, events: &[&str]| assert_eq!(inotify.lines(events.len()), events, "{what}");
    // An editor that writes a new file and puts it in the place of the old one.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"more", 0).unwrap();
    fs::hard_link(&path, session.path("backup")).unwrap();
    fs::rename(&path, session.path("moved")).unwrap();
    told("write, link, rename", &["f MODIFY", "f ATTRIB", "f MOVE_SELF"]);
    fs::write(session.path("new"), b"new").unwrap();
    fs::rename(session.path("new"), session.path("moved")).unwrap();
    told("one name less", &["f ATTRIB"]);
    file.write_all_at(b"last", 0).unwrap();
    drop(file);
    told("what is open is still it", &["f MODIFY", "f CLOSE_WRITE"]);
    fs::remove_file(session.path("backup")).unwrap();
    told("the last name", &["f ATTRIB", "f DELETE_SELF", "f IGNORED"]);

    // A watch ends with the mount, and does not keep it.
    inotify.watch(&session.root());
    session.stop();
    let mut kinds = Vec::new();
    eventually("the watch has ended", || {
        kinds.extend(inotify.events().iter().map(|event| event.kind));
        kinds.len() == 2
    });
    assert_eq!(kinds, ["UNMOUNT", "IGNORED"]);
}

/// What chokidar and the like do on Linux: a watch on every directory, and a look into each new one for what came before
/// its watch.
struct Recursive {
    inotify: Inotify,
    seen: BTreeSet<PathBuf>,
}

impl Recursive {
    fn enter(&mut self, directory: &Path) {
        self.inotify.watch(directory);
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            self.seen.insert(entry.path());
            if entry.file_type().unwrap().is_dir() {
                self.enter(&entry.path());
            }
        }
    }

    fn follow(&mut self) {
        for event in self.inotify.events() {
            let path = event.watched.join(&event.name);
            match event.kind {
                "CREATE" | "MOVED_TO" => {
                    if event.is_dir && path.is_dir() {
                        self.enter(&path);
                    }
                    self.seen.insert(path);
                }
                "DELETE" | "MOVED_FROM" => drop(self.seen.remove(&path)),
                "OVERFLOW" => panic!("more events than the queue holds"),
                _ => {}
            }
        }
    }
}

#[test]
fn a_tree_is_watched_while_it_grows() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let root = session.root();
    let mut watcher = Recursive { inotify: Inotify::new(), seen: BTreeSet::new() };
    watcher.enter(&root);
    let script = "for i in 1 2 3 4 5 6; do
        mkdir -p $i/a/b/c
        for j in 1 2 3 4 5; do echo $j > $i/a/f$j; echo $j > $i/a/b/c/f$j; done
        mv $i/a/f1 $i/a/b/moved; rm $i/a/f2; mv $i/a/b/c/f3 $i/a/b/c/f4
    done";
    let mut worker = Command::new("sh").args(["-ec", script]).current_dir(&root).spawn().unwrap();
    while worker.try_wait().unwrap().is_none() {
        watcher.follow();
    }
    assert!(worker.wait().unwrap().success());
    watcher.follow();
    let mut there = BTreeSet::new();
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
            there.insert(entry.path());
        }
    }
    assert_eq!(there.len(), 6 * (4 + 3 + 4 + 1));
    assert_eq!(watcher.seen, there);
}
