//! The cycles: mount, compare, work, kill; the state that was found is where the next one begins.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::history::{History, Verdict};
use crate::plan::{SHARED, home};
use crate::report::Report;
use crate::rng::{Rng, derived};
use crate::scan::{Found, scan};
use crate::session::{Bench, SESSION, alive, kill, text};
use crate::side;
use crate::sys;
use crate::tree::Tree;
use crate::worker::{self, Order};

const WORKERS: usize = 4;
/// Microseconds of work before a kill: most kills land between two commits, which are a second apart.
const WORK: (u64, u64) = (50_000, 1_500_000);
/// `check` every so many cycles.
const CHECK: u64 = 5;

pub struct Cycles {
    bench: Bench,
    rng: Rng,
    seed: u64,
    nth: u64,
    /// What each worker's part has to be.
    trees: Vec<Tree>,
    /// The server that has the session mounted.
    server: i32,
    pub report: Report,
}

/// How a cycle ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    KilledWhileStopping,
    KilledUnderRun,
    RunKilled,
}

impl Cycles {
    /// A session with an empty directory for each worker.
    pub fn new(seed: u64) -> Cycles {
        let (bench, rng) = (Bench::new(seed), Rng::new(seed));
        let mut cycles = Cycles { bench, rng, seed, nth: 0, trees: Vec::new(), server: 0, report: Report::default() };
        let root = cycles.bench.mountpoint();
        cycles.bench.ok(&["mount", "--size", "4G", SESSION, root.to_str().unwrap()]);
        for dir in (0..WORKERS).map(home).chain([SHARED.to_owned()]) {
            fs::create_dir(root.join(&dir)).unwrap();
            fs::set_permissions(root.join(&dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
        cycles.bench.ok(&["sync", SESSION]);
        cycles.trees = cycles.found().parts;
        cycles.server = cycles.pid();
        cycles
    }

    fn root(&self) -> PathBuf {
        self.bench.mountpoint()
    }

    fn pid(&self) -> i32 {
        self.bench.ok(&["status", SESSION])["pid"].as_i64().expect("a process has it") as i32
    }

    /// From a session that is mounted and as it should be to the same after the next kill.
    pub fn one(&mut self) {
        self.nth += 1;
        let end = match self.rng.below(100) {
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
            untouched = false;
            self.report.found(self.bench.findings(SESSION), &after);
        }
        if self.rng.percent(12) {
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
        for source in logs.chain([self.bench.store().join(SESSION)]) {
            assert!(Command::new("cp").arg("-a").arg(source).arg(&kept).status().unwrap().success());
        }
        Some(kept)
    }

    /// A clean stop, a clean check, and everything once more.
    pub fn finish(&mut self) {
        let after = format!("seed {}, after a clean stop", self.seed);
        self.bench.ok(&["umount", SESSION]);
        self.report.found(self.bench.findings(SESSION), &after);
        self.mount();
        let none: Vec<History> = (0..WORKERS).map(|_| History::default()).collect();
        self.verify(&none, &after);
        self.bench.ok(&["umount", SESSION]);
        self.report.found(self.bench.findings(SESSION), &after);
    }

    fn log(&self, worker: usize) -> PathBuf {
        self.bench.path(&format!("worker-{worker}.log"))
    }

    /// Writes down what each worker is to do.
    fn orders(&mut self, root: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for worker in 0..WORKERS {
            let seed = derived(self.seed, [self.nth, worker as u64]);
            // Half of them as fast as they can, half with rests, so that there are gentle times and rough ones.
            let pause = if self.rng.percent(50) { 0 } else { self.rng.within(100, 20_000) };
            let (log, tree) = (self.log(worker), self.trees[worker].clone());
            let _ = fs::remove_file(&log);
            let order = Order { worker, seed, root: root.to_owned(), log, tree, pause };
            let file = self.bench.path(&format!("worker-{worker}.order"));
            fs::write(&file, serde_json::to_vec(&order).unwrap()).unwrap();
            files.push(file);
        }
        files
    }

    /// Waits until every worker has begun, and then for a random while.
    fn let_work(&mut self) {
        let logs: Vec<PathBuf> = (0..WORKERS).map(|worker| self.log(worker)).collect();
        let begun = |log: &PathBuf| fs::metadata(log).is_ok_and(|meta| meta.len() > 0);
        self.bench.until("every worker has begun", || logs.iter().all(begun));
        let micros = self.rng.within(WORK.0, WORK.1);
        self.bench.let_work(micros);
    }

    /// The workers end by themselves, at the first call that fails.
    fn collect(&mut self, workers: Vec<Child>, unmounted: bool) -> Vec<History> {
        let mut histories = Vec::new();
        for (worker, mut child) in workers.into_iter().enumerate() {
            let status = self.bench.end_of(&format!("worker {worker}"), &mut child);
            let history = History::read(&self.log(worker), unmounted);
            // A page of a mapping that cannot be read any more is a SIGBUS.
            let bus = status.signal() == Some(libc::SIGBUS);
            let stored = history.records.last().is_some_and(|record| record.op.name() == "Store");
            let expected = status.success() || (bus && stored);
            if !expected {
                self.report.problem(format!("seed {}, cycle {}, worker {worker}: {status}", self.seed, self.nth));
            }
            histories.push(history);
        }
        histories
    }

    fn killed(&mut self) -> Vec<History> {
        let orders = self.orders(&self.root());
        let workers = worker::start(&orders);
        self.let_work();
        // A dead mount that is still in use has to be cleared as well.
        let held = self.rng.percent(50).then(|| File::open(self.root().join(home(0))).unwrap());
        self.bench.kill_server(self.server);
        self.report.killed("while working");
        let asked = sys::statvfs(&self.root()).map(drop);
        if asked.as_ref().map_err(|error| error.raw_os_error()) != Err(Some(libc::ENOTCONN)) {
            self.report.problem(format!("cycle {}: the dead mount answers {asked:?}", self.nth));
        }
        // Before anything is mounted there again: a worker that has not noticed yet would go on in it.
        let histories = self.collect(workers, false);
        self.clear();
        drop(held);
        histories
    }

    /// As a user would: by its path, by its name, or by just mounting it again.
    fn clear(&mut self) {
        let root = self.root();
        let target = match self.rng.below(3) {
            0 => root.to_str().unwrap(),
            1 => SESSION,
            _ => return,
        };
        let was_mounted = self.bench.is_mounted(&root);
        let output = self.bench.call(&["umount", target]);
        let expected = if was_mounted { 0 } else { 20 };
        if output.status.code() != Some(expected) || self.bench.is_mounted(&root) {
            let said = text(&output.stderr);
            self.report.problem(format!("cycle {}: umount {target}: {} {said}", self.nth, output.status));
        }
    }

    fn killed_while_stopping(&mut self) -> Vec<History> {
        let root = self.root();
        let orders = self.orders(&root);
        let workers = worker::start(&orders);
        self.let_work();
        let target = if self.rng.percent(50) { SESSION } else { root.to_str().unwrap() };
        let args: &[&str] = if self.rng.percent(60) { &["umount", "--lazy", target] } else { &["umount", target] };
        let stopping = self.bench.spawn(args);
        let micros = self.rng.below(120_000);
        self.bench.let_work(micros);
        self.bench.kill_server(self.server);
        self.report.killed("while stopping");
        let output = stopping.wait_with_output().unwrap();
        // Stopped in time; refused, because it was in use, before the kill; nothing left to do; or it died under it.
        if !matches!(output.status.code(), Some(0 | 13 | 20 | 121)) {
            let said = text(&output.stderr);
            self.report.problem(format!("cycle {}: {args:?} of a dying server: {} {said}", self.nth, output.status));
        }
        let histories = self.collect(workers, true);
        self.clear();
        histories
    }

    /// The same work as the command of `run`, whose server is killed, or which is killed itself.
    fn under_run(&mut self, end: End) -> Vec<History> {
        self.bench.ok(&["umount", SESSION]);
        let root = self.bench.path("run");
        let orders = self.orders(&root);
        let crew = worker::command(&orders);
        let program = crew.get_program().to_str().unwrap();
        let mut args = vec!["run", "--grace", "1", "--mount", root.to_str().unwrap(), SESSION, "--", program];
        args.extend(crew.get_args().map(|arg| arg.to_str().unwrap()));
        let mut command = self.bench.command(&args);
        command.envs(crew.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        self.let_work();
        let server = self.pid();
        if matches!(end, End::KilledUnderRun) {
            self.bench.kill_server(server);
            self.report.killed("of run's server");
            let status = self.bench.end_of("run without its server", &mut run);
            // 121 when it sees the server's end first, 122 when the command, which has lost its files, is faster.
            if !matches!(status.code(), Some(121 | 122)) {
                self.report.problem(format!("cycle {}: run without its server: {status}", self.nth));
            }
        } else {
            kill(run.id() as i32);
            self.bench.end_of("the killed run", &mut run);
            self.report.killed("of run itself");
            self.bench.until("the server has stopped after the end of run", || !alive(server));
            if self.bench.ok(&["status", SESSION])["clean"] != true {
                self.report.problem(format!("cycle {}: the server of a killed run did not stop in order", self.nth));
            }
        }
        let histories: Vec<History> = (0..WORKERS).map(|worker| History::read(&self.log(worker), true)).collect();
        self.bench.until("nothing of run is left", || histories.iter().all(|history| !alive(history.pid)));
        // What they wrote down between the two looks counts as well.
        (0..WORKERS).map(|worker| History::read(&self.log(worker), true)).collect()
    }

    fn mount(&mut self) {
        let root = self.root();
        let began = Instant::now();
        let said = self.bench.ok(&["mount", "--existing", SESSION, root.to_str().unwrap()]);
        self.report.resumes.push(began.elapsed().as_secs_f64());
        self.server = said["pid"].as_i64().unwrap() as i32;
    }

    /// Mounts again, now and then killed at that, too.
    fn resume(&mut self, after: &mut String, untouched: bool) {
        let root = self.root();
        let mut interrupted = 0;
        while interrupted < 3 && self.rng.percent(20) {
            interrupted += 1;
            let micros = self.rng.below(50_000);
            let args = ["--json", "mount", "--existing", SESSION, root.to_str().unwrap()];
            let code = self.bench.kill_while_starting(&args, micros);
            self.report.killed("while mounting");
            *after += &format!(", mount killed after {micros} µs with {code:?}");
            if !matches!(code, Some(0 | 121)) {
                self.report.problem(format!("{after}: neither served nor said that it died"));
            }
            self.clear();
        }
        self.mount();
        let status = self.bench.ok(&["status", SESSION]);
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
        let status = self.bench.ok(&["status", SESSION]);
        for (name, there) in [("inodes_used", found.inodes), ("bytes_used", found.allocated)] {
            if status[name].as_u64() != Some(there) {
                self.report.problem(format!("{after}: {name} is {}, and {there} are there", status[name]));
            }
        }
    }
}
