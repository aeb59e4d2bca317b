//! What a store knows of a session outside the session's own directory: `<store>/.registry/<session>/entry.json`.
//!
//! It is read without opening a session database, and it outlives one that is lost, replaced or damaged: that is how
//! a resume can tell that what it was given is not what the last stop left.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::{StoreDir, make};
use super::lines::now;
use super::receipt::{Receipt, Witness};
use super::verify::Verification;
use super::version::Switching;
use crate::base::{SessionId, read_ordinary};

/// No session's name: nothing that begins with a dot is one.
const REGISTRY: &str = ".registry";
const ENTRY: &str = "entry.json";
/// Bytes of an entry that are read. Patterns of ephemeral directories are the longest of it.
const ENTRY_MAX: u64 = 4 << 20;

/// What is known of a session. What is not set has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Entry {
    /// How the session is to be treated.
    pub settings: Settings,
    /// The newest state that was seen to be safe on the disk: a resume finds this or a later one, or refuses.
    pub witness: Option<Witness>,
    /// What the last stop left.
    pub last_stop: Option<Witness>,
    /// The last verification of every row and byte.
    pub verified: Option<Verification>,
    /// A change of the runtime version that has begun.
    pub switching: Option<Switching>,
}

/// What a session's user has chosen for it, apart from its caps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Days without use after which it may be removed; the store's own number when not set.
    pub idle_days: Option<u32>,
    /// Never removed for being idle, or for the store's budget.
    pub pinned: bool,
    /// Of what runs in the workspace, as the last mount stated it.
    pub runtime_version: Option<String>,
    /// Directories whose content is not kept.
    pub ephemeral: Vec<String>,
}

/// The right to change what is known of a session: one has it at a time, until it is dropped.
pub(super) struct Turn {
    dir: PathBuf,
    file: File,
}

impl StoreDir {
    /// What is known of a session: nothing, of one that nobody has told anything about.
    pub fn entry(&self, id: &SessionId) -> Result<Entry, SessionError> {
        let path = self.look_at_registry_of(id)?.join(ENTRY);
        match read_ordinary(&path, ENTRY_MAX) {
            Ok(text) => serde_json::from_slice(&text).map_err(|why| SessionError::Registry { path, why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entry::default()),
            Err(source) => Err(SessionError::Store { path, what: "read", source }),
        }
    }

    /// Changes what is known of a session, and returns it. Two who do this at once do it one after the other; a crash
    /// leaves the old or the new.
    pub fn update_entry(&self, id: &SessionId, change: impl FnOnce(&mut Entry)) -> Result<Entry, SessionError> {
        let turn = self.turn(id)?;
        self.update_in(&turn, id, change)
    }

    /// Waits for the right to change what is known of a session.
    pub(super) fn turn(&self, id: &SessionId) -> Result<Turn, SessionError> {
        let dir = self.make_registry_of(id)?;
        let locked = File::open(&dir).and_then(|file| file.lock().map(|()| file));
        match locked {
            Ok(file) => Ok(Turn { dir, file }),
            Err(source) => Err(SessionError::Store { path: dir, what: "written", source }),
        }
    }

    /// [`StoreDir::update_entry`], of who has the turn.
    pub(super) fn update_in(
        &self,
        turn: &Turn,
        id: &SessionId,
        change: impl FnOnce(&mut Entry),
    ) -> Result<Entry, SessionError> {
        let Turn { dir, file } = turn;
        let unwritable = |source| SessionError::Store { path: dir.join(ENTRY), what: "written", source };
        let before = self.entry(id)?;
        let mut entry = before.clone();
        change(&mut entry);
        if entry != before {
            self.replace(dir, &entry).and_then(|()| file.sync_all()).map_err(unwritable)?;
        }
        Ok(entry)
    }

    /// Keeps a state as the witness, unless a newer one is there. Nothing is lost when that fails: what is found later
    /// may be newer than the witness, only not older.
    pub(super) fn witness(&self, id: &SessionId, receipt: &Receipt, is_stop: bool) {
        let seen = Witness { receipt: receipt.clone(), at: now() };
        let kept = self.update_entry(id, |entry| {
            if seen.supersedes(entry.witness.as_ref()) {
                entry.witness = Some(seen.clone());
            }
            if is_stop {
                entry.last_stop = Some(seen);
            }
        });
        if let Err(error) = kept {
            log::warn!("session {id}: its receipt could not be kept: {error}");
        }
    }

    /// Forgets which state was seen, of a session that is about to be removed: a crash on the way then leaves a session
    /// or none, and not one that is missed.
    pub(super) fn forget_witness(&self, turn: &Turn, id: &SessionId) -> Result<(), SessionError> {
        if !self.registry_of(id).join(ENTRY).exists() {
            return Ok(());
        }
        let forgotten = self.update_in(turn, id, |entry| {
            *entry = Entry { settings: entry.settings.clone(), ..Entry::default() };
        });
        match forgotten {
            // Nobody can tell what it says; with the session it goes as a whole.
            Err(SessionError::Registry { .. }) => self.forget_entry(id),
            other => other.map(drop),
        }
    }

    /// Forgets what was known of a session that is removed; its events stay.
    pub(super) fn forget_entry(&self, id: &SessionId) -> Result<(), SessionError> {
        let path = self.registry_of(id).join(ENTRY);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| SessionError::Store { path, what: "written", source }),
        }
    }

    /// Every session that the registry has something on, by name; also removed ones.
    pub fn registered(&self) -> Result<Vec<SessionId>, SessionError> {
        let path = self.registry();
        let unreadable = |source| SessionError::Store { path: path.clone(), what: "read", source };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(unreadable)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(unreadable)?.file_name();
            found.extend(name.to_str().and_then(|name| name.parse::<SessionId>().ok()));
        }
        found.sort();
        Ok(found)
    }

    /// Where the registry is.
    pub(super) fn registry(&self) -> PathBuf {
        self.path().join(REGISTRY)
    }

    /// Whether anything but events is known of a session.
    pub(super) fn has_entry(&self, id: &SessionId) -> bool {
        self.registry_of(id).join(ENTRY).exists()
    }

    /// Where the registry keeps what it has on a session.
    pub(super) fn registry_of(&self, id: &SessionId) -> PathBuf {
        self.registry().join(id.as_str())
    }

    /// The same, made if there is nothing yet.
    pub(super) fn make_registry_of(&self, id: &SessionId) -> Result<PathBuf, SessionError> {
        let (all, dir) = (self.registry(), self.registry_of(id));
        for made in [&all, &dir] {
            if !is_own_directory(made)? {
                self.create()?;
                make(made, false)?;
                self.give_to_owner(made).map_err(|source| SessionError::Store {
                    path: made.clone(),
                    what: "written",
                    source,
                })?;
            }
        }
        Ok(dir)
    }

    /// The same, for reading; it need not be there.
    pub(super) fn look_at_registry_of(&self, id: &SessionId) -> Result<PathBuf, SessionError> {
        let dir = self.registry_of(id);
        let _ = is_own_directory(&self.registry())? && is_own_directory(&dir)?;
        Ok(dir)
    }

    fn replace(&self, dir: &Path, entry: &Entry) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(entry)?;
        text.push(b'\n');
        let new = dir.join(".entry.json.new");
        // In the place of what a crash has left; and nothing is written through a link that somebody has put there.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        self.give_to_owner(&new)?;
        file.sync_all()?;
        fs::rename(&new, dir.join(ENTRY))
    }

    /// What root writes into the store of somebody else stays readable to that one.
    pub(super) fn give_to_owner(&self, path: &Path) -> io::Result<()> {
        // SAFETY: geteuid cannot fail and touches no memory.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(());
        }
        let (store, given) = (fs::metadata(self.path())?, fs::symlink_metadata(path)?);
        if store.uid() == given.uid() {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(store.uid()), Some(store.gid()))
    }
}

/// Whether there is a directory. Anything else there is an error: through a link, what the store knows would be another's,
/// and be written where that one wants it.
fn is_own_directory(path: &Path) -> Result<bool, SessionError> {
    let failed = |what, source| Err(SessionError::Store { path: path.to_owned(), what, source });
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(true),
        Ok(_) => failed("used", io::Error::from_raw_os_error(libc::ENOTDIR)),
        // The store itself may not be there yet, or be a file; who reads or makes it says so.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(false),
        Err(error) => failed("read", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, StoreDir, SessionId) {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        (temp, store, "x".repeat(255).parse().unwrap())
    }

    #[test]
    fn an_entry_is_what_was_written_last_and_nothing_at_first() {
        let (_temp, store, id) = store();
        assert_eq!(store.entry(&id).unwrap(), Entry::default());
        store.update_entry(&id, |entry| entry.settings.pinned = true).unwrap();
        let entry = store.update_entry(&id, |entry| entry.settings.idle_days = Some(3)).unwrap();
        assert!(entry.settings.pinned);
        assert_eq!(store.entry(&id).unwrap(), entry);
        assert!(store.sessions().unwrap().is_empty(), "the registry is no session");
        store.forget_entry(&id).unwrap();
        store.forget_entry(&id).unwrap();
        assert_eq!(store.entry(&id).unwrap(), Entry::default());
    }

    #[test]
    fn changes_of_many_at_once_are_all_there() {
        let (_temp, store, id) = store();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (store, id) = (&store, &id);
                scope.spawn(move || {
                    store.update_entry(id, |entry| entry.settings.ephemeral.push(i.to_string())).unwrap()
                });
            }
        });
        assert_eq!(store.entry(&id).unwrap().settings.ephemeral.len(), 8);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (temp, store, id) = store();
        let elsewhere = temp.path().join("elsewhere");
        fs::write(&elsewhere, "theirs").unwrap();
        let dir = store.make_registry_of(&id).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.join(".entry.json.new")).unwrap();
        store.update_entry(&id, |entry| entry.settings.pinned = true).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "theirs");
        assert!(store.entry(&id).unwrap().settings.pinned);
    }

    #[test]
    fn a_link_in_the_place_of_the_registry_is_not_written_through() {
        let (temp, store, id) = store();
        let elsewhere = temp.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        for link in [store.registry(), store.registry_of(&id)] {
            std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
            assert!(store.update_entry(&id, |entry| entry.settings.pinned = true).is_err());
            store.record(&id, super::super::events::What::Other);
            assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "{}", link.display());
            fs::remove_file(&link).unwrap();
            store.make_registry_of(&id).unwrap();
            fs::remove_dir(store.registry_of(&id)).unwrap();
        }
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_named() {
        let (_temp, store, id) = store();
        store.update_entry(&id, |entry| entry.settings.pinned = true).unwrap();
        let path = store.registry_of(&id).join(ENTRY);
        for text in ["", "{", "7", "{\"settings\": {\"pined\": true}}"] {
            fs::write(&path, text).unwrap();
            let error = store.entry(&id).unwrap_err().to_string();
            assert!(error.contains(ENTRY), "{error}");
            assert!(store.update_entry(&id, |_| ()).is_err());
        }
    }
}
