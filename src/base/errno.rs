//! The error of every file operation. Its value is the errno that the caller's system call returns.

/// Declares the error with all that is known of each of its values.
macro_rules! errnos {
    ($($name:ident = $number:ident, $text:literal;)*) => {
        /// An errno. Rich text exists only where a person reads it: in `session` and `cli`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        #[repr(i32)]
        #[allow(missing_docs)] // The names are errno(3)'s own.
        pub enum Errno {
            $(#[error($text)] $name = libc::$number,)*
        }

        impl Errno {
            /// All there are.
            pub const ALL: &[Errno] = &[$(Errno::$name),*];

            /// What errno(3) calls it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Errno::$name => stringify!($number),)*
                }
            }
        }
    };
}

errnos! {
    Perm = EPERM, "operation not permitted";
    NoEnt = ENOENT, "no such file or directory";
    Io = EIO, "input/output error";
    NxIo = ENXIO, "no such device or address";
    BadF = EBADF, "bad file descriptor";
    Acces = EACCES, "permission denied";
    Exist = EEXIST, "file exists";
    XDev = EXDEV, "invalid cross-device link";
    NotDir = ENOTDIR, "not a directory";
    IsDir = EISDIR, "is a directory";
    Inval = EINVAL, "invalid argument";
    FBig = EFBIG, "file too large";
    NoSpc = ENOSPC, "no space left in the session";
    RoFs = EROFS, "read-only file system";
    MLink = EMLINK, "too many links";
    Range = ERANGE, "result too large";
    NameTooLong = ENAMETOOLONG, "file name too long";
    NotEmpty = ENOTEMPTY, "directory not empty";
    NoData = ENODATA, "no data available";
    OpNotSupp = EOPNOTSUPP, "operation not supported";
    Stale = ESTALE, "stale file handle";
    TooBig = E2BIG, "argument list too long";
    NoSys = ENOSYS, "function not implemented";
    NotTty = ENOTTY, "inappropriate ioctl for device";
}

impl Errno {
    /// The number that goes to the kernel.
    pub fn code(self) -> i32 {
        self as i32
    }
}
