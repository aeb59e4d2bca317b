//! What is looked at before anything is started, and what a failed mount means to a person.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::failure::Failure;
use crate::base::SessionId;
use crate::cli::access::is_leaving;
use crate::cli::exit::Exit;
use crate::cli::fixes;
use crate::cli::output::Context;
use crate::fuse::MountError;
use crate::session::SessionError;

/// How long a mount waits for a session whose last user is about to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Finds what would fail anyway, before a namespace, a directory or a process is made for it.
pub fn check(context: &Context, id: &SessionId, existing: bool) -> Result<(), Failure> {
    if existing {
        context.store.existing(id)?;
    }
    let until = Instant::now() + PATIENCE;
    while let Some(holder) = context.store.holder(id)? {
        if Instant::now() > until || !is_leaving(context, id, &holder) {
            return Err(SessionError::InUse { id: id.clone(), holder: Box::new(holder) }.into());
        }
        std::thread::sleep(PAUSE);
    }
    device()
}

/// Whether `/dev/fuse` can be opened. It is closed again: a connection begins only with the mount.
pub fn device() -> Result<(), Failure> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse").map(drop).map_err(|error| no_fuse(&error))
}

fn no_fuse(error: &io::Error) -> Failure {
    let errno = error.raw_os_error();
    Failure::new(Exit::NoFuse, fixes::no_device(error)).hint(fixes::device(errno).hint())
}

/// A mount that failed.
pub fn mount_failure(mountpoint: &Path, error: &io::Error) -> Failure {
    let at = mountpoint.display();
    let not_permitted = |text: String| Failure::new(Exit::MountNotPermitted, text).hint(fixes::helper().hint());
    match error.get_ref().and_then(|inner| inner.downcast_ref::<MountError>()) {
        Some(MountError::NoDevice) => no_fuse(&io::Error::from_raw_os_error(libc::ENOENT)),
        Some(MountError::Device(error)) => no_fuse(error),
        Some(MountError::Mountpoint(..)) => Failure::new(Exit::MountpointUnusable, error.to_string()),
        Some(MountError::Mount(_, cause)) if matches!(cause.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            not_permitted(format!("mounting at {at} is not permitted: {cause}"))
        }
        Some(MountError::Uring(_)) => {
            Failure::new(Exit::MountNotPermitted, error.to_string()).hint("sessionfs mount --transport auto …")
        }
        Some(MountError::Helper(text)) if text.contains("allow_other") => {
            Failure::new(Exit::MountNotPermitted, text.clone()).hint(fixes::allow_other().hint())
        }
        Some(MountError::Helper(text)) => not_permitted(format!("mounting at {at}: {text}")),
        _ if error.raw_os_error() == Some(libc::EPERM) => not_permitted(format!("mounting at {at}: {error}")),
        _ => Failure::new(Exit::Failure, format!("mounting at {at}: {error}")),
    }
}
