//! The processes that a command leaves behind.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::signals::send;
use crate::cli::failure::Failure;

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
    pub fn descendants(&self, except: libc::pid_t) -> Vec<Process> {
        let mut children: HashMap<libc::pid_t, Vec<Process>> = HashMap::new();
        for pid in self.all() {
            if let Some(Stat { parent, group, zombie: false }) = self.stat(pid) {
                children.entry(parent).or_default().push(Process { pid, group });
            }
        }
        let mut found = Vec::new();
        let mut todo = vec![std::process::id() as libc::pid_t];
        while let Some(parent) = todo.pop() {
            for &child in children.get(&parent).into_iter().flatten() {
                if child.pid != except {
                    found.push(child);
                    todo.push(child.pid);
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

    /// Every other process of this process's mount namespace. Their groups are not all in it.
    pub fn inside(&self) -> Vec<Process> {
        let Ok(ours) = self.mount_namespace("self") else { return Vec::new() };
        let me = std::process::id() as libc::pid_t;
        let inside = |pid: &libc::pid_t| self.mount_namespace(&pid.to_string()).is_ok_and(|ns| ns == ours);
        let alive = |pid| self.stat(pid).filter(|stat| !stat.zombie).map(|_| Process::alone(pid));
        self.all().into_iter().filter(|&pid| pid != me).filter(inside).filter_map(alive).collect()
    }

    fn all(&self) -> Vec<libc::pid_t> {
        let entries = std::fs::read_dir(&self.proc).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    fn stat(&self, pid: libc::pid_t) -> Option<Stat> {
        let stat = std::fs::read_to_string(self.proc.join(format!("{pid}/stat"))).ok()?;
        // The name, in parentheses, may contain anything: what follows the last one is fixed.
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
        let state = fields.next()?;
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Stat { parent, group, zombie: state == "Z" })
    }

    fn mount_namespace(&self, process: &str) -> io::Result<PathBuf> {
        std::fs::read_link(self.proc.join(process).join("ns/mnt"))
    }
}

/// One that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// By our numbers.
    pub pid: libc::pid_t,
    /// Its process group; 0 when others may be in it.
    group: libc::pid_t,
}

impl Process {
    /// One whose group may have others in it.
    pub fn alone(pid: libc::pid_t) -> Process {
        Process { pid, group: 0 }
    }
}

/// What /proc says of a process.
struct Stat {
    parent: libc::pid_t,
    group: libc::pid_t,
    /// It has ended, and is its parent's to reap.
    zombie: bool,
}

/// Kills processes and their groups, but for our own. A process that forks and ends is another one whenever it is looked
/// for; its group stays, and a signal to that reaches everyone in it at once.
fn kill(processes: &[Process]) {
    // SAFETY: touches no memory.
    let ours = unsafe { libc::getpgrp() };
    let mut groups: Vec<_> =
        processes.iter().map(|one| one.group).filter(|&group| group > 1 && group != ours).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.into_iter().for_each(|group| send(-group, libc::SIGKILL));
    processes.iter().for_each(|one| send(one.pid, libc::SIGKILL));
}

/// How long what got SIGKILL has for ending. A process that waits in the kernel, for a disk that is gone or a server that
/// hangs, ends when that wait does, if ever; and one of another user may not be ours to end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Ends the processes that `left` finds: SIGTERM, the grace, SIGKILL. `wait` reaps until something happens or that time has
/// come; when it says so, the grace ends. Returns those that could not be ended.
pub fn end_all<S>(
    of: &mut S,
    grace: Duration,
    left: impl Fn(&S) -> Vec<Process>,
    mut wait: impl FnMut(&mut S, Instant) -> Result<bool, Failure>,
) -> Result<Vec<Process>, Failure> {
    let mut until = Instant::now() + grace;
    let mut killed: Option<Instant> = None;
    for one in left(of) {
        send(one.pid, libc::SIGTERM);
        // One that is stopped would never get it.
        send(one.pid, libc::SIGCONT);
    }
    loop {
        let still = left(of);
        if still.is_empty() {
            // Zombies of theirs are ours to reap.
            wait(of, Instant::now())?;
            return Ok(still);
        }
        if killed.is_some_and(|since| since.elapsed() > KILL_PATIENCE) {
            return Ok(still);
        }
        if Instant::now() >= until {
            killed.get_or_insert_with(Instant::now);
            // Again and again, for what forks faster than we look; each round waits a little for its ends.
            kill(&still);
            until = Instant::now() + Duration::from_millis(20);
        }
        if wait(of, until)? {
            until = Instant::now();
        }
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
    // More than once, for what forks while we look; a bound, for what we may not end.
    for _ in 0..50 {
        let left = processes.inside();
        if left.is_empty() {
            return;
        }
        kill(&left);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Children reaped at a time.
const REAPED: usize = 1000;

/// Reaps children that have ended: tells the process and the wait status of each. Whether there may be more: one SIGCHLD
/// may stand for many, and they may come faster than they can be reaped.
pub fn reap(mut each: impl FnMut(libc::pid_t, i32)) -> bool {
    for _ in 0..REAPED {
        let mut status = 0;
        // SAFETY: `status` is valid for the call to fill; WNOHANG returns at once.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return false;
        }
        each(pid, status);
    }
    true
}
