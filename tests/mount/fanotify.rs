//! fanotify: a whole mount watched at once, and a directory by file handles.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Session, can_mount_as_root};
use crate::watch::number;

/// A fanotify group, or `None`, aloud, where that is not permitted.
fn fanotify(flags: u32) -> Option<File> {
    let flags = flags | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC;
    // SAFETY: no memory is passed.
    let group = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as u32) };
    if group < 0 {
        eprintln!("SKIPPED: fanotify: {}", io::Error::last_os_error());
        return None;
    }
    // SAFETY: a new descriptor, which nobody else has.
    Some(unsafe { File::from_raw_fd(group) })
}

fn mark(group: &File, flags: u32, mask: u64, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let group = group.as_raw_fd();
    // SAFETY: the descriptor is open, the path a C string.
    let done = unsafe { libc::fanotify_mark(group, libc::FAN_MARK_ADD | flags, mask, libc::AT_FDCWD, name.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What has happened: mask, descriptor, process, and what else is said of each.
fn fanotify_events(group: &mut File) -> Vec<(u64, Option<OwnedFd>, u32, Vec<u8>)> {
    let mut buffer = vec![0; 64 << 10];
    let mut events = Vec::new();
    while let Ok(length) = group.read(&mut buffer) {
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let (event, others) = rest.split_at(u32::from_ne_bytes(number(rest, 0)) as usize);
            let more = event[usize::from(u16::from_ne_bytes(number(event, 6)))..].to_vec();
            let (fd, pid) = (i32::from_ne_bytes(number(event, 16)), u32::from_ne_bytes(number(event, 20)));
            // SAFETY: an event comes with a descriptor that the kernel has made for it, or none.
            let fd = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
            events.push((u64::from_ne_bytes(number(event, 8)), fd, pid, more));
            rest = others;
        }
    }
    events
}

#[test]
fn fanotify_watches_a_whole_mount() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    // By a process that ends: a copy of a descriptor of this one may be closed later, by a program just being started.
    let prepare = "mkdir -p a/b/c && echo there > a/read";
    assert!(Command::new("sh").args(["-ec", prepare]).current_dir(session.root()).status().unwrap().success());
    for scope in [libc::FAN_MARK_MOUNT, libc::FAN_MARK_FILESYSTEM] {
        let Some(mut group) = fanotify(libc::FAN_CLASS_NOTIF) else { return };
        mark(&group, scope, libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE, &session.root()).unwrap();
        fs::read(session.path("a/read")).unwrap();
        let mut other = Command::new("sh");
        other.args(["-ec", "exec 3> f; echo one >&3; exec 3>&-; echo two > deep"]).current_dir(session.path("a/b/c"));
        let mut other = other.spawn().unwrap();
        let pid = other.id();
        assert!(other.wait().unwrap().success());
        fs::write(session.path("own"), b"own").unwrap();
        let both = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
        let expected = [("a/b/c/deep", true), ("a/b/c/f", true), ("own", false)];
        let expected = expected.map(|(name, by_other)| ((session.path(name), by_other), both));
        let expected: BTreeMap<(PathBuf, bool), u64> = expected.into();
        // Events of one file by one process may come as one. All are here already, but for the closing of a file where
        // another thread was just starting a program.
        let mut seen: BTreeMap<(PathBuf, bool), u64> = BTreeMap::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while seen != expected && Instant::now() < deadline {
            for (mask, fd, by, _) in fanotify_events(&mut group) {
                let fd = fd.unwrap();
                let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
                *seen.entry((path, by == pid)).or_default() |= mask;
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(seen, expected, "scope {scope:#x}");
    }
}

#[test]
fn fanotify_names_what_comes_and_goes_in_a_directory() {
    if !can_mount_as_root() {
        return;
    }
    let session = Session::new();
    let Some(mut group) = fanotify(libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME) else { return };
    let what = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO | libc::FAN_ONDIR;
    if let Err(error) = mark(&group, 0, what, &session.root()) {
        // Before Linux 6.8 this needs a file system ID, which FUSE does not have.
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        eprintln!("SKIPPED: fanotify by file handles: {error}");
        return;
    }
    fs::write(session.path("made"), b"").unwrap();
    fs::rename(session.path("made"), session.path("moved")).unwrap();
    fs::create_dir(session.path("directory")).unwrap();
    fs::remove_file(session.path("moved")).unwrap();
    let mut seen = Vec::new();
    for (mask, _, _, info) in fanotify_events(&mut group) {
        // A header, the file system's ID, the length of the directory's handle, its type, the handle, the name.
        assert_eq!(info[0], libc::FAN_EVENT_INFO_TYPE_DFID_NAME);
        let name = 20 + u32::from_ne_bytes(number(&info, 12)) as usize;
        let name = info[name..].split(|b| *b == 0).next().unwrap();
        seen.push((mask, String::from_utf8_lossy(name).into_owned()));
    }
    // Events of one name may come as one.
    let of = |name: &str| seen.iter().filter(|(_, seen)| seen == name).fold(0, |all, (mask, _)| all | mask);
    assert_eq!(of("made"), libc::FAN_CREATE | libc::FAN_MOVED_FROM, "{seen:x?}");
    assert_eq!(of("moved"), libc::FAN_MOVED_TO | libc::FAN_DELETE, "{seen:x?}");
    assert_eq!(of("directory"), libc::FAN_CREATE | libc::FAN_ONDIR, "{seen:x?}");
}
