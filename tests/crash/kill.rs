//! Children as their parent sees them: started, killed by themselves, and what they had said until then.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::child::{self, Answer, Job};
use crate::crowd::THREADS;
use crate::op::Rng;

/// A child that takes longer hangs. Far more than it needs, on a machine that has much else to do.
const DEADLINE: Duration = Duration::from_secs(120);

/// Where a child dies: at the n-th passing of a failpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub name: String,
    pub passing: u64,
}

/// How often each failpoint was passed.
pub type Counts = BTreeMap<String, u64>;

/// What a child has said.
#[derive(Debug)]
pub struct Life {
    /// It was killed, and did not come to its end.
    pub killed: bool,
    /// It has said that it begins with its work.
    pub begun: bool,
    pub stopped: bool,
    /// What its operations answered.
    pub answers: Vec<Answer>,
    /// How many files each thread of a crowd was told of.
    pub crowd: Vec<u64>,
    /// Of a child that came to its end.
    pub counts: Counts,
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub job: Job,
    pub dir: &'a Path,
    pub seed: u64,
    /// Records are left out.
    pub omit: bool,
}

impl Plan<'_> {
    /// Runs a child to its end, or to its death.
    pub fn run(&self, spot: Option<&Spot>) -> Life {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "child", "--nocapture", "--test-threads=1"]);
        command.env(child::JOB, self.job.name()).env(child::DIR, self.dir).env(child::SEED, self.seed.to_string());
        if let Some(spot) = spot {
            command.env(child::NAME, &spot.name).env(child::PASSING, spot.passing.to_string());
        }
        if self.omit {
            command.env(child::OMIT, "1");
        }
        let log = self.dir.join("stderr");
        let errors = std::fs::File::create(&log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let said = std::thread::spawn({
            let stdout = child.stdout.take().unwrap();
            move || std::io::read_to_string(stdout).unwrap()
        });
        let until = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > until {
                child.kill().unwrap();
                panic!("a child hangs: {self:?} {spot:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let killed = status.signal() == Some(libc::SIGKILL);
        let said = said.join().unwrap();
        let wrong = || format!("{self:?} {spot:?}: {status}\n{said}\n{}", std::fs::read_to_string(&log).unwrap());
        assert!(killed || status.success(), "{}", wrong());
        let life = Life::parse(&said, killed);
        // One that lives says so, and one that reached its spot does not live.
        let missed = spot.is_some_and(|spot| life.counts.get(&spot.name).is_some_and(|&n| n >= spot.passing));
        assert!(killed != life.stopped_and_counted() && !missed, "{}", wrong());
        life
    }
}

impl Life {
    fn parse(said: &str, killed: bool) -> Life {
        let mut life = Life {
            killed,
            begun: false,
            stopped: false,
            answers: Vec::new(),
            crowd: vec![0; THREADS as usize],
            counts: Counts::new(),
        };
        // The harness ends what it has to say without a line's end.
        let lines = said.lines().filter_map(|line| line.split_once(child::MARK).map(|(_, rest)| rest));
        for line in lines {
            if line == "begun" {
                life.begun = true;
            } else if line == "stopped" {
                life.stopped = true;
            } else if let Some(thread) = line.strip_prefix("crowd ") {
                life.crowd[thread.parse::<usize>().unwrap()] += 1;
            } else if let Some(answer) = line.strip_prefix("done ") {
                life.answers.push(Answer::parse(answer).unwrap());
            } else if let Some((count, name)) = line.strip_prefix("count ").and_then(|rest| rest.split_once(' ')) {
                life.counts.insert(name.to_owned(), count.parse().unwrap());
            }
        }
        life
    }

    fn stopped_and_counted(&self) -> bool {
        self.stopped && !self.counts.is_empty()
    }
}

/// Where to kill, when these passings were counted: at the first, the last and some between of each name, or at all of
/// them when `CRASH_EVERY` is set.
pub fn spots(counts: &Counts, seed: u64) -> Vec<Spot> {
    let every = std::env::var_os("CRASH_EVERY").is_some();
    let mut spots = Vec::new();
    for (name, &count) in counts {
        let passings: BTreeSet<u64> = match count {
            _ if every => (1..=count).collect(),
            0..3 => (1..=count).collect(),
            _ => {
                let between = 1 + count / 40;
                let mut random = Rng(seed.wrapping_mul(count) | 1);
                (0..between).map(|_| 2 + random.below(count - 2)).chain([1, count]).collect()
            }
        };
        spots.extend(passings.into_iter().map(|passing| Spot { name: name.clone(), passing }));
    }
    spots
}

pub fn print_counts(title: &str, counts: &Counts) {
    println!("{title}: {} failpoints passed {} times", counts.len(), counts.values().sum::<u64>());
    for (name, count) in counts {
        println!("{count:>7}  {name}");
    }
}

/// Does `work` for each of the items, on twice as many threads as there are cores: half the time is waiting for the disk.
pub fn each<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get()) * 2;
    let one = || {
        let mut results = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(at)
        {
            results.push((at, work(item)));
        }
        results
    };
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}
