//! The mount itself: mount(2) where we may, the setuid helper `fusermount3` where we may not.
//!
//! fuser can do this too, but reports most failures as text, asks the helper whatever the reason, and always detaches
//! lazily; we need to know why, and to say EBUSY.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fmt, mem, ptr};

use log::debug;

use super::MountOptions;

const DEVICE: &str = "/dev/fuse";
const SUBTYPE: &str = "sessionfs";
/// The setuid program that mounts for ordinary users.
pub const HELPER: &str = "fusermount3";

/// Why a mount failed. It is inside the `io::Error` of [`super::Mounted::start`], whose kind is that of the cause:
/// `error.get_ref().and_then(|e| e.downcast_ref::<MountError>())`.
#[derive(Debug)]
pub enum MountError {
    /// There is no `/dev/fuse`.
    NoDevice,
    /// `/dev/fuse` may not be opened, or cannot be.
    Device(io::Error),
    /// The mount point is missing, not a directory, or out of reach.
    Mountpoint(PathBuf, io::Error),
    /// mount(2) refused, and there is no helper for ordinary users, or it was no question of permission.
    Mount(PathBuf, io::Error),
    /// The helper for ordinary users refused, in its own words.
    Helper(String),
    /// Requests were to come by io_uring, and this machine cannot have it so.
    Uring(io::Error),
    /// The mount was made, but the kernel and we could not agree on how to talk.
    Handshake(io::Error),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::NoDevice => {
                write!(f, "there is no {DEVICE}: the kernel has no FUSE, or this container hides it")
            }
            MountError::Device(error) => write!(f, "{DEVICE}: {error}"),
            MountError::Mountpoint(path, error) => write!(f, "mount point {}: {error}", path.display()),
            MountError::Mount(path, error) => write!(f, "cannot mount at {}: {error}", path.display()),
            MountError::Helper(text) => write!(f, "{text}"),
            MountError::Uring(error) => write!(f, "FUSE over io_uring: {error}"),
            MountError::Handshake(error) => write!(f, "FUSE handshake: {error}"),
        }
    }
}

impl std::error::Error for MountError {}

impl From<MountError> for io::Error {
    fn from(error: MountError) -> io::Error {
        let kind = match &error {
            MountError::NoDevice => io::ErrorKind::NotFound,
            MountError::Device(cause) | MountError::Mountpoint(_, cause) => cause.kind(),
            MountError::Mount(_, cause) | MountError::Uring(cause) | MountError::Handshake(cause) => cause.kind(),
            MountError::Helper(_) => io::ErrorKind::PermissionDenied,
        };
        io::Error::new(kind, error)
    }
}

/// Mounts; returns the connection, on which the kernel's first request is waiting.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let unusable = |error| MountError::Mountpoint(mountpoint.to_owned(), error);
    let directory = File::open(mountpoint).and_then(|file| file.metadata()).map_err(unusable)?;
    if !directory.is_dir() {
        return Err(unusable(io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoDevice,
        _ => MountError::Device(error),
    })?;
    match mount_directly(&device, mountpoint, directory.mode(), options) {
        Ok(()) => Ok(device.into()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            drop(device);
            mount_by_helper(mountpoint, options)?.ok_or_else(|| MountError::Mount(mountpoint.to_owned(), error))
        }
        Err(error) => Err(MountError::Mount(mountpoint.to_owned(), error)),
    }
}

fn mount_directly(device: &File, mountpoint: &Path, root_mode: u32, options: &MountOptions) -> io::Result<()> {
    // SAFETY: these two only read the process's own ids.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let mut data = format!(
        "fd={},rootmode={:o},user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd(),
        root_mode & libc::S_IFMT,
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let source = CString::new(options.fsname.as_bytes())?;
    let target = CString::new(mountpoint.as_os_str().as_bytes())?;
    let kind = CString::new(format!("fuse.{SUBTYPE}"))?;
    let data = CString::new(data)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all four pointers are to C strings that outlive the call.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `None` when there is no helper.
fn mount_by_helper(mountpoint: &Path, options: &MountOptions) -> Result<Option<OwnedFd>, MountError> {
    let failed = |error: io::Error| MountError::Helper(format!("{HELPER}: {error}"));
    let escaped = options.fsname.replace('\\', "\\\\").replace(',', "\\,");
    let mut list = format!("nosuid,nodev,default_permissions,subtype={SUBTYPE},fsname={escaped}");
    if options.allow_other {
        list.push_str(",allow_other");
    }
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut helper = Command::new(HELPER);
    helper.arg("-o").arg(list).arg("--").arg(mountpoint);
    // The helper sends the connection over this socket, which it inherits as its standard input.
    helper.env("_FUSE_COMMFD", "0").env("LC_ALL", "C").stdin(OwnedFd::from(theirs));
    let child = match helper.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    drop(helper); // with its copy of their end, so that a helper that dies is seen as an end of file
    let connection = receive_descriptor(&ours);
    let Output { stderr, .. } = child.wait_with_output().map_err(failed)?;
    match connection.map_err(failed)? {
        Some(connection) => Ok(Some(connection)),
        None => Err(MountError::Helper(String::from_utf8_lossy(&stderr).trim().to_owned())),
    }
}

/// The descriptor that comes with the next byte; `None` at the end of the stream.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = 0_u8;
    let mut data = libc::iovec { iov_base: ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    let mut control = [0_u64; 8]; // aligned as a cmsghdr, and larger than one with a descriptor
    // SAFETY: an all-zero msghdr is a valid one, with no buffers.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: `message` points to buffers of the stated lengths, which outlive the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled `message` in; CMSG_FIRSTHDR is null or points to a whole header in `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    match header {
        Some(header) if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS => {
            // SAFETY: the data of an SCM_RIGHTS message are descriptors that are now ours and nobody else's.
            let descriptor = unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()) };
            Ok(Some(descriptor))
        }
        _ => Ok(None),
    }
}

/// Takes the mount away. `lazy`: also while it is in use; requests under way end, and later ones get ENOTCONN.
pub(super) fn unmount(mountpoint: &Path, device: Option<libc::dev_t>, lazy: bool) -> io::Result<()> {
    let target = CString::new(mountpoint.as_os_str().as_bytes())?;
    // FORCE makes the kernel end the connection; DETACH alone would go on serving files that are open.
    let how = if lazy { libc::MNT_FORCE | libc::MNT_DETACH } else { 0 };
    // SAFETY: `target` is a C string that outlives the call.
    if unsafe { libc::umount2(target.as_ptr(), how | libc::UMOUNT_NOFOLLOW) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    let mut helper = Command::new(HELPER);
    helper.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mountpoint).env("LC_ALL", "C");
    let Ok(output) = helper.stdin(Stdio::null()).output() else { return Err(error) };
    let said = String::from_utf8_lossy(&output.stderr);
    match () {
        () if output.status.success() => {
            if let Some(device) = device.filter(|_| lazy) {
                abort(device);
            }
            Ok(())
        }
        () if said.contains("busy") => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        () => Err(io::Error::new(io::ErrorKind::PermissionDenied, said.trim().to_owned())),
    }
}

/// Ends the connection of a mount that the helper, which has no FORCE, could only detach. Where the kernel's control files
/// are not mounted, files that are open go on being served until they are closed, or this process ends.
fn abort(device: libc::dev_t) {
    let path = format!("/sys/fs/fuse/connections/{}/abort", libc::minor(device));
    if let Err(error) = fs::write(&path, "1") {
        debug!("{path}: {error}");
    }
}

/// The device number under `mountpoint`, without asking the server of a mount: it may be gone.
pub(super) fn device_at(mountpoint: &Path) -> io::Result<libc::dev_t> {
    let path = CString::new(mountpoint.as_os_str().as_bytes())?;
    // SAFETY: statx is a struct of integers, for which all zeros is a value.
    let mut found: libc::statx = unsafe { mem::zeroed() };
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `path` is a C string and `found` a statx to be filled in; both outlive the call.
    if unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::makedev(found.stx_dev_major, found.stx_dev_minor))
}
