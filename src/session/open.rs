//! Opening a session (which creates an unknown one) and stopping it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::{SessionDir, StoreDir, make};
use super::lock::{Holder, Lock, Taken};
use crate::base::limits::{DEFAULT_BYTES_LIMIT, DEFAULT_INODES_LIMIT, MIN_BYTES_LIMIT};
use crate::base::{Errno, SessionId, failpoint};
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
    dir: SessionDir,
    lock: Lock,
    /// Whether the directory was made for this; then a failure takes it away again.
    made: bool,
}

/// An open session, its file system running. Ends by [`Session::stop`]; the lock goes when it is dropped.
#[derive(Debug)]
pub struct Session {
    dir: SessionDir,
    store: Arc<Store>,
    fs: Arc<Fs>,
    created: bool,
    lock: Lock,
}

/// What a stop or a sync says of itself: the state that is now safe on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReport {
    /// The session.
    pub session: String,
    /// Last committed transaction.
    pub txid: u64,
    /// Regular files.
    pub files: u64,
    /// Directories, the root among them.
    pub dirs: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// State digest, in hexadecimal.
    pub digest: String,
}

impl StopReport {
    /// What a superblock says.
    pub fn of(id: &SessionId, superblock: &Superblock) -> StopReport {
        StopReport {
            session: id.to_string(),
            txid: superblock.txid.0,
            files: superblock.counts.files,
            dirs: superblock.counts.dirs,
            bytes: superblock.counts.bytes,
            digest: superblock.digest.to_string(),
        }
    }
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
                let locked = LockedSession { dir, lock, made };
                if existing && !locked.dir.exists()? {
                    locked.abandon();
                    return Err(SessionError::Unknown { id: id.clone(), store: self.path().to_owned() });
                }
                Ok(locked)
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

    /// Opens the session: creates the session database if there is none, recovers it if its last user died, and
    /// starts the file system.
    pub fn open(self, options: &OpenOptions) -> Result<Session, SessionError> {
        match self.try_open(options) {
            Ok((store, fs, created)) => Ok(Session { dir: self.dir, store, fs, created, lock: self.lock }),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn try_open(&self, options: &OpenOptions) -> Result<(Arc<Store>, Arc<Fs>, bool), SessionError> {
        let database = self.dir.database();
        options.validate()?;
        let globs = Globs::parse(&options.ephemeral)?;
        self.dir.clear_scratch()?;
        if !globs.is_empty() {
            make(&self.dir.scratch(), false)?;
        }
        let created = !self.dir.exists()?;
        failpoint::passed("a session is locked and not looked at");
        if created {
            Store::create(&database, &options.for_new()).map_err(|source| self.dir.database_error(source))?;
        }
        let opened = || -> Result<_, StoreError> {
            let journal = self.dir.journal();
            let mut opened = Store::recover(&HostDisk::shared(), &database, &journal, Omit::default())?;
            let store = Arc::clone(&opened.store);
            opened.writer.set_limits(options.bytes_limit, options.inodes_limit)?;
            if globs.is_empty() {
                return Ok((store, Fs::start(opened)?));
            }
            let scratch = self.make_scratch(options)?;
            Ok((store, Fs::start_with_lane(opened, globs, scratch)?))
        };
        let (store, fs) = opened().map_err(|source| self.dir.database_error(source))?;
        Ok((store, fs, created))
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
        let (database, journal) = (self.dir.database(), self.dir.journal());
        Store::discard_journal(&HostDisk::shared(), &database, &journal)
            .map_err(|source| self.dir.database_error(source))
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

impl Session {
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
        self.created
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
    pub fn sync(&self) -> Result<StopReport, SessionError> {
        Session::sync_parts(&self.dir, &self.fs, &self.store)
    }

    /// The same for who has the parts and not the session: the lock stays with one owner.
    pub fn sync_parts(dir: &SessionDir, fs: &Fs, store: &Store) -> Result<StopReport, SessionError> {
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
        let stopped = self.fs.stop();
        // What stays is taken away by the next use.
        if let Err(error) = self.dir.clear_scratch() {
            log::warn!("{error}");
        }
        match stopped {
            Ok(superblock) => Ok(StopReport::of(self.id(), &superblock)),
            Err(source) => Err(self.dir.database_error(source)),
        }
    }
}
