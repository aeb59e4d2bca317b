//! A log of what happens to a session, a line of JSON each, in `<store>/.registry/<session>/`.
//!
//! It outlives the session. Nothing depends on it: what cannot be written is a warning. It is bounded: when it is long, a
//! new one begins, and the one before is kept, so that it is never empty. It is not synced either, so a power cut may take
//! the last lines.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::SessionError;
use super::layout::StoreDir;
use crate::base::{SessionId, open_ordinary, read_ordinary};

/// Bytes of a log that are read: far more than any is long, when nobody but us has written to it.
const READ_MAX: u64 = 64 << 20;

/// One kind of log.
pub(super) struct Lines {
    /// The file.
    pub name: &'static str,
    /// The one before.
    pub before: &'static str,
    /// Bytes after which a new one begins.
    pub max: u64,
}

impl Lines {
    /// Adds a line. One write to a file opened for appending, so lines of two processes do not mix.
    pub fn append(&self, store: &StoreDir, id: &SessionId, value: &impl Serialize) -> Result<(), SessionError> {
        let dir = store.make_registry_of(id)?;
        let path = dir.join(self.name);
        let append = || {
            self.begin_anew(&dir)?;
            let mut line = serde_json::to_vec(value)?;
            line.push(b'\n');
            let mut file = open_ordinary(File::options().append(true).create(true).mode(0o600), &path)?;
            file.write_all(&line)?;
            store.give_to_owner(&path)
        };
        append().map_err(|source| SessionError::Store { path: path.clone(), what: "written", source })
    }

    /// Everything there is, the oldest first. Lines that cannot be read, as a power cut leaves them, are passed over.
    pub fn read<T: DeserializeOwned>(&self, store: &StoreDir, id: &SessionId) -> Result<Vec<T>, SessionError> {
        let mut all = Vec::new();
        let dir = store.look_at_registry_of(id)?;
        for name in [self.before, self.name] {
            let path = dir.join(name);
            let text = match read_ordinary(&path, READ_MAX) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|source| SessionError::Store { path: path.clone(), what: "read", source })?,
            };
            for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line) {
                    Ok(value) => all.push(value),
                    Err(error) => log::warn!("{}: a line is not understood: {error}", path.display()),
                }
            }
        }
        Ok(all)
    }

    /// When something was last written down, in seconds since 1970; of no log: long ago.
    pub fn newest(&self, store: &StoreDir, id: &SessionId) -> Result<i64, SessionError> {
        let mut newest = 0;
        for name in [self.before, self.name] {
            let path = store.registry_of(id).join(name);
            match fs::metadata(&path) {
                Ok(meta) => newest = newest.max(meta.mtime()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(SessionError::Store { path, what: "read", source }),
            }
        }
        Ok(newest)
    }

    /// Takes the log away.
    pub fn forget(&self, store: &StoreDir, id: &SessionId) -> Result<(), SessionError> {
        for name in [self.before, self.name] {
            let path = store.registry_of(id).join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(SessionError::Store { path, what: "written", source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps the log bounded. Two who come here at once could each set aside a log; the second finds a short one, or none.
    fn begin_anew(&self, dir: &Path) -> io::Result<()> {
        let path = dir.join(self.name);
        let is_long = || fs::metadata(&path).is_ok_and(|meta| meta.len() > self.max);
        if !is_long() {
            return Ok(());
        }
        let turn = File::open(dir)?;
        turn.lock()?;
        if is_long() {
            fs::rename(&path, dir.join(self.before))?;
        }
        Ok(())
    }
}

/// To the millisecond: nobody reads more.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
