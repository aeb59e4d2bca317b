//! A session mounted by a server process of its own, as in real life: a server that shares its address space with the
//! programs that use the mount can wait for itself (munmap writes mapped pages back holding the address space's lock).

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sessionfs::fuse::{MountOptions, Mounted, Transport};
use sessionfs::store::{CreateOptions, Store};
use tempfile::TempDir;

const SERVE: &str = "SESSIONFS_TEST_SERVE";
const NO_FUSE: &str = "SESSIONFS_TEST_NO_FUSE";

pub fn own_ids() -> (u32, u32) {
    // SAFETY: these two only read the process's own ids.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

pub fn is_root() -> bool {
    own_ids().0 == 0
}

/// How the tests' mounts are asked, as the binary reads it; so the whole suite can be run over either transport.
pub fn transport() -> Transport {
    std::env::var("SESSIONFS_TRANSPORT").map_or(Transport::Auto, |name| name.parse().unwrap())
}

/// Whether requests come by io_uring.
pub fn by_ring() -> bool {
    let switched_on =
        || fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|on| on.trim() == "Y");
    match transport() {
        Transport::Device => false,
        Transport::Uring => true,
        Transport::Auto => switched_on(),
    }
}

/// Whether a test can run. One that cannot says so aloud, and fails unless the environment says that it need not.
pub fn can_mount() -> bool {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(error) = opened {
        eprintln!("SKIPPED: /dev/fuse: {error}");
        assert!(std::env::var_os(NO_FUSE).is_some_and(|v| v == "1"), "no /dev/fuse ({error}); {NO_FUSE}=1 skips");
        return false;
    }
    true
}

/// Like [`can_mount`], for a test that needs to be other users.
pub fn can_mount_as_root() -> bool {
    if !is_root() {
        eprintln!("SKIPPED: needs root");
    }
    is_root() && can_mount()
}

/// A mounted session. Dropped, also by a panic, it takes the mount away and ends the server.
pub struct Session {
    dir: TempDir,
    server: Option<Server>,
}

struct Server {
    process: Child,
    commands: ChildStdin,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Session {
    pub fn new() -> Session {
        Session::with_limits(1 << 30, 200_000)
    }

    pub fn with_limits(bytes: u64, inodes: u64) -> Session {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let (uid, gid) = own_ids();
        let options = CreateOptions { bytes_limit: bytes, inodes_limit: inodes, uid, gid };
        Store::create(&dir.path().join("session.db"), &options).unwrap();
        // Others must get to the mount, not to the session.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let mut session = Session { dir, server: None };
        session.start();
        session
    }

    fn start(&mut self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "harness::serve", "--ignored", "--nocapture"]);
        command.env(SERVE, self.dir.path()).env("RUST_LOG", "fuser::request=debug,sessionfs=debug");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, errors) = (Arc::clone(&log), process.stderr.take().unwrap());
        let reader = thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let commands = process.stdin.take().unwrap();
        self.server = Some(Server { process, commands, log, reader: Some(reader) });
        let mut line = String::new();
        while !line.contains("mounted") {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                panic!("the server did not mount:\n{}", self.log().join("\n"));
            }
        }
        // Whatever the test runner says must find a reader.
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root().join(Path::new(name.as_ref()))
    }

    /// Any bytes as a name.
    pub fn named(&self, name: &[u8]) -> PathBuf {
        self.path(OsStr::from_bytes(name))
    }

    /// What the server has logged so far: a line for each request.
    pub fn log(&self) -> Vec<String> {
        self.server.as_ref().map(|server| server.log.lock().unwrap().clone()).unwrap_or_default()
    }

    /// The requests that `work` causes, by name, FORGET left out: those come when they come.
    pub fn requests(&self, work: impl FnOnce()) -> Vec<String> {
        let settle = || thread::sleep(Duration::from_millis(100));
        settle();
        let before = self.log().len();
        work();
        settle();
        let kind = |line: &String| {
            let request = line.split_once("FUSE(")?.1.split_once(") ino ")?.1;
            request.split_whitespace().nth(1).map(str::to_owned)
        };
        self.log()[before..].iter().filter_map(kind).filter(|kind| !kind.contains("FORGET")).collect()
    }

    /// Stops as a user would, and checks that it went well.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        server.commands.write_all(b"stop\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            if let Some(status) = server.process.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.server = Some(server);
                panic!("the server does not stop:\n{}", self.log().join("\n"));
            }
            thread::sleep(Duration::from_millis(2));
        };
        server.reader.take().unwrap().join().unwrap();
        assert!(status.success(), "{status}:\n{}", server.log.lock().unwrap().join("\n"));
    }

    /// Kills the server, and mounts again in the place of the dead mount, which who has it in use keeps.
    pub fn crash(&mut self) {
        let mut server = self.server.take().unwrap();
        server.process.kill().unwrap();
        server.process.wait().unwrap();
        server.reader.take().unwrap().join().unwrap();
        self.detach();
        self.start();
    }

    fn detach(&self) {
        let _ = Command::new("umount").args(["-l", "-f"]).arg(self.root()).stderr(Stdio::null()).status();
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.root()).stderr(Stdio::null()).status();
    }

    /// Stops and comes back.
    pub fn remount(&mut self) {
        self.stop();
        self.start();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        if !thread::panicking() {
            self.server = Some(server);
            return self.stop();
        }
        self.detach();
        let _ = server.process.kill();
        let _ = server.process.wait();
    }
}

/// The server: what a test runs in a process of its own. Stops at the word, and when the test is gone.
#[test]
#[ignore = "the other side of the tests in this file"]
fn serve() {
    let Some(dir) = std::env::var_os(SERVE).map(PathBuf::from) else { return };
    let _ = env_logger::try_init();
    let fs = crate::support::start(&dir.join("session.db")).unwrap();
    let options = MountOptions { allow_other: is_root(), fsname: "test".into(), transport: transport() };
    let mounted = Mounted::start(Arc::clone(&fs), &dir.join("mnt"), &options).unwrap();
    println!("\nmounted");
    let mut command = [0; 5];
    if std::io::stdin().read_exact(&mut command).is_ok() {
        // Someone who has just closed a file may still be on the way out.
        let patience = Instant::now() + Duration::from_secs(5);
        while let Err(error) = mounted.unmount(false) {
            assert!(error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < patience, "{error}");
            thread::sleep(Duration::from_millis(10));
        }
    } else {
        mounted.unmount(true).unwrap();
    }
    mounted.wait();
    fs.stop().unwrap();
}
