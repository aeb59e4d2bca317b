//! What we agree on with the kernel: the options of the connection, and the readahead of the mount.

use std::fs;
use std::path::Path;

use fuser::{InitFlags, KernelConfig};
use log::debug;

use crate::base::limits::MAX_WRITE;

/// Readahead in KiB. The kernel's own default of 128 asks for a cold file in eight times as many requests.
const READ_AHEAD_KB: u32 = 1024;

/// What we ask for. Each was measured or counted (`docs/decisions.md`); what is left out is left out on purpose:
/// WRITEBACK_CACHE breaks the exact cap and the promise about kills, ATOMIC_O_TRUNC needs opens, locks are the kernel's,
/// AUTO_INVAL_DATA is for files that change behind the kernel's back.
const WANTED: [InitFlags; 8] = [
    // Names and attributes of a directory in one request.
    InitFlags::FUSE_DO_READDIRPLUS,
    // Lookups and readdirs of one directory side by side.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // The target of a symbolic link never changes.
    InitFlags::FUSE_CACHE_SYMLINKS,
    // A size that changed without the kernel's doing does not throw a file's pages away.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    // Default ACLs overrule the umask, so it is not applied before we have seen it.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_POSIX_ACL,
    // Set-id bits and capabilities are cleared by us: without it, each write first asks for `security.capability`.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // File handles (open_by_handle_at, NFS) of inodes that the kernel has dropped: it looks up `.` and `..` by number.
    InitFlags::FUSE_EXPORT_SUPPORT,
];

/// The oldest kernel that all of this was written for.
pub const KERNEL_MIN: (u32, u32) = (5, 9);

/// What the handshake came to.
#[derive(Clone, Debug)]
pub(super) struct Agreed {
    /// Whether requests come by io_uring.
    pub ring: bool,
    /// The version of the protocol.
    pub version: String,
    /// What the kernel does not have of what we ask for.
    pub lacks: Vec<String>,
}

/// Agrees with the kernel; io_uring is asked for where `ring` is set.
pub(super) fn negotiate(config: &mut KernelConfig, ring: bool) -> Agreed {
    let mut lacks = Vec::new();
    for flag in WANTED {
        if config.add_capabilities(flag).is_err() {
            debug!("the kernel has no {flag:?}");
            lacks.extend(flag.iter_names().map(|(name, _)| name.to_owned()));
        }
    }
    let ring = ring && config.add_capabilities(InitFlags::FUSE_OVER_IO_URING).is_ok();
    if ring {
        // Who sets an ACL may lose the set-gid bit. Not by /dev/fuse: fuser panics at the longer request. Every kernel that
        // has the ring has it.
        let _ = config.add_capabilities(InitFlags::FUSE_SETXATTR_EXT);
    }
    let write = config.set_max_write(MAX_WRITE);
    let ahead = match config.set_max_readahead(READ_AHEAD_KB << 10) {
        Err(most) => config.set_max_readahead(most).map(|_| most),
        Ok(_) => Ok(READ_AHEAD_KB << 10),
    };
    debug!(
        "FUSE {}: kernel offers {:?}, max_write {MAX_WRITE} ({write:?} before), max_readahead {ahead:?}",
        config.kernel_abi(),
        config.capabilities(),
    );
    Agreed { ring, version: config.kernel_abi().to_string(), lacks }
}

/// Raises the readahead of the mount with this device number. Only root may, and everything works without.
pub(super) fn set_read_ahead(device: libc::dev_t) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", libc::major(device), libc::minor(device));
    match fs::write(Path::new(&path), READ_AHEAD_KB.to_string()) {
        Ok(()) => debug!("{path}: {READ_AHEAD_KB}"),
        Err(error) => debug!("{path} stays as it is: {error}"),
    }
}
