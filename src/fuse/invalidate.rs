//! Telling the kernel what changed without its doing: an import through the control socket, a restore.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock, Weak};

use fuser::{INodeNo, Notifier};
use log::debug;

use crate::base::{Cookie, FileKind, Ino};
use crate::fs::Fs;

/// Makes the kernel forget names, attributes and pages, which otherwise it keeps for ever.
///
/// Only for threads that no request of the kernel waits for: the kernel answers an invalidation only once the requests
/// that hold the directory or the page are answered. It does nothing once the mount is gone, and keeps nothing alive.
#[derive(Clone, Debug)]
pub struct Invalidator {
    pub(super) notifier: Weak<Notifier>,
    pub(super) fs: Arc<Fs>,
}

/// Tells the kernel of modes that changed by requests whose answers do not show it. For the threads that answer: unlike
/// what an [`Invalidator`] does, this waits for nothing, since only attributes are to be forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Modes(Arc<OnceLock<Weak<Notifier>>>);

impl Modes {
    /// From here on, by this connection.
    pub fn connect(&self, notifier: &Arc<Notifier>) {
        let _ = self.0.set(Arc::downgrade(notifier));
    }

    /// Before the answer goes, so that whoever gets it sees the new mode.
    pub fn tell(&self, fs: &Fs) {
        for ino in fs.take_unseen_modes() {
            let Some(notifier) = self.0.get().and_then(Weak::upgrade) else { return };
            // A negative offset: no pages.
            if let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0) {
                debug!("inode {ino}: {error}");
            }
        }
    }
}

impl Invalidator {
    /// A name was made, replaced or removed. Also takes away the kernel's memory that there was no such name.
    pub fn entry(&self, parent: Ino, name: &[u8]) {
        self.tell(|notifier| notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name)));
        // When the kernel knew nothing of the name, it did not touch its copy of the directory.
        self.inode(parent);
    }

    /// An inode's attributes, ACLs or content changed; of a directory also its list of names.
    pub fn inode(&self, ino: Ino) {
        self.tell(|notifier| notifier.inval_inode(INodeNo(ino.0), 0, 0));
    }

    /// Everything below a directory may have changed. What the kernel knows of names that are not there is dropped with
    /// the directories that hold them, for all but `top` itself: name those with [`Invalidator::entry`].
    pub fn tree(&self, top: Ino) {
        let mut waiting = vec![top];
        while let Some(directory) = waiting.pop() {
            self.inode(directory);
            for (name, ino, kind) in self.names(directory) {
                if kind == FileKind::Directory {
                    waiting.push(ino);
                } else {
                    self.inode(ino);
                }
                self.entry(directory, &name);
            }
        }
    }

    fn names(&self, directory: Ino) -> Vec<(Box<[u8]>, Ino, FileKind)> {
        let mut names = Vec::new();
        let listed = self.fs.readdir(directory, Cookie(0), false, &mut |entry| {
            if !matches!(entry.name, b"." | b"..") {
                names.push((entry.name.into(), entry.ino, entry.kind));
            }
            true
        });
        if let Err(error) = listed {
            debug!("directory {directory} cannot be invalidated by name: {error}");
        }
        names
    }

    fn tell(&self, what: impl FnOnce(&Notifier) -> io::Result<()>) {
        let Some(notifier) = self.notifier.upgrade() else { return };
        if let Err(error) = what(&notifier) {
            debug!("invalidation: {error}");
        }
    }
}
