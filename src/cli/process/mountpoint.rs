//! Whether a session can be mounted at a directory, and making one where that is wanted.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mounts;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

/// What to do about a mount point that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Refuse: someone named it, and may have mistyped it.
    Refuse,
    /// Make it.
    Make,
    /// Make it, where that is not allowed on a private tmpfs: this mount namespace is ours alone.
    MakeInNamespace,
}

/// The canonical path of a mount point that can be used, or why it cannot.
pub fn prepare(path: &Path, missing: Missing) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let unusable = |error: &io::Error| Failure::new(Exit::MountpointUnusable, format!("mount point {shown}: {error}"));
    while let Some(mount) = mounts::at(&mounts::canonical(path)) {
        // One of ours whose server was killed serves nobody: who mounts here again has not to clear it away first.
        if !mount.is_ours() || !mounts::is_dead(&mount.path) {
            return Err(taken(path, &mount));
        }
        mounts::detach(&mount.path).map_err(|_| taken(path, &mount))?;
    }
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, missing)?,
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Err(not_a_directory(path)),
        Err(error) => return Err(unusable(&error)),
        Ok(meta) if !meta.is_dir() => return Err(not_a_directory(path)),
        Ok(_) => {}
    }
    let path = path.canonicalize().map_err(|error| unusable(&error))?;
    match fs::read_dir(&path).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(path),
        Ok(true) => Err(Failure::new(
            Exit::MountpointNotEmpty,
            format!("mount point {shown} is not empty: what is in it would be out of sight"),
        )
        .hint(format!("ls -A {shown}   # or another directory"))),
        Err(error) => Err(unusable(&error)),
    }
}

/// How long a mount waits for another that is just being made at the same directory.
const TURN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Whose turn it is to mount at a directory, until this is dropped; refuses when something has been mounted there since
/// [`prepare`] looked. Two that look at the same instant both find nothing, and the one would cover the other.
pub fn turn(path: &Path) -> Result<File, Failure> {
    let unusable =
        |error: io::Error| Failure::new(Exit::MountpointUnusable, format!("mount point {}: {error}", path.display()));
    let until = Instant::now() + TURN;
    let directory = File::open(path).map_err(unusable)?;
    // Given back by the kernel whatever becomes of us. Who cannot lock here, or meets a stranger that holds the lock for
    // ever, mounts all the same: the look below is nearly as good.
    while matches!(directory.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < until {
        std::thread::sleep(PAUSE);
    }
    match mounts::at(path) {
        Some(mount) => Err(taken(path, &mount)),
        None => Ok(directory),
    }
}

fn not_a_directory(path: &Path) -> Failure {
    let shown = path.display();
    Failure::new(Exit::MountpointUnusable, format!("mount point {shown} is not a directory"))
        .hint(format!("ls -ld {shown}"))
}

fn taken(path: &Path, mount: &mounts::Mount) -> Failure {
    let shown = path.display();
    if mounts::is_dead(&mount.path) {
        return Failure::new(Exit::MountpointTaken, format!("{shown} is a mount whose server has died"))
            .hint(format!("sessionfs umount {shown}"));
    }
    let failure = Failure::new(
        Exit::MountpointTaken,
        format!("{shown} is a mount point already: {} ({}) is mounted there", mount.source, mount.kind),
    );
    if mount.is_ours() { failure.hint(format!("sessionfs umount {shown}   # or another directory")) } else { failure }
}

fn make(path: &Path, missing: Missing) -> Result<(), Failure> {
    let shown = path.display();
    if missing == Missing::Refuse {
        return Err(Failure::new(Exit::MountpointUnusable, format!("mount point {shown} does not exist"))
            .hint(format!("mkdir -p {shown}")));
    }
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    match made {
        Err(error) if missing == Missing::MakeInNamespace && is_refusal(&error) => make_in_namespace(path, &error),
        other => other.map_err(|error| cannot_make(path, &error)),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

fn cannot_make(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    Failure::new(Exit::MountpointUnusable, format!("mount point {shown} cannot be made: {error}"))
        .hint("mkdir ~/workspace && sessionfs run --mount ~/workspace ...")
}

/// Who may not make the directory can still have it in a namespace of their own: on a tmpfs over its nearest parent,
/// if that is empty, so that nothing gets out of sight.
fn make_in_namespace(path: &Path, refused: &io::Error) -> Result<(), Failure> {
    let failed = || cannot_make(path, refused);
    let absolute = std::path::absolute(path).map_err(|_| failed())?;
    let parent = absolute.ancestors().skip(1).find(|parent| parent.is_dir()).ok_or_else(failed)?;
    let empty = fs::read_dir(parent).is_ok_and(|mut entries| entries.next().is_none());
    // The root directory is never empty, and never ours to cover.
    if !empty || mounts::at(parent).is_some_and(|mount| mount.is_ours()) {
        return Err(failed());
    }
    let target = CString::new(parent.as_os_str().as_bytes()).map_err(|_| failed())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all strings end in NUL and outlive the call.
    let mounted = unsafe {
        libc::mount(
            c"sessionfs".as_ptr(),
            target.as_ptr(),
            c"tmpfs".as_ptr(),
            flags,
            c"size=64k,mode=0755".as_ptr().cast(),
        )
    };
    if mounted != 0 {
        return Err(failed());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(&absolute).map_err(|error| cannot_make(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_mount_point_says_why() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("file"), b"").unwrap();
        fs::create_dir_all(at("full/x")).unwrap();
        for (path, exit) in [
            (at("none"), Exit::MountpointUnusable),
            (at("file"), Exit::MountpointUnusable),
            (at("file/below"), Exit::MountpointUnusable),
            (at("full"), Exit::MountpointNotEmpty),
            (PathBuf::from("/proc"), Exit::MountpointTaken),
        ] {
            assert_eq!(prepare(&path, Missing::Refuse).unwrap_err().exit, exit, "{}", path.display());
        }
        assert_eq!(prepare(&at("full/x"), Missing::Refuse).unwrap(), at("full/x").canonicalize().unwrap());
        assert!(prepare(&at("a/b"), Missing::Make).unwrap().is_dir());
    }
}
