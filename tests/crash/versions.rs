//! A session whose runtime version changes, and that is removed in the end, killed anywhere on the way.

use std::path::Path;

use sessionfs::base::{Errno, Ino, SessionId};
use sessionfs::fs::Caller;
use sessionfs::session::{Holder, How, OpenOptions, Policy, Session, SessionError, StoreDir};

use crate::child::Report;
use crate::verify::{self, Outcome};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
/// What a stage leaves in the session.
const FILES: [&[u8]; 3] = [b"of-version-1", b"of-version-2", b"of-version-3"];

fn store(dir: &Path) -> StoreDir {
    StoreDir::at(&dir.join("store")).unwrap()
}

fn id() -> SessionId {
    "a-session".parse().unwrap()
}

fn kept() -> SessionId {
    "a-session.before-2".parse().unwrap()
}

fn open(dir: &Path, id: &SessionId, version: Option<(&str, Policy)>) -> Result<Session, SessionError> {
    let mut locked = store(dir).lock(id, false, &Holder::current("crash", None))?;
    if let Some((version, policy)) = version {
        locked.state_version(version, policy)?;
    }
    locked.open(&OpenOptions::default())
}

/// The job: version 1, then 2 with a checkpoint, then 3 with a reset, then it is removed. Each stage leaves a file.
pub fn work(dir: &Path, report: &mut Report) {
    let versions = [("1", Policy::Keep), ("2", Policy::Checkpoint), ("3", Policy::Reset)];
    for (version, name) in versions.into_iter().zip(FILES) {
        let session = open(dir, &id(), Some(version)).unwrap();
        session.fs().mknod(&CALLER, Ino::ROOT, name, libc::S_IFREG | 0o600, 0).unwrap();
        session.stop().unwrap();
        report.say("done ok 0 0");
    }
    store(dir).remove(&id(), "crash").unwrap();
}

/// What must be true after a kill: every version's file is in exactly one place, or in none once it was to go.
pub fn verify(dir: &Path, done: usize) -> Outcome {
    let session = open(dir, &id(), None).map_err(|error| format!("after {done} stages: {error}"))?;
    let has = |session: &Session, file: usize| match session.fs().lookup(Ino::ROOT, FILES[file]) {
        Ok(_) => true,
        Err(errno) => {
            assert_eq!(errno, Errno::NoEnt);
            false
        }
    };
    let here = [0, 1, 2].map(|file| has(&session, file));
    let removed = session.resume().how == How::Created;
    let stopped = session.stop().map_err(|error| error.to_string())?;
    let entry = store(dir).entry(&id()).map_err(|error| error.to_string())?;
    if entry.switching.is_some() || entry.witness.map(|seen| seen.receipt) != Some(stopped.receipt) {
        return Err("the registry does not know what it is".to_owned());
    }
    verify::check(store(dir).session(&id()).path())?;
    let mut split_off = false;
    if store(dir).session(&kept()).exists().unwrap() {
        if store(dir).entry(&kept()).unwrap().witness.is_none() {
            return Err("what was kept is not in the registry".to_owned());
        }
        let session = open(dir, &kept(), None).map_err(|error| error.to_string())?;
        split_off = has(&session, 0);
        session.stop().map_err(|error| error.to_string())?;
        verify::check(store(dir).session(&kept()).path())?;
    }
    let right = match done {
        0 => !split_off,
        1 => split_off != here[0],
        // The second version's may be gone: it is to be reset.
        2 => split_off && !here[0] && !(here[1] && here[2]),
        _ => split_off && (removed || here == [false, false, true]),
    };
    let events = store(dir).events(&id()).map_err(|error| error.to_string())?;
    let changes = events.iter().filter(|event| matches!(event.what, sessionfs::session::What::VersionChanged { .. }));
    if !right || (changes.count() < done) || (removed && done == 1 && !split_off) {
        return Err(format!("after {done} stages: {here:?}, split off: {split_off}, new: {removed}"));
    }
    Ok(())
}
