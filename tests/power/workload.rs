//! A script carried out on a recording disk, beside the model. Without faults every answer has to be the model's; with
//! one, an operation may also fail, and is then in the state or not, but nothing that was acknowledged is missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};
use sessionfs::base::{Errno, Ino};
use sessionfs::fs::{Fs, WriteFlags};
use sessionfs::store::{Disk, Omit};

use crate::disk::RecordingDisk;
use crate::life::{BYTES_LIMIT, INODES_LIMIT, Place};
use crate::op::{Op, Path};
use crate::perform::{makes, on_fs, parent, walk};
use crate::reference::Model;
use crate::script::steps;
use crate::snapshot::{Numbers, Snapshot};
use crate::tape::Mark;

/// An operation that failed, had it been done.
struct Maybe {
    model: Model,
    snapshot: Snapshot,
}

pub struct Workload {
    pub disk: Arc<RecordingDisk>,
    pub place: Place,
    omit: Omit,
    fs: Option<Arc<Fs>>,
    model: Model,
    numbers: Numbers,
    held: Vec<Ino>,
    /// State by operation; the last one is that of now.
    pub snapshots: Vec<Snapshot>,
    /// The last operation that was said to survive a power cut.
    pub durable: usize,
    /// Whether the session is there for sure.
    pub created: bool,
    /// The disk may fail.
    faulty: bool,
    /// Operations that failed and may be in the state nevertheless.
    maybe: Vec<Maybe>,
    /// Operations that failed.
    pub failed: usize,
    /// Commits so far; behind some of them the WAL is copied back.
    commits: usize,
}

/// What should never have happened.
pub type Outcome = Result<(), String>;

impl Workload {
    pub fn new(disk: &Arc<RecordingDisk>, place: &Place, omit: Omit, faulty: bool) -> Workload {
        let model = Model::new(BYTES_LIMIT, INODES_LIMIT);
        let numbers = BTreeMap::from([(0, Ino::ROOT)]);
        Workload {
            disk: Arc::clone(disk),
            place: place.clone(),
            omit,
            fs: None,
            snapshots: vec![Snapshot::of_model(&model, &numbers, None)],
            model,
            numbers,
            held: Vec::new(),
            durable: 0,
            created: false,
            faulty,
            maybe: Vec::new(),
            failed: 0,
            commits: 0,
        }
    }

    /// Creates the session and starts it. Returns false when a fault prevented that.
    pub fn begin(&mut self) -> Result<bool, String> {
        match self.place.create(&self.disk) {
            Ok(()) => {
                self.created = true;
                self.disk.mark(Mark::Created);
            }
            Err(_) if self.faulty => return Ok(false),
            Err(error) => return Err(format!("create: {error}")),
        }
        self.start()
    }

    fn start(&mut self) -> Result<bool, String> {
        match self.place.start(&self.disk, self.omit) {
            Ok(fs) => self.fs = Some(fs),
            Err(_) if self.faulty => return Ok(false),
            Err(error) => return Err(format!("start: {error}")),
        }
        Ok(true)
    }

    /// Carries out the script and ends in a stop, or in a kill.
    pub fn run(&mut self, script: &[Op], stop: bool) -> Outcome {
        match self.carry_out(script)? {
            false => Ok(()),
            true if stop => self.stop().map(drop),
            true => self.kill(),
        }
    }

    /// Returns false when the session could not be started again.
    pub fn carry_out(&mut self, script: &[Op]) -> Result<bool, String> {
        for op in script {
            if !self.apply(op).map_err(|what| format!("{op:?}: {what}"))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fs(&self) -> Arc<Fs> {
        Arc::clone(self.fs.as_ref().unwrap())
    }

    /// Returns false when the session could not be started again.
    fn apply(&mut self, op: &Op) -> Result<bool, String> {
        let fs = self.fs();
        match op {
            Op::Fsync => self.synced(fs.fsync())?,
            Op::Commit => {
                let done = fs.commit();
                self.synced(done)?;
                self.commits += 1;
                if done.is_ok() && self.commits.is_multiple_of(3) {
                    self.copy_wal_back();
                }
            }
            Op::Forget => self.forget(),
            Op::UnlinkOpen(path) => self.unlink_open(&fs, path)?,
            Op::Remount => return self.restart(),
            Op::Crash => unreachable!("a script has none"),
            op => {
                for step in steps(&self.model, op) {
                    self.operate(&step, || on_fs(&fs, &step), |model| model.perform(&step))?;
                }
            }
        }
        Ok(true)
    }

    /// One operation on both.
    fn operate(
        &mut self,
        op: &Op,
        real: impl Fn() -> Result<u64, Errno>,
        expected: impl Fn(&mut Model) -> Result<u64, Errno>,
    ) -> Outcome {
        self.disk.mark(Mark::Began(self.snapshots.len()));
        let real = real();
        let mut model = self.model.clone();
        let expected = expected(&mut model);
        let refused = self.faulty && matches!(real, Err(Errno::Io | Errno::NoSpc));
        // What failed may show, so from then on errors are the file system's own.
        if refused || self.failed > 0 && real.is_err() {
            self.failed += 1;
            if expected.is_ok() {
                let snapshot = Snapshot::of_model(&model, &self.numbers, None);
                self.maybe.push(Maybe { model, snapshot });
            }
            return Ok(());
        }
        if real != expected {
            return Err(format!("answers {real:?} where {expected:?} is right"));
        }
        self.model = model;
        if let (Ok(_), Some(path)) = (real, makes(op)) {
            self.number(path);
        }
        self.passed();
        Ok(())
    }

    fn number(&mut self, path: &Path) {
        if let (Ok(ino), Ok(node)) = (walk(&self.fs(), path), self.model.find(path)) {
            self.numbers.insert(node, ino);
        }
    }

    /// Notes the state behind an operation that succeeded.
    fn passed(&mut self) {
        let fs = self.fs();
        let live = (!self.faulty).then_some(&*fs);
        let snapshot = Snapshot::of_model(&self.model, &self.numbers, live);
        if !snapshot.is_like(&self.snapshots[self.snapshots.len() - 1]) {
            self.maybe.clear();
        }
        self.snapshots.push(snapshot);
    }

    /// Keeps a file open, unlinks it, and writes to it. Nobody sees that again after a crash, unless it has another name.
    fn unlink_open(&mut self, fs: &Fs, path: &Path) -> Outcome {
        let target = parent(fs, path).and_then(|(parent, name)| fs.lookup(parent, name));
        let node = self.model.find(path);
        let op = Op::UnlinkOpen(path.clone());
        let unlink = || parent(fs, path).and_then(|(parent, name)| fs.unlink(parent, name)).map(|()| 0);
        self.operate(&op, unlink, |model| model.unlink(path, true).map(|_| 0))?;
        let (Ok(attr), Ok(node)) = (target, node) else { return Ok(()) };
        self.held.push(attr.ino);
        if !self.model.is_file(node) {
            return Ok(());
        }
        let text = b"after unlink";
        let write = || fs.write(attr.ino, 100, text, WriteFlags::default()).map(|done| done as u64);
        self.operate(&op, write, |model| model.write(node, 100, text).map(|done| done as u64))
    }

    fn forget(&mut self) {
        let fs = self.fs();
        self.held.drain(..).for_each(|ino| fs.forget(ino, 1));
        self.model.forget();
    }

    /// What an fsync, a commit or a stop says.
    fn synced(&mut self, answer: Result<(), Errno>) -> Outcome {
        match answer {
            Ok(()) => {
                self.durable = self.snapshots.len() - 1;
                self.disk.mark(Mark::Durable(self.durable));
            }
            Err(_) if self.faulty => {}
            Err(errno) => return Err(format!("{errno:?}")),
        }
        Ok(())
    }

    /// Somebody else copies the WAL back, so that it is written again from its start.
    fn copy_wal_back(&self) {
        let vfs = self.disk.vfs().unwrap();
        let opened = Connection::open_with_flags_and_vfs(self.place.database(), OpenFlags::SQLITE_OPEN_READ_WRITE, vfs);
        let done = opened.and_then(|sql| {
            sql.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            sql.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        });
        assert!(done.is_ok() || self.faulty, "{done:?}");
    }

    pub fn kill(&mut self) -> Outcome {
        if let Some(fs) = self.fs.take() {
            fs.abandon();
        }
        self.held.clear();
        self.model.forget();
        Ok(())
    }

    fn stop(&mut self) -> Result<bool, String> {
        self.forget();
        let Some(fs) = self.fs.take() else { return Ok(false) };
        match fs.stop() {
            Ok(_) => {
                self.synced(Ok(()))?;
                Ok(true)
            }
            Err(_) if self.faulty => Ok(false),
            Err(error) => Err(format!("stop: {error}")),
        }
    }

    fn restart(&mut self) -> Result<bool, String> {
        self.stop()?;
        if !self.start()? {
            return Ok(false);
        }
        let found = match Snapshot::of_fs(&self.fs()) {
            Ok(found) => found,
            Err(_) if self.faulty => return Ok(true),
            Err(errno) => return Err(format!("after a restart: {errno:?}")),
        };
        if let Some(maybe) = self.maybe.iter().position(|maybe| maybe.snapshot.is_like(&found)) {
            self.model = self.maybe.swap_remove(maybe).model;
            self.passed();
        } else if let Some(difference) = found.difference(&self.snapshots[self.snapshots.len() - 1]) {
            return Err(format!("after a restart: {difference}"));
        }
        self.failed = 0;
        self.maybe.clear();
        Ok(true)
    }

    /// The states that are right after a kill now: all that was acknowledged, and perhaps one that was not.
    pub fn right_after_kill(&self) -> Vec<&Snapshot> {
        let last = self.snapshots.last();
        last.into_iter().chain(self.maybe.iter().map(|maybe| &maybe.snapshot)).collect()
    }

    /// Those that are right after a power cut: all that was said to survive one, and perhaps more.
    pub fn right_after_cut(&self) -> Vec<&Snapshot> {
        self.snapshots[self.durable..].iter().chain(self.maybe.iter().map(|maybe| &maybe.snapshot)).collect()
    }
}
