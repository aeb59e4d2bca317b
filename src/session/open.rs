//! From a session's lock to its running file system: which session it is, whether it is whole, what it begins with.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::error::SessionError;
use super::events::What;
use super::layout::{SessionDir, StoreDir, make};
use super::lock::{Holder, Lock, Taken};
use super::receipt::{How, Lacks, Receipt, Resume, Witness};
use super::registry::Entry;
use super::running::Session;
use super::status::Replayed;
use super::version::VersionChange;
use crate::base::limits::{DEFAULT_BYTES_LIMIT, DEFAULT_INODES_LIMIT, MIN_BYTES_LIMIT};
use crate::base::{SessionId, failpoint};
use crate::fs::{Fs, Globs};
use crate::store::{CreateOptions, HostDisk, Omit, Opened, Store, StoreError, Superblock};

/// How to open a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Cap in bytes: of a new session, or to change one that is there.
    pub bytes_limit: Option<u64>,
    /// Cap in inodes, likewise.
    pub inodes_limit: Option<u64>,
    /// Caps of a new session that is given none: bytes and inodes.
    pub new_caps: Option<(u64, u64)>,
    /// User and group that the root directory of a new session belongs to (default: this process's).
    pub owner: Option<(u32, u32)>,
    /// Patterns of the directories whose content is not kept ([`Globs`]). They hold until the session is stopped.
    pub ephemeral: Vec<String>,
}

/// A session whose lock is ours and that nobody has open. Dropping it gives the lock back.
#[derive(Debug)]
pub struct LockedSession {
    pub(super) dir: SessionDir,
    lock: Lock,
    /// Since when.
    since: Instant,
    /// Whether the directory was made for this; then a failure takes it away again.
    made: bool,
    /// A runtime version that is to be kept once the session is open.
    pub(super) stated: Option<VersionChange>,
    /// A change of it for which the session has begun anew.
    pub(super) switched: Option<VersionChange>,
}

impl StoreDir {
    /// Takes the lock of a session. An unknown one gets its directory, unless only an existing one will do.
    pub fn lock(&self, id: &SessionId, existing: bool, holder: &Holder) -> Result<LockedSession, SessionError> {
        let dir = self.session(id);
        if existing {
            self.existing(id)?;
        }
        self.create()?;
        let made = dir.create()?;
        failpoint::passed("a session has its directory and no lock");
        let taken = Lock::take(&dir.lock_file(), holder).map_err(|source| SessionError::Store {
            path: dir.lock_file(),
            what: "written",
            source,
        })?;
        match taken {
            Taken::Theirs(holder) => Err(SessionError::InUse { id: id.clone(), holder: Box::new(holder) }),
            // Between the look and the lock it may have been removed; what `lock` made is then taken away again.
            Taken::Ours(lock) => {
                let locked = LockedSession { dir, lock, since: Instant::now(), made, stated: None, switched: None };
                let settled =
                    locked.settle().and_then(|()| if existing { self.existing(id).map(drop) } else { Ok(()) });
                match settled {
                    Ok(()) => Ok(locked),
                    Err(error) => {
                        locked.abandon();
                        Err(error)
                    }
                }
            }
        }
    }

    /// Who has a session open; `None` when nobody has.
    pub fn holder(&self, id: &SessionId) -> Result<Option<Holder>, SessionError> {
        let path = self.session(id).lock_file();
        Lock::holder(&path).map_err(|source| SessionError::Store { path, what: "read", source })
    }
}

impl LockedSession {
    /// Its directory.
    pub fn dir(&self) -> &SessionDir {
        &self.dir
    }

    /// The store that it is in.
    pub(super) fn home(&self) -> StoreDir {
        self.dir.home()
    }

    /// Opens the session: creates the session database if there is none and none was ever seen, recovers it if its last
    /// user died, and starts the file system. What is not the session as it was last seen is refused.
    pub fn open(self, options: &OpenOptions) -> Result<Session, SessionError> {
        let opened = options.validate().and_then(|()| self.try_open(options));
        let kept = opened.and_then(|(store, fs, resume)| match self.keep_version(resume) {
            Ok(resume) => Ok((store, fs, resume)),
            Err(error) => {
                let _ = fs.stop(); // The first error is the one to report.
                Err(error)
            }
        });
        let (store, fs, resume) = match kept {
            Ok(opened) => opened,
            Err(error) => {
                self.refused(&error);
                self.abandon();
                return Err(error);
            }
        };
        let LockedSession { dir, lock, since, stated, switched, .. } = self;
        Ok(Session::begin(dir, (lock, since), (store, fs), resume, stated.or(switched)))
    }

    fn try_open(&self, options: &OpenOptions) -> Result<(Arc<Store>, Arc<Fs>, Resume), SessionError> {
        let failed = |source| self.dir.database_error(source);
        let entry = self.home().entry(self.dir.id())?;
        let database = self.dir.database();
        let globs = Globs::parse(&options.ephemeral)?;
        self.dir.clear_scratch()?;
        if !globs.is_empty() {
            make(&self.dir.scratch(), false)?;
        }
        failpoint::passed("a session is locked and not looked at");
        let before = if self.dir.exists()? {
            let before = self.look(&entry)?;
            if !before.clean {
                self.look_at_journal(&entry)?;
            }
            Some(before)
        } else if let Some(seen) = entry.witness {
            return Err(self.incomplete(Lacks::Database(Box::new(seen))));
        } else {
            Store::create(&database, &options.for_new()).map_err(failed)?;
            None
        };
        let opened = || -> Result<_, StoreError> {
            let journal = self.dir.journal();
            let mut opened = Store::recover(&HostDisk::shared(), &database, &journal, Omit::default())?;
            let (store, recovery) = (Arc::clone(&opened.store), opened.recovery);
            opened.writer.set_limits(options.bytes_limit, options.inodes_limit)?;
            let fs = if globs.is_empty() {
                Fs::start(opened)?
            } else {
                Fs::start_with_lane(opened, globs, self.make_scratch(options)?)?
            };
            match store.superblock() {
                Ok(superblock) => Ok((store, fs, Receipt::of(&superblock), recovery)),
                Err(error) => {
                    let _ = fs.stop(); // The first error is the one to report.
                    Err(error)
                }
            }
        };
        let (store, fs, receipt, recovery) = opened().map_err(failed)?;
        let clean = before.as_ref().is_none_or(|before| before.clean);
        let is_stop = |stop: &Witness| stop.receipt.is_state_of(&receipt);
        let resume = Resume {
            how: match before {
                None => How::Created,
                _ if self.switched.is_some() => How::Reset,
                _ if entry.witness.is_none() => How::Adopted,
                _ if !clean || recovery.was_needed() => How::Recovered,
                _ => How::Resumed,
            },
            as_stopped: clean && entry.last_stop.as_ref().is_some_and(is_stop),
            receipt,
            last_stop: entry.last_stop,
            recovery: Replayed::of(&recovery),
            runtime_version: entry.settings.runtime_version,
        };
        Ok((store, fs, resume))
    }

    /// What the last commit says, if it is what the store has seen of the session, or later.
    pub(super) fn look(&self, entry: &Entry) -> Result<Superblock, SessionError> {
        let failed = |source| self.dir.database_error(source);
        let store = match (Store::open_read_only(&self.dir.database()), &entry.witness) {
            (Err(cause @ StoreError::Cut { .. }), Some(seen)) => {
                return Err(self.incomplete(Lacks::Rest { cause, seen: Box::new(seen.clone()) }));
            }
            // A link that leads nowhere.
            (Err(StoreError::Missing(_)), Some(seen)) => {
                return Err(self.incomplete(Lacks::Database(Box::new(seen.clone()))));
            }
            (opened, _) => opened.map_err(failed)?,
        };
        let superblock = store.superblock().map_err(failed)?;
        let Some(seen) = &entry.witness else { return Ok(superblock) };
        match seen.missing_in(&store).map_err(failed)? {
            Some(lacks) => Err(self.incomplete(lacks)),
            None => Ok(superblock),
        }
    }

    /// Refuses a journal that is older than what was seen of the session: it is not that of the mount that died. (Without
    /// a witness a recovery that died may have raised the epoch of the session database and not that of the journal.)
    pub(super) fn look_at_journal(&self, entry: &Entry) -> Result<(), SessionError> {
        let failed = |source| self.dir.database_error(source);
        let journal = self.dir.journal();
        let epoch = Store::journal_epoch(&HostDisk::shared(), &journal).map_err(failed)?;
        match (epoch, entry.witness.as_ref().map(|seen| seen.receipt.epoch)) {
            (Some(epoch), Some(seen)) if epoch < seen => Err(failed(StoreError::Journal(format!(
                "{}: journal and database do not belong together: it is of mount {epoch}, and the store has seen mount {seen}",
                journal.display()
            )))),
            _ => Ok(()),
        }
    }

    fn incomplete(&self, lacks: Lacks) -> SessionError {
        SessionError::Incomplete { id: self.dir.id().clone(), lacks: Box::new(lacks) }
    }

    /// Writes down that the session was not opened.
    pub(super) fn refused(&self, error: &SessionError) {
        // What was only asked for wrongly says nothing about the session.
        if matches!(
            error,
            SessionError::Database { .. } | SessionError::Incomplete { .. } | SessionError::Registry { .. }
        ) {
            let by = self.lock.taken_by().command.clone();
            self.home().record(self.dir.id(), What::Refused { by, opened: false, error: error.to_string() });
        }
    }

    /// Keeps the runtime version that was stated.
    fn keep_version(&self, mut resume: Resume) -> Result<Resume, SessionError> {
        if let Some(change) = &self.stated {
            let version = Some(change.to.clone());
            self.home().update_entry(self.dir.id(), |entry| entry.settings.runtime_version.clone_from(&version))?;
            self.home().record(self.dir.id(), What::VersionChanged { change: change.clone() });
            resume.runtime_version = version;
        }
        Ok(resume)
    }

    /// Takes what is there for the session from now on, whatever was seen of it before. Returns what that is; and what
    /// was seen, unless it would have been opened anyway.
    pub fn accept(self) -> Result<(Receipt, Option<Lacks>), SessionError> {
        let home = self.home();
        let entry = home.entry(self.dir.id())?;
        let lacks = match self.look(&entry) {
            Ok(superblock) => return Ok((Receipt::of(&superblock), None)),
            Err(SessionError::Incomplete { lacks, .. }) => lacks,
            Err(error) => return Err(error),
        };
        let found = match &*lacks {
            Lacks::Newer { found, .. } | Lacks::Identity { found, .. } | Lacks::History { found, .. } => found.clone(),
            // There is nothing that could be gone on with.
            Lacks::Database(_) | Lacks::Rest { .. } | Lacks::Paths(_) => return Err(self.incomplete(*lacks)),
        };
        home.update_entry(self.dir.id(), |entry| {
            let seen = Witness { receipt: found.clone(), at: super::lines::now() };
            *entry = Entry { settings: entry.settings.clone(), witness: Some(seen), ..Entry::default() };
        })?;
        home.record(self.dir.id(), What::Accepted { instead_of: entry.witness, receipt: found.clone() });
        Ok((found, Some(*lacks)))
    }

    /// A file system for what is not kept. The host's disk is its only bound.
    fn make_scratch(&self, options: &OpenOptions) -> Result<Opened, StoreError> {
        let dir = self.dir.scratch();
        let (database, journal) = (dir.join("session.db"), dir.join("session.journal"));
        let unbounded =
            CreateOptions { bytes_limit: i64::MAX as u64, inodes_limit: i64::MAX as u64, ..options.for_new() };
        Store::create(&database, &unbounded)?;
        Store::recover(&HostDisk::shared(), &database, &journal, Omit { sync: true, ..Omit::default() })
    }

    /// Goes back to the last commit, for a journal that cannot be replayed; it is set aside under the name returned.
    pub fn discard_journal(self) -> Result<(Superblock, Option<PathBuf>), SessionError> {
        let home = self.home();
        // The last commit is never older than what was seen, unless the session database is not the right one.
        self.look(&home.entry(self.dir.id())?)?;
        let (database, journal) = (self.dir.database(), self.dir.journal());
        let (superblock, set_aside) = Store::discard_journal(&HostDisk::shared(), &database, &journal)
            .map_err(|source| self.dir.database_error(source))?;
        let receipt = Receipt::of(&superblock);
        home.witness(self.dir.id(), &receipt, true);
        home.record(self.dir.id(), What::JournalDiscarded { set_aside: set_aside.clone(), receipt });
        Ok((superblock, set_aside))
    }

    /// Takes away a directory made for a session that did not come to be. What has a session database stays.
    fn abandon(&self) {
        if self.made && matches!(self.dir.exists(), Ok(false)) {
            let _ = fs::remove_file(self.dir.log_file());
            let _ = fs::remove_file(self.dir.lock_file());
            let _ = fs::remove_dir(self.dir.path());
        }
    }
}

impl OpenOptions {
    /// Refuses caps that nothing fits under.
    pub fn validate(&self) -> Result<(), SessionError> {
        match (self.bytes_limit, self.inodes_limit) {
            (Some(given), _) if !(MIN_BYTES_LIMIT..=i64::MAX as u64).contains(&given) => {
                Err(SessionError::Limit { given, least: MIN_BYTES_LIMIT, unit: "bytes" })
            }
            // The root directory is the first inode; without a second there is nothing to keep.
            (_, Some(given)) if !(2..=i64::MAX as u64).contains(&given) => {
                Err(SessionError::Limit { given, least: 2, unit: "inodes" })
            }
            _ => Ok(()),
        }
    }

    fn for_new(&self) -> CreateOptions {
        // SAFETY: neither call can fail or touches memory.
        let (uid, gid) = self.owner.unwrap_or_else(|| unsafe { (libc::geteuid(), libc::getegid()) });
        let (bytes, inodes) = self.new_caps.unwrap_or((DEFAULT_BYTES_LIMIT, DEFAULT_INODES_LIMIT));
        CreateOptions {
            bytes_limit: self.bytes_limit.unwrap_or(bytes),
            inodes_limit: self.inodes_limit.unwrap_or(inodes),
            uid,
            gid,
        }
    }
}
