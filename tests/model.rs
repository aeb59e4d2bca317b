//! Seeded random operations on the file system beside a plain in-memory model of it: the results of every call are
//! compared, and the whole trees again and again, across stops, resumes, commits and crashes at any point.
//!
//! `MODEL_SEED=n` runs one seed, `MODEL_SEEDS=n` that many, `MODEL_OPS=n` sets the length of a run. A failure prints
//! the seed and the operations.

#![allow(clippy::unwrap_used)] // A panic is how a run fails, and its history is printed.

#[path = "model/compare.rs"]
mod compare;
#[path = "model/op.rs"]
mod op;
#[path = "model/perform.rs"]
mod perform;
#[path = "model/reference.rs"]
mod reference;
mod support;

use op::{Op, Rng};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run(seed: u64, operations: usize, bytes_limit: u64, inodes_limit: u64) {
    let mut rng = Rng(seed | 1);
    let mut pair = compare::Pair::new(bytes_limit, inodes_limit);
    let mut history: Vec<Op> = Vec::new();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for step in 0..operations {
            let op = Op::random(&mut rng);
            history.push(op.clone());
            pair.apply(&op);
            if step % 50 == 49 {
                pair.compare_trees();
            }
        }
        pair.apply(&Op::Remount);
        pair.compare_trees();
    }));
    if let Err(cause) = outcome {
        let tail = history.len().saturating_sub(30);
        eprintln!("MODEL_SEED={seed} failed after {} operations; the last of them:", history.len());
        for op in &history[tail..] {
            eprintln!("  {op:?}");
        }
        std::panic::resume_unwind(cause);
    }
}

#[test]
fn random_operations_match_the_model() {
    let operations = setting("MODEL_OPS", 1500) as usize;
    let seeds = match std::env::var("MODEL_SEED").ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => {
            let start =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() % 1_000_000;
            start..start + setting("MODEL_SEEDS", 4)
        }
    };
    for seed in seeds {
        println!("MODEL_SEED={seed} MODEL_OPS={operations}");
        run(seed, operations, 1 << 30, 100_000);
    }
}

#[test]
fn random_operations_match_the_model_at_the_caps() {
    for seed in 1..=setting("MODEL_SEEDS", 3) {
        println!("seed {seed}, 1 MiB, 60 inodes");
        run(seed, 1500, 1 << 20, 60);
    }
}
