//! The error of every file operation. Its value is the errno that the caller's system call returns.

/// An errno. Rich text exists only where a person reads it: in `session` and `cli`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(i32)]
#[allow(missing_docs)] // The names are errno(3)'s own.
pub enum Errno {
    #[error("operation not permitted")]
    Perm = libc::EPERM,
    #[error("no such file or directory")]
    NoEnt = libc::ENOENT,
    #[error("input/output error")]
    Io = libc::EIO,
    #[error("no such device or address")]
    NxIo = libc::ENXIO,
    #[error("bad file descriptor")]
    BadF = libc::EBADF,
    #[error("permission denied")]
    Acces = libc::EACCES,
    #[error("file exists")]
    Exist = libc::EEXIST,
    #[error("invalid cross-device link")]
    XDev = libc::EXDEV,
    #[error("not a directory")]
    NotDir = libc::ENOTDIR,
    #[error("is a directory")]
    IsDir = libc::EISDIR,
    #[error("invalid argument")]
    Inval = libc::EINVAL,
    #[error("file too large")]
    FBig = libc::EFBIG,
    #[error("no space left in the session")]
    NoSpc = libc::ENOSPC,
    #[error("read-only file system")]
    RoFs = libc::EROFS,
    #[error("too many links")]
    MLink = libc::EMLINK,
    #[error("result too large")]
    Range = libc::ERANGE,
    #[error("file name too long")]
    NameTooLong = libc::ENAMETOOLONG,
    #[error("directory not empty")]
    NotEmpty = libc::ENOTEMPTY,
    #[error("no data available")]
    NoData = libc::ENODATA,
    #[error("operation not supported")]
    OpNotSupp = libc::EOPNOTSUPP,
    #[error("stale file handle")]
    Stale = libc::ESTALE,
    #[error("argument list too long")]
    TooBig = libc::E2BIG,
    #[error("function not implemented")]
    NoSys = libc::ENOSYS,
    #[error("inappropriate ioctl for device")]
    NotTty = libc::ENOTTY,
}

impl Errno {
    /// The number that goes to the kernel.
    pub fn code(self) -> i32 {
        self as i32
    }
}
