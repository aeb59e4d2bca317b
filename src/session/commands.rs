//! The log of commands: what was run in a session, and what came of it. `<store>/.registry/<session>/commands.jsonl`.

use std::ffi::OsStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::StoreDir;
use super::lines::{Lines, now};
use crate::base::SessionId;

const COMMANDS: Lines = Lines { name: "commands.jsonl", before: "commands.1.jsonl", max: 4 << 20 };

/// Of argv and of each stream's last lines, this many bytes are kept.
const KEPT: usize = 4 << 10;
/// Last lines of a stream that are kept.
const LINES: usize = 20;

/// A command that has ended. Fields may be added, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// When it was started.
    pub started: Timestamp,
    /// How long it ran.
    pub millis: u64,
    /// Who ran it: `run`, `exec`, `setup`.
    pub by: String,
    /// The command and its arguments, at most 4 KiB of them. What is no UTF-8 is replaced.
    pub argv: Vec<String>,
    /// Where it was started, if that was not the root of the workspace.
    pub cwd: Option<String>,
    /// As whom, if that was asked for.
    pub user: Option<String>,
    /// Its exit status, 128+N when signal N ended it; -1 when its time was up.
    pub exit: i32,
    /// How it ended.
    pub status: CommandStatus,
    /// What was changed in the session from its start to its end, by whomever; `None` when nobody counted.
    pub changed: Option<Changed>,
    /// The last lines of its standard output, as far as they came by.
    pub stdout: String,
    /// The same of standard error.
    pub stderr: String,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CommandStatus {
    /// By itself, or by a signal.
    Completed,
    /// It had run for as long as it might.
    TimedOut,
}

/// What operations have changed between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Files, directories and links that were made, removed or changed, each counted once.
    pub files: u64,
    /// Bytes that were written.
    pub bytes: u64,
}

impl CommandRecord {
    /// Of a command that has just ended by itself, with success, after so long; what is not so is to be set.
    pub fn ended_now<T: AsRef<OsStr>>(by: &str, argv: &[T], took: Duration) -> CommandRecord {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let started = now().as_millisecond().saturating_sub_unsigned(millis);
        CommandRecord {
            started: Timestamp::from_millisecond(started).unwrap_or_default(),
            millis,
            by: by.to_owned(),
            argv: CommandRecord::argv_of(argv),
            cwd: None,
            user: None,
            exit: 0,
            status: CommandStatus::Completed,
            changed: None,
            stdout: String::new(),
            stderr: String::new(),
        }
    }

    /// A command as one line, at most 4 KiB of it.
    pub fn shown<T: AsRef<OsStr>>(argv: &[T]) -> String {
        CommandRecord::argv_of(argv).join(" ")
    }

    /// Whether it did what it was to do.
    pub fn succeeded(&self) -> bool {
        self.exit == 0 && self.status == CommandStatus::Completed
    }

    /// When it ended.
    pub fn ended(&self) -> Timestamp {
        let end = self.started.as_millisecond().saturating_add(i64::try_from(self.millis).unwrap_or(i64::MAX));
        Timestamp::from_millisecond(end).unwrap_or(self.started)
    }

    /// Arguments as they are kept.
    fn argv_of<T: AsRef<OsStr>>(args: &[T]) -> Vec<String> {
        let mut left = KEPT;
        let mut kept = Vec::new();
        for arg in args {
            let mut text = arg.as_ref().to_string_lossy().into_owned();
            if text.len() > left {
                let whole = (0..=left).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
                text.truncate(whole);
                kept.push(text + "…");
                break;
            }
            left -= text.len();
            kept.push(text);
        }
        kept
    }

    /// The last lines of what a stream has brought, as they are kept.
    pub fn tail_of(bytes: &[u8]) -> String {
        let cut = bytes.len().saturating_sub(KEPT);
        let text = String::from_utf8_lossy(&bytes[cut..]);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines[lines.len().saturating_sub(LINES)..].concat()
    }
}

impl StoreDir {
    /// Writes down that a command has ended.
    pub fn record_command(&self, id: &SessionId, record: &CommandRecord) {
        if let Err(error) = COMMANDS.append(self, id, record) {
            log::warn!("session {id}: a command could not be written down: {error}");
        }
    }

    /// The commands that were run in a session, in the order in which they ended, as far back as they are known.
    pub fn commands(&self, id: &SessionId) -> Result<Vec<CommandRecord>, SessionError> {
        COMMANDS.read(self, id)
    }

    /// Takes away the log of a session that is long gone.
    pub(super) fn forget_commands(&self, id: &SessionId) -> Result<(), SessionError> {
        COMMANDS.forget(self, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_whole_in_itself() {
        assert_eq!(CommandRecord::argv_of(&["sh", "-c", "é"]), ["sh", "-c", "é"]);
        let long = "é".repeat(KEPT);
        let kept = CommandRecord::argv_of(&["sh", &long, "more"]);
        assert_eq!(kept.len(), 2);
        assert!(kept[1].ends_with("é…") && kept[1].len() <= KEPT + 3, "{}", kept[1].len());
        let lines: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let tail = CommandRecord::tail_of(lines.as_bytes());
        assert!(tail.starts_with("line 80\n") && tail.ends_with("line 99\n"), "{tail}");
        assert_eq!(CommandRecord::tail_of(b"no end"), "no end");
        assert!(CommandRecord::tail_of(&[b'x'; 3 * KEPT]).len() == KEPT);
    }
}
