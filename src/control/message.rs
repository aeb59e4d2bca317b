//! What goes over the control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::session::tree::Totals;
use crate::session::{Changed, Figures, Hot, Status, StopReport, TraceFilter};

/// A path of any bytes, in JSON: a string where it is UTF-8, otherwise its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PathBytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl From<&[u8]> for PathBytes {
    fn from(path: &[u8]) -> Self {
        std::str::from_utf8(path)
            .map_or_else(|_| PathBytes::Bytes(path.to_owned()), |text| PathBytes::Text(text.to_owned()))
    }
}

impl PathBytes {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            PathBytes::Text(text) => text.as_bytes(),
            PathBytes::Bytes(bytes) => bytes,
        }
    }
}

/// What can be asked of the server of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// How it is doing.
    Status,
    /// How it is doing and what it has done.
    Figures,
    /// The operations of the mount as they end, as a stream of JSON lines, until either side has enough.
    Trace(TraceFilter),
    /// The files that most operations are about from now on.
    Hot {
        /// For so long.
        millis: u64,
    },
    /// Commit everything, then say what is safe.
    Sync,
    /// Change the caps that are given.
    Resize {
        /// In bytes.
        bytes: Option<u64>,
        /// In inodes.
        inodes: Option<u64>,
    },
    /// Unmount, commit everything, say what is safe, and end.
    Stop {
        /// Also while files on the mount are open.
        lazy: bool,
    },
    /// Come into the workspace: the mount stays at least until [`Request::Leave`], or the end of the connection.
    Visit,
    /// The visit on this connection is over.
    Leave,
    /// A listing, as a stream of JSON lines.
    List {
        /// Of what.
        path: PathBytes,
    },
    /// A file's content, as a stream.
    Read {
        /// Which.
        path: PathBytes,
    },
    /// A subtree as a tar stream.
    Export {
        /// Which.
        path: PathBytes,
        /// What it is called in the archive.
        top: PathBytes,
    },
    /// A tar stream, sent by the client as frames after the first reply, is made at a path.
    Import {
        /// Where.
        path: PathBytes,
        /// Under this name, if that is a directory.
        under: Option<PathBytes>,
    },
}

/// What went wrong, across the socket: the client rebuilds its own error from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// For people.
    pub message: String,
    /// The errno it comes down to, where there is one.
    pub errno: Option<i32>,
    /// Whether ENOSPC is that of the disk under the store: then it is not the session's cap.
    #[serde(default)]
    pub disk_full: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `status`, and to `resize`: with the new caps.
    Status(Box<Status>),
    /// To `figures`.
    Figures(Box<Figures>),
    /// To `hot`.
    Hot(Hot),
    /// To `sync` and `stop`: what is safe.
    Safe(StopReport),
    /// To `visit`.
    Welcome {
        /// Where the workspace is mounted, as the server sees it.
        mountpoint: PathBuf,
    },
    /// To `leave`, when the mount stays.
    Left(Changed),
    /// To `leave`, when it was the last one, and the mount was for those who visit.
    LeftLast {
        /// What was changed.
        changed: Changed,
        /// What is safe.
        safe: StopReport,
    },
    /// Frames follow, or may now be sent.
    Stream,
    /// To `import`, at its end.
    Imported(Totals),
    /// It did not work.
    Fault(Fault),
}
