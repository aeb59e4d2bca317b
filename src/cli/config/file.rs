//! A file of settings: who may have written it, and what is wrong with it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::Config;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

/// More than any file of settings has: what is longer is something else.
const BYTES_MAX: u64 = 1 << 20;
/// The group or others may write.
const OTHERS_WRITE: u32 = 0o022;

/// Reads a file of settings, if it is there and is one. `own` is a store's, which is no link: a store may be somebody
/// else's, who would have us read any file of the host.
pub(super) fn read(path: &Path, own: bool) -> Result<Option<toml::Table>, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| Failure::new(Exit::BadSettings, format!("{shown}: {error}"));
    let flags = libc::O_NONBLOCK | if own { libc::O_NOFOLLOW } else { 0 };
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(refused(path, "is a symbolic link: a store's own settings are a file"));
        }
        // A store that may not be looked into says so itself, when it is used.
        Err(error) if own && error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        other => other.map_err(failed)?,
    };
    let meta = file.metadata().map_err(failed)?;
    if own && meta.is_dir() {
        // A session can have this name.
        return Ok(None);
    }
    check_origin(path, &meta)?;
    let mut text = String::new();
    Read::take(&file, BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    parse(path, &text).map(Some)
}

/// What others may write says what others want.
fn check_origin(path: &Path, meta: &std::fs::Metadata) -> Result<(), Failure> {
    // SAFETY: geteuid cannot fail and touches no memory.
    let uid = unsafe { libc::geteuid() };
    let shown = path.display();
    if !meta.is_file() || meta.len() > BYTES_MAX {
        return Err(
            Failure::new(Exit::BadSettings, format!("{shown} is no file of settings")).hint(format!("ls -l {shown}"))
        );
    }
    if meta.uid() != 0 && meta.uid() != uid {
        return Err(refused(path, &format!("belongs to user {}, who is neither root nor you", meta.uid())));
    }
    if meta.mode() & OTHERS_WRITE != 0 {
        return Err(refused(path, "may be written by others").hint(format!("chmod go-w {shown}")));
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> Failure {
    let shown = path.display();
    Failure::new(Exit::BadSettings, format!("{shown} {why}; its settings are not used"))
        .hint(format!("ls -l {shown}   # then chown it, or take it away"))
}

/// The settings in a text. An error names the file, the line, the option, and what was meant.
fn parse(path: &Path, text: &str) -> Result<toml::Table, Failure> {
    toml::from_str::<Config>(text).and_then(|_| toml::from_str(text)).map_err(|error| {
        let what = match error.span() {
            Some(span) => {
                let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                format!("{}:{line}: {}", path.display(), said(text, span, error.message()))
            }
            None => format!("{}: {}", path.display(), error.message()),
        };
        Failure::new(Exit::BadSettings, what).hint("sessionfs config --example")
    })
}

/// The option at a place of the text, and what is wrong with it.
fn said(text: &str, span: Range<usize>, message: &str) -> String {
    let option = option_at(text, span.start);
    if message.starts_with("unknown field") {
        let meant = closest(&option).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        return format!("there is no option {option}{meant}");
    }
    let message = message.lines().next().unwrap_or_default();
    if option.is_empty() { message.to_owned() } else { format!("{option}: {message}") }
}

/// The whole name of the option that a place of the text belongs to: empty where there is none.
fn option_at(text: &str, at: usize) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let (mut key, mut section) = ("", "");
    for line in text[..end].lines().map(str::trim) {
        if let Some(name) =
            line.strip_prefix('[').and_then(|rest| rest.split(']').next()).filter(|name| !name.is_empty())
        {
            // An array over several lines may begin one so.
            if name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
                (key, section) = ("", name);
            }
        } else if let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            key = if name.chars().all(plain) { name } else { key };
        }
    }
    if section.is_empty() || key.is_empty() { format!("{section}{key}") } else { format!("{section}.{key}") }
}

/// The name of an option that is most like one that is none.
fn closest(name: &str) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let alike = |known: &str| strsim::jaro_winkler(known, name).max(strsim::jaro_winkler(&last(known), &last(name)));
    let names = Config::default().options().into_iter().map(|(known, _)| known);
    let best = names.map(|known| (alike(&known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wrong(text: &str) -> String {
        parse(Path::new("/etc/sessionfs.toml"), text).unwrap_err().message
    }

    #[test]
    fn an_error_names_file_line_option_and_what_was_meant() {
        for (text, words) in [
            ("size = \"1G\"\nsiez = 3\n", "/etc/sessionfs.toml:2: there is no option siez; did you mean size?"),
            (
                "[retention]\n\nidle_dais = 3\n",
                "toml:3: there is no option retention.idle_dais; did you mean retention.idle_days?",
            ),
            ("idle_days = 3\n", "toml:1: there is no option idle_days; did you mean retention.idle_days?"),
            ("zzz = 3\n", "toml:1: there is no option zzz"),
            ("size = \"1X\"\n", "toml:1: size: \"1X\" is no size: write bytes"),
            ("size = true\n", "toml:1: size: a size is a number of bytes"),
            ("size = 1000\n", "toml:1: size: a session needs at least 65536 bytes"),
            ("\ninodes = \"many\"\n", "toml:2: inodes: invalid type: string \"many\""),
            ("inodes = 1\n", "toml:1: inodes: a session needs at least 2 inodes"),
            ("mount = \"work\"\n", "toml:1: mount: \"work\" is not an absolute path"),
            ("transport = \"usb\"\n", "toml:1: transport: no transport is called usb: auto, uring or device"),
            ("map_uid = [\n  \"1:2\",\n  \"x\",\n]\n", "map_uid: "),
            ("soft_limits = [90, 80]\n", "toml:1: soft_limits: [90, 80] are not percentages"),
            ("[retention]\nidle_days = 0\n", "toml:2: retention.idle_days: days are at least 1"),
            (
                "[runtime_version]\npolicy = \"drop\"\n",
                "toml:2: runtime_version.policy: unknown variant `drop`, expected one of",
            ),
            ("allow_other = yes\n", "toml:1: allow_other: "),
            ("size = 1\nsize = 2\n", "toml:2: size: duplicate key"),
        ] {
            let said = wrong(text);
            assert!(said.contains(words), "{text:?} gave {said:?}, without {words:?}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_not_used() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sessionfs.toml");
        assert!(read(&path, true).unwrap().is_none());
        std::fs::write(&path, "grace = 1\n").unwrap();
        for (mode, trusted) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false), (0o666, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(read(&path, false).is_ok(), trusted, "{mode:o}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, false).unwrap().is_some());
        assert!(read(&link, true).unwrap_err().message.contains("symbolic link"));
        assert!(read(temp.path(), false).unwrap_err().message.contains("no file of settings"));
        match std::os::unix::fs::chown(&path, Some(12_345), None) {
            Ok(()) => {
                let error = read(&path, true).unwrap_err();
                assert!(error.message.contains("belongs to user 12345"), "{}", error.message);
                assert_eq!(error.exit, Exit::BadSettings);
            }
            Err(error) => eprintln!("SKIPPED in part: only root can give a file away ({error})"),
        }
    }
}
