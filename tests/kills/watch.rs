//! Deadlines: each step says what it is and how long it may take. One that takes longer ends the test and says where.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

struct State {
    step: String,
    until: Instant,
    over: bool,
}

pub struct Watch {
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Watch {
    /// `dir` is where everything is: what has it in its command line is shown when something hangs.
    pub fn new(dir: &Path, seed: u64) -> Watch {
        let first = State { step: "start".to_owned(), until: Instant::now() + Duration::from_secs(60), over: false };
        let state = Arc::new((Mutex::new(first), Condvar::new()));
        let (shared, dir) = (Arc::clone(&state), dir.to_owned());
        thread::spawn(move || watch(&shared, &dir, seed));
        Watch { state }
    }

    /// From here on, this is what is being done, until the next step.
    pub fn step(&self, what: impl Into<String>, seconds: u64) {
        let mut state = self.state.0.lock().unwrap();
        state.step = what.into();
        state.until = Instant::now() + Duration::from_secs(seconds);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().over = true;
        self.state.1.notify_all();
    }
}

fn watch(shared: &(Mutex<State>, Condvar), dir: &Path, seed: u64) {
    let mut state = shared.0.lock().unwrap();
    while !state.over {
        let left = state.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            eprintln!("\nHANG in: {}\nseed {seed}; processes of {}:", state.step, dir.display());
            show_and_clear(dir);
            // A thread in a system call that does not return can only be ended with the process.
            std::process::exit(101);
        }
        // A new step may set an earlier time: none is missed by more than this.
        state = shared.1.wait_timeout(state, left.min(Duration::from_millis(200))).unwrap().0;
    }
}

/// The processes that were told about this directory, with where they are in the kernel.
pub fn processes(dir: &Path) -> Vec<(i32, String)> {
    let needle = dir.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let told = ["cmdline", "environ"].iter().any(|file| read(file).windows(needle.len()).any(|at| at == needle));
        if pid == std::process::id() as i32 || !told {
            continue;
        }
        let text = |name: &str| String::from_utf8_lossy(&read(name)).replace('\0', " ").trim().to_owned();
        let tasks: Vec<PathBuf> = fs::read_dir(entry.path().join("task"))
            .map(|tasks| tasks.flatten().map(|task| task.path()).collect())
            .unwrap_or_default();
        let waits: Vec<String> = tasks
            .iter()
            .map(|task| {
                let stack = fs::read_to_string(task.join("stack")).unwrap_or_default();
                stack.lines().take(6).map(|line| line.trim_start_matches("[<0>] ")).collect::<Vec<_>>().join(" < ")
            })
            .collect();
        found.push((pid, format!("{pid} {}\n    {}", text("cmdline"), waits.join("\n    "))));
    }
    found
}

fn show_and_clear(dir: &Path) {
    let all = processes(dir);
    for (pid, text) in &all {
        eprintln!("  {text}");
        // SAFETY: kill touches no memory.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    clear_mounts(dir);
}

/// Detaches every mount below a directory.
pub fn clear_mounts(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for at in table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(dir)) {
        let _ = Command::new("umount").args(["-l", at]).output();
        let _ = Command::new("fusermount3").args(["-u", "-z", at]).output();
    }
}
