//! Where sessions are kept: `<store>/<session>/`, directories 0700, files 0600, made when first needed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::SessionError;
use super::lock::{Holder, Lock, Taken};
use super::receipt::Lacks;
use crate::base::SessionId;
use crate::store::StoreError;

/// The store of the superuser.
const SYSTEM_STORE: &str = "/var/lib/sessionfs";

/// The directory that holds sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreDir {
    path: PathBuf,
}

/// The directory of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDir {
    id: SessionId,
    path: PathBuf,
}

impl StoreDir {
    /// The store at `path`. It is made absolute, because a server changes its working directory.
    pub fn at(path: &Path) -> Result<StoreDir, SessionError> {
        let path = std::path::absolute(path).map_err(|source| SessionError::Store {
            path: path.to_owned(),
            what: "found",
            source,
        })?;
        Ok(StoreDir { path })
    }

    /// The store used when none is named: the system's for root, otherwise the user's own.
    pub fn default_for(uid: u32, env: &dyn Fn(&str) -> Option<PathBuf>) -> Result<StoreDir, SessionError> {
        if uid == 0 {
            return StoreDir::at(Path::new(SYSTEM_STORE));
        }
        // A relative XDG_DATA_HOME is to be ignored: so the XDG specification.
        let data = env("XDG_DATA_HOME").filter(|dir| dir.is_absolute());
        let home = || env("HOME").filter(|dir| dir.is_absolute()).map(|dir| dir.join(".local/share"));
        match data.or_else(home) {
            Some(dir) => StoreDir::at(&dir.join("sessionfs")),
            None => Err(SessionError::NoStore),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one session, whether there or not.
    pub fn session(&self, id: &SessionId) -> SessionDir {
        SessionDir { id: id.clone(), path: self.path.join(id.as_str()) }
    }

    /// The directory of a session that is there.
    pub fn existing(&self, id: &SessionId) -> Result<SessionDir, SessionError> {
        let dir = self.session(id);
        if dir.exists()? {
            return Ok(dir);
        }
        let entry = self.entry(id)?;
        if entry.switching.is_some() {
            return Ok(dir); // Whoever takes its lock goes on with it.
        }
        Err(match entry.witness {
            Some(seen) => SessionError::Incomplete { id: id.clone(), lacks: Box::new(Lacks::Database(Box::new(seen))) },
            None => SessionError::Unknown { id: id.clone(), store: self.path.clone() },
        })
    }

    /// Every session, by name. One being created, or left half-made by a crash, has no session database and is none.
    pub fn sessions(&self) -> Result<Vec<SessionDir>, SessionError> {
        let unreadable = |source| SessionError::Store { path: self.path.clone(), what: "read", source };
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(unreadable)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(unreadable)?.file_name();
            // Names that are no session ID are not ours: `lost+found`, and what `remove` has set aside.
            let Some(id) = name.to_str().and_then(|name| name.parse::<SessionId>().ok()) else { continue };
            let dir = self.session(&id);
            if dir.exists()? {
                found.push(dir);
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// Sessions that the store has seen, and of which there is no session database.
    pub fn lost(&self) -> Result<Vec<SessionDir>, SessionError> {
        let mut lost = Vec::new();
        for id in self.registered()? {
            let dir = self.session(&id);
            // Where the registry cannot be read, nobody knows that anything was seen.
            if !dir.exists()? && self.entry(&id).is_ok_and(|entry| entry.witness.is_some()) {
                lost.push(dir);
            }
        }
        Ok(lost)
    }

    /// Makes the store's directory.
    pub(super) fn create(&self) -> Result<(), SessionError> {
        make(&self.path, true)?;
        let meta = fs::metadata(&self.path).map_err(failed(&self.path, "read"))?;
        // A link, to a larger disk for one, is its owner's choice.
        if meta.is_dir() { Ok(()) } else { Err(unusable(&self.path, io::Error::from_raw_os_error(libc::ENOTDIR))) }
    }
}

impl SessionDir {
    /// Its session.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store that it is in.
    pub fn home(&self) -> StoreDir {
        // It is made by joining its name to that.
        StoreDir { path: self.path.parent().unwrap_or(Path::new("/")).to_owned() }
    }

    /// The error that a failure of the session's database or journal is.
    pub fn database_error(&self, source: StoreError) -> SessionError {
        SessionError::Database { id: self.id.clone(), dir: self.path.clone(), source }
    }

    /// The session database.
    pub fn database(&self) -> PathBuf {
        self.path.join("session.db")
    }

    /// SQLite's write-ahead log of the session database, while that is open.
    pub(super) fn wal(&self) -> PathBuf {
        self.path.join("session.db-wal")
    }

    /// The journal of the mount, or of one that was not stopped.
    pub fn journal(&self) -> PathBuf {
        self.path.join("session.journal")
    }

    /// What a mount keeps of its ephemeral directories. Whoever has the lock may take it away.
    pub(super) fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// The file whose lock says that the session is in use.
    pub fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The name of the control socket. Bind and connect through a descriptor of the directory: the whole path is
    /// longer than a socket address can be when the session's name is.
    pub fn socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Locked by who does a step of the session's set-up.
    pub fn setup_lock(&self) -> PathBuf {
        self.path.join("setup.lock")
    }

    /// What the server of a mount has to say.
    pub fn log_file(&self) -> PathBuf {
        self.path.join("daemon.log")
    }

    /// Whether there is a session: a directory with a session database. Anything that stands in its way counts, so
    /// that nobody takes a damaged session for a new one.
    pub fn exists(&self) -> Result<bool, SessionError> {
        match fs::symlink_metadata(self.database()) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(false),
            Err(source) => Err(SessionError::Store { path: self.path.clone(), what: "read", source }),
        }
    }

    /// Bytes of the session database and what belongs to it, as allocated on the disk.
    pub fn disk_bytes(&self) -> u64 {
        let Ok(entries) = fs::read_dir(&self.path) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
    }

    /// Makes the directory; says whether it was not there.
    pub(super) fn create(&self) -> Result<bool, SessionError> {
        let new = !self.path.exists();
        self.make_own()?;
        Ok(new)
    }

    /// Takes away a directory that was made for a session and has none, unless somebody is at it.
    pub(super) fn clear_away(&self) {
        let path = self.lock_file();
        let Ok(Taken::Ours(_lock)) = Lock::take(&path, &Holder::current("run", None)) else { return };
        if matches!(self.exists(), Ok(false)) {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&self.path);
        }
    }

    /// Takes away what a mount has left of its ephemeral directories.
    pub(super) fn clear_scratch(&self) -> Result<(), SessionError> {
        match fs::remove_dir_all(self.scratch()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.scratch(), "removed")(error)),
            _ => Ok(()),
        }
    }

    /// An open descriptor of the directory, for socket addresses and renames.
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl SessionDir {
    /// Makes the directory, and sees to it that one already there is the caller's own: what is written into another's,
    /// or through a link, goes where that other one wants it.
    fn make_own(&self) -> Result<(), SessionError> {
        make(&self.path, false)?;
        let meta = fs::symlink_metadata(&self.path).map_err(failed(&self.path, "read"))?;
        if meta.is_symlink() {
            return Err(unusable(
                &self.path,
                io::Error::other("a session is a directory, and this is a symbolic link"),
            ));
        }
        if !meta.is_dir() {
            return Err(unusable(&self.path, io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        // SAFETY: geteuid cannot fail and touches no memory.
        let uid = unsafe { libc::geteuid() };
        // The superuser may look after the store of somebody, whose sessions are that one's own.
        let of_store = || self.path.parent().and_then(|store| fs::metadata(store).ok()).map(|store| store.uid());
        if meta.uid() != uid && !(uid == 0 && of_store() == Some(meta.uid())) {
            let text = format!("it belongs to user {}, and this is user {uid}", meta.uid());
            return Err(unusable(&self.path, io::Error::other(text)));
        }
        // One made by hand (`mkdir`, a volume) is often 0755: what is in it is nobody else's to see. One that is not
        // ours to change still works, since everything in it is made private anyway.
        if meta.permissions().mode() & 0o077 != 0 {
            let _ = fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700));
        }
        Ok(())
    }
}

/// Makes a directory that only its owner may enter, if there is nothing yet.
pub(super) fn make(path: &Path, parents: bool) -> Result<(), SessionError> {
    match DirBuilder::new().mode(0o700).recursive(parents).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed(path, "created")),
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> SessionError {
    let path = path.to_owned();
    move |source| SessionError::Store { path, what, source }
}

fn unusable(path: &Path, why: io::Error) -> SessionError {
    failed(path, "used")(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_store_follows_the_environment() {
        let of = |uid, pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, PathBuf)> = pairs.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
            StoreDir::default_for(uid, &move |name| {
                pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
            })
            .map(|store| store.path)
        };
        assert_eq!(of(0, &[("HOME", "/root")]).unwrap(), Path::new("/var/lib/sessionfs"));
        assert_eq!(of(7, &[("HOME", "/h")]).unwrap(), Path::new("/h/.local/share/sessionfs"));
        assert_eq!(of(7, &[("HOME", "/h"), ("XDG_DATA_HOME", "/d")]).unwrap(), Path::new("/d/sessionfs"));
        assert_eq!(of(7, &[("HOME", "/h"), ("XDG_DATA_HOME", "rel")]).unwrap(), Path::new("/h/.local/share/sessionfs"));
        assert!(matches!(of(7, &[]), Err(SessionError::NoStore)));
    }

    #[test]
    fn a_session_directory_is_ones_own_and_no_link() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let store = StoreDir::at(&at("store")).unwrap();
        fs::create_dir(at("real")).unwrap();
        // The store itself may be a link.
        std::os::unix::fs::symlink("real", at("store")).unwrap();
        store.create().unwrap();
        let session = |name: &str| store.session(&name.parse().unwrap());
        assert!(session("plain").create().unwrap());
        assert!(!session("plain").create().unwrap());
        fs::create_dir(at("elsewhere")).unwrap();
        fs::set_permissions(at("elsewhere"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("real/link")).unwrap();
        let error = session("link").create().unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert_eq!(fs::metadata(at("elsewhere")).unwrap().permissions().mode() & 0o777, 0o755);
        fs::create_dir(at("real/theirs")).unwrap();
        match std::os::unix::fs::chown(at("real/theirs"), Some(12_345), None) {
            Ok(()) => {
                let error = session("theirs").create().unwrap_err().to_string();
                assert!(error.contains("belongs to user 12345"), "{error}");
                // Root looks after somebody's store.
                std::os::unix::fs::chown(at("real"), Some(12_345), None).unwrap();
                session("theirs").create().unwrap();
            }
            Err(error) => eprintln!("SKIPPED in part: only root can give a directory away ({error})"),
        }
    }

    #[test]
    fn half_made_and_set_aside_directories_are_no_sessions() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        for name in ["whole", "half", ".removed-whole-1", "lost+found"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        fs::write(temp.path().join("whole/session.db"), b"").unwrap();
        fs::write(temp.path().join(".removed-whole-1/session.db"), b"").unwrap();
        let names: Vec<_> = store.sessions().unwrap().iter().map(|dir| dir.id().to_string()).collect();
        assert_eq!(names, ["whole"]);
        let missing = store.existing(&"half".parse().unwrap()).unwrap_err();
        assert!(missing.to_string().contains("no session half"), "{missing}");
    }
}
