//! What happened to a disk, in order: everything a power cut could undo, and what the workload was told meanwhile.

use std::sync::Arc;

/// A file, whatever it is called.
pub type FileId = usize;

#[derive(Clone, Debug)]
pub enum Event {
    /// There, and durable, when the tape began.
    Present {
        file: FileId,
        name: String,
        bytes: Arc<[u8]>,
    },
    /// A new, empty file.
    Create {
        file: FileId,
        name: String,
    },
    Write {
        file: FileId,
        at: u64,
        bytes: Arc<[u8]>,
    },
    /// Cut, or made longer with zeros.
    Resize {
        file: FileId,
        size: u64,
    },
    Sync(FileId),
    /// A sync that reported an error: the kernel forgets what it could not write, so no later one covers it.
    SyncFailed(FileId),
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncDirectory,
    Mark(Mark),
}

/// What the workload did or was told. Operations are counted from 1; state 0 is an empty session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The session was created.
    Created,
    /// This operation was asked for.
    Began(usize),
    /// Everything up to this operation was said to survive a power cut.
    Durable(usize),
}

impl Event {
    /// Whether a power cut just before it and one just behind it can leave different disks although nothing is lost.
    pub fn is_boundary(&self) -> bool {
        matches!(self, Event::Sync(_) | Event::SyncDirectory | Event::SyncFailed(_))
    }
}
