//! What is mounted where, and by whom it is used.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Users of a busy mount that are named.
const USERS_SHOWN: usize = 10;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    /// `fuse.sessionfs`, `ext4`, …
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

/// The source a session's mount shows in `df` and `/proc/mounts`.
pub fn source_of(session: &str) -> String {
    format!("sessionfs:{session}")
}

impl Mount {
    /// Whether it is a mount of this program.
    pub fn is_ours(&self) -> bool {
        self.kind == "fuse.sessionfs"
    }

    /// The session that is mounted here, if it is a mount of this program.
    pub fn session(&self) -> Option<&str> {
        self.source.strip_prefix("sessionfs:").filter(|_| self.is_ours())
    }
}

/// All mounts of this namespace, later ones last.
fn all() -> Vec<Mount> {
    std::fs::read("/proc/self/mountinfo").map(|table| read(&table)).unwrap_or_default()
}

fn read(table: &[u8]) -> Vec<Mount> {
    table.split(|&b| b == b'\n').filter_map(parse).collect()
}

/// Whether a process sees a mount of this session where it was mounted, in whichever namespace it lives: one elsewhere may
/// be of another store. What cannot be read shows nothing either way.
pub fn seen_by(pid: u32, session: &str, mountpoint: &Path) -> Option<bool> {
    let table = std::fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
    Some(read(&table).iter().any(|mount| mount.session() == Some(session) && mount.path == mountpoint))
}

/// The topmost mount at exactly this path, if there is one. Does not touch the path itself: a dead mount would not
/// answer.
pub fn at(path: &Path) -> Option<Mount> {
    all().into_iter().rfind(|mount| mount.path == path)
}

/// The mounts of sessions of this name, of whichever store, that nobody serves any more.
pub fn dead_of(session: &str) -> Vec<Mount> {
    let topmost = |mount: &Mount| at(&mount.path).as_ref() == Some(mount);
    all()
        .into_iter()
        .filter(|mount| mount.session() == Some(session) && topmost(mount) && is_dead(&mount.path))
        .collect()
}

/// One line of a `mountinfo` of /proc: `id parent dev root PATH options … - KIND SOURCE options`.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let path = unescape(fields.nth(4)?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    Some(Mount { path: PathBuf::from(std::ffi::OsString::from_vec(path)), kind, source })
}

/// Blanks and the like are written as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// A path without links and dots, also when its last part is a dead mount, which cannot be asked.
pub fn canonical(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// Whether the server of the mount at this path is gone. Asked by statfs, the one question that the kernel never
/// answers for the server: attributes and opens it remembers.
pub fn is_dead(path: &Path) -> bool {
    let Ok(target) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `target` ends in NUL, and `answer` has room for what the kernel fills in.
    let asked = unsafe { libc::statfs(target.as_ptr(), answer.as_mut_ptr()) };
    // The last two are what a request is told that io_uring had in hand.
    let dead = |code| matches!(code, libc::ENOTCONN | libc::ENODEV | libc::ECONNABORTED | libc::ECANCELED);
    asked != 0 && io::Error::last_os_error().raw_os_error().is_some_and(dead)
}

/// Detaches a dead mount: by ourselves, or through the helper for ordinary users.
pub fn detach(path: &Path) -> io::Result<()> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `target` ends in NUL.
    if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    let helped = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(path).stdin(Stdio::null()).output();
    match helped {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(_) => Err(error),
    }
}

/// Who has something open below a path, or works in it, as far as we may look. Reads only names that the kernel
/// keeps, so the mount itself is not asked.
pub fn users(path: &Path) -> Vec<String> {
    let mut users = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return users };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let links = ["cwd", "root", "exe"].iter().map(|link| process.path().join(link));
        let files = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten().map(|fd| fd.path());
        let uses = links.chain(files).any(|link| std::fs::read_link(link).is_ok_and(|to| to.starts_with(path)));
        if uses {
            let comm = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(format!("process {pid} ({})", comm.trim()));
        }
        if users.len() == USERS_SHOWN {
            break;
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line = br"97 30 0:45 / /mnt/a\040b\134c rw,nosuid - fuse.sessionfs sessionfs:demo rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.path, Path::new(r"/mnt/a b\c"));
        assert_eq!(mount.session(), Some("demo"));
        let line = br"22 1 8:1 / / rw shared:1 master:2 - ext4 /dev/vda rw";
        assert_eq!(parse(line).unwrap().kind, "ext4");
        assert!(at(Path::new("/")).is_some());
    }
}
