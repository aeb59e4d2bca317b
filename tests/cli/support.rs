//! A store of its own for every test, and the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_sessionfs");

/// Whether this machine can mount. Where it cannot, a test fails, unless it is said that this is known: then it says
/// aloud that it was skipped. A missing /dev/fuse never looks like a success.
pub fn fuse() -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if opened.is_ok() {
        return true;
    }
    assert!(
        std::env::var_os("SESSIONFS_TEST_NO_FUSE").is_some_and(|value| value == "1"),
        "/dev/fuse cannot be opened: set SESSIONFS_TEST_NO_FUSE=1 to leave out every test that mounts"
    );
    eprintln!("SKIPPED: no usable /dev/fuse");
    false
}

pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// A store, and a directory for mount points and the like.
pub struct Bench {
    pub dir: TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new empty directory.
    pub fn empty(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(args)
            .env("SESSIONFS_STORE", self.store())
            .env_remove("SESSIONFS_LOG")
            .env_remove("SESSIONFS_CONFIG")
            .current_dir(self.dir.path());
        command
    }

    pub fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Calls, expects success, returns standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {:?}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Calls, expects this exit code and these words on standard error; then the same with `--json`.
    #[track_caller]
    pub fn fails(&self, args: &[&str], code: i32, words: &[&str]) -> String {
        let output = self.call(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{args:?}: {word:?} is not in: {stderr}");
        }
        assert!(stderr.starts_with("sessionfs: "), "{args:?}: {stderr}");
        let with_json: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        let output = self.call(&with_json);
        assert_eq!(output.status.code(), Some(code), "{with_json:?}");
        let object: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert!(object["error"].is_string() && object["code"].is_string(), "{object}");
        stderr
    }

    /// `run` of a shell script, in a session, at a mount point of this bench.
    pub fn run(&self, session: &str, script: &str) -> Command {
        let mount = self.empty("run");
        self.command(&["run", "--grace", "1", "--mount", mount.to_str().unwrap(), session, "--", "sh", "-c", script])
    }

    pub fn status(&self, session: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["--json", "status", session])).unwrap()
    }

    /// The process that has the session open.
    pub fn pid(&self, session: &str) -> i32 {
        let lock = std::fs::read(self.store().join(session).join("lock")).unwrap();
        let lock: serde_json::Value = serde_json::from_slice(&lock).unwrap();
        lock["pid"].as_i64().unwrap() as i32
    }

    /// Replaces bytes of a file.
    pub fn patch(&self, path: &Path, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }
}

impl Drop for Bench {
    /// A test that failed leaves no mount behind.
    fn drop(&mut self) {
        let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return };
        for line in table.lines().filter(|line| line.contains(" - fuse.sessionfs ")) {
            let at = line.split(' ').nth(4).unwrap_or_default();
            if Path::new(at).starts_with(self.dir.path()) {
                let _ = self.call(&["umount", "--lazy", at]);
                let _ = Command::new("umount").args(["-l", at]).output();
            }
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until it is so, for at most ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < until, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(pid, signal) };
}

/// Whether a process is there and is no zombie.
pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()) == Some("Z");
    // The first thread may be gone while others still have the files: then the lock and the mount are, too.
    let others = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count().saturating_sub(1));
    !stat.is_empty() && (!zombie || others > 0)
}
