//! Becoming another user.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

/// A user and a group, and what the system knows of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
    /// Name and home directory, for their environment.
    known: Option<(CString, OsString)>,
}

impl User {
    /// These, by number, whom nothing needs to be known of.
    pub fn of_ids(uid: u32, gid: u32) -> User {
        User { uid, gid, known: None }
    }

    /// `UID:GID`, for where nothing may be looked up.
    pub fn by_number(text: &str) -> Result<User, Failure> {
        let ids = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        ids.map(|(uid, gid)| User::of_ids(uid, gid)).ok_or_else(|| {
            let text = format!("--user {text}: in the user namespace of somebody else, users are numbers");
            Failure::new(Exit::RunFailed, text).hint("--user UID:GID")
        })
    }

    /// `NAME` or a number, and perhaps `:GROUP`. This process must have one thread.
    pub fn find(text: &str) -> Result<User, Failure> {
        let unknown = |what: &str, name: &str| {
            Failure::new(Exit::RunFailed, format!("--user {text}: there is no {what} {name:?} where the workspace is"))
                .hint("a number, as --user 1000:1000")
        };
        let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
        let found = lookup(name);
        let (uid, own_gid, known) = match (found, name.parse::<u32>()) {
            (Some(found), _) => (found.uid, Some(found.gid), found.known),
            (None, Ok(uid)) => (uid, None, None),
            (None, Err(_)) => return Err(unknown("user", name)),
        };
        let gid = match group {
            None => own_gid.ok_or_else(|| {
                Failure::new(Exit::RunFailed, format!("--user {text}: the group of user {uid} is not known"))
                    .hint(format!("--user {uid}:GROUP"))
            })?,
            Some(group) => group_id(group).ok_or_else(|| unknown("group", group))?,
        };
        Ok(User { uid, gid, known })
    }

    /// Makes this process, which is `now`'s, theirs. `HOME`, `USER` and `LOGNAME` follow where they are known.
    pub fn become_them(&self, now: (u32, u32)) -> Result<(), Failure> {
        if now != (self.uid, self.gid) {
            self.switch().map_err(|error| {
                let text = format!("becoming user {} of group {}: {error}", self.uid, self.gid);
                Failure::new(Exit::RunFailed, text).hint("as that user, or as root")
            })?;
        }
        if let Some((name, home)) = &self.known {
            let name = OsString::from_vec(name.as_bytes().to_vec());
            // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
            unsafe {
                std::env::set_var("HOME", home);
                std::env::set_var("USER", &name);
                std::env::set_var("LOGNAME", &name);
            }
        }
        Ok(())
    }

    fn switch(&self) -> io::Result<()> {
        // SAFETY: the name ends in NUL and the list is as long as said; the others touch no memory.
        let groups = unsafe {
            match &self.known {
                Some((name, _)) => libc::initgroups(name.as_ptr(), self.gid),
                None => libc::setgroups(1, &self.gid),
            }
        };
        // In a user namespace of an ordinary user nobody may: there, the groups are the caller's own anyway.
        if groups != 0 && !setgroups_denied() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: touch no memory.
        let switched = unsafe {
            libc::setresgid(self.gid, self.gid, self.gid) == 0 && libc::setresuid(self.uid, self.uid, self.uid) == 0
        };
        if switched { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// User and group of this process.
pub fn ids() -> (u32, u32) {
    // SAFETY: these cannot fail and touch no memory.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

fn setgroups_denied() -> bool {
    let error = io::Error::last_os_error();
    error.raw_os_error() == Some(libc::EPERM)
        && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// A user by name, or by number where that is no name.
fn lookup(name: &str) -> Option<User> {
    let text = CString::new(name).ok()?;
    // SAFETY: the name ends in NUL. This process has one thread, so what is returned stays until the next such call.
    unsafe {
        let mut entry = libc::getpwnam(text.as_ptr());
        if entry.is_null()
            && let Ok(uid) = name.parse()
        {
            entry = libc::getpwuid(uid);
        }
        let entry = entry.as_ref()?;
        let home = OsString::from_vec(CStr::from_ptr(entry.pw_dir).to_bytes().to_vec());
        let known = Some((CStr::from_ptr(entry.pw_name).to_owned(), home));
        Some(User { uid: entry.pw_uid, gid: entry.pw_gid, known })
    }
}

fn group_id(group: &str) -> Option<u32> {
    let text = CString::new(group).ok()?;
    // SAFETY: as above.
    let found = unsafe { libc::getgrnam(text.as_ptr()).as_ref().map(|entry| entry.gr_gid) };
    found.or_else(|| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = User::find("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(User::find("0").unwrap(), root);
        assert_eq!(User::find("root:7").unwrap().gid, 7);
        assert_eq!(User::find("4000000:5"), Ok(User::of_ids(4_000_000, 5)));
        assert_eq!(User::by_number("1:2"), Ok(User::of_ids(1, 2)));
        for bad in ["root", "root:1", "1", "1:"] {
            assert_eq!(User::by_number(bad).unwrap_err().exit, Exit::RunFailed, "{bad:?}");
        }
        for bad in ["no-such-user", "root:no-such-group", "4000000", "", "a\0b"] {
            assert_eq!(User::find(bad).unwrap_err().exit, Exit::RunFailed, "{bad:?}");
        }
    }
}
