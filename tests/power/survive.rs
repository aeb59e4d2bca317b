//! What has to hold of a disk after a power cut, whatever it left.

use std::sync::Arc;

use sessionfs::base::Ino;
use sessionfs::fs::WriteFlags;
use sessionfs::store::Omit;

use crate::cut::Image;
use crate::disk::RecordingDisk;
use crate::life::{Place, directory};
use crate::perform::ROOT_USER;
use crate::snapshot::Snapshot;

/// The states a recovery may come to.
pub struct Right<'a> {
    /// From the least to the greatest.
    pub states: Vec<&'a Snapshot>,
    /// All there ever were, to say what is wrong.
    pub passed: &'a [Snapshot],
}

impl Right<'_> {
    /// The state this is; the last one, if several are like it.
    fn find(&self, found: &Snapshot) -> Result<usize, String> {
        if let Some(at) = self.states.iter().rposition(|state| state.is_like(found)) {
            return Ok(at);
        }
        if let Some(k) = self.passed.iter().rposition(|state| state.is_like(found)) {
            return Err(format!("lost: the state is that after operation {k} of {}", self.passed.len() - 1));
        }
        let last = self.states[self.states.len() - 1];
        Err(format!("a mixture: no state there ever was; the last one has {}", last.difference(found).unwrap()))
    }
}

/// A disk after a power cut, in a directory of its own.
pub struct Wreck {
    _dir: tempfile::TempDir,
    pub place: Place,
    pub disk: Arc<RecordingDisk>,
}

impl Wreck {
    pub fn of(image: &Image, quiet: bool) -> Wreck {
        let dir = directory();
        image.write(dir.path());
        let disk = RecordingDisk::over(dir.path(), quiet);
        Wreck { place: Place::at(dir.path()), disk, _dir: dir }
    }

    /// Recovers it, and finds out which of the states it is.
    pub fn recover(&self, right: &Right<'_>, omit: Omit) -> Result<usize, String> {
        let fs = self.place.start(&self.disk, omit).map_err(|error| format!("recovery: {error}"))?;
        let found = Snapshot::of_fs(&fs).map_err(|errno| format!("unreadable: {errno:?}"));
        let state = found.and_then(|found| right.find(&found));
        fs.abandon();
        state
    }

    /// The session goes on: it is written to, stopped, checked and started again.
    pub fn goes_on(&self) -> Result<(), String> {
        let said = |what: &'static str| move |error| format!("{what} after the recovery: {error:?}");
        let fs =
            self.place.start(&self.disk, Omit::default()).map_err(|error| format!("a second recovery: {error}"))?;
        let made = fs.mknod(&ROOT_USER, Ino::ROOT, b"afterwards", libc::S_IFREG | 0o644, 0).map_err(said("mknod"))?;
        fs.write(made.ino, 12_345, b"goes on", WriteFlags::default()).map_err(said("write"))?;
        fs.forget(made.ino, 1);
        fs.fsync().map_err(said("fsync"))?;
        let before = Snapshot::of_fs(&fs).map_err(said("reading"))?;
        fs.stop().map_err(|error| format!("stop after the recovery: {error}"))?;
        self.place.check(&self.disk)?;
        let fs = self.place.start(&self.disk, Omit::default()).map_err(|error| format!("the next start: {error}"))?;
        let after = Snapshot::of_fs(&fs).map_err(said("reading again"))?;
        fs.abandon();
        match before.difference(&after) {
            None => Ok(()),
            Some(difference) => Err(format!("the next life differs: {difference}")),
        }
    }
}
