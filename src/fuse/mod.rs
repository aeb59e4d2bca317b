//! The kernel adapter: converts a FUSE request, calls [`Fs`], converts the answer. It decides nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::Fs;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Let other users in (`allow_other`).
    pub allow_other: bool,
    /// The source shown in `/proc/mounts`.
    pub fsname: String,
}

/// A mount being served by threads of this process.
#[derive(Debug)]
pub struct Mounted {}

#[allow(unused_variables)]
impl Mounted {
    /// Mounts and starts serving; returns once the kernel has accepted the mount.
    pub fn start(fs: Arc<Fs>, mountpoint: &Path, options: &MountOptions) -> io::Result<Mounted> {
        unimplemented!()
    }

    /// Where.
    pub fn mountpoint(&self) -> PathBuf {
        unimplemented!()
    }

    /// Blocks until the mount is gone, whoever unmounted it, and every serving thread has ended.
    pub fn wait(&self) {
        unimplemented!()
    }

    /// Takes the mount away: `lazy` also while files on it are open (they get ENOTCONN), otherwise EBUSY.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        unimplemented!()
    }
}
