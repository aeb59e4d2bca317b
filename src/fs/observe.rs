//! What is changed between two moments: for the log of commands.

use super::Core;
use crate::base::{Ino, Set};
use crate::format::Change;

/// What has been changed since an observation began.
#[derive(Debug)]
pub(super) struct Observation {
    id: u64,
    files: Set<Ino>,
    /// The one that was seen last: most changes are of the same file as the one before.
    last: Option<Ino>,
    bytes: u64,
}

impl Observation {
    /// Every change of a file comes with its row, if only for the time of it.
    pub fn see(&mut self, change: &Change<'_>) {
        match change {
            Change::Inode(row) if row.mode & libc::S_IFMT != libc::S_IFDIR && self.last != Some(row.ino) => {
                self.files.insert(row.ino);
                self.last = Some(row.ino);
            }
            Change::Fill { bytes, .. } => self.bytes += bytes.len() as u64,
            _ => {}
        }
    }
}

impl Core {
    /// Begins to count what is changed, by whomever; returns what the observation is called.
    pub fn observe(&self) -> u64 {
        let mut state = self.state.lock();
        let id = state.observations.iter().map(|one| one.id).max().unwrap_or(0) + 1;
        state.observations.push(Observation { id, files: Set::default(), last: None, bytes: 0 });
        id
    }

    /// Ends an observation: how many files (of any kind but directories) were made, removed or changed since, each
    /// counted once, and how many bytes were written. `None` when there is none of this name.
    pub fn observed(&self, id: u64) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let at = state.observations.iter().position(|one| one.id == id)?;
        let one = state.observations.swap_remove(at);
        Some((one.files.len() as u64, one.bytes))
    }
}
