//! `ls`: the sessions of a store, or a directory of one.

use std::io::{self, Write};

use super::status::state;
use crate::cli::access::{Access, finish, reach, target};
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes, stdout_failure, table};
use crate::control::Request;
use crate::session::Status;
use crate::session::tree::{self, Entry, TreeError};

pub fn sessions(context: &Context) -> Result<u8, Failure> {
    let mut all = Vec::new();
    for dir in context.store.sessions()? {
        match Status::read_or_explain(&dir) {
            Ok(status) => all.push(status),
            // Removed while we looked.
            Err(_) if !dir.exists()? => {}
            Err(error) => return Err(error.into()),
        }
    }
    context.answer(&all, |out| {
        if all.is_empty() {
            // To people, not into a pipe that counts lines.
            let _ = writeln!(io::stderr(), "no sessions in {}", context.store.path().display());
            return Ok(());
        }
        let head = ["SESSION", "USED", "CAP", "FILES", "LAST ACTIVE", "STATE", "MOUNTED AT"].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(all.iter().map(row));
        table(out, &rows, &[false, true, true, true])
    })?;
    Ok(0)
}

fn row(status: &Status) -> Vec<String> {
    let mountpoint = status.mountpoint.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    if let Some(error) = &status.error {
        return vec![status.session.clone(), "?".into(), "?".into(), "?".into(), "?".into(), error.clone(), mountpoint];
    }
    vec![
        status.session.clone(),
        human_bytes(status.bytes_used),
        human_bytes(status.bytes_limit),
        status.files.to_string(),
        status.last_active.clone(),
        state(status),
        mountpoint,
    ]
}

pub fn tree(context: &Context, text: &str) -> Result<u8, Failure> {
    let (id, path) = target(context, text.as_bytes())?;
    let mut entries: Vec<Entry> = Vec::new();
    match reach(context, &id, "ls", None)? {
        Access::Served(client) => {
            let request = Request::List { path: path.as_slice().into() };
            let mut each = |entry: &Entry| {
                entries.push(entry.clone());
                Ok(())
            };
            client.list(&request, &mut each).map_err(|error| Failure::of_control(id.as_str(), error))?;
        }
        Access::Ours(session) => {
            let listed = tree::list(session.fs(), &path, &mut |entry| {
                entries.push(entry.clone());
                Ok(())
            });
            finish(&session, listed.map_err(|error: TreeError| error.into()))?;
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    context.answer(&entries, |out| {
        let rows: Vec<Vec<String>> = entries.iter().map(line).collect();
        table(out, &rows, &[false, true, true, true, true])
    })?;
    io::stdout().flush().map_err(stdout_failure)?;
    Ok(0)
}

fn line(entry: &Entry) -> Vec<String> {
    let name = match &entry.target {
        Some(target) => format!("{} -> {target}", entry.name),
        None => entry.name.clone(),
    };
    vec![
        mode_text(&entry.kind, entry.mode),
        entry.nlink.to_string(),
        entry.uid.to_string(),
        entry.gid.to_string(),
        entry.size.to_string(),
        entry.mtime.clone(),
        name,
    ]
}

/// A mode as `ls -l` shows it.
fn mode_text(kind: &str, mode: u32) -> String {
    let first = match kind {
        "directory" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "char" => 'c',
        "block" => 'b',
        _ => '-',
    };
    let mut text = String::from(first);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::mode_text;

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode_text("file", 0o644), "-rw-r--r--");
        assert_eq!(mode_text("directory", 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text("file", 0o6750), "-rwsr-s---");
        assert_eq!(mode_text("file", 0o4644), "-rwSr--r--");
    }
}
