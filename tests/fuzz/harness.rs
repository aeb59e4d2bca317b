//! Runs a decoder on inputs, and sees to it that it neither panics nor loops nor takes more memory than it may.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sessionfs::format::content_hash;

use crate::alloc::most_during;
use crate::mutate::mutate;
use crate::op::Rng;

/// What decoding may hold at a time, in bytes: for inputs of at most some hundred KiB.
const MEMORY: usize = 64 << 20;

/// How long one input may take, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Panics of whatever thread, as they were told.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Inputs begun: a watchdog looks whether they go on.
static BEGUN: AtomicU64 = AtomicU64::new(0);

pub fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

/// The inputs kept for a decoder, by their names.
pub fn corpus(decoder: &str) -> Vec<(String, Vec<u8>)> {
    let prefix = format!("{decoder}-");
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(corpus_dir())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name.starts_with(&prefix))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no corpus for {decoder}");
    found
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// One decoder under test.
pub struct Fuzz {
    name: &'static str,
    pub rng: Rng,
    until: Instant,
    inputs: u64,
    /// The most memory that any input took.
    most: usize,
}

impl Fuzz {
    pub fn new(name: &'static str) -> Fuzz {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = setting("FUZZ_SEED").unwrap_or(now.as_secs() % 1_000_000);
        println!("FUZZ_SEED={seed}");
        std::panic::set_hook(Box::new(|panic| PANICS.lock().unwrap().push(panic.to_string())));
        std::thread::spawn(watch);
        Fuzz {
            name,
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            until: Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS").unwrap_or(3)),
            inputs: 0,
            most: 0,
        }
    }

    pub fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// One input. `kept` has its bytes, to be looked at and made part of the corpus when it fails.
    pub fn try_one<T>(&mut self, label: &str, kept: &[u8], run: impl FnOnce() -> T) -> T {
        BEGUN.fetch_add(1, Ordering::Relaxed);
        self.inputs += 1;
        let (result, most) = most_during(|| catch_unwind(AssertUnwindSafe(run)));
        self.most = self.most.max(most);
        let mut wrong = std::mem::take(&mut *PANICS.lock().unwrap());
        if most > MEMORY {
            wrong.push(format!("{most} bytes of memory for an input of {}", kept.len()));
        }
        match result {
            Ok(result) if wrong.is_empty() => result,
            _ => {
                let _ = std::panic::take_hook();
                let path =
                    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{:016x}", self.name, content_hash(kept)));
                fs::write(&path, kept).unwrap();
                panic!("{label}: {}\nthe input is in {}", wrong.join("\n"), path.display());
            }
        }
    }

    /// All of the corpus, then damaged inputs made of it until the time is over. `repair` gives checksums that are
    /// right again; half of the inputs go through it.
    pub fn run(mut self, repair: impl Fn(&mut Vec<u8>), run: impl Fn(&[u8]) -> bool) {
        let corpus = corpus(self.name);
        for (name, input) in &corpus {
            self.try_one(name, input, || run(input));
        }
        let all: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
        let mut accepted = 0u64;
        while self.goes_on() {
            let mut input = all[self.rng.below(all.len() as u64) as usize].clone();
            mutate(&mut self.rng, &mut input, &all);
            if self.rng.below(2) == 0 {
                repair(&mut input);
            }
            accepted += u64::from(self.try_one("a damaged input", &input, || run(&input)));
        }
        println!("{}: {} inputs, {accepted} accepted, {} KiB at the most", self.name, self.inputs, self.most >> 10);
        assert!(accepted > 0, "what is behind the checks was never reached");
    }
}

impl Drop for Fuzz {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::panic::take_hook();
        }
    }
}

/// Ends the process when one input takes too long.
fn watch() {
    loop {
        let before = BEGUN.load(Ordering::Relaxed);
        std::thread::sleep(PATIENCE);
        if BEGUN.load(Ordering::Relaxed) == before && before > 0 {
            eprintln!("input {before} takes too long");
            std::process::abort();
        }
    }
}
