//! The process that is killed. It does one of three jobs, says on its standard output what it has done, one line and one
//! write for each thing done, and dies by its own hand where it was told to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sessionfs::base::{Errno, Ino, failpoint};
use sessionfs::fs::Fs;
use sessionfs::session::{Holder, OpenOptions, StoreDir};
use sessionfs::store::{CreateOptions, HostDisk, Omit, Store, StoreError};

use crate::crowd;
use crate::op::Op;
use crate::perform::{makes, on_fs, parent, walk};
use crate::script::{BYTES_LIMIT, INODES_LIMIT, commits_around_burst, script};

pub const JOB: &str = "CRASH_CHILD_JOB";
pub const DIR: &str = "CRASH_CHILD_DIR";
pub const SEED: &str = "CRASH_CHILD_SEED";
/// The failpoint to die at.
pub const NAME: &str = "CRASH_CHILD_NAME";
/// At which passing of it.
pub const PASSING: &str = "CRASH_CHILD_PASSING";
pub const OMIT: &str = "CRASH_CHILD_OMIT";

/// Lines that are ours begin with this: the test harness writes some too.
pub const MARK: &str = "@ ";

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Creates the session database, goes through the script, stops.
    Work,
    /// The same, but the committer is held up from the burst on, and the end is a kill at the commit behind it: a journal
    /// that holds more than one commit takes.
    Pile,
    /// Creates the session database, has several threads work in it, stops.
    Crowd,
    /// Recovers what is there, and stops.
    Recover,
    /// Creates a session in a store, as `run` and `mount` do, and stops.
    Create,
    /// Goes through versions of the runtime in such a session, and removes it.
    Versions,
}

impl Job {
    pub const ALL: [Job; 6] = [Job::Work, Job::Pile, Job::Crowd, Job::Recover, Job::Create, Job::Versions];

    pub fn name(self) -> &'static str {
        match self {
            Job::Work => "work",
            Job::Pile => "pile",
            Job::Crowd => "crowd",
            Job::Recover => "recover",
            Job::Create => "create",
            Job::Versions => "versions",
        }
    }
}

pub fn database(dir: &Path) -> PathBuf {
    dir.join("session.db")
}

/// Recovers and starts what is in `dir`.
pub fn start(dir: &Path, omit: Omit) -> Result<Arc<Fs>, StoreError> {
    Fs::start(Store::recover(&HostDisk::shared(), &database(dir), &dir.join("session.journal"), omit)?)
}

pub fn create(dir: &Path) -> Result<(), StoreError> {
    let options = CreateOptions { bytes_limit: BYTES_LIMIT, inodes_limit: INODES_LIMIT, uid: 0, gid: 0 };
    Store::create(&database(dir), &options)
}

/// Opens, or creates, the session of the job [`Job::Create`].
pub fn open_session(dir: &Path) -> Result<sessionfs::session::Session, sessionfs::session::SessionError> {
    let store = StoreDir::at(&dir.join("store"))?;
    let id = "a-session".parse().unwrap();
    store.lock(&id, false, &Holder::current("crash", None))?.open(&OpenOptions::default())
}

/// Standard output without a buffer.
pub struct Report(File);

impl Report {
    pub fn new() -> Report {
        Report(File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap()))
    }

    pub fn say(&mut self, what: &str) {
        self.0.write_all(format!("{MARK}{what}\n").as_bytes()).unwrap();
    }
}

/// Whether the committer is held up behind its next commit.
static HOLD: AtomicBool = AtomicBool::new(false);

fn die() {
    // SAFETY: the call takes only numbers; the process ends in it.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

type Counts = Arc<Mutex<BTreeMap<&'static str, u64>>>;

/// Counts every passing, and dies at the one that it was told.
fn arm() -> Counts {
    let counts = Counts::default();
    let name = std::env::var(NAME).unwrap_or_default();
    let passing: u64 = std::env::var(PASSING).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let seen = Arc::clone(&counts);
    failpoint::arm(Box::new(move |here| {
        let mut counts = seen.lock().unwrap();
        let count = counts.entry(here).or_default();
        *count += 1;
        if here == name && *count == passing {
            die();
        }
        drop(counts);
        if here == "a commit is done and everybody was told" && HOLD.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_secs(20));
        }
    }));
    counts
}

/// What the child process does, from its first line on.
pub fn main() {
    let job = std::env::var(JOB).unwrap();
    let job = Job::ALL.into_iter().find(|known| known.name() == job).unwrap();
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let omit = Omit { append: std::env::var_os(OMIT).is_some(), ..Omit::default() };
    let counts = arm();
    let mut report = Report::new();
    match job {
        Job::Work | Job::Pile => {
            create(&dir).unwrap();
            report.say("begun");
            let seed = std::env::var(SEED).unwrap().parse().unwrap();
            let script = script(seed);
            let pile = (job == Job::Pile).then(|| commits_around_burst(&script));
            work(&dir, omit, &script, pile, &mut report);
        }
        Job::Crowd => {
            create(&dir).unwrap();
            report.say("begun");
            crowd::work(&dir);
        }
        Job::Recover => {
            let fs = start(&dir, omit).unwrap();
            report.say("begun");
            fs.stop().unwrap();
        }
        Job::Create => {
            let session = open_session(&dir).unwrap();
            report.say("begun");
            session.stop().unwrap();
        }
        Job::Versions => {
            report.say("begun");
            crate::versions::work(&dir, &mut report);
        }
    }
    report.say("stopped");
    for (name, count) in counts.lock().unwrap().iter() {
        report.say(&format!("count {count} {name}"));
    }
}

/// Goes through the script. A line for each operation: its answer, and the number of what it made.
fn work(dir: &Path, omit: Omit, script: &[Op], pile: Option<(usize, usize)>, report: &mut Report) {
    let mut fs = start(dir, omit).unwrap();
    let mut held = Vec::new();
    for (at, op) in script.iter().enumerate() {
        if let Some((hold, end)) = pile {
            HOLD.store(at >= hold, Ordering::Release);
            if at == end {
                die();
            }
        }
        let answer = match op {
            Op::Fsync => fs.fsync().map(|()| 0),
            Op::Commit => fs.commit().map(|()| 0),
            Op::UnlinkOpen(path) => unlink_open(&fs, path, &mut held),
            Op::Forget => Ok(forget(&fs, &mut held)),
            Op::Remount => {
                forget(&fs, &mut held);
                fs.stop().unwrap();
                fs = start(dir, omit).unwrap();
                Ok(0)
            }
            op => on_fs(&fs, op),
        };
        report.say(&format!("done {}", Answer::new(&fs, op, answer).text()));
    }
    // With a file that has no name and is still open, as a stop may find it.
    fs.stop().unwrap();
}

/// Unlinks a file and keeps a reference, as of one that is open.
pub fn unlink_open(fs: &Fs, path: &crate::op::Path, held: &mut Vec<Ino>) -> Result<u64, Errno> {
    let (parent, name) = parent(fs, path)?;
    let ino = fs.lookup(parent, name)?.ino;
    match fs.unlink(parent, name) {
        Ok(()) => held.push(ino),
        Err(errno) => {
            fs.forget(ino, 1);
            return Err(errno);
        }
    }
    Ok(0)
}

fn forget(fs: &Fs, held: &mut Vec<Ino>) -> u64 {
    held.drain(..).for_each(|ino| fs.forget(ino, 1));
    0
}

/// What an operation answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes, or the errno.
    pub value: Result<u64, i32>,
    /// The number of the inode it made.
    pub made: Option<Ino>,
}

impl Answer {
    pub fn new(fs: &Fs, op: &Op, value: Result<u64, Errno>) -> Answer {
        let made = makes(op).filter(|_| value.is_ok()).and_then(|path| walk(fs, path).ok());
        Answer { value: value.map_err(Errno::code), made }
    }

    fn text(&self) -> String {
        let (good, number) = match self.value {
            Ok(value) => ("ok", value.cast_signed()),
            Err(code) => ("failed", code.into()),
        };
        format!("{good} {number} {}", self.made.map_or(0, |ino| ino.0))
    }

    pub fn parse(text: &str) -> Option<Answer> {
        let mut words = text.split(' ');
        let good = words.next()? == "ok";
        let number: i64 = words.next()?.parse().ok()?;
        let made = words.next()?.parse().ok().filter(|&ino| ino != 0).map(Ino);
        let value = if good { Ok(number.cast_unsigned()) } else { Err(number as i32) };
        Some(Answer { value, made })
    }
}
