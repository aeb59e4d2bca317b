//! Steps of a session's set-up that are done once: what they depend on, and the mark that one leaves in the session.
//!
//! The mark is an xattr of the root directory, `user.sessionfs.setup.<hash of the step>`. So it is part of the session's
//! state: it comes back with the files that the step made, moves to another host with them, and a reset, or a state from
//! before the step, is without it. It is set after the step, so whatever is lost in a crash, the mark goes first.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tree::host_sys::{set_xattr, xattrs_of};
use crate::format::Fingerprint;

const PREFIX: &str = "user.sessionfs.setup.";
/// Bytes of a key file read at a time.
const CHUNK: usize = 1 << 20;

/// The mark of a step that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// What it is called.
    pub step: String,
    /// What it depended on.
    pub key: String,
    /// How long it took.
    pub millis: u64,
}

impl StepDone {
    /// The mark of a step in the session that is mounted at `root`, if there is one.
    pub fn read(root: &Path, step: &str) -> io::Result<Option<StepDone>> {
        let name = xattr_of(step);
        let mark = xattrs_of(root)?.into_iter().find(|(this, _)| this == name.as_bytes());
        // What is no mark of ours was not done by us.
        Ok(mark.and_then(|(_, value)| serde_json::from_slice::<StepDone>(&value).ok()).filter(|mark| mark.step == step))
    }

    /// Leaves the mark in the session that is mounted at `root`.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        set_xattr(&File::open(root)?, &CString::new(xattr_of(&self.step))?, &serde_json::to_vec(self)?)
    }
}

fn xattr_of(step: &str) -> String {
    let mut name = Fingerprint::default();
    name.add(step.as_bytes());
    format!("{PREFIX}{}", name.text())
}

/// What a step depends on: its command, and the names and the content of files.
pub fn key_of<T: AsRef<OsStr>>(root: &Path, argv: &[T], files: &[T]) -> io::Result<String> {
    let mut key = Fingerprint::default();
    for arg in argv {
        key.part(arg.as_ref().as_bytes());
    }
    for file in files {
        let path = root.join(file.as_ref());
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        key.part(file.as_ref().as_bytes());
        let length = fs::metadata(&path).map_err(named)?.len();
        key.add(&length.to_le_bytes());
        let mut content = File::open(&path).map_err(named)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match content.read(&mut chunk).map_err(named)? {
                0 => break,
                read => key.add(&chunk[..read]),
            }
        }
    }
    Ok(key.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_the_command_and_of_the_content_of_its_files() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("lock"), "a").unwrap();
        fs::write(temp.path().join("kcol"), "a").unwrap();
        let key = |argv: &[&str], files: &[&str]| key_of(temp.path(), argv, files).unwrap();
        let first = key(&["npm", "ci"], &["lock"]);
        assert_eq!(first, key(&["npm", "ci"], &["lock"]));
        assert_ne!(first, key(&["npmci"], &["lock"]));
        assert_ne!(first, key(&["npm", "ci"], &["kcol"]));
        assert_ne!(first, key(&["npm", "ci"], &["lock", "lock"]));
        fs::write(temp.path().join("lock"), "b").unwrap();
        assert_ne!(first, key(&["npm", "ci"], &["lock"]));
        let error = key_of(temp.path(), &["x"], &["none"]).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
