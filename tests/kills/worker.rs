//! A worker: a process of its own that works in the mount and writes down, outside of it, what it is about to do and
//! what was acknowledged.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::op::{self, Op, Performer};
use crate::plan;
use crate::rng::Rng;
use crate::tree::Tree;

const ORDER: &str = "SESSIONFS_KILLS_ORDER";

/// What a worker is to do; written to a file, whose name it gets.
#[derive(Serialize, Deserialize)]
pub struct Order {
    pub worker: usize,
    pub seed: u64,
    pub root: PathBuf,
    pub log: PathBuf,
    pub tree: Tree,
    /// Rests between operations, at the most so many microseconds: fast and slow workers side by side.
    pub pause: u64,
}

/// This test binary again, as a worker, or as the parent of workers: that is one per file.
pub fn command(orders: &[PathBuf]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "worker::work", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ORDER, std::env::join_paths(orders).unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

pub fn start(orders: &[PathBuf]) -> Vec<Child> {
    orders.iter().map(|order| command(std::slice::from_ref(order)).spawn().unwrap()).collect()
}

#[test]
#[ignore = "the other side of the tests in this target"]
fn work() {
    let Some(orders) = std::env::var_os(ORDER) else { return };
    // SAFETY: neither call touches memory. Whoever started this is gone: so are we.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::umask(0);
    }
    let orders: Vec<PathBuf> = std::env::split_paths(&orders).collect();
    if let [order] = orders.as_slice() {
        return obey(&serde_json::from_slice(&fs::read(order).unwrap()).unwrap());
    }
    for mut child in start(&orders) {
        child.wait().unwrap();
    }
}

fn obey(order: &Order) {
    let mut rng = Rng::new(order.seed);
    let mut tree = order.tree.clone();
    let mut performer = Performer::new(&order.root);
    let mut log = Log(File::options().append(true).create(true).open(&order.log).unwrap());
    log.line('@', &std::process::id().to_string());
    loop {
        let op = plan::next(&tree, order.worker, &mut rng);
        log.line('>', &serde_json::to_string(&op).unwrap());
        match performer.perform(&op) {
            Ok(done) if done == op.length() => {
                log.line('=', &done.to_string());
                tree.apply(&op, done);
            }
            Ok(done) => {
                log.line('~', &done.to_string());
                return log.end(&order.root, &op);
            }
            Err(error) => {
                return log.line('!', &format!("{} {error}", error.raw_os_error().unwrap_or(0)));
            }
        }
        if order.pause > 0 {
            std::thread::sleep(Duration::from_micros(rng.below(order.pause)));
        }
    }
}

/// Each line is one write: there whole, or cut off at the end of the file.
struct Log(File);

impl Log {
    fn line(&mut self, mark: char, text: &str) {
        self.0.write_all(format!("{mark} {text}\n").as_bytes()).unwrap();
    }

    /// A write was cut short. That is the server's death, unless the server still answers.
    fn end(&mut self, root: &Path, op: &Op) {
        match op::is_served(root) {
            Ok(()) => self.line('!', &format!("0 a short write by a server that lives: {op:?}")),
            Err(error) => self.line('!', &format!("{} {error}", error.raw_os_error().unwrap_or(0))),
        }
    }
}
