//! `ls`: the sessions of a store, or a directory of one.

use std::io::{self, IsTerminal, Write};

use super::status::state;
use crate::base::Timestamp;
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
            Ok(status) => {
                let config = context.config();
                all.push(status.expiring(config.retention.idle_days).filling(&config.soft_limits));
            }
            // Removed while we looked.
            Err(_) if !dir.exists()? => {}
            Err(error) => return Err(error.into()),
        }
    }
    for dir in context.store.lost()? {
        all.push(Status::read_or_explain(&dir)?);
    }
    context.answer(&all, |out| {
        if all.is_empty() {
            // To people, not into a pipe that counts lines.
            let _ = writeln!(io::stderr(), "no sessions in {}", context.store.path().display());
            return Ok(());
        }
        let head =
            ["SESSION", "USED", "CAP", "FILES", "LAST ACTIVE", "EXPIRES", "STATE", "MOUNTED AT"].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        let warn = context.config().retention.warn_days;
        rows.extend(all.iter().map(|status| row(status, warn)));
        table(out, &rows, &[false, true, true, true])
    })?;
    Ok(0)
}

fn row(status: &Status, warn_days: u32) -> Vec<String> {
    let mountpoint = status.mountpoint.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    if let Some(error) = &status.error {
        return vec![
            status.session.clone(),
            "?".into(),
            "?".into(),
            "?".into(),
            "?".into(),
            "?".into(),
            error.clone(),
            mountpoint,
        ];
    }
    vec![
        status.session.clone(),
        human_bytes(status.bytes_used),
        human_bytes(status.bytes_limit),
        status.files.to_string(),
        status.last_active.clone(),
        expiry(status, warn_days),
        state(status),
        mountpoint,
    ]
}

/// When a session goes. What goes soon has a mark, which colours would not leave in a pipe.
fn expiry(status: &Status, warn_days: u32) -> String {
    let now = Timestamp::now().secs;
    match (status.expires_at(0), &status.expires) {
        _ if status.pinned => "never, pinned".to_owned(),
        (Some(at), Some(_)) if at <= now => "now !".to_owned(),
        (Some(at), Some(text)) if at <= now.saturating_add(i64::from(warn_days) * 86_400) => format!("{text} !"),
        (_, Some(text)) => text.clone(),
        (_, None) => String::new(),
    }
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
    entries.sort_by(|a, b| a.name_bytes().cmp(b.name_bytes()));
    let quoting = io::stdout().is_terminal();
    context.answer(&entries, |out| {
        let rows: Vec<Vec<String>> = entries.iter().map(line).collect();
        let mut lines = Vec::new();
        table(&mut lines, &rows, &[false, true, true, true, true])?;
        for (line, entry) in lines.split(|&b| b == b'\n').zip(&entries) {
            let shown = |name| if quoting { quoted(name) } else { <[u8]>::to_vec(name) };
            let target = entry.target_bytes().map(|to| [b" -> ".to_vec(), shown(to)].concat()).unwrap_or_default();
            out.write_all(&[line, b"  ", &shown(entry.name_bytes()), &target, b"\n"].concat())?;
        }
        Ok(())
    })?;
    io::stdout().flush().map_err(stdout_failure)?;
    Ok(0)
}

fn line(entry: &Entry) -> Vec<String> {
    vec![
        mode_text(&entry.kind, entry.mode),
        entry.nlink.to_string(),
        entry.uid.to_string(),
        entry.gid.to_string(),
        entry.size.to_string(),
        entry.mtime.clone(),
    ]
}

/// A name for a terminal, as ls(1) writes it there: in quotes where a shell would need them, and what the terminal would
/// take for a command as a number. What comes out can be pasted.
fn quoted(name: &[u8]) -> Vec<u8> {
    let plain = |c: char| c.is_alphanumeric() || "_-./+,:@%^".contains(c) || (!c.is_ascii() && !c.is_control());
    let text = std::str::from_utf8(name);
    if text.is_ok_and(|text| !text.is_empty() && text.chars().all(plain)) {
        return name.to_vec();
    }
    let mut out = b"'".to_vec();
    let escape = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(b"'$'");
        bytes.iter().for_each(|byte| out.extend_from_slice(format!("\\{byte:03o}").as_bytes()));
        out.extend_from_slice(b"''");
    };
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).as_bytes();
            match c {
                '\'' => out.extend_from_slice(br"'\''"),
                c if c.is_control() => escape(&mut out, bytes),
                _ => out.extend_from_slice(bytes),
            }
        }
        if !chunk.invalid().is_empty() {
            escape(&mut out, chunk.invalid());
        }
    }
    out.push(b'\'');
    out
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
    use super::{mode_text, quoted};

    #[test]
    fn a_quoted_name_is_harmless_and_means_the_name_to_a_shell() {
        for (name, shown) in [
            (&b"plain-1.txt"[..], "plain-1.txt"),
            ("grün".as_bytes(), "grün"),
            (b"two words", "'two words'"),
            (b"it's", r"'it'\''s'"),
            (b"$(reboot)", "'$(reboot)'"),
            (b"\x1b]0;x\x07", r"''$'\033'']0;x'$'\007'''"),
            (b"bad\xff\nname", r"'bad'$'\377'''$'\012''name'"),
            ("\u{9b}2J".as_bytes(), r"''$'\302\233''2J'"),
        ] {
            assert_eq!(String::from_utf8(quoted(name)).unwrap(), shown);
            let script = format!("printf %s {shown}");
            let said = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(said.stdout, name, "{shown}");
        }
    }

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode_text("file", 0o644), "-rw-r--r--");
        assert_eq!(mode_text("directory", 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text("file", 0o6750), "-rwsr-s---");
        assert_eq!(mode_text("file", 0o4644), "-rwSr--r--");
    }
}
