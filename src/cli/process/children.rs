//! The processes that a command leaves behind.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// A view of the processes by the numbers that this process knows them by, and may send signals to.
pub struct Processes {
    proc: PathBuf,
    /// What `proc` leads through, if that is not `/proc` itself.
    _mount: Option<OwnedFd>,
}

impl Processes {
    /// `/proc`, if it is of our PID namespace. After a mere `unshare --pid` it is of another one, whose numbers are
    /// other processes' here; then one of our own, attached nowhere: the command keeps the `/proc` it was given.
    pub fn ours() -> io::Result<Processes> {
        let given = Path::new("/proc");
        if is_ours(given) {
            return Ok(Processes { proc: given.to_owned(), _mount: None });
        }
        let mount = detached_proc()?;
        let proc = given.join(format!("self/fd/{}", mount.as_raw_fd()));
        if is_ours(&proc) {
            Ok(Processes { proc, _mount: Some(mount) })
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Every descendant of this process, but for `except` and what descends from it. The kernel hands orphans to us,
    /// as their subreaper, so that nobody gets away by forking twice.
    pub fn descendants(&self, except: libc::pid_t) -> Vec<libc::pid_t> {
        let mut children: HashMap<libc::pid_t, Vec<libc::pid_t>> = HashMap::new();
        for pid in self.all() {
            if let Some((parent, false)) = self.parent_of(pid) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut found = Vec::new();
        let mut todo = vec![std::process::id() as libc::pid_t];
        while let Some(parent) = todo.pop() {
            for &child in children.get(&parent).into_iter().flatten() {
                if child != except {
                    found.push(child);
                    todo.push(child);
                }
            }
        }
        found
    }

    /// A process as people look for it: number, name, and what it is doing (`D`: waiting for a device or a file system,
    /// where no signal reaches it).
    pub fn describe(&self, pid: libc::pid_t) -> String {
        let stat = std::fs::read_to_string(self.proc.join(format!("{pid}/stat"))).unwrap_or_default();
        let name = stat.find('(').zip(stat.rfind(')')).map_or("", |(from, to)| &stat[from + 1..to]);
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap_or("?");
        format!("process {pid} ({name}, state {state})").chars().filter(|c| !c.is_control()).collect()
    }

    fn all(&self) -> Vec<libc::pid_t> {
        let entries = std::fs::read_dir(&self.proc).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// The parent of a process, and whether it is a zombie: that one has ended, and is its parent's to reap.
    fn parent_of(&self, pid: libc::pid_t) -> Option<(libc::pid_t, bool)> {
        let stat = std::fs::read_to_string(self.proc.join(format!("{pid}/stat"))).ok()?;
        // The name, in parentheses, may contain anything: what follows the last one is fixed.
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
        let state = fields.next()?;
        Some((fields.next()?.parse().ok()?, state == "Z"))
    }

    fn mount_namespace(&self, process: &str) -> io::Result<PathBuf> {
        std::fs::read_link(self.proc.join(process).join("ns/mnt"))
    }
}

/// Whether a procfs counts processes as we do.
fn is_ours(proc: &Path) -> bool {
    let me = std::process::id().to_string();
    if std::fs::read_link(proc.join("self")).ok().is_none_or(|target| target != Path::new(&me)) {
        return false;
    }
    // In that of an outer namespace our number may be the same by chance; there we have one for every level.
    let status = std::fs::read_to_string(proc.join("self/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_none_or(|numbers| numbers.split_whitespace().count() == 1)
}

/// A procfs of our PID namespace that is mounted nowhere.
fn detached_proc() -> io::Result<OwnedFd> {
    let owned = |result: libc::c_long| {
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: only called with what a system call has just opened.
        Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
    };
    // SAFETY: strings end in NUL; null is what FSCONFIG_CMD_CREATE asks for; each call opens a new descriptor or none.
    unsafe {
        let config = owned(libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), FSOPEN_CLOEXEC))?;
        let (fd, null) = (config.as_raw_fd(), std::ptr::null::<libc::c_char>());
        if libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        owned(libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes as libc::c_uint))
    }
}

// Of <linux/mount.h>; the libc crate does not have them.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Ends every other process of this process's mount namespace, which must be one of `run`: there is nobody in it but
/// the command and what it started, and whoever came in to look at them.
pub fn end_namespace() {
    let Ok(processes) = Processes::ours() else { return };
    let Ok(ours) = processes.mount_namespace("self") else { return };
    let me = std::process::id() as libc::pid_t;
    // More than once, for what forks while we look; a bound, for what we may not end.
    for _ in 0..50 {
        let inside = |pid: &libc::pid_t| processes.mount_namespace(&pid.to_string()).is_ok_and(|ns| ns == ours);
        let alive = |pid: &libc::pid_t| processes.parent_of(*pid).is_some_and(|(_, zombie)| !zombie);
        let pids = processes.all().into_iter();
        let left: Vec<_> = pids.filter(|&pid| pid != me).filter(inside).filter(alive).collect();
        if left.is_empty() {
            return;
        }
        left.into_iter().for_each(|pid| super::signals::send(pid, libc::SIGKILL));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Reaps one child that has ended, if there is one: its process and wait status.
pub fn reap() -> Option<(libc::pid_t, i32)> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call to fill; WNOHANG returns at once.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}
