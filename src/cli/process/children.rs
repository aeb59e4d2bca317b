//! The processes that a command leaves behind.

use std::collections::HashMap;

/// Every descendant of this process, but for `except` and what descends from it. The kernel hands orphans to us, as
/// their subreaper, so that nobody gets away by forking twice.
pub fn descendants(except: libc::pid_t) -> Vec<libc::pid_t> {
    let mut children: HashMap<libc::pid_t, Vec<libc::pid_t>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some((parent, false)) = parent_of(pid) {
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

/// The parent of a process, and whether it is a zombie: that one has ended, and is its parent's to reap.
fn parent_of(pid: libc::pid_t) -> Option<(libc::pid_t, bool)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything: what follows the last one is fixed.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    Some((fields.next()?.parse().ok()?, state == "Z"))
}

/// Ends every other process of this process's mount namespace, which must be one of `run`: there is nobody in it but
/// the command and what it started, and whoever came in to look at them.
pub fn end_namespace() {
    let Ok(ours) = std::fs::read_link("/proc/self/ns/mnt") else { return };
    let me = std::process::id() as libc::pid_t;
    // More than once, for what forks while we look; a bound, for what we may not end.
    for _ in 0..50 {
        let Ok(entries) = std::fs::read_dir("/proc") else { return };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<libc::pid_t>().ok());
        let inside = |pid: &libc::pid_t| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns == ours);
        let alive = |pid: &libc::pid_t| parent_of(*pid).is_some_and(|(_, zombie)| !zombie);
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
