//! A failure as a person or a program reads it: what, why, what to type next, and the exit code.

use std::io;

use serde::{Deserialize, Serialize};

use super::exit::Exit;
use crate::control::{ControlError, Fault};
use crate::session::SessionError;
use crate::session::tree::TreeError;
use crate::store::StoreError;

/// A failure that ends the program. It also crosses the pipe from the server to the process that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which of the documented codes.
    pub exit: Exit,
    /// `<what>: <cause>`.
    pub message: String,
    /// The next command to type.
    pub hint: Option<String>,
}

/// `--json`: one object on standard error.
#[derive(Serialize)]
struct Printed<'a> {
    error: &'a str,
    code: Exit,
    exit: u8,
    hint: Option<&'a str>,
}

impl Failure {
    /// A failure.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), hint: None }
    }

    /// With the next command to type.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The failure of a system call on something, told by what it was to do.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure::new(Exit::Failure, format!("{what}: {error}"))
    }

    /// Prints it to standard error.
    pub fn print(&self, json: bool) {
        self.print_as(json, self.exit.code());
    }

    /// The same for a process that will end with another status: under `run` most belong to the command.
    pub fn print_as(&self, json: bool, exit: u8) {
        use std::io::Write;
        // The reader of our output went away: it knows, and nobody else wants to.
        if self.exit == Exit::Pipe {
            return;
        }
        let mut text = if json {
            let printed = Printed { error: &self.message, code: self.exit, exit, hint: self.hint.as_deref() };
            serde_json::to_string(&printed).unwrap_or_default()
        } else {
            let hint = self.hint.as_ref().map(|hint| format!("\n  try: {hint}")).unwrap_or_default();
            format!("sessionfs: {}{hint}", self.message)
        };
        text.push('\n');
        // One write, so that lines of two processes do not mix; and standard error may be closed.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        let exit = match &error {
            SessionError::Unknown { .. } => Exit::UnknownSession,
            SessionError::InUse { .. } | SessionError::Mounted { .. } => Exit::SessionInUse,
            SessionError::NoStore | SessionError::Registry { .. } => Exit::StoreUnusable,
            SessionError::Store { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Exit::StoreFull,
                _ => Exit::StoreUnusable,
            },
            SessionError::Database { source, .. } => of_store(source),
            SessionError::Clock { .. } => Exit::ClockJumped,
            SessionError::Incomplete { .. } => Exit::ResumeIncomplete,
            SessionError::Limit { .. } | SessionError::Ephemeral(_) => Exit::Usage,
        };
        Failure { exit, message: error.to_string(), hint: error.hint() }
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Missing(_) => Exit::UnknownSession,
        StoreError::NotOurs(_) | StoreError::NotOrdinary(_) => Exit::NotADatabase,
        StoreError::Newer { .. } | StoreError::Features { .. } | StoreError::Unsupported { .. } => Exit::NewerVersion,
        StoreError::Damaged(_) | StoreError::Cut { .. } | StoreError::Schema { .. } | StoreError::Leads(_) => {
            Exit::Damaged
        }
        StoreError::Journal(_) => Exit::JournalUnusable,
        StoreError::Full => Exit::StoreFull,
        StoreError::Permission(_) => Exit::StoreUnusable,
        StoreError::Io(_) => Exit::Failure,
    }
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Failure {
        let exit = match (&error, error.errno()) {
            (TreeError::Stream(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Pipe,
            // Not the session's cap: a disk of the host.
            (TreeError::Host { .. } | TreeError::Stream(_), Some(libc::ENOSPC)) => Exit::Failure,
            (TreeError::Several { first, .. }, Some(libc::ENOSPC)) if matches!(**first, TreeError::Host { .. }) => {
                Exit::Failure
            }
            (_, errno) => of_errno(errno),
        };
        Failure::new(exit, error.to_string())
    }
}

fn of_errno(errno: Option<i32>) -> Exit {
    match errno {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Exit::NoSuchPath,
        Some(libc::ENOSPC) => Exit::SessionFull,
        Some(libc::EIO) => Exit::Damaged,
        Some(libc::EBUSY) => Exit::MountBusy,
        _ => Exit::Failure,
    }
}

impl Failure {
    /// A failed command to the server of a mounted session.
    pub fn of_control(session: &str, error: ControlError) -> Failure {
        match error {
            ControlError::Refused(Fault { message, disk_full: true, .. }) => {
                Failure::new(Exit::StoreFull, message).hint("df   # make room, then the same command again")
            }
            ControlError::Refused(Fault { message, errno, .. }) => Failure::new(of_errno(errno), message),
            ControlError::NoAnswer(_) | ControlError::Lost(_) => {
                Failure::new(Exit::ServerDied, format!("session {session}: {error}"))
                    .hint(format!("sessionfs status {session}"))
            }
            ControlError::Local(error) if error.kind() == io::ErrorKind::BrokenPipe => Failure::new(Exit::Pipe, ""),
            ControlError::Local(error) => Failure::new(Exit::Failure, error.to_string()),
        }
    }

    /// What goes over the control socket for it.
    pub fn to_fault(&self) -> Fault {
        let errno = match self.exit {
            Exit::MountBusy => Some(libc::EBUSY),
            Exit::StoreFull => Some(libc::ENOSPC),
            _ => None,
        };
        Fault { message: self.message.clone(), errno, disk_full: self.exit == Exit::StoreFull }
    }
}
