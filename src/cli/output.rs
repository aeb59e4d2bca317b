//! Where answers go: for people or for programs, on standard output; and progress, on a terminal only.

use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::{Global, Size};
use super::config::{Config, Settings};
use super::exit::Exit;
use super::failure::Failure;
use crate::base::SessionId;
use crate::session::{OpenOptions, StoreDir};

/// What a command needs to know besides its own arguments.
#[derive(Clone)]
pub struct Context {
    /// The store.
    pub store: StoreDir,
    settings: Settings,
    /// Answers as JSON.
    pub json: bool,
    /// How often `-v` was said.
    pub verbose: u8,
    /// Nothing but errors.
    pub quiet: bool,
}

impl Context {
    /// From the command line and the environment.
    pub fn new(global: &Global) -> Result<Context, Failure> {
        // A variable that is set to nothing is not set. An option that is, is most likely a variable that was not.
        if global.store.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(Failure::new(Exit::Usage, "--store: the name of a directory is missing"));
        }
        let (store, settings) = Settings::load(global.store.as_deref())?;
        Ok(Context { store, settings, json: global.json, verbose: global.verbose, quiet: global.quiet })
    }

    /// The same with another store.
    pub fn with_store(&self, store: StoreDir) -> Context {
        Context { store, ..self.clone() }
    }

    /// The settings; a command's own flags come before them.
    pub fn config(&self) -> &Config {
        &self.settings.config
    }

    /// The settings with who has set them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How a session is opened that a command may create or whose caps it may change: by its flags, and by the settings.
    pub fn open_options(&self, size: Option<Size>, inodes: Option<u64>) -> OpenOptions {
        let config = self.config();
        OpenOptions {
            bytes_limit: size.map(|size| size.0),
            inodes_limit: inodes,
            new_caps: Some((config.size.0, config.inodes)),
            owner: None,
            ephemeral: Vec::new(),
        }
    }

    /// A session's ID from the command line.
    pub fn session(&self, text: &str) -> Result<SessionId, Failure> {
        text.parse().map_err(|error: crate::base::SessionIdError| Failure::new(Exit::BadSessionId, error.to_string()))
    }

    /// What the log has: by `-v` and `--quiet`, or by the setting `log`, which is a filter as env_logger reads it.
    fn logger(&self, quiet: &str) -> env_logger::Builder {
        let filter = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (_, 0) => self.config().log.as_deref().unwrap_or(quiet),
            (_, 1) => "info",
            (_, 2) => "debug",
            _ => "trace",
        };
        let mut builder = env_logger::Builder::new();
        builder.parse_filters(filter);
        builder
    }

    /// Warnings of this process go to standard error; not where programs read it, unless they ask.
    pub fn log_to_stderr(&self) {
        let _ = self
            .logger(if self.json { "off" } else { "warn" })
            .format(|out, record| writeln!(out, "sessionfs: {}", record.args()))
            .try_init();
    }

    /// The server's log, to a file or (`None`) to standard error.
    pub fn log_as_server(&self, file: Option<std::fs::File>) {
        let target = match file {
            Some(file) => env_logger::Target::Pipe(Box::new(file)),
            None => env_logger::Target::Stderr,
        };
        let _ = self.logger("info").target(target).try_init();
    }

    /// The answer of a command: an object for programs, or what `human` writes.
    pub fn answer<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = if self.json {
            let text = serde_json::to_string(value).map_err(io::Error::from);
            text.and_then(|text| writeln!(out, "{text}"))
        } else {
            human(&mut out)
        };
        written.and_then(|()| out.flush()).map_err(stdout_failure)
    }

    /// A word of warning on standard error; not where programs read it.
    pub fn warn(&self, text: &str) {
        if !self.quiet && !self.json {
            // It may be closed: that is the caller's choice.
            let _ = writeln!(io::stderr(), "sessionfs: {text}");
        }
    }

    /// A word about what was done: for people, unless `--quiet`.
    pub fn report<T: Serialize>(&self, value: &T, line: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.quiet && !self.json {
            return Ok(());
        }
        self.answer(value, |out| writeln!(out, "{}", line()))
    }
}

/// Standard output failed: full, or nobody reads it any more.
pub fn stdout_failure(error: io::Error) -> Failure {
    let exit = if error.kind() == io::ErrorKind::BrokenPipe { Exit::Pipe } else { Exit::Failure };
    Failure::new(exit, format!("standard output: {error}"))
}

/// Bytes for people: three digits and a unit.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{bytes} B"),
        (_, value) if value < 9.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

/// A number for people: 1,204.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rows in columns, the first row being their names; `right` tells which are numbers.
pub fn table(out: &mut dyn Write, rows: &[Vec<String>], right: &[bool]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let fill = " ".repeat(widths[column] - cell.chars().count());
            let (before, after) = if right.get(column) == Some(&true) { (fill.as_str(), "") } else { ("", &*fill) };
            line += &format!("{before}{cell}{after}  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Progress of something that may take long: appears after a second, on a terminal only, and leaves nothing behind.
pub struct Progress {
    what: &'static str,
    started: Instant,
    bar: Option<ProgressBar>,
    wanted: bool,
    done: u64,
    bytes: bool,
}

impl Progress {
    /// Of `what`, counted in bytes or in something else.
    pub fn new(context: &Context, what: &'static str, bytes: bool) -> Progress {
        let wanted = !context.quiet && !context.json && io::stderr().is_terminal();
        Progress { what, started: Instant::now(), bar: None, wanted, done: 0, bytes }
    }

    /// So much more is done.
    pub fn advance(&mut self, more: u64) {
        self.at(self.done + more, 0);
    }

    /// So much is done, of `total` if that is known.
    pub fn at(&mut self, done: u64, total: u64) {
        self.done = done;
        if !self.wanted || self.started.elapsed() < Duration::from_secs(1) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let template = match (self.bytes, total) {
                (true, _) => "{msg} {bytes} ({bytes_per_sec})",
                (false, 0) => "{msg} {pos}",
                (false, _) => "{msg} {wide_bar} {percent}%",
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_message(self.what).with_elapsed(self.started.elapsed())
        });
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A stream whose bytes are counted on their way.
pub struct Counted<'a, T> {
    /// The stream.
    pub inner: T,
    /// Who counts.
    pub progress: &'a mut Progress,
}

impl<T: Read> Read for Counted<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let done = self.inner.read(buffer)?;
        self.progress.advance(done as u64);
        Ok(done)
    }
}

impl<T: Write> Write for Counted<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.inner.write(bytes)?;
        self.progress.advance(done as u64);
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (150 << 20, "150 MiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_204_567, "1,204,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn tables_line_up() {
        let mut out = Vec::new();
        let rows = [["A", "N"], ["long", "7"], ["x", "12"]].map(|row| row.map(str::to_owned).to_vec());
        table(&mut out, &rows, &[false, true]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A      N\nlong   7\nx     12\n");
    }
}
