//! The runtime version: of what runs in a workspace, as its mounts state it. When it changes, the policy says what
//! becomes of what the old one has left.
//!
//! A change that begins anew is written down in the registry first, then done, then taken off there. A crash before the
//! old session database has left its place changes nothing; one behind that is gone on from by whoever takes the
//! session's lock next. So at any time the old state is where it was, or where it is kept (unless it was to be reset).

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::events::What;
use super::layout::{SessionDir, StoreDir};
use super::lines::now;
use super::lock::{Holder, Lock, Taken};
use super::open::LockedSession;
use super::receipt::{Receipt, Witness};
use super::registry::{Entry, Settings};
use crate::base::limits::SESSION_ID_MAX;
use crate::base::{Ino, SessionId, Txid, failpoint};
use crate::fs::Fs;
use crate::store::{CreateOptions, HostDisk, Omit, Store, Superblock};

/// Characters of a version that the name of a kept session has.
const VERSION_MAX: usize = 64;

/// What becomes of a session when its runtime version changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It begins empty, and what was there becomes a session of its own.
    #[default]
    Checkpoint,
    /// It stays as it is.
    Keep,
    /// It begins empty, and what was there is removed.
    Reset,
}

impl Policy {
    /// All of them, as they are written.
    pub const NAMES: [&str; 3] = ["checkpoint", "keep", "reset"];
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Policy, String> {
        match name {
            "checkpoint" => Ok(Policy::Checkpoint),
            "keep" => Ok(Policy::Keep),
            "reset" => Ok(Policy::Reset),
            _ => Err(format!("{name:?} is none of {}", Policy::NAMES.join(", "))),
        }
    }
}

/// What a version that is another than the last one has led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionChange {
    /// The last one; `None` when none was ever stated.
    pub from: Option<String>,
    /// The one stated now.
    pub to: String,
    /// What was done; `None` at the first statement, which changes nothing.
    pub policy: Option<Policy>,
    /// The session that has what was there.
    pub kept_as: Option<String>,
    /// What was there.
    pub before: Option<Receipt>,
}

impl fmt::Display for VersionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(from) = &self.from else { return write!(f, "runtime version {}, stated for the first time", self.to) };
        write!(f, "runtime version {from} is now {}: ", self.to)?;
        match (self.policy, &self.kept_as) {
            (_, Some(kept)) => write!(f, "it begins empty, and what was there is session {kept}"),
            (Some(Policy::Reset), _) => write!(f, "it begins empty, and what was there is removed"),
            _ => write!(f, "it stays as it is"),
        }
    }
}

/// A change that begins anew, while it is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switching {
    /// What it will have been.
    #[serde(flatten)]
    change: VersionChange,
    /// Where the new session database comes from.
    parent: ([u8; 16], u64),
    /// What it is made with.
    bytes_limit: u64,
    inodes_limit: u64,
    uid: u32,
    gid: u32,
}

impl LockedSession {
    /// Says which version of a runtime will work in the session; what is to be done about another one is done here. It
    /// is kept once the session is open.
    pub fn state_version(&mut self, version: &str, policy: Policy) -> Result<(), SessionError> {
        let entry = self.home().entry(self.dir.id())?;
        let from = entry.settings.runtime_version.clone();
        if from.as_deref() == Some(version) {
            return Ok(());
        }
        let is_first = from.is_none() || !self.dir.exists()?;
        if is_first || policy == Policy::Keep {
            let policy = (!is_first).then_some(policy);
            let from = from.filter(|_| !is_first);
            self.stated = Some(VersionChange { from, to: version.to_owned(), policy, kept_as: None, before: None });
            return Ok(());
        }
        let change = self.switch(&entry, version, policy).inspect_err(|error| self.refused(error))?;
        self.switched = Some(change);
        Ok(())
    }

    fn switch(&self, entry: &Entry, to: &str, policy: Policy) -> Result<VersionChange, SessionError> {
        let (old, options) = self.bring_to_rest(entry)?;
        let kept = match policy {
            Policy::Checkpoint => Some(self.home().free_name(self.dir.id(), to)?),
            Policy::Keep | Policy::Reset => None,
        };
        let switching = Switching {
            change: VersionChange {
                from: entry.settings.runtime_version.clone(),
                to: to.to_owned(),
                policy: Some(policy),
                kept_as: kept.as_ref().map(ToString::to_string),
                before: Some(Receipt::of(&old)),
            },
            parent: (old.uuid, old.txid.0),
            bytes_limit: options.bytes_limit,
            inodes_limit: options.inodes_limit,
            uid: options.uid,
            gid: options.gid,
        };
        self.home().update_entry(self.dir.id(), |entry| entry.switching = Some(switching.clone()))?;
        failpoint::passed("a version change is announced and nothing is moved");
        match kept {
            Some(kept) => match self.move_to(&self.home().session(&kept)) {
                // Until the end: nobody shall have it before the registry knows it.
                Ok(_lock) => self.begin_anew(&switching)?,
                Err(error) => {
                    self.settle()?;
                    return Err(error);
                }
            },
            None => {
                self.drop_database()?;
                self.begin_anew(&switching)?;
            }
        }
        Ok(switching.change)
    }

    /// Everything that was acknowledged is in one file, which nobody has open; and what another like it is made with.
    fn bring_to_rest(&self, entry: &Entry) -> Result<(Superblock, CreateOptions), SessionError> {
        let failed = |source| self.dir.database_error(source);
        let (database, journal) = (self.dir.database(), self.dir.journal());
        let mut superblock = self.look(entry)?;
        if !superblock.clean || journal.exists() {
            self.look_at_journal(entry)?;
            let opened = Store::recover(&HostDisk::shared(), &database, &journal, Omit::default()).map_err(failed)?;
            superblock = Fs::start(opened).and_then(|fs| fs.stop()).map_err(failed)?;
            self.home().witness(self.dir.id(), &Receipt::of(&superblock), true);
        }
        let wal = self.dir.wal();
        if wal.exists() {
            // It would be taken for that of the database that comes in this one's place.
            let source = io::Error::from_raw_os_error(libc::EBUSY);
            return Err(SessionError::Store { path: wal, what: "removed, so nothing is changed", source });
        }
        let root = Store::open_read_only(&database).and_then(|store| store.inode(Ino::ROOT)).map_err(failed)?;
        let (uid, gid) = root.map_or((0, 0), |root| (root.uid, root.gid));
        let Superblock { bytes_limit, inodes_limit, .. } = superblock;
        Ok((superblock, CreateOptions { bytes_limit, inodes_limit, uid, gid }))
    }

    /// Moves the session database to where a session of another name has its own; returns that one's lock.
    fn move_to(&self, kept: &SessionDir) -> Result<Lock, SessionError> {
        kept.create()?;
        failpoint::passed("the session of the old version has a directory and no database");
        let failed = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| SessionError::Store { path, what: "written", source }
        };
        let holder = Holder::current("run", None);
        let lock = match Lock::take(&kept.lock_file(), &holder).map_err(failed(kept.path()))? {
            Taken::Ours(lock) => lock,
            Taken::Theirs(holder) => {
                return Err(SessionError::InUse { id: kept.id().clone(), holder: Box::new(holder) });
            }
        };
        fs::rename(self.dir.database(), kept.database()).map_err(failed(kept.path()))?;
        failpoint::passed("the old version's database is moved and no directory is synced");
        for dir in [kept, &self.dir] {
            dir.open().and_then(|dir| dir.sync_all()).map_err(failed(dir.path()))?;
        }
        failpoint::passed("the old version's database is moved and there is no new one");
        Ok(lock)
    }

    fn drop_database(&self) -> Result<(), SessionError> {
        let removed = fs::remove_file(self.dir.database()).and_then(|()| self.dir.open()?.sync_all());
        failpoint::passed("the old version's database is removed and there is no new one");
        removed.map_err(|source| SessionError::Store { path: self.dir.database(), what: "removed", source })
    }

    /// Makes the new session database, unless it is there, and has the registry know both.
    fn begin_anew(&self, switching: &Switching) -> Result<(), SessionError> {
        let failed = |source| self.dir.database_error(source);
        let Switching { change, parent: (uuid, txid), bytes_limit, inodes_limit, uid, gid } = switching;
        let options = CreateOptions { bytes_limit: *bytes_limit, inodes_limit: *inodes_limit, uid: *uid, gid: *gid };
        if !self.dir.exists()? {
            Store::create_after(&self.dir.database(), &options, (*uuid, Txid(*txid))).map_err(failed)?;
        }
        failpoint::passed("the new version's database is there and the registry has the old one");
        let store = Store::open_read_only(&self.dir.database()).map_err(failed)?;
        let receipt = Receipt::of(&store.superblock().map_err(failed)?);
        let home = self.home();
        let settings = home.entry(self.dir.id())?.settings;
        if let (Some(kept), Some(before)) = (&change.kept_as, &change.before) {
            home.register_kept(self.dir.id(), kept, before, Settings { pinned: false, ..settings })?;
        }
        // Before the change is taken off the registry: twice is better than never.
        home.record(self.dir.id(), What::VersionChanged { change: change.clone() });
        failpoint::passed("the old version's session is registered and the change still announced");
        home.update_entry(self.dir.id(), |entry| {
            let settings = Settings { runtime_version: Some(change.to.clone()), ..entry.settings.clone() };
            *entry = Entry { settings, witness: Some(Witness { receipt, at: now() }), ..Entry::default() };
        })?;
        failpoint::passed("a version change is done");
        Ok(())
    }

    /// Goes on with a change that somebody has died in, or takes it back when nothing was moved yet.
    pub(super) fn settle(&self) -> Result<(), SessionError> {
        let home = self.home();
        let Some(switching) = home.entry(self.dir.id())?.switching else { return Ok(()) };
        if self.dir.exists()? {
            let failed = |source| self.dir.database_error(source);
            let store = Store::open_read_only(&self.dir.database()).map_err(failed)?;
            let parent = store.superblock().map_err(failed)?.parent;
            let (uuid, txid) = switching.parent;
            if parent != Some((uuid, Txid(txid))) {
                home.update_entry(self.dir.id(), |entry| entry.switching = None)?;
                if let Some(kept) = switching.change.kept_as.and_then(|kept| kept.parse().ok()) {
                    home.session(&kept).clear_away();
                }
                return Ok(());
            }
        }
        log::warn!("session {}: going on with a change of its runtime version", self.dir.id());
        self.begin_anew(&switching)
    }
}

impl StoreDir {
    /// A name for what a session was before a version, that no session has or has had.
    fn free_name(&self, id: &SessionId, version: &str) -> Result<SessionId, SessionError> {
        let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let version: String = version.chars().map(allowed).take(VERSION_MAX).collect();
        let mut number = 1_u64;
        loop {
            let tail = if number == 1 { format!(".before-{version}") } else { format!(".before-{version}.{number}") };
            let head = &id.as_str()[..id.as_str().len().min(SESSION_ID_MAX - tail.len())];
            let name: SessionId = match format!("{head}{tail}").parse() {
                Ok(name) => name,
                // The head is that of an ID, and the tail is made for it.
                Err(error) => unreachable!("{error}"),
            };
            let is_taken = |path: &std::path::Path| match fs::symlink_metadata(path) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(source) => Err(SessionError::Store { path: path.to_owned(), what: "read", source }),
            };
            if !is_taken(self.session(&name).path())? && !is_taken(&self.registry_of(&name))? {
                return Ok(name);
            }
            number += 1;
        }
    }

    /// Has the registry know a session that was split off, unless it does.
    fn register_kept(
        &self,
        from: &SessionId,
        kept: &str,
        receipt: &Receipt,
        settings: Settings,
    ) -> Result<(), SessionError> {
        let Ok(kept) = kept.parse::<SessionId>() else { return Ok(()) };
        // Removed since, or used and so known better.
        if !self.session(&kept).exists()? || self.entry(&kept)?.witness.is_some() {
            return Ok(());
        }
        let runtime_version = settings.runtime_version.clone();
        self.update_entry(&kept, |entry| {
            let witness = Some(Witness { receipt: receipt.clone(), at: now() });
            *entry = Entry { settings, witness: witness.clone(), last_stop: witness, ..Entry::default() };
        })?;
        self.record(&kept, What::SplitOff { from: from.to_string(), runtime_version, receipt: receipt.clone() });
        Ok(())
    }
}
