//! Exit codes: part of the interface, listed in README.md and `--help`, never renumbered.

use serde::{Deserialize, Serialize};

macro_rules! exits {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// Why the program ended. A number is never given a second meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum Exit {
            $(#[doc = $text] $name = $code,)*
        }

        impl Exit {
            /// Every code with its meaning, in order.
            pub const ALL: &'static [(Exit, &'static str)] = &[$((Exit::$name, $text)),*];
        }
    };
}

exits! {
    Success = 0, "success";
    Failure = 1, "a failure that none of the others names";
    Usage = 2, "the command line makes no sense";
    BadSessionId = 3, "not a session ID";
    UnknownSession = 4, "no such session";
    SessionInUse = 5, "the session is in use by another process";
    NotADatabase = 6, "session.db is not a session database, or a link or the like stands where a file of the session belongs";
    NewerVersion = 7, "the session needs a newer version of sessionfs";
    Damaged = 8, "the session database is damaged";
    Findings = 9, "check has found something";
    MountpointUnusable = 10, "the mount point is missing, not a directory, or out of reach";
    MountpointNotEmpty = 11, "the mount point is not empty";
    MountpointTaken = 12, "something is mounted at the mount point already";
    MountBusy = 13, "the mount is in use";
    NoFuse = 14, "/dev/fuse is missing or may not be opened";
    MountNotPermitted = 15, "mounting is not permitted";
    StoreUnusable = 16, "the store cannot be read or written";
    StoreFull = 17, "the disk under the store is full";
    SessionFull = 18, "the session has reached its cap";
    NoSuchPath = 19, "no such path, in the session or on the host";
    NotMounted = 20, "nothing of ours is mounted there";
    JournalUnusable = 21, "the journal is missing, unreadable, or does not belong to the session database";
    ResumeIncomplete = 22, "the session is not what it was when last seen: incomplete, older, or another";
    BadSettings = 23, "a file or variable of settings makes no sense, or is not to be trusted";
    ClockJumped = 24, "gc, rm --all-idle: the clock may be wrong, so nothing was removed";
    ServerDied = 121, "the file system's server died or does not answer";
    StopFailed = 122, "run, exec, setup: the command ended, but not everything could be committed";
    TimedOut = 124, "exec, setup: the command's time was up, and everything it had started is ended";
    RunFailed = 125, "run, exec, setup: failed before the command started";
    CannotExecute = 126, "run, exec, setup: the command cannot be executed";
    NotFound = 127, "run, exec, setup: the command was not found";
    Pipe = 141, "the reader of standard output went away";
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The number under `run` and `exec`: what is below 121 belongs to the command there.
    pub fn for_run(self) -> u8 {
        if self.code() >= Exit::ServerDied.code() { self.code() } else { Exit::RunFailed.code() }
    }

    /// The table for `--help`.
    pub fn help() -> String {
        let mut text = String::from("Exit status:\n");
        for (exit, meaning) in Exit::ALL {
            text += &format!("  {:>3}  {meaning}\n", exit.code());
        }
        text + "  run, exec and setup end with the status of their command, 128+N when signal N ended it."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_code() {
        let readme = include_str!("../../README.md");
        for (exit, meaning) in Exit::ALL {
            let row = format!("| {} | {meaning} |", exit.code());
            assert!(readme.contains(&row), "README.md lacks the row {row:?}");
        }
    }
}
