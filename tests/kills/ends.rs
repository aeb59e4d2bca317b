//! The ways in which a cycle ends: what is killed, at which moment, and how the dead mount is cleared away.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::cycle::{Cycles, WORKERS};
use crate::history::{History, is_death};
use crate::op::is_served;
use crate::plan::home;
use crate::rng::derived;
use crate::session::{alive, kill, text};
use crate::worker::{self, Order};

/// Microseconds of work before a kill: most kills land between two commits, which are a second apart.
const WORK: (u64, u64) = (50_000, 1_500_000);

/// How a cycle ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Killed,
    KilledWhileStopping,
    KilledUnderRun,
    RunKilled,
}

impl Cycles {
    pub fn log(&self, worker: usize) -> PathBuf {
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

    pub fn killed(&mut self) -> Vec<History> {
        let orders = self.orders(&self.root());
        let workers = worker::start(&orders);
        self.let_work();
        // A dead mount that is still in use has to be cleared as well.
        let held = self.rng.percent(50).then(|| File::open(self.root().join(home(0))).unwrap());
        self.bench.kill_server(self.server);
        self.report.killed("while working");
        let asked = is_served(&self.root());
        let answer = asked.as_ref().map_err(|error| error.raw_os_error());
        if !answer.is_err_and(|errno| errno.is_some_and(|errno| is_death(errno, false))) {
            self.report.problem(format!("cycle {}: the dead mount answers {asked:?}", self.nth));
        }
        // Before anything is mounted there again: a worker that has not noticed yet would go on in it.
        let histories = self.collect(workers, false);
        self.clear();
        drop(held);
        histories
    }

    /// As a user would: by its path, by its name, or by just mounting it again.
    pub fn clear(&mut self) {
        let root = self.root();
        let target = match self.rng.below(3) {
            0 => root.to_str().unwrap(),
            1 => self.bench.session,
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

    pub fn killed_while_stopping(&mut self) -> Vec<History> {
        let root = self.root();
        let orders = self.orders(&root);
        let workers = worker::start(&orders);
        self.let_work();
        let target = if self.rng.percent(50) { self.bench.session } else { root.to_str().unwrap() };
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
    pub fn under_run(&mut self, end: End) -> Vec<History> {
        self.bench.ok(&["umount", self.bench.session]);
        let root = self.bench.path("run");
        let orders = self.orders(&root);
        let crew = worker::command(&orders);
        let program = crew.get_program().to_str().unwrap();
        let mut args =
            vec!["run", "--grace", "1", "--mount", root.to_str().unwrap(), self.bench.session, "--", program];
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
            if self.bench.ok(&["status", self.bench.session])["clean"] != true {
                self.report.problem(format!("cycle {}: the server of a killed run did not stop in order", self.nth));
            }
        }
        let histories: Vec<History> = (0..WORKERS).map(|worker| History::read(&self.log(worker), true)).collect();
        self.bench.until("nothing of run is left", || histories.iter().all(|history| !alive(history.pid)));
        // What they wrote down between the two looks counts as well.
        (0..WORKERS).map(|worker| History::read(&self.log(worker), true)).collect()
    }
}
