//! What is looked at before anything is started, and what a failed mount means to a person.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::failure::Failure;
use crate::base::SessionId;
use crate::cli::access::is_leaving;
use crate::cli::exit::Exit;
use crate::cli::output::Context;
use crate::fuse::MountError;
use crate::session::SessionError;

/// How long a mount waits for a session whose last user is about to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

const DOCKER: &str = "docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined ...";

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
    // Opened and closed again: a connection begins only with the mount.
    OpenOptions::new().read(true).write(true).open("/dev/fuse").map(drop).map_err(|error| no_fuse(&error))
}

fn no_fuse(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            Failure::new(Exit::NoFuse, "there is no /dev/fuse: the kernel has no FUSE, or this container hides it")
                .hint(format!("modprobe fuse   # in a container: {DOCKER}"))
        }
        Some(libc::ENODEV | libc::ENXIO) => {
            Failure::new(Exit::NoFuse, format!("/dev/fuse: {error}: the kernel has no FUSE")).hint("modprobe fuse")
        }
        Some(libc::EPERM) => {
            // The device cgroup of a container says EPERM, the mode of the file EACCES.
            Failure::new(Exit::NoFuse, format!("/dev/fuse may not be opened: {error}")).hint(DOCKER)
        }
        _ => Failure::new(Exit::NoFuse, format!("/dev/fuse may not be opened: {error}"))
            .hint("chmod 0666 /dev/fuse   # as root"),
    }
}

/// A mount that failed.
pub fn mount_failure(mountpoint: &Path, error: &io::Error) -> Failure {
    let at = mountpoint.display();
    let not_permitted = |text: String| {
        Failure::new(Exit::MountNotPermitted, text)
            .hint(format!("apt-get install fuse3   # as root, for ordinary users; in a container: {DOCKER}"))
    };
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
            Failure::new(Exit::MountNotPermitted, text.clone())
                .hint("echo user_allow_other >> /etc/fuse.conf   # as root")
        }
        Some(MountError::Helper(text)) => not_permitted(format!("mounting at {at}: {text}")),
        _ if error.raw_os_error() == Some(libc::EPERM) => not_permitted(format!("mounting at {at}: {error}")),
        _ => Failure::new(Exit::Failure, format!("mounting at {at}: {error}")),
    }
}
