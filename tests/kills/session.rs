//! The session under test, and the program that serves it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::watch::{Watch, clear_mounts, processes};

/// Seconds that any one command may take. They are bounds against hangs, not measurements.
const COMMAND: u64 = 60;

pub struct Bench {
    pub dir: TempDir,
    pub watch: Watch,
    binary: PathBuf,
    /// No other test's: a dead mount is known by the name of its session, whatever the store.
    pub session: &'static str,
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

pub fn kill(pid: i32) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Whether a process is there. A zombie is not, once its last thread has ended: until then it has its files open.
pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state.is_some_and(|state| state != "Z" || threads() > 1)
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

impl Bench {
    pub fn new(seed: u64) -> Bench {
        let dir = tempfile::Builder::new().prefix("sessionfs-kills.").tempdir().unwrap();
        let watch = Watch::new(dir.path(), seed);
        let binary = std::env::var_os("SESSIONFS").unwrap_or_else(|| env!("CARGO_BIN_EXE_sessionfs").into()).into();
        let own = dir.path().extension().unwrap().to_string_lossy();
        let session = format!("killed-{own}").leak();
        let bench = Bench { dir, watch, binary, session };
        for name in ["mnt", "run", "side"] {
            std::fs::create_dir(bench.path(name)).unwrap();
        }
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.path("mnt")
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).env("SESSIONFS_STORE", self.store()).env_remove("SESSIONFS_LOG").stdin(Stdio::null());
        command.current_dir(self.dir.path());
        command
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.watch.step(format!("sessionfs {}", args.join(" ")), COMMAND);
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn call(&self, args: &[&str]) -> Output {
        self.spawn(args).wait_with_output().unwrap()
    }

    /// Calls and expects success; the answer as JSON.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        let output = self.call(&args);
        assert!(output.status.success(), "{args:?}: {:?}\n{}", output.status, text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// What `check` finds, in an unmounted session.
    pub fn findings(&self, session: &str) -> Vec<String> {
        let output = self.call(&["check", session]);
        match output.status.code() {
            Some(0) => Vec::new(),
            code => vec![format!("check {session}: exit {code:?}: {} {}", text(&output.stdout), text(&output.stderr))],
        }
    }

    /// Starts a server and kills it after so many microseconds. The exit code of the command that started it: 0 if it
    /// served before that.
    pub fn kill_while_starting(&self, args: &[&str], micros: u64) -> Option<i32> {
        let mut starting = self.spawn(args);
        std::thread::sleep(Duration::from_micros(micros));
        // The command has one child, the server, which outlives it.
        let mut servers = children(starting.id());
        while servers.is_empty() && starting.try_wait().unwrap().is_none() {
            servers = children(starting.id());
        }
        servers.iter().for_each(|server| kill(*server));
        let output = starting.wait_with_output().unwrap();
        if let Ok(said) = serde_json::from_slice::<Value>(&output.stdout) {
            servers.extend(said["pid"].as_i64().map(|pid| pid as i32));
        }
        servers.iter().for_each(|server| self.kill_server(*server));
        output.status.code()
    }

    /// Waits until it is so, within the time of a command.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        self.watch.step(format!("waiting until {what}"), COMMAND);
        while !so() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills a server and waits until it is gone.
    pub fn kill_server(&self, pid: i32) {
        kill(pid);
        self.until("the killed server is gone", || !alive(pid));
    }

    /// Sleeps: what is awaited here is nothing but a random moment.
    pub fn let_work(&self, micros: u64) {
        self.watch.step("letting the workers work", COMMAND);
        std::thread::sleep(Duration::from_micros(micros));
    }

    /// Waits for a process that has to end by itself.
    pub fn end_of(&self, what: &str, child: &mut Child) -> std::process::ExitStatus {
        self.watch.step(format!("waiting for the end of {what}"), COMMAND);
        child.wait().unwrap()
    }

    /// Whether a mount is at this path, dead or alive.
    pub fn is_mounted(&self, path: &Path) -> bool {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
    }
}

impl Drop for Bench {
    /// A test that failed leaves neither a mount nor a process behind.
    fn drop(&mut self) {
        clear_mounts(self.dir.path());
        for (pid, _) in processes(self.dir.path()) {
            kill(pid);
        }
    }
}
