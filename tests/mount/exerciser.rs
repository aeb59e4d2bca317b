//! One file under random operations, with a plain vector beside it that says what is right: what fsx does, but the file
//! goes on across stops and resumes.
//!
//! `EXERCISER_SEED=n` runs one seed, `EXERCISER_OPS=n` sets how many operations. A failure prints the seed and the last
//! operations.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::harness::{Session, can_mount};
use crate::sys;

const LENGTH_MAX: u64 = 256 * 1024;
const SIZE_MAX: u64 = 64 * 1024;
const REMOUNT_EVERY: u64 = 500;
const SHOWN: usize = 20;

/// xorshift64*
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % limit.max(1)
    }

    /// A place and a length, often on the edge of a page or a block.
    fn range(&mut self, limit: u64) -> (u64, u64) {
        let align = [1, 1, 4096, 16384][self.below(4) as usize];
        let at = self.below(limit) / align * align;
        let length = self.below(SIZE_MAX.min(limit - at)) / align * align;
        (at, length.max(1).min(limit - at))
    }
}

/// The file, and what it has to hold.
struct Pair {
    file: File,
    right: Vec<u8>,
}

impl Pair {
    /// Does one operation to both; returns what it was.
    fn step(&mut self, rng: &mut Rng) -> String {
        let size = self.right.len() as u64;
        let (at, length) = rng.range(LENGTH_MAX);
        let (from, until) = (at as usize, (at + length) as usize);
        let byte = rng.below(256) as u8;
        match rng.below(11) {
            0 | 1 => {
                let data = vec![byte; length as usize];
                self.file.write_all_at(&data, at).unwrap();
                self.cover(from, until).copy_from_slice(&data);
                format!("write {at} {length}")
            }
            2 | 3 if size > 0 => {
                let (at, length) = rng.range(size);
                let (from, until) = (at as usize, (at + length) as usize);
                let mut map = sys::Map::of(&self.file, self.right.len()).unwrap();
                assert!(map[from..until] == self.right[from..until], "mapped read of {length} at {at}");
                map[from..until].fill(byte);
                self.right[from..until].fill(byte);
                format!("mapped write {at} {length}")
            }
            4 => {
                self.file.set_len(at).unwrap();
                self.right.resize(from, 0);
                format!("truncate {at}")
            }
            5 => {
                sys::fallocate(&self.file, 0, at as i64, length as i64).unwrap();
                self.cover(from, until);
                format!("allocate {at} {length}")
            }
            6 => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                sys::fallocate(&self.file, mode, at as i64, length as i64).unwrap();
                self.zero(from, until);
                format!("punch {at} {length}")
            }
            7 => {
                sys::fallocate(&self.file, libc::FALLOC_FL_ZERO_RANGE, at as i64, length as i64).unwrap();
                self.cover(from, until).fill(0);
                format!("zero {at} {length}")
            }
            8 if size > 0 => self.copy(rng, size, at),
            9 => {
                self.file.sync_data().unwrap();
                "fdatasync".to_owned()
            }
            _ => {
                self.compare();
                "read".to_owned()
            }
        }
    }

    fn copy(&mut self, rng: &mut Rng, size: u64, to: u64) -> String {
        let (from, length) = rng.range(size);
        let length = length.min(LENGTH_MAX - to).min(from.abs_diff(to)); // ranges that overlap are EINVAL
        let copied = sys::copy_range(&self.file, from as i64, &self.file, to as i64, length as usize).unwrap();
        let data = self.right[from as usize..(from + copied) as usize].to_vec();
        if copied > 0 {
            self.cover(to as usize, (to + copied) as usize).copy_from_slice(&data);
        }
        format!("copy {from} to {to} {length}: {copied}")
    }

    /// The range, after the file has been made long enough for it.
    fn cover(&mut self, from: usize, until: usize) -> &mut [u8] {
        if self.right.len() < until {
            self.right.resize(until, 0);
        }
        &mut self.right[from..until]
    }

    fn zero(&mut self, from: usize, until: usize) {
        let size = self.right.len();
        self.right[from.min(size)..until.min(size)].fill(0);
    }

    fn compare(&self) {
        assert_eq!(self.file.metadata().unwrap().len(), self.right.len() as u64, "length");
        let mut data = vec![0; self.right.len()];
        self.file.read_exact_at(&mut data, 0).unwrap();
        let wrong = data.iter().zip(&self.right).position(|(is, should)| is != should);
        assert_eq!(wrong, None, "the first byte that differs");
    }
}

fn open(session: &Session) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(session.path("file")).unwrap()
}

fn exercise(seed: u64, operations: u64) {
    let mut session = Session::new();
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut pair = Pair { file: open(&session), right: Vec::new() };
    let mut history = Vec::new();
    let done = catch_unwind(AssertUnwindSafe(|| {
        for number in 1..=operations {
            history.push(format!("{number}: {}", pair.step(&mut rng)));
            if number % REMOUNT_EVERY == 0 {
                let blocks = pair.file.metadata().unwrap().blocks();
                pair.file = File::open("/dev/null").unwrap(); // a file that is open keeps the mount busy
                session.remount();
                pair.file = open(&session);
                pair.compare();
                assert_eq!(pair.file.metadata().unwrap().blocks(), blocks, "blocks");
            }
        }
    }));
    if let Err(panic) = done {
        eprintln!("EXERCISER_SEED={seed} failed; the last operations that went well:");
        history.iter().rev().take(SHOWN).rev().for_each(|line| eprintln!("  {line}"));
        drop(pair);
        resume_unwind(panic);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn a_file_is_what_was_done_to_it() {
    if !can_mount() {
        return;
    }
    let operations = number("EXERCISER_OPS").unwrap_or(1500);
    let seeds = number("EXERCISER_SEED").map_or(1..5, |seed| seed..seed + 1);
    for seed in seeds {
        println!("EXERCISER_SEED={seed} EXERCISER_OPS={operations}");
        exercise(seed, operations);
    }
}
