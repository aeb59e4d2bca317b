//! What other file systems for agents, those that keep everything in a SQLite database among them, are seen to get
//! wrong, as probes of this one. How it takes a full disk and a killed server is in `outages.rs`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use sessionfs::base::limits::{JOURNAL_KEEP, JOURNAL_SEGMENT, WAL_CHECKPOINT_BYTES};

use crate::harness::can_mount;
use crate::sys::{self, errno};
use crate::workspace::{MIB, Workspace, noise};

/// The row of a deleted file goes with a commit, its pages go to others, and neither may be seen by who has it open. The
/// descriptors pass by the kernel's cache, which would know the content whatever the server does.
#[test]
fn open_files_without_a_name_are_read_after_commits() {
    if !can_mount() {
        return;
    }
    let workspace = Workspace::new();
    let path = |i: u64| workspace.at.join(format!("f{i}"));
    const LENGTH: usize = 300_000; // many blocks, and a part of one
    let open: Vec<File> = (0..8)
        .map(|i| {
            fs::write(path(i), noise(i, LENGTH)).unwrap();
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path(i)).unwrap()
        })
        .collect();
    workspace.sync();
    for i in 0..8 {
        if i % 2 == 0 {
            fs::remove_file(path(i)).unwrap();
        } else {
            fs::write(workspace.at.join("next"), noise(100 + i, 1000)).unwrap();
            fs::rename(workspace.at.join("next"), path(i)).unwrap();
        }
    }
    workspace.sync();
    fs::write(workspace.at.join("other"), noise(200, 20 * MIB)).unwrap();
    workspace.sync();
    for (i, file) in (0..).zip(&open) {
        let mut found = vec![0; LENGTH];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == noise(i, LENGTH), "f{i} has lost its content with its name");
        assert_eq!((file.metadata().unwrap().nlink(), file.metadata().unwrap().len()), (0, LENGTH as u64));
        if i % 2 == 1 {
            assert!(fs::read(path(i)).unwrap() == noise(100 + i, 1000), "f{i} is not what was renamed to it");
        }
    }
    drop(open);
    workspace.end();
}

/// SQLite gives the highest row's number out again once that row is gone, unless told otherwise.
#[test]
fn inode_numbers_are_not_used_again() {
    if !can_mount() {
        return;
    }
    let workspace = Workspace::new();
    let mut seen = HashSet::new();
    let mut newest = workspace.at.clone();
    let mut make = |name: String| {
        let path = workspace.at.join(&name);
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(name.as_bytes()).unwrap();
        assert!(seen.insert(file.metadata().unwrap().ino()), "{name} has the inode number of a file before it");
        newest = path;
        (file, newest.clone())
    };
    let own = |path: &Path| assert_eq!(fs::read(path).unwrap(), path.file_name().unwrap().as_encoded_bytes());

    let (ghost, path) = make("ghost".into());
    fs::remove_file(path).unwrap();
    let crowd: Vec<PathBuf> = (0..2000).map(|i| make(format!("new{i}")).1).collect();
    ghost.write_all_at(b"who was here", 0).unwrap();
    ghost.set_len(3).unwrap();
    ghost.sync_all().unwrap();
    crowd.iter().for_each(|path| own(path));
    let mut found = [0; 3];
    ghost.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"who");
    drop(ghost);

    for round in 0..3 {
        for i in 0..50 {
            fs::remove_file(make(format!("{round}-short{i}")).1).unwrap();
        }
        // The highest number there is belongs to nobody when the session ends.
        let (open, path) = make(format!("{round}-last"));
        fs::remove_file(path).unwrap();
        if round == 1 {
            workspace.kill();
            drop(open);
        } else {
            drop(open);
            workspace.umount();
        }
        workspace.mount();
    }
    make("after".into());
    crowd.iter().for_each(|path| own(path));
    workspace.end();
}

/// The names of one getdents64 into a buffer of this size, which libc's readdir does not let a program choose.
fn some_names(dir: &File, size: usize) -> io::Result<Vec<OsString>> {
    let mut buffer = vec![0_u8; size];
    // SAFETY: the descriptor is open, the buffer has the stated length.
    let filled = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), size) };
    let mut rest = &buffer[..usize::try_from(filled).map_err(|_| io::Error::last_os_error())?];
    let mut names = Vec::new();
    while !rest.is_empty() {
        // A number and a cookie of eight bytes each, the entry's length in two, its kind in one, the name and a NUL.
        let (entry, others) = rest.split_at(u16::from_ne_bytes([rest[16], rest[17]]).into());
        names.push(OsString::from_vec(entry[19..].iter().copied().take_while(|byte| *byte != 0).collect()));
        rest = others;
    }
    Ok(names)
}

#[test]
fn names_removed_while_they_are_listed_leave_nothing() {
    if !can_mount() {
        return;
    }
    let workspace = Workspace::new();
    let dir = workspace.at.join("dir");
    let fill = |count: usize| {
        fs::create_dir(&dir).unwrap();
        for i in 0..count {
            match i % 100 {
                0 => fs::create_dir(dir.join(format!("{i:05} a directory"))).unwrap(),
                _ => drop(File::create(dir.join(format!("{i:05} a file"))).unwrap()),
            }
        }
    };
    fill(10_000);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(errno(fs::metadata(&dir)), libc::ENOENT);

    fill(3000);
    let listing = File::open(&dir).unwrap();
    let mut removed = 0;
    loop {
        let names = some_names(&listing, 200).unwrap();
        if names.is_empty() {
            break;
        }
        for name in names.iter().filter(|name| *name != "." && *name != "..") {
            let path = dir.join(name);
            // A name that is listed twice is not there any more.
            let gone = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            gone.unwrap_or_else(|error| panic!("{name:?}: {error}"));
            removed += 1;
        }
    }
    assert_eq!((removed, fs::read_dir(&dir).unwrap().count()), (3000, 0), "the listing has left names out");
    fs::remove_dir(&dir).unwrap();
    drop(listing);
    assert_eq!(workspace.counter("inodes_used"), 1, "all but the root directory is gone");
    workspace.end();
}

/// A transaction that a failure leaves open keeps all later ones from being committed, and the WAL from being reused.
#[test]
fn commits_go_on_after_renames_that_fail() {
    if !can_mount() {
        return;
    }
    let workspace = Workspace::new();
    let path = |name: &str| workspace.at.join(name);
    fs::create_dir(path("from")).unwrap();
    fs::create_dir_all(path("to/taken")).unwrap();
    let wal = workspace.bench.store().join("demo/session.db-wal");
    let mut transaction = workspace.counter("txid");
    for round in 0..25 {
        for (i, content) in noise(round, 10 * MIB).chunks(MIB / 5).enumerate() {
            assert_eq!(errno(fs::rename(path("from"), path("to"))), libc::ENOTEMPTY);
            fs::write(path(&format!("f{i}")), content).unwrap();
        }
        workspace.sync();
        let now = workspace.counter("txid");
        assert!(now > transaction, "round {round}: sync has committed nothing");
        transaction = now;
        assert_eq!(workspace.counter("dirty_bytes"), 0, "round {round}: sync has left something");
        // 10 MiB a round: what is never given back passes these bounds.
        let length = fs::metadata(&wal).unwrap().len();
        assert!(length < 4 * WAL_CHECKPOINT_BYTES, "round {round}: the WAL has {length} bytes");
        let length = workspace.counter("journal_bytes");
        assert!(length <= JOURNAL_KEEP + 2 * JOURNAL_SEGMENT, "round {round}: the journal has {length} bytes");
    }
    workspace.end();
}

#[test]
fn every_kind_of_fsync_reaches_the_disk() {
    if !can_mount() {
        return;
    }
    let workspace = Workspace::new();
    let path = workspace.at.join("f");
    let file = File::create(&path).unwrap();
    let by_itself = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    let dir = File::open(&workspace.at).unwrap();
    let change = |i: u64| file.write_all_at(b"changed", i * 100).unwrap();
    let ways: [(&str, &dyn Fn(u64)); 4] = [
        ("fsync", &|i| {
            change(i);
            file.sync_all().unwrap();
        }),
        ("fdatasync", &|i| {
            change(i);
            file.sync_data().unwrap();
        }),
        ("fsync of the directory", &|i| {
            File::create(workspace.at.join(format!("new{i}"))).unwrap();
            dir.sync_all().unwrap();
        }),
        ("O_DSYNC", &|i| by_itself.write_all_at(b"changed", i * 100).unwrap()),
    ];
    for (way, perform) in ways {
        let mut by_journal = 0;
        for i in 0..20 {
            let counters = || (workspace.counter("syncs"), workspace.counter("txid"));
            let (syncs, transaction) = counters();
            perform(i);
            let (syncs_after, transaction_after) = counters();
            // A commit that came just then has left nothing to sync; it is one of the disk itself.
            assert!(syncs_after > syncs || transaction_after > transaction, "{way} {i}: the disk was not waited for");
            by_journal += u32::from(syncs_after > syncs);
        }
        assert!(by_journal > 0, "{way}: the journal was never synced");
    }
    drop((file, by_itself, dir));
    workspace.end();
}

/// One lock around a whole write would keep everyone else out for as long as it takes.
#[test]
fn a_small_file_is_made_while_a_large_write_goes_on() {
    if !can_mount() {
        return;
    }
    const PIECES: u64 = (64 * MIB / 4096) as u64;
    let workspace = Workspace::new();
    let large = File::create(workspace.at.join("large")).unwrap();
    let content = noise(1, MIB).repeat(64);
    let free = || sys::statvfs(&workspace.at).unwrap().f_bfree;
    for round in 0..20 {
        let before = free();
        // The kernel shows the new size of a file at the write's end; the space that is used tells how far it is.
        let used = || before.saturating_sub(free());
        let made_meanwhile = thread::scope(|scope| {
            let writer = scope.spawn(|| large.write_all_at(&content, 0).unwrap());
            let mut made_meanwhile = 0;
            for i in 0.. {
                if writer.is_finished() {
                    break;
                }
                if used() > 0 {
                    fs::write(workspace.at.join(format!("small{round}-{i}")), b"small").unwrap();
                    // Also counts what the small files use, so the large one has even less.
                    made_meanwhile += u32::from(used() < PIECES);
                }
            }
            made_meanwhile
        });
        if made_meanwhile > 0 {
            drop(large);
            return workspace.end();
        }
        // A machine that has much else to do may let nobody run beside the writer for once.
        large.set_len(0).unwrap();
    }
    panic!("no small file was made before the large write was over");
}
