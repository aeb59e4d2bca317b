//! Work on a session's tree by path, without a kernel: what `cat`, `ls`, `cp` and `export` do.
//!
//! There is one implementation, over a running [`Fs`](crate::fs::Fs): a command on an unmounted session runs it in its own process,
//! one on a mounted session has the server run it through the control socket. Trees travel as tar streams (PAX).

mod acl_text;
mod archive_read;
mod archive_write;
mod export;
mod host_read;
pub(super) mod host_sys;
mod host_write;
mod import;
mod item;
mod list;
mod resolve;

pub use export::export;
pub use host_read::pack_host;
pub use host_write::unpack_to_host;
pub use import::import;
pub use item::{Item, ItemKind, Totals};
pub use list::{Entry, list, read};
pub use resolve::{Follow, Node, resolve};

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::base::{Errno, Ino};

/// A failure of a tree operation.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The file system refused an operation on this path of the session.
    #[error("{}: {errno}", Shown(path))]
    Session {
        /// The path, from the session's root.
        path: Vec<u8>,
        /// Why.
        errno: Errno,
    },
    /// A symbolic link that leads out of the session, where nothing is known.
    #[error("{}: a symbolic link to {}, which is outside the session", Shown(path), Shown(target))]
    Outside {
        /// The link.
        path: Vec<u8>,
        /// Its target.
        target: Vec<u8>,
    },
    /// More links than anybody needs: a loop.
    #[error("{}: too many levels of symbolic links", Shown(.0))]
    Loop(Vec<u8>),
    /// A file of the host.
    #[error("{}: {source}", path.display())]
    Host {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stream being read or written failed.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// What was read is no tar archive that can be taken.
    #[error("not a usable tar archive: {0}")]
    Archive(String),
    /// Some things could not be copied; the others were.
    #[error("{first}; and {more} more could not be copied")]
    Several {
        /// The first of them.
        first: Box<TreeError>,
        /// How many others.
        more: u64,
    },
}

/// What could not be copied, while the copy goes on with the rest, as cp(1) does.
#[derive(Default)]
struct Failures {
    first: Option<TreeError>,
    more: u64,
}

impl Failures {
    /// Takes a failure of one thing. What ends the whole copy is handed back.
    fn take(&mut self, error: TreeError) -> Result<(), TreeError> {
        match error {
            TreeError::Session { .. } | TreeError::Host { .. } => {}
            fatal => return Err(fatal),
        }
        match &self.first {
            None => self.first = Some(error),
            // The first is the one that is reported at the end.
            Some(_) => {
                log::warn!("{error}");
                self.more += 1;
            }
        }
        Ok(())
    }

    /// The result, when all has been tried.
    fn result<T>(self, value: T) -> Result<T, TreeError> {
        match (self.first, self.more) {
            (None, _) => Ok(value),
            (Some(first), 0) => Err(first),
            (Some(first), more) => Err(TreeError::Several { first: Box::new(first), more }),
        }
    }
}

impl TreeError {
    /// The failure of an operation on `path`.
    pub fn at(path: &[u8]) -> impl FnOnce(Errno) -> TreeError + '_ {
        move |errno| TreeError::Session { path: path.to_owned(), errno }
    }

    /// The errno it comes down to, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            TreeError::Session { errno, .. } => Some(errno.code()),
            TreeError::Host { source, .. } | TreeError::Stream(source) => source.raw_os_error(),
            TreeError::Loop(_) => Some(libc::ELOOP),
            TreeError::Several { first, .. } => first.errno(),
            TreeError::Outside { .. } | TreeError::Archive(_) => None,
        }
    }
}

/// What an operation changed behind the kernel's back: it has to forget what it remembers of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// This name of a directory came, went, or leads elsewhere.
    Entry(Ino, Vec<u8>),
    /// The attributes or the content of this inode.
    Inode(Ino),
}

/// A name as text, escaped where it is none; then also its bytes, for who needs to know which of two it is.
pub(super) fn text_and_bytes(name: &[u8]) -> (String, Option<Vec<u8>>) {
    match std::str::from_utf8(name) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (Shown(name).to_string(), Some(name.to_owned())),
    }
}

/// A path of any bytes, for a message: control bytes and broken UTF-8 escaped, so that a name can neither lie nor
/// reach the terminal.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}
