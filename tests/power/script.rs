//! What a session goes through: seeded operations, each one step of the file system, so that every state there ever was
//! is one that the model has seen.

use crate::op::{Op, Path, Rng};
use crate::reference::{Kind, Model};

const BLOCK: u64 = sessionfs::base::limits::BLOCK_SIZE as u64;
const MIB: u64 = 1 << 20;

pub fn path(name: &str) -> Path {
    Path(name.split('/').map(|part| part.as_bytes().to_vec()).collect())
}

fn write(name: &str, at: u64, len: u64, byte: u8) -> Op {
    Op::Write { path: path(name), at, len: len as usize, byte }
}

/// The beginning of every script: some of each, so that short ones have it too.
fn prologue() -> Vec<Op> {
    vec![
        Op::Mkdir(path("b")),
        Op::Create(path("b/c")),
        write("b/c", 0, 100, 1),
        // An append, within the sector and the record before.
        write("b/c", 100, 50, 2),
        Op::Fsync,
        Op::Create(path("d")),
        // As the kernel cuts 1.2 MiB.
        write("d", 777, MIB, 3),
        write("d", 777 + MIB, 200_000, 4),
        write("b/c", 20, 60, 5),
        Op::Fsync,
        Op::SetXattr(path("d"), "user.0".into(), 5000),
        Op::Copy { from: path("d"), from_at: 0, to: path("b/c"), to_at: 65_536, len: 400_000 },
        Op::Commit,
        Op::Rename(path("b/c"), path("d")),
        Op::Fsync,
        Op::Link(path("d"), path("b/e")),
        Op::Punch { path: path("d"), at: 70_000, len: 90_000 },
        Op::UnlinkOpen(path("d")),
        write("b/e", 10, 30_000, 6),
        Op::Fsync,
        Op::Truncate { path: path("b/e"), size: 90_001 },
        Op::Mkdir(path("f")),
        Op::Rmdir(path("f")),
        Op::Forget,
        Op::Commit,
    ]
}

/// A script: the prologue, `operations` random ones with an fsync behind every few and now and then a commit, a stop and
/// a new start.
pub fn script(seed: u64, operations: usize) -> Vec<Op> {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut script = prologue();
    for _ in 0..operations {
        script.push(match Op::random(&mut rng) {
            Op::Crash | Op::Remount | Op::Commit | Op::Resize(..) => Op::Fsync,
            op => smaller(op),
        });
        match rng.below(40) {
            0..6 => script.push(Op::Fsync),
            6..8 => script.push(Op::Commit),
            8 => script.push(Op::Remount),
            _ => {}
        }
    }
    script
}

/// More records than the journal's first two segments hold, with commits that give them back.
pub fn recycling() -> Vec<Op> {
    let mut script = vec![Op::Create(path("d"))];
    for i in 0..30 {
        script.push(write("d", i % 3 * 100_000, MIB, i as u8 * 7));
        match i % 5 {
            1 => script.push(Op::Fsync),
            3 => script.push(Op::Commit),
            _ => {}
        }
    }
    script
}

/// The same with smaller files: a recovery reads all of them, and there are thousands of recoveries.
fn smaller(op: Op) -> Op {
    let fold = |at: u64| if at >= 300_000 { at % 300_000 } else { at };
    match op {
        Op::Write { path, at, len, byte } => Op::Write { path, at: fold(at), len, byte },
        Op::Truncate { path, size } => Op::Truncate { path, size: fold(size) },
        Op::Allocate { path, at, len, keep } => Op::Allocate { path, at: fold(at), len, keep },
        Op::Zero { path, at, len, keep } => Op::Zero { path, at: fold(at), len, keep },
        Op::Copy { from, from_at, to, to_at, len } => Op::Copy { from, from_at, to, to_at: fold(to_at), len },
        other => other,
    }
}

/// The operation in steps that the file system does at once. Only a copy has several: what lines up is shared, and what
/// does not is copied, up to the next block.
pub fn steps(model: &Model, op: &Op) -> Vec<Op> {
    let Op::Copy { from, from_at, to, to_at, len } = op else { return vec![op.clone()] };
    let source = model.find(from).map(|node| &model.nodes[&node].kind);
    let (Ok(Kind::File { content, .. }), Ok(target)) = (source, model.find(to)) else { return Vec::new() };
    let end = (content.len() as u64).min(from_at + len);
    let overlaps = from == to && *from_at < to_at + len && to_at < &(from_at + len);
    if !model.is_file(target) || model.find(from) == Ok(target) && (overlaps || from != to) {
        return Vec::new();
    }
    let (mut steps, mut done) = (Vec::new(), 0);
    while from_at + done < end {
        let (src, dst, rest) = (from_at + done, to_at + done, end - from_at - done);
        let step = if src % BLOCK != dst % BLOCK {
            rest.min(MIB)
        } else if src % BLOCK != 0 {
            rest.min(BLOCK - src % BLOCK)
        } else if rest >= BLOCK {
            rest / BLOCK * BLOCK
        } else {
            rest
        };
        steps.push(Op::Copy { from: from.clone(), from_at: src, to: to.clone(), to_at: dst, len: step });
        done += step;
    }
    steps
}
