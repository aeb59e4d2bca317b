//! What a child does: seeded operations, each one step of the file system, so that every state there ever was is one
//! that the model has seen. Small ones of every kind, and two bursts that fill segments of the journal, so that some are
//! given back and used again.

use crate::op::{Op, Path, Rng};
use crate::reference::{Kind, Model};

const BLOCK: u64 = sessionfs::base::limits::BLOCK_SIZE as u64;
pub const BYTES_LIMIT: u64 = 1 << 30;
pub const INODES_LIMIT: u64 = 10_000;

/// A write of the burst: an odd size above a mebibyte.
const BIG: u64 = (1 << 20) + 12_347;

/// Writes of the first burst: more content than a transaction holds.
const BURST: u64 = sessionfs::base::limits::DIRTY_COMMIT as u64 / BIG + 2;

fn path(name: &str) -> Path {
    Path(name.split('/').map(|part| part.as_bytes().to_vec()).collect())
}

fn write(name: &str, at: u64, len: u64, byte: u8) -> Op {
    Op::Write { path: path(name), at, len: len as usize, byte }
}

/// The beginning of every script: some of each kind.
fn prologue() -> Vec<Op> {
    vec![
        Op::Mkdir(path("b")),
        Op::Create(path("b/c")),
        write("b/c", 0, 100, 1),
        write("b/c", 100, 50, 2),
        Op::Fsync,
        Op::Create(path("d")),
        write("d", 777, 70_001, 3),
        write("b/c", 20, 60, 5),
        Op::SetXattr(path("d"), "user.0".into(), 5000),
        Op::Commit,
        Op::Rename(path("b/c"), path("d")),
        Op::Fsync,
        Op::Link(path("d"), path("b/e")),
        write("b/e", 0, 99_999, 4),
        Op::Punch { path: path("d"), at: 7_000, len: 60_000 },
        Op::UnlinkOpen(path("d")),
        write("b/e", 10, 30_000, 6),
        Op::RemoveXattr(path("b/e"), "user.none".into()),
        Op::Truncate { path: path("b/e"), size: 50_001 },
        Op::Symlink(path("b/f"), 40),
        Op::Mkfifo(path("g")),
        Op::Exchange(path("b/f"), path("g")),
        // Has an open file without a name when it is committed, and given back behind it.
        Op::Create(path("h")),
        write("h", 0, 20_000, 7),
        Op::UnlinkOpen(path("h")),
        Op::Commit,
        Op::Forget,
        Op::Commit,
    ]
}

/// The commits right before and behind the first burst.
pub fn commits_around_burst(script: &[Op]) -> (usize, usize) {
    let commits = |at: &usize| matches!(script[*at], Op::Commit);
    let first_big = |op: &Op| matches!(op, Op::Write { len, .. } if *len as u64 == BIG);
    let burst = script.iter().position(first_big).unwrap();
    (burst - 1, (burst..script.len()).find(commits).unwrap())
}

/// The whole script of a seed.
pub fn script(seed: u64) -> Vec<Op> {
    let mut maker = Maker {
        rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        model: Model::new(BYTES_LIMIT, INODES_LIMIT),
        script: Vec::new(),
    };
    prologue().into_iter().for_each(|op| maker.take(op));
    maker.random(30);
    maker.take(Op::Commit);
    // Open and without a name while the burst goes on: an orphan for a recovery.
    maker.take(Op::Create(path("open")));
    maker.take(write("open", 0, 33_333, 8));
    maker.take(Op::UnlinkOpen(path("open")));
    maker.take(Op::Create(path("big")));
    maker.take(Op::Commit);
    (0..BURST).for_each(|i| maker.take(write("big", i * BIG, BIG, i as u8)));
    maker.random(12);
    maker.take(Op::Commit);
    maker.take(Op::Truncate { path: path("big"), size: 1_500_001 });
    // Into segments that the commit has given back, and most of a pack dies.
    (0..9).for_each(|i| maker.take(write("big", 5_000, BIG, 100 + i)));
    maker.take(Op::Fsync);
    maker.random(8);
    maker.take(Op::Commit);
    maker.random(12);
    maker.take(Op::Remount);
    maker.random(20);
    maker.take(Op::UnlinkOpen(path("big")));
    maker.script
}

struct Maker {
    rng: Rng,
    model: Model,
    script: Vec<Op>,
}

impl Maker {
    fn take(&mut self, op: Op) {
        // What it answers is compared when the script runs.
        let _ = on_model(&mut self.model, &op);
        self.script.push(op);
    }

    /// This many operations that succeed, and a few that do not.
    fn random(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let op = match Op::random(&mut self.rng) {
                Op::Crash | Op::Remount | Op::Resize(..) => Op::Fsync,
                op if is_one_step(&self.model, &op) => op,
                _ => continue,
            };
            let changes = on_model(&mut self.model, &op).is_ok();
            if changes || self.rng.below(20) == 0 {
                self.script.push(op);
                left -= 1;
            }
        }
    }
}

/// Whether the file system does it under the lock at once. Only a copy may be several: one that does not share blocks.
fn is_one_step(model: &Model, op: &Op) -> bool {
    let Op::Copy { from, from_at, to, to_at, len } = op else { return true };
    let (Ok(from), Ok(to)) = (model.find(from), model.find(to)) else { return false };
    let Kind::File { content, .. } = &model.nodes[&from].kind else { return false };
    let end = (content.len() as u64).min(from_at + len);
    let whole = end > *from_at && (end - from_at).is_multiple_of(BLOCK);
    model.is_file(to) && from != to && from_at % BLOCK == 0 && to_at % BLOCK == 0 && whole
}

/// Does an operation on the model. What begins or ends a life, or has a file open, is answered with 0.
pub fn on_model(model: &mut Model, op: &Op) -> Result<u64, sessionfs::base::Errno> {
    match op {
        Op::UnlinkOpen(path) => model.unlink(path, true).map(|_| 0),
        Op::Forget | Op::Remount => {
            model.forget();
            Ok(0)
        }
        Op::Fsync | Op::Commit => Ok(0),
        op => model.perform(op),
    }
}
