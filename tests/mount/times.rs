//! What each operation does to mtime and ctime, as POSIX.1-2017 says, and where it leaves a choice, as Linux does.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::{Session, can_mount, own_ids};
use crate::sys::{self, Map, NOW, OMIT, Time, errno};

/// An mtime that no operation sets by itself: before 1970, with nanoseconds.
const OLD: Time = (-86_400, 123_456_789);
/// One that is set: past 2038.
const SET: Time = (1 << 33, 987_654_321);

/// What there is before each operation: directories, a file, and one with two names.
const OBJECTS: [&str; 7] = [".", "d", "d/f", "d/sub", "e", "e/g", "e/link of g"];

struct Case {
    what: &'static str,
    /// Where it is written.
    from: &'static str,
    run: fn(&Path),
    /// The objects whose times change: `m` for mtime, `c` for ctime. Of all others none does.
    changes: &'static [(&'static str, &'static str)],
}

const fn case(
    what: &'static str,
    from: &'static str,
    changes: &'static [(&'static str, &'static str)],
    run: fn(&Path),
) -> Case {
    Case { what, from, run, changes }
}

fn open(at: &Path, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(at.join(name)).unwrap()
}

fn chmod(at: &Path, name: &str, mode: u32) {
    fs::set_permissions(at.join(name), Permissions::from_mode(mode)).unwrap();
}

fn rename(at: &Path, from: &str, to: &str) {
    fs::rename(at.join(from), at.join(to)).unwrap();
}

const XATTR: &CStr = c"user.x";
const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;

const CASES: &[Case] = &[
    case("write", "write(): mtime and ctime", &[("d/f", "mc")], |at| open(at, "d/f").write_all(b"x").unwrap()),
    case("a write of the same bytes", "write()", &[("d/f", "mc")], |at| {
        open(at, "d/f").write_all(&[b'f'; 10]).unwrap()
    }),
    case("a write of no bytes", "write(): nbyte 0 has no other results", &[], |at| {
        assert_eq!(open(at, "d/f").write(b"").unwrap(), 0)
    }),
    case("ftruncate to the same length", "ftruncate(): mtime and ctime", &[("d/f", "mc")], |at| {
        open(at, "d/f").set_len(10_000).unwrap()
    }),
    case("ftruncate shorter", "ftruncate()", &[("d/f", "mc")], |at| open(at, "d/f").set_len(3).unwrap()),
    case("ftruncate longer", "ftruncate()", &[("d/f", "mc")], |at| open(at, "d/f").set_len(99_999).unwrap()),
    case("O_TRUNC", "open(): O_TRUNC marks mtime and ctime", &[("d/f", "mc")], |at| {
        drop(File::create(at.join("d/f")).unwrap())
    }),
    case("O_CREAT of a file that is there", "open(): no effect", &[], |at| {
        drop(OpenOptions::new().create(true).append(true).open(at.join("d/f")).unwrap())
    }),
    case("O_CREAT", "open(): mtime and ctime of the parent", &[("d", "mc")], |at| {
        drop(File::create_new(at.join("d/new")).unwrap())
    }),
    case("chmod", "chmod(): ctime", &[("d/f", "c")], |at| chmod(at, "d/f", 0o600)),
    case("chmod to the same mode", "chmod()", &[("d/f", "c")], |at| chmod(at, "d/f", 0o644)),
    case("chmod of a directory", "chmod()", &[("d", "c")], |at| chmod(at, "d", 0o700)),
    case("chown", "chown(): ctime", &[("d/f", "c")], |at| {
        let (uid, gid) = own_ids();
        chown(at.join("d/f"), Some(uid), Some(gid)).unwrap();
    }),
    case("link", "link(): ctime of the file, mtime and ctime of the parent", &[("d/f", "c"), ("e", "mc")], |at| {
        fs::hard_link(at.join("d/f"), at.join("e/f")).unwrap()
    }),
    case("unlink", "unlink(): mtime and ctime of the parent", &[("d", "mc"), ("d/f", "c")], |at| {
        fs::remove_file(at.join("d/f")).unwrap()
    }),
    case(
        "unlink of one name of two",
        "unlink(): and ctime of a file that has another",
        &[("e", "mc"), ("e/g", "c"), ("e/link of g", "c")],
        |at| fs::remove_file(at.join("e/g")).unwrap(),
    ),
    case("rename in a directory", "rename(): mtime and ctime of each parent", &[("d", "mc"), ("d/f", "c")], |at| {
        rename(at, "d/f", "d/new")
    }),
    case("rename to another directory", "rename()", &[("d", "mc"), ("e", "mc"), ("d/f", "c")], |at| {
        rename(at, "d/f", "e/f")
    }),
    case(
        "rename of a directory",
        "rename(); Linux: ctime of what moves",
        &[("d", "mc"), ("e", "mc"), ("d/sub", "c")],
        |at| rename(at, "d/sub", "e/sub"),
    ),
    case(
        "rename over a file with another name",
        "rename(); unlink() for what goes",
        &[("d", "mc"), ("e", "mc"), ("d/f", "c"), ("e/g", "c"), ("e/link of g", "c")],
        |at| rename(at, "d/f", "e/g"),
    ),
    case("rename to a name of the same file", "rename(): nothing is done", &[], |at| rename(at, "e/g", "e/link of g")),
    case(
        "RENAME_EXCHANGE",
        "renameat2(2)",
        &[("d", "mc"), ("e", "mc"), ("d/f", "c"), ("e/g", "c"), ("e/link of g", "c")],
        |at| sys::rename2(&at.join("d/f"), &at.join("e/g"), libc::RENAME_EXCHANGE).unwrap(),
    ),
    case("mkdir", "mkdir(): mtime and ctime of the parent", &[("d", "mc")], |at| {
        fs::create_dir(at.join("d/new")).unwrap()
    }),
    case("mkdir in the root", "mkdir()", &[(".", "mc")], |at| fs::create_dir(at.join("new")).unwrap()),
    case("rmdir", "rmdir(): mtime and ctime of the parent", &[("d", "mc"), ("d/sub", "c")], |at| {
        fs::remove_dir(at.join("d/sub")).unwrap()
    }),
    case("symlink", "symlink(): mtime and ctime of the parent", &[("d", "mc")], |at| {
        symlink("f", at.join("d/s")).unwrap()
    }),
    case("mkfifo", "mkfifo(): mtime and ctime of the parent", &[("d", "mc")], |at| {
        sys::mknod(&at.join("d/fifo"), libc::S_IFIFO | 0o600, 0).unwrap()
    }),
    case("setxattr", "Linux: ctime", &[("d/f", "c")], |at| sys::set_xattr(&at.join("d/f"), XATTR, b"2", 0).unwrap()),
    case("setxattr of a directory", "Linux", &[("d", "c")], |at| {
        sys::set_xattr(&at.join("d"), XATTR, b"1", 0).unwrap()
    }),
    case("removexattr", "Linux: ctime", &[("d/f", "c")], |at| sys::remove_xattr(&at.join("d/f"), XATTR).unwrap()),
    case("utimensat", "utimensat(): ctime", &[("d/f", "mc")], |at| {
        sys::set_times(&at.join("d/f"), OMIT, SET).unwrap();
        let attr = fs::metadata(at.join("d/f")).unwrap();
        assert_eq!((attr.mtime(), attr.mtime_nsec()), SET);
    }),
    case("utimensat of the atime", "utimensat()", &[("d/f", "c")], |at| {
        sys::set_times(&at.join("d/f"), SET, OMIT).unwrap();
        let attr = fs::metadata(at.join("d/f")).unwrap();
        assert_eq!((attr.atime(), attr.atime_nsec()), SET);
    }),
    case("utimensat with UTIME_NOW", "utimensat()", &[("d/f", "mc")], |at| {
        sys::set_times(&at.join("d/f"), NOW, NOW).unwrap()
    }),
    case("utimensat with UTIME_OMIT twice", "utimensat(): no change, not even of ctime", &[], |at| {
        sys::set_times(&at.join("d/f"), OMIT, OMIT).unwrap()
    }),
    case("utimensat of a directory", "utimensat()", &[("d", "mc")], |at| {
        sys::set_times(&at.join("d"), OMIT, SET).unwrap()
    }),
    case("fallocate", "Linux (ext4, XFS): mtime and ctime", &[("d/f", "mc")], |at| {
        sys::fallocate(&open(at, "d/f"), 0, 0, 50_000).unwrap()
    }),
    case("fallocate of what is allocated", "Linux", &[("d/f", "mc")], |at| {
        sys::fallocate(&open(at, "d/f"), KEEP, 0, 100).unwrap()
    }),
    case("a hole", "Linux", &[("d/f", "mc")], |at| {
        sys::fallocate(&open(at, "d/f"), KEEP | libc::FALLOC_FL_PUNCH_HOLE, 0, 4096).unwrap()
    }),
    case("copy_file_range", "copy_file_range(2): of the target, as write()", &[("d/f", "mc")], |at| {
        sys::copy_range(&open(at, "e/g"), 0, &open(at, "d/f"), 100, 5).map(drop).unwrap()
    }),
    case("a shared mapping", "mmap(): between the store and msync()", &[("d/f", "mc")], |at| {
        let file = open(at, "d/f");
        // Of the OLD times that were set, which pages written back would leave: see the next test.
        file.write_all_at(b"x", 0).unwrap();
        let before = file.metadata().unwrap();
        let mut map = Map::of(&file, 4096).unwrap();
        map[1] = 7;
        map.sync().unwrap();
        let after = file.metadata().unwrap();
        assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
    }),
    case("read", "read(): atime alone", &[], |at| drop(fs::read(at.join("d/f")).unwrap())),
    case("readdir", "readdir(): atime alone", &[], |at| assert_eq!(fs::read_dir(at.join("d")).unwrap().count(), 2)),
    case("fsync and access", "fsync()", &[], |at| open(at, "d/f").sync_all().unwrap()),
    case("a mkdir that fails", "mkdir(): nothing is changed", &[], |at| {
        assert_eq!(errno(fs::create_dir(at.join("d/f"))), libc::EEXIST)
    }),
    case("an rmdir that fails", "rmdir()", &[], |at| assert_eq!(errno(fs::remove_dir(at.join("d"))), libc::ENOTEMPTY)),
    case("a rename that fails", "rename()", &[], |at| {
        assert_eq!(errno(fs::rename(at.join("d/f"), at.join("d/sub"))), libc::EISDIR)
    }),
    case("an open of O_EXCL that fails", "open()", &[], |at| {
        assert_eq!(errno(File::create_new(at.join("d/f"))), libc::EEXIST)
    }),
];

/// mtime and ctime.
fn times(file: &File) -> (Time, Time) {
    let attr = file.metadata().unwrap();
    ((attr.mtime(), attr.mtime_nsec()), (attr.ctime(), attr.ctime_nsec()))
}

/// An open descriptor, which finds the file wherever it is called.
fn held(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap()
}

fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now.as_secs() as i64, i64::from(now.subsec_nanos()))
}

/// Makes the objects, all with the same old times.
fn prepare(at: &Path) {
    for dir in ["d", "d/sub", "e"] {
        fs::create_dir_all(at.join(dir)).unwrap();
    }
    fs::write(at.join("d/f"), [b'f'; 10_000]).unwrap();
    fs::write(at.join("e/g"), b"content of g").unwrap();
    fs::hard_link(at.join("e/g"), at.join("e/link of g")).unwrap();
    sys::set_xattr(&at.join("d/f"), XATTR, b"1", 0).unwrap();
    for object in OBJECTS {
        sys::set_times(&at.join(object), OLD, OLD).unwrap();
    }
}

#[test]
fn every_operation_sets_the_times_that_posix_says() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    let mut wrong = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let at: PathBuf = session.path(format!("{number}"));
        fs::create_dir(&at).unwrap();
        prepare(&at);
        let objects = OBJECTS.map(|object| held(&at.join(object)));
        let before = objects.each_ref().map(times);
        thread::sleep(Duration::from_millis(1)); // the clock goes on, whatever its steps
        let begun = now();
        (case.run)(&at);
        let ended = now();
        for ((object, file), (mtime, ctime)) in OBJECTS.iter().zip(&objects).zip(before) {
            let after = times(file);
            let expected = case.changes.iter().find(|(name, _)| name == object).map_or("", |(_, changes)| changes);
            let mut found = String::new();
            if after.0 != mtime {
                found.push('m');
                // Now, and not some other time; unless it was said which.
                if after.0 != SET && !(begun..=ended).contains(&after.0) {
                    wrong.push(format!("{} ({}): mtime of {object} is {:?}", case.what, case.from, after.0));
                }
            }
            if after.1 != ctime {
                found.push('c');
                if !(begun..=ended).contains(&after.1) {
                    wrong.push(format!("{} ({}): ctime of {object} is {:?}", case.what, case.from, after.1));
                }
            }
            if found != expected {
                wrong.push(format!("{} ({}): {object} has {found:?} changed, not {expected:?}", case.what, case.from));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_new_has_the_time_it_was_made_at() {
    if !can_mount() {
        return;
    }
    let session = Session::new();
    type Make = fn(&Path);
    let made: [(&str, Make); 4] = [
        ("file", |path| drop(File::create(path).unwrap())),
        ("dir", |path| fs::create_dir(path).unwrap()),
        ("symlink", |path| symlink("target", path).unwrap()),
        ("fifo", |path| sys::mknod(path, libc::S_IFIFO | 0o600, 0).unwrap()),
    ];
    for (name, make) in made {
        let begun = now();
        make(&session.path(name));
        let ended = now();
        let attr = fs::symlink_metadata(session.path(name)).unwrap();
        let all =
            [(attr.atime(), attr.atime_nsec()), (attr.mtime(), attr.mtime_nsec()), (attr.ctime(), attr.ctime_nsec())];
        assert!(all.iter().all(|time| *time == all[0] && (begun..=ended).contains(time)), "{name}: {all:?}");
    }
}

#[test]
fn pages_written_back_late_do_not_undo_a_utimensat() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let path = session.path("f");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let mtime = || {
        let attr = fs::metadata(&path).unwrap();
        (attr.mtime(), attr.mtime_nsec())
    };
    // A program that writes by its mapping alone.
    let begun = now();
    let mut map = Map::of(&file, 1 << 20).unwrap();
    map[10] = 1;
    map.sync().unwrap();
    let first = mtime();
    assert!(first >= begun, "a store sets mtime");
    map[10] = 2;
    drop(map);
    assert!(mtime() > first, "at munmap, too");

    // One that stores, sets the time, and leaves the pages for later.
    let mut map = Map::of(&file, 1 << 20).unwrap();
    map[500_000] = 3;
    sys::set_times(&path, OMIT, SET).unwrap();
    let before = fs::metadata(&path).unwrap();
    map.sync().unwrap();
    assert_eq!(mtime(), SET, "after msync");
    let after = fs::metadata(&path).unwrap();
    assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()), "the change shows in ctime");
    map[500_001] = 4;
    drop(map);
    assert_eq!(mtime(), SET, "after munmap");
    drop(file);
    session.remount();
    assert_eq!(mtime(), SET);
    let content = fs::read(&path).unwrap();
    assert_eq!((content[10], content[500_000], content[500_001]), (2, 3, 4));

    // What was set before this mount is no reason to leave it; nor is it after a write.
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut map = Map::of(&file, 1 << 20).unwrap();
    map[20] = 5;
    map.sync().unwrap();
    assert_ne!(mtime(), SET);
    sys::set_times(&path, OMIT, SET).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    let written = mtime();
    assert_ne!(written, SET);
    map[30] = 6;
    map.sync().unwrap();
    assert!(mtime() > written);
}
