//! A disk that is full for a moment and a server that is killed, as who works in the mount sees them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{Bench, eventually};
use crate::harness::{can_mount, can_mount_as_root};
use crate::workspace::{MIB, Workspace, noise};

/// A tmpfs for the store, which something else can fill.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf, size: &str) -> SmallDisk {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "none"]).arg(&at);
        assert!(mount.status().unwrap().success());
        SmallDisk(at)
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut filler = OpenOptions::new().append(true).create(true).open(self.0.join("filler")).unwrap();
        for size in [MIB, 4096] {
            while filler.write(&vec![1; size]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes a file, and returns how much of it was acknowledged; the only error there may be is that of a full disk.
fn write_what_fits(path: &Path, content: &[u8]) -> usize {
    let full = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{}: {error}", path.display());
    let mut file = match File::create_new(path) {
        Ok(file) => file,
        Err(error) => {
            full(error);
            return 0;
        }
    };
    let mut written = 0;
    while written < content.len() {
        match file.write(&content[written..]) {
            Ok(more) => written += more,
            Err(error) => {
                full(error);
                break;
            }
        }
    }
    written
}

#[test]
fn a_disk_that_was_full_for_a_moment_costs_nothing() {
    if !can_mount_as_root() {
        return;
    }
    const LENGTH: usize = MIB / 2;
    let bench = Bench::new();
    let disk = SmallDisk::new(bench.empty("store"), "80m");
    let workspace = Workspace::on(bench);
    fs::write(workspace.bench.path("host"), noise(1 << 20, 16 * MIB)).unwrap();
    let path = |i: usize| workspace.at.join(format!("f{i}"));
    let mut lengths: Vec<usize> = Vec::new();
    let one_more = |lengths: &mut Vec<usize>| {
        let i = lengths.len();
        lengths.push(write_what_fits(&path(i), &noise(i as u64, LENGTH)));
        lengths[i] == LENGTH
    };
    let all_there = |lengths: &[usize]| {
        for (i, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            assert!(fs::read(path(i)).unwrap() == noise(i as u64, LENGTH)[..*length], "f{i}");
        }
    };
    for round in 0..2 {
        for _ in 0..8 {
            assert!(one_more(&mut lengths), "there was room");
        }
        // What is not committed yet meets the full disk, too.
        disk.fill();
        let until = Instant::now() + Duration::from_secs(60);
        while one_more(&mut lengths) {
            assert!(Instant::now() < until, "round {round}: the disk does not become full");
        }
        // A commit may find just enough; what fails says that it is the disk, not the session's cap.
        for command in [&["sync", "demo"][..], &["cp", "host", "demo:/"]] {
            let code = workspace.bench.call(command).status.code();
            assert!(matches!(code, Some(0 | 17)), "{command:?} on a full disk: {code:?}");
        }
        for _ in 0..3 {
            one_more(&mut lengths);
        }
        File::open(&workspace.at).unwrap().sync_all().expect("what was acknowledged has its place");
        all_there(&lengths);

        fs::remove_file(disk.0.join("filler")).unwrap();
        eventually("a change is taken again", || one_more(&mut lengths));
        workspace.sync();
        all_there(&lengths);
        for i in (0..lengths.len()).filter(|i| path(*i).exists()) {
            fs::remove_file(path(i)).unwrap();
            lengths[i] = 0;
        }
    }
    assert!(one_more(&mut lengths));
    workspace.kill();
    workspace.mount();
    all_there(&lengths);
    workspace.umount();
    workspace.bench.ok(&["check", "demo"]);
}

/// How many links a file or directory has, and how many it should have by the names that were found.
#[derive(Default)]
struct Links {
    stated: u64,
    found: u64,
}

/// Counts the links of everything below `dir`, by inode number.
fn count_links(dir: &Path, counts: &mut BTreeMap<u64, Links>) {
    let meta = fs::metadata(dir).unwrap();
    let mut subdirs = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            subdirs += 1;
            count_links(&path, counts);
        } else {
            let links = counts.entry(meta.ino()).or_default();
            *links = Links { stated: meta.nlink(), found: links.found + 1 };
        }
    }
    counts.insert(meta.ino(), Links { stated: meta.nlink(), found: 2 + subdirs });
}

/// What a thread does to its directory until it fails, which it must not before it `may`: directories with a file of two
/// names come, and go some later.
fn come_and_go(dir: &Path, done: &AtomicUsize, may: &AtomicBool) {
    let step = |i: usize| -> io::Result<()> {
        let (new, link) = (dir.join(format!("d{i}")), dir.join(format!("l{i}")));
        fs::create_dir(&new)?;
        File::create(new.join("f"))?;
        fs::hard_link(new.join("f"), link)?;
        let Some(old) = i.checked_sub(20) else { return Ok(()) };
        fs::remove_file(dir.join(format!("l{old}")))?;
        fs::remove_file(dir.join(format!("d{old}/f")))?;
        fs::remove_dir(dir.join(format!("d{old}")))
    };
    for i in 0.. {
        if let Err(error) = step(i) {
            assert!(may.load(Ordering::SeqCst), "{error} while the server lived");
            return;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_kill_amid_mkdir_and_rmdir_leaves_right_link_counts() {
    if !can_mount() {
        return;
    }
    let workspace = Workspace::new();
    for round in 0..4 {
        let enough = 300 + 137 * round;
        let (done, killed) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for writer in 0..4 {
                let dir = workspace.at.join(format!("{round}-{writer}"));
                fs::create_dir(&dir).unwrap();
                let (done, killed) = (&done, &killed);
                scope.spawn(move || come_and_go(&dir, done, killed));
            }
            let until = Instant::now() + Duration::from_secs(60);
            while done.load(Ordering::Relaxed) < enough && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
            killed.store(true, Ordering::SeqCst);
            workspace.kill();
        });
        assert!(done.load(Ordering::Relaxed) >= enough, "round {round}: too slow to be killed in the middle");
        workspace.mount();
        let mut counts = BTreeMap::new();
        count_links(&workspace.at, &mut counts);
        for (ino, Links { stated, found }) in &counts {
            assert_eq!(stated, found, "round {round}: links of inode {ino}");
        }
        // Of so many steps one writer has done enough to have begun removing what it made.
        assert!(counts.len() > 20 * (round + 1), "round {round}: only {} files and directories", counts.len());
        assert_eq!(workspace.counter("inodes_used"), counts.len() as u64, "round {round}: files without a name");
        workspace.bench.ok(&["check", "demo"]);
    }
    workspace.end();
}
