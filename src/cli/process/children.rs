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

/// Reaps one child that has ended, if there is one: its process and wait status.
pub fn reap() -> Option<(libc::pid_t, i32)> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call to fill; WNOHANG returns at once.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}
