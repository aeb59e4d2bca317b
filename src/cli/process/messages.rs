//! What a server tells the process that started it: lines of JSON over a pipe.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;
use crate::session::StopReport;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The mount serves.
    Ready(Ready),
    /// It could not be started, or not be stopped as it should.
    Failed(Failure),
    /// It has ended with everything committed.
    Stopped(StopReport),
}

/// A mount that serves; what `mount --json` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Ready {
    pub session: String,
    pub mountpoint: PathBuf,
    /// The server.
    pub pid: u32,
    /// Whether the session is new.
    pub created: bool,
    pub txid: u64,
    pub files: u64,
    pub dirs: u64,
    pub bytes: u64,
    pub digest: String,
    /// How its requests come: `uring` or `device`.
    pub transport: String,
    /// The version of the protocol that the kernel speaks, and what it does not have of what we ask for.
    pub fuse: String,
    pub lacks: Vec<String>,
    /// What else its user should know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warning: Option<String>,
}

impl Message {
    /// Sends it. That nobody listens any more is no failure of the server.
    pub fn send(&self, to: &mut dyn Write) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            let _ = to.write_all(&line);
        }
    }

    /// Receives one; `None` when the server has ended.
    pub fn receive(from: &mut dyn BufRead) -> io::Result<Option<Message>> {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}
