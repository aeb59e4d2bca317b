//! Several threads at once: what one of them was told stays, whatever the others were in the middle of. A record that is
//! appended for another, or behind another's, counts as much as one's own.

use std::path::Path;

use sessionfs::base::{Errno, Ino};
use sessionfs::fs::{Fs, WriteFlags};
use sessionfs::store::Omit;

use crate::child::{Report, start};
use crate::perform::ROOT_USER;
use crate::verify::{Outcome, check};

pub const THREADS: u64 = 4;
const FILES: u64 = 60;

fn name(what: &str, number: u64) -> Vec<u8> {
    format!("{what}-{number}").into_bytes()
}

/// What a thread writes into one of its files: sometimes over the end of a block.
fn content(thread: u64, file: u64) -> Vec<u8> {
    vec![(1 + thread * 50 + file % 50) as u8; (1 + file * 977 % 20_000) as usize]
}

/// Each thread makes files in a directory of its own, and says so after each.
pub fn work(dir: &Path) {
    let fs = start(dir, Omit::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let fs = &fs;
            scope.spawn(move || {
                let mut report = Report::new();
                let parent = fs.mkdir(&ROOT_USER, Ino::ROOT, &name("thread", thread), 0o755).unwrap().ino;
                for file in 0..FILES {
                    let kind = libc::S_IFREG | 0o644;
                    let ino = fs.mknod(&ROOT_USER, parent, &name("file", file), kind, 0).unwrap().ino;
                    fs.write(ino, 0, &content(thread, file), WriteFlags::default()).unwrap();
                    if file % 7 == thread {
                        fs.fsync().unwrap();
                    }
                    if file % 20 == 5 * thread {
                        fs.commit().unwrap();
                    }
                    report.say(&format!("crowd {thread}"));
                }
            });
        }
    });
    fs.stop().unwrap();
}

/// Recovers it, where each thread had been told of so many files.
pub fn verify(dir: &Path, told: &[u64]) -> Outcome {
    let fs = start(dir, Omit::default()).map_err(|error| format!("recover: {error}"))?;
    for (thread, &told) in told.iter().enumerate() {
        verify_thread(&fs, thread as u64, told).map_err(|what| format!("thread {thread}, told of {told}: {what}"))?;
    }
    check(dir)?;
    fs.stop().map_err(|error| format!("stop: {error}"))?;
    check(dir)
}

fn verify_thread(fs: &Fs, thread: u64, told: u64) -> Outcome {
    let parent = match fs.lookup(Ino::ROOT, &name("thread", thread)) {
        Err(Errno::NoEnt) if told == 0 => return Ok(()),
        found => found.map_err(|errno| format!("its directory: {errno}"))?.ino,
    };
    for file in 0..FILES {
        let found = match fs.lookup(parent, &name("file", file)) {
            Err(Errno::NoEnt) if file >= told => continue,
            found => found.map_err(|errno| format!("file {file}: {errno}"))?,
        };
        if file > told {
            return Err(format!("file {file} is there, which was not begun"));
        }
        let mut bytes = Vec::new();
        fs.read(found.ino, 0, 1 << 20, &mut bytes).map_err(|errno| format!("file {file}: {errno}"))?;
        // The one that was being made may be there without its content.
        if bytes != content(thread, file) && !(file == told && bytes.is_empty()) {
            return Err(format!("file {file} has {} other bytes", bytes.len()));
        }
    }
    Ok(())
}
