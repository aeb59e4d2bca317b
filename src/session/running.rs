//! A session in use, to its stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::SessionError;
use super::events::What;
use super::layout::SessionDir;
use super::lock::Lock;
use super::open::OpenOptions;
use super::receipt::{How, Lacks, Receipt, Resume, StopReport};
use super::soft_limits::{Passed, SoftLimits};
use super::tree::{Follow, resolve};
use super::verify::{Verification, Verifier};
use super::version::VersionChange;
use crate::base::{Errno, SessionId};
use crate::fs::Fs;
use crate::store::{Store, StoreError};

/// An open session, its file system running. Ends by [`Session::stop`]; the lock goes when it is dropped.
#[derive(Debug)]
pub struct Session {
    dir: SessionDir,
    store: Arc<Store>,
    fs: Arc<Fs>,
    resume: Resume,
    version_change: Option<VersionChange>,
    verifier: Arc<Verifier>,
    /// When its lock was taken, and since when it is open.
    locked: Instant,
    since: Instant,
    /// Whether its end is in the log of events.
    ended: AtomicBool,
    lock: Lock,
}

impl Session {
    /// Begins its use, which the log of events is told.
    pub(super) fn begin(
        dir: SessionDir,
        (lock, locked): (Lock, Instant),
        (store, fs): (Arc<Store>, Arc<Fs>),
        resume: Resume,
        version_change: Option<VersionChange>,
    ) -> Session {
        let (verifier, since, ended) = (Arc::default(), Instant::now(), AtomicBool::new(false));
        let session = Session { dir, store, fs, resume, version_change, verifier, locked, since, ended, lock };
        session.record_start();
        session
    }

    /// Its directory.
    pub fn dir(&self) -> &SessionDir {
        &self.dir
    }

    /// Its name.
    pub fn id(&self) -> &SessionId {
        self.dir.id()
    }

    /// Whether opening it created it.
    pub fn created(&self) -> bool {
        self.resume.how == How::Created
    }

    /// What was found when it was opened.
    pub fn resume(&self) -> &Resume {
        &self.resume
    }

    /// What a runtime version that was stated for it has led to, unless it is the one there was.
    pub fn version_change(&self) -> Option<&VersionChange> {
        self.version_change.as_ref()
    }

    /// Who verifies it.
    pub fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// Fails when paths are missing, from the session's root. Links are not followed.
    pub fn expect(&self, paths: &[Vec<u8>]) -> Result<(), SessionError> {
        let is_missing = |path: &&Vec<u8>| resolve(&self.fs, path, Follow::NotLast).is_err();
        let missing: Vec<String> =
            paths.iter().filter(is_missing).map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let error = SessionError::Incomplete { id: self.id().clone(), lacks: Box::new(Lacks::Paths(missing)) };
        self.dir.home().record(self.id(), What::Refused { by: self.command(), opened: true, error: error.to_string() });
        Err(error)
    }

    /// Reads all of it and holds it against its checksums; what is wrong is an error.
    pub fn verify(&self) -> Result<Verification, SessionError> {
        let verification = self.verifier.verify(&self.dir).map_err(|source| self.dir.database_error(source))?;
        match &verification.first {
            None => Ok(verification),
            Some(first) => Err(self.dir.database_error(StoreError::Damaged(format!(
                "{} findings, the first: {first}",
                verification.findings
            )))),
        }
    }

    /// For a session that stays open: keeps in the background what was found as its witness, and verifies all of it
    /// once nothing was committed for `idle`.
    pub fn watch(&self, idle: Duration) -> io::Result<()> {
        self.verifier.start(&self.dir, &self.fs, &self.resume.receipt, idle)
    }

    /// Says in the log of events when use passes one of these percentages of a cap.
    pub fn warn_at(&self, percentages: &[u8]) {
        let limits = Mutex::new(SoftLimits::new(percentages, &self.fs.usage()));
        let dir = self.dir.clone();
        self.fs.on_usage(move |usage| {
            for passed in limits.lock().look(&usage) {
                let Passed { resource, percent, used, limit } = passed;
                log::warn!("session {}: {percent}% of its cap is passed: {used} of {limit} {resource}", dir.id());
                dir.home().record(dir.id(), What::SoftLimit { passed });
            }
        });
    }

    fn command(&self) -> String {
        self.lock.taken_by().command.clone()
    }

    /// Whether it is a workspace that somebody uses, and not opened by a command for a moment.
    fn is_mounted(&self) -> bool {
        self.lock.taken_by().mountpoint.is_some()
    }

    /// A command that finds everything as it should be leaves nothing in the log of events.
    fn record_start(&self) {
        if self.is_mounted() || self.resume.how != How::Resumed {
            let mountpoint = self.lock.taken_by().mountpoint.clone();
            let opening_millis = Some(millis(self.since - self.locked));
            let resume = Box::new(self.resume.clone());
            let started = What::Started { by: self.command(), mountpoint, opening_millis, resume };
            self.dir.home().record(self.id(), started);
        }
    }

    fn record_end(&self, reason: &str, outcome: Result<&Receipt, &SessionError>) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let (by, home) = (self.command(), self.dir.home());
        match outcome {
            Err(error) => home.record(self.id(), What::NotStopped { by, error: error.to_string() }),
            Ok(receipt) => {
                home.witness(self.id(), receipt, true);
                if self.is_mounted() || receipt.txid != self.resume.receipt.txid {
                    let (reason, receipt) = (reason.to_owned(), receipt.clone());
                    let first_used_millis = self.fs.first_used().map(|first| millis(first - self.since));
                    let millis = millis(self.since.elapsed());
                    home.record(self.id(), What::Stopped { by, reason, millis, first_used_millis, receipt });
                }
            }
        }
    }

    /// Its running file system.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// Its session database, to read from.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Commits everything, so that the state the caller has seen is safe, and goes on.
    pub fn commit(&self) -> Result<StopReport, SessionError> {
        Session::commit_parts(&self.dir, &self.fs, &self.store)
    }

    /// The same for who has the parts and not the session: the lock stays with one owner. The store keeps it as the
    /// session's witness.
    pub fn sync_parts(dir: &SessionDir, fs: &Fs, store: &Store) -> Result<StopReport, SessionError> {
        let report = Session::commit_parts(dir, fs, store)?;
        dir.home().witness(dir.id(), &report.receipt, false);
        Ok(report)
    }

    fn commit_parts(dir: &SessionDir, fs: &Fs, store: &Store) -> Result<StopReport, SessionError> {
        let failed = |source| dir.database_error(source);
        fs.commit().map_err(|errno| {
            failed(match errno {
                Errno::NoSpc => StoreError::Full,
                other => StoreError::Io(fs.health().failed.unwrap_or_else(|| other.to_string())),
            })
        })?;
        Ok(StopReport::of(dir.id(), &store.superblock().map_err(failed)?))
    }

    /// Changes the caps that are given. They hold from now on, and survive whatever comes.
    pub fn resize(&self, options: &OpenOptions) -> Result<(), SessionError> {
        Session::resize_parts(&self.dir, &self.fs, options)
    }

    /// The same for who has the parts and not the session.
    pub fn resize_parts(dir: &SessionDir, fs: &Fs, options: &OpenOptions) -> Result<(), SessionError> {
        options.validate()?;
        fs.set_limits(options.bytes_limit, options.inodes_limit).map_err(|source| dir.database_error(source))
    }

    /// Says in the lock that this session is about to be free: who wants it waits, instead of being refused.
    pub fn leaving(&self) {
        // Who is not told is refused, as always.
        let _ = self.lock.leaving();
    }

    /// Ends the file system with everything committed. The lock stays until the session is dropped, so that whoever
    /// stops it can clear away what else belongs to it first.
    pub fn stop(&self) -> Result<StopReport, SessionError> {
        self.stop_because("done")
    }

    /// The same, with the reason that the log of events is told.
    pub fn stop_because(&self, reason: &str) -> Result<StopReport, SessionError> {
        self.verifier.end();
        let stopped = self.fs.stop().map_err(|source| self.dir.database_error(source));
        // What stays is taken away by the next use.
        if let Err(error) = self.dir.clear_scratch() {
            log::warn!("{error}");
        }
        let report = stopped.map(|superblock| StopReport::of(self.id(), &superblock));
        self.record_end(reason, report.as_ref().map(|report| &report.receipt));
        report
    }
}

/// Whole milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
