//! The cycles: mount, compare, work, kill; the state that was found is where the next one begins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::ends::End;
use crate::history::{History, Verdict};
use crate::plan::{SHARED, home};
use crate::report::Report;
use crate::rng::Rng;
use crate::scan::{Found, scan};
use crate::session::Bench;
use crate::side;
use crate::tree::Tree;

pub const WORKERS: usize = 4;
/// `check` every so many cycles.
const CHECK: u64 = 5;

pub struct Cycles {
    pub bench: Bench,
    pub rng: Rng,
    pub seed: u64,
    pub nth: u64,
    /// What each worker's part has to be.
    pub trees: Vec<Tree>,
    /// The server that has the session mounted.
    pub server: i32,
    pub report: Report,
    /// Every kill is one of the server while all workers work, and nothing but the next mount recovers it.
    pub work_only: bool,
}

impl Cycles {
    /// A session with an empty directory for each worker.
    pub fn new(seed: u64) -> Cycles {
        let (bench, rng) = (Bench::new(seed), Rng::new(seed));
        let (trees, report) = (Vec::new(), Report::default());
        let mut cycles = Cycles { bench, rng, seed, nth: 0, trees, server: 0, report, work_only: false };
        let root = cycles.bench.mountpoint();
        cycles.bench.ok(&["mount", "--size", "4G", cycles.bench.session, root.to_str().unwrap()]);
        for dir in (0..WORKERS).map(home).chain([SHARED.to_owned()]) {
            fs::create_dir(root.join(&dir)).unwrap();
            fs::set_permissions(root.join(&dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
        cycles.bench.ok(&["sync", cycles.bench.session]);
        cycles.trees = cycles.found().parts;
        cycles.server = cycles.pid();
        cycles
    }

    pub fn root(&self) -> PathBuf {
        self.bench.mountpoint()
    }

    pub fn pid(&self) -> i32 {
        self.bench.ok(&["status", self.bench.session])["pid"].as_i64().expect("a process has it") as i32
    }

    /// From a session that is mounted and as it should be to the same after the next kill.
    pub fn one(&mut self) {
        self.nth += 1;
        let end = match self.rng.below(100) {
            _ if self.work_only => End::Killed,
            0..=71 => End::Killed,
            72..=83 => End::KilledWhileStopping,
            84..=92 => End::KilledUnderRun,
            _ => End::RunKilled,
        };
        let histories = match end {
            End::Killed => self.killed(),
            End::KilledWhileStopping => self.killed_while_stopping(),
            End::KilledUnderRun | End::RunKilled => self.under_run(end),
        };
        let mut after = format!("seed {}, cycle {} ({end:?})", self.seed, self.nth);
        // Nothing else has recovered it, or stopped it in order: what the next mount replays is what the kill left.
        let mut untouched = !matches!(end, End::RunKilled);
        if self.nth.is_multiple_of(CHECK) {
            self.report.found(self.bench.findings(self.bench.session), &after);
        }
        if !self.work_only && self.rng.percent(12) {
            untouched = false;
            after += ", another session killed";
            side::create_and_remove(&self.bench, &mut self.rng, &mut self.report, self.nth);
        }
        let evidence = self.keep_evidence();
        self.resume(&mut after, untouched);
        let problems = self.report.problems.len();
        self.verify(&histories, &after);
        if let Some(evidence) = evidence.filter(|_| self.report.problems.len() == problems) {
            fs::remove_dir_all(evidence).unwrap();
        }
    }

    /// A copy of everything as the kill has left it, if `SESSIONFS_KILLS_KEEP` names a directory for that. It stays
    /// when there turns out to be something wrong.
    fn keep_evidence(&self) -> Option<PathBuf> {
        let kept = PathBuf::from(std::env::var_os("SESSIONFS_KILLS_KEEP")?).join(format!("cycle-{}", self.nth));
        fs::create_dir_all(&kept).unwrap();
        let logs = (0..WORKERS).map(|worker| self.log(worker));
        for source in logs.chain([self.bench.store().join(self.bench.session)]) {
            assert!(Command::new("cp").arg("-a").arg(source).arg(&kept).status().unwrap().success());
        }
        Some(kept)
    }

    /// A kill after which the journal is thrown away.
    pub fn one_without_journal(&mut self) {
        self.nth += 1;
        let histories = self.killed();
        self.bench.ok(&["discard-journal", self.bench.session]);
        let mut after = format!("seed {}, cycle {}, the journal thrown away", self.seed, self.nth);
        self.resume(&mut after, false);
        self.verify(&histories, &after);
    }

    /// A clean stop, a clean check, and everything once more.
    pub fn finish(&mut self) {
        let after = format!("seed {}, after a clean stop", self.seed);
        self.bench.ok(&["umount", self.bench.session]);
        self.report.found(self.bench.findings(self.bench.session), &after);
        self.mount();
        let none: Vec<History> = (0..WORKERS).map(|_| History::default()).collect();
        self.verify(&none, &after);
        self.bench.ok(&["umount", self.bench.session]);
        self.report.found(self.bench.findings(self.bench.session), &after);
    }

    fn mount(&mut self) {
        let root = self.root();
        let began = Instant::now();
        let said = self.bench.ok(&["mount", "--existing", self.bench.session, root.to_str().unwrap()]);
        self.report.resumes.push(began.elapsed().as_secs_f64());
        self.server = said["pid"].as_i64().unwrap() as i32;
    }

    /// Mounts again, now and then killed at that, too.
    fn resume(&mut self, after: &mut String, untouched: bool) {
        let root = self.root();
        let mut interrupted = 0;
        while !self.work_only && interrupted < 3 && self.rng.percent(20) {
            interrupted += 1;
            let micros = self.rng.below(50_000);
            let args = ["--json", "mount", "--existing", self.bench.session, root.to_str().unwrap()];
            let code = self.bench.kill_while_starting(&args, micros);
            self.report.killed("while mounting");
            *after += &format!(", mount killed after {micros} µs with {code:?}");
            if !matches!(code, Some(0 | 121)) {
                self.report.problem(format!("{after}: neither served nor said that it died"));
            }
            self.clear();
        }
        self.mount();
        let status = self.bench.ok(&["status", self.bench.session]);
        if untouched && interrupted == 0 {
            self.report.recovered(&status);
        }
        if status["pid"].as_i64() != Some(self.server.into()) {
            self.report.problem(format!("{after}: status says {}, mount said {}", status["pid"], self.server));
        }
    }

    fn found(&self) -> Found {
        self.bench.watch.step("reading everything", 60);
        scan(&self.root(), WORKERS).unwrap_or_else(|error| panic!("reading the mounted session: {error}"))
    }

    fn verify(&mut self, histories: &[History], after: &str) {
        let mut found = self.found();
        for wrong in &found.wrong {
            self.report.problem(format!("{after}: {wrong}"));
        }
        let mut lost = false;
        self.bench.watch.step("comparing", 120);
        for (worker, history) in histories.iter().enumerate() {
            let which = format!("{after}, worker {worker}");
            for unexpected in &history.unexpected {
                self.report.problem(format!("{which}: {unexpected}"));
            }
            self.report.acknowledged += history.acknowledged();
            match history.judge(&self.trees[worker], &found.parts[worker]) {
                Verdict::Kept(in_flight) => self.report.kept(in_flight),
                Verdict::Lost(loss) => {
                    lost = true;
                    self.report.lost(&format!("{which} of {} operations", history.acknowledged()), &loss);
                }
            }
        }
        if lost {
            self.report.a_kill_with_losses();
        }
        self.account(&found, after);
        self.trees = std::mem::take(&mut found.parts);
    }

    /// Whether the session charges what is there and nothing else: no unlinked file has come back without a name.
    fn account(&mut self, found: &Found, after: &str) {
        let status = self.bench.ok(&["status", self.bench.session]);
        for (name, there) in [("inodes_used", found.inodes), ("bytes_used", found.allocated)] {
            if status[name].as_u64() != Some(there) {
                self.report.problem(format!("{after}: {name} is {}, and {there} are there", status[name]));
            }
        }
    }
}
