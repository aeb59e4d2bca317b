//! Newtypes for everything that is counted, so that a pack is never taken for a block.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::limits::SESSION_ID_MAX;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The value as SQLite keeps it. Ids stay below 2^63: they are counted up from 1.
            pub fn sql(self) -> i64 {
                self.0 as i64
            }

            /// The id after this one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An inode number: given once in a session's life, never reused, the same after every resume.
    Ino
);
id!(
    /// One version of one block's content. Zero names the block that holds only zeros.
    DataId
);
id!(
    /// One pack of the session database.
    PackId
);
id!(
    /// One group commit to the session database.
    Txid
);
id!(
    /// The place of an operation in the order in which operations took effect.
    Seq
);
id!(
    /// The place of a name in its directory for `readdir`; grows with every new name, never reused.
    Cookie
);

impl Ino {
    /// The root directory, as the FUSE protocol numbers it.
    pub const ROOT: Ino = Ino(1);
}

impl DataId {
    /// The content of a block that is allocated and was never written: zeros, kept nowhere.
    pub const ZEROS: DataId = DataId(0);
}

/// A file name: any bytes but `/` and NUL. Shared between the directory's map and its order.
pub type Name = Arc<[u8]>;

/// The file type bits of a mode, as numbered in `S_IFMT` shifted right by 12 (the kernel's `d_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// A FIFO.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileKind {
    /// The kind a mode names; `None` for bits that name none.
    pub fn of_mode(mode: u32) -> Option<FileKind> {
        Self::from_code((mode & libc::S_IFMT) >> 12)
    }

    /// The kind with this `d_type` number.
    pub fn from_code(code: u32) -> Option<FileKind> {
        Some(match code {
            1 => FileKind::Fifo,
            2 => FileKind::CharDevice,
            4 => FileKind::Directory,
            6 => FileKind::BlockDevice,
            8 => FileKind::Regular,
            10 => FileKind::Symlink,
            12 => FileKind::Socket,
            _ => return None,
        })
    }

    /// The `S_IF…` bits of a mode.
    pub fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// The name of a session: 1–255 of `A-Z a-z 0-9 . _ -`, the first alphanumeric.
///
/// It is also the name of the session's directory in the store, which is why no other byte is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

/// Why a text is no session ID; the message states the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a session ID: use 1 to {SESSION_ID_MAX} of the characters A-Z a-z 0-9 . _ - \
     beginning with a letter or a digit, for example ticket-8421"
)]
pub struct SessionIdError(String);

impl SessionId {
    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = SessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let bytes = text.as_bytes();
        let good = (1..=SESSION_ID_MAX).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(|&b| allowed(b));
        if good { Ok(SessionId(text.to_owned())) } else { Err(SessionIdError(text.to_owned())) }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_follow_the_rule() {
        for good in ["a", "7", "ticket-8421", "customer-case-19", "pipeline-run-2026-11-22", "A.b_c-"] {
            assert_eq!(good.parse::<SessionId>().unwrap().as_str(), good);
        }
        let long = "x".repeat(SESSION_ID_MAX + 1);
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ü", "a\0", long.as_str()] {
            let error = bad.parse::<SessionId>().unwrap_err();
            assert!(error.to_string().contains("A-Z a-z 0-9"), "{bad:?} must be refused with the rule");
        }
        assert!("x".repeat(SESSION_ID_MAX).parse::<SessionId>().is_ok());
    }

    #[test]
    fn kinds_are_the_kernels() {
        for (kind, bits) in [
            (FileKind::Regular, libc::S_IFREG),
            (FileKind::Directory, libc::S_IFDIR),
            (FileKind::Symlink, libc::S_IFLNK),
            (FileKind::Fifo, libc::S_IFIFO),
            (FileKind::Socket, libc::S_IFSOCK),
            (FileKind::CharDevice, libc::S_IFCHR),
            (FileKind::BlockDevice, libc::S_IFBLK),
        ] {
            assert_eq!(kind.mode_bits(), bits);
            assert_eq!(FileKind::of_mode(bits | 0o644), Some(kind));
        }
        assert_eq!(FileKind::of_mode(0o644), None);
    }
}
