//! Taking a session away, for good.

use std::fs;
use std::io;

use super::error::SessionError;
use super::events::What;
use super::layout::{SessionDir, StoreDir};
use super::lock::{Holder, Lock, Taken};
use super::running::Session;
use crate::base::{SessionId, failpoint};

/// The beginning of a name that is no session's: nothing that begins with a dot is one.
const SET_ASIDE: &str = ".removed-";

impl StoreDir {
    /// Removes a session with everything that belongs to it; refuses one that is in use.
    ///
    /// The directory is renamed first, so that a session is there whole or not at all, also after a crash half way.
    /// `by`: what the log of events says did it.
    pub fn remove(&self, id: &SessionId, by: &str) -> Result<u64, SessionError> {
        let removed = self.remove_if(id, by, &mut |_| Ok(true))?;
        Ok(removed.unwrap_or(0)) // It was never kept.
    }

    /// The same of a session that `still`, asked when its lock is held, wants to go; `None` when it does not.
    pub(super) fn remove_if(
        &self,
        id: &SessionId,
        by: &str,
        still: &mut dyn FnMut(&SessionDir) -> Result<bool, SessionError>,
    ) -> Result<Option<u64>, SessionError> {
        self.sweep();
        let dir = self.session(id);
        let unwritable = |source| SessionError::Store { path: dir.path().to_owned(), what: "written", source };
        // A directory without a session database is what a crashed creation leaves: `rm` takes that, too.
        match fs::symlink_metadata(dir.path()) {
            Ok(meta) if meta.is_dir() => {}
            _ => return self.give_up_lost(id, by, still),
        }
        let taken = match Lock::take(&dir.lock_file(), &Holder::current(by, None)) {
            // Another removal was first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.give_up_lost(id, by, still),
            other => other.map_err(unwritable)?,
        };
        let _lock = match taken {
            Taken::Ours(lock) => lock,
            Taken::Theirs(holder) if holder.mountpoint.is_some() => {
                return Err(SessionError::Mounted { id: id.clone(), holder: Box::new(holder) });
            }
            Taken::Theirs(holder) => return Err(SessionError::InUse { id: id.clone(), holder: Box::new(holder) }),
        };
        // To the end of the session: a pin that comes now finds that there is none.
        let turn = self.turn(id)?;
        if !still(&dir)? {
            return Ok(None);
        }
        self.forget_witness(&turn, id)?;
        failpoint::passed("a session to be removed is no longer missed and still there");
        let freed = self.set_aside(&dir)?;
        // Behind the rename, so that a session that is there has its settings; a crash between the two leaves settings
        // for the next of this name, which it can be told otherwise.
        self.forget_entry(id)?;
        drop(turn);
        self.record(id, What::Removed { by: by.to_owned(), freed });
        Ok(Some(freed))
    }

    /// Removes a session that this process holds the lock of and has stopped. The lock is still held when it is gone:
    /// were it given back first, what somebody else put into the session meanwhile would go with it.
    pub fn remove_held(&self, session: &Session) -> Result<u64, SessionError> {
        let turn = self.turn(session.id())?;
        self.forget_witness(&turn, session.id())?;
        let freed = self.set_aside(session.dir())?;
        self.forget_entry(session.id())?;
        Ok(freed)
    }

    /// A session whose directory is lost is only in the registry.
    fn give_up_lost(
        &self,
        id: &SessionId,
        by: &str,
        still: &mut dyn FnMut(&SessionDir) -> Result<bool, SessionError>,
    ) -> Result<Option<u64>, SessionError> {
        let is_missed = self.entry(id).map_or(true, |entry| entry.witness.is_some());
        if !is_missed {
            return Err(SessionError::Unknown { id: id.clone(), store: self.path().to_owned() });
        }
        let turn = self.turn(id)?;
        if !still(&self.session(id))? {
            return Ok(None);
        }
        self.forget_witness(&turn, id)?;
        self.forget_entry(id)?;
        drop(turn);
        self.record(id, What::Removed { by: by.to_owned(), freed: 0 });
        Ok(Some(0))
    }

    /// What is left to do with the lock held.
    fn set_aside(&self, dir: &SessionDir) -> Result<u64, SessionError> {
        let unwritable = |source| SessionError::Store { path: dir.path().to_owned(), what: "written", source };
        let freed = dir.disk_bytes();
        // The ID may fill a file name; the name set aside needs none of it.
        let aside = self.path().join(format!("{SET_ASIDE}{}-{}", std::process::id(), unique()));
        fs::rename(dir.path(), &aside).map_err(unwritable)?;
        fs::File::open(self.path()).and_then(|store| store.sync_all()).map_err(unwritable)?;
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(error)),
            _ => Ok(freed),
        }
    }

    /// Deletes what a removal that was interrupted has left. Its lock is free, because its remover is dead.
    pub(super) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.path()) else { return };
        for entry in entries.flatten() {
            let is_aside = entry.file_name().to_string_lossy().starts_with(SET_ASIDE);
            if is_aside && matches!(Lock::holder(&entry.path().join("lock")), Ok(None)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

pub(super) fn unique() -> u64 {
    let now = crate::base::Timestamp::now();
    (now.secs as u64).wrapping_mul(1_000_000_000).wrapping_add(now.nanos.into())
}

#[cfg(test)]
mod tests {
    use super::super::OpenOptions;
    use super::*;

    #[test]
    fn removal_respects_the_lock_and_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        let id: SessionId = "x".repeat(255).parse().unwrap();
        let dir = store.session(&id);
        let holder = Holder::current("mount", Some(std::path::Path::new("/mnt/x")));
        let locked = store.lock(&id, false, &holder).unwrap();
        fs::write(dir.database(), b"db").unwrap();
        let refused = store.remove(&id, "rm").unwrap_err();
        assert!(matches!(refused, SessionError::Mounted { .. }), "{refused}");
        drop(locked);
        fs::create_dir(temp.path().join(".removed-1-1")).unwrap();
        store.remove(&id, "rm").unwrap();
        let left = |dir: &std::path::Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left(temp.path()).collect::<Vec<_>>(), [".registry"]);
        assert_eq!(left(&store.registry_of(&id)).collect::<Vec<_>>(), ["events.jsonl"]);
        assert!(matches!(store.remove(&id, "rm"), Err(SessionError::Unknown { .. })));
    }

    #[test]
    fn what_is_removed_by_its_holder_is_gone_before_the_lock_is_free() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        let id: SessionId = "new".parse().unwrap();
        let lock = |command| store.lock(&id, false, &Holder::current(command, None));
        let session = lock("mount").unwrap().open(&OpenOptions::default()).unwrap();
        session.stop().unwrap();
        assert!(matches!(lock("cp"), Err(SessionError::InUse { .. })));
        store.remove_held(&session).unwrap();
        // From here on another may have the name, while the first still holds what was its lock.
        let other = lock("cp").unwrap().open(&OpenOptions::default()).unwrap();
        assert!(other.created());
        drop(session);
        assert!(other.dir().exists().unwrap());
        other.stop().unwrap();
    }

    #[test]
    fn a_lock_for_an_existing_session_makes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(&temp.path().join("new")).unwrap();
        let error = store.lock(&"a".parse().unwrap(), true, &Holder::default()).unwrap_err();
        assert!(matches!(error, SessionError::Unknown { .. }));
        assert!(!temp.path().join("new").exists());
    }
}
