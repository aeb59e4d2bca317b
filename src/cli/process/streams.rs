//! What a command writes, on its way to whoever reads it: as it is, or as events of JSON.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::thread::JoinHandle;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::signals::poll;
use crate::session::CommandStatus;

/// Bytes taken at a time; the pipes hold as many, so that the command need not wait for every one of our turns.
const CHUNK: usize = 256 << 10;
/// Bytes of each stream that are remembered at least, if it has so many.
const REMEMBERED: usize = 16 << 10;

/// An event of `exec --json`, as `InvokeAgentRuntimeCommand` of Amazon Bedrock AgentCore sends them. Bytes that are no
/// UTF-8 go in Base64 (RFC 4648, 4), for which it has no word.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::enum_variant_names)] // Theirs.
pub enum Event<'a> {
    /// The command has started.
    ContentStart {},
    /// It has written something.
    ContentDelta(Delta<'a>),
    /// It has ended; the last event.
    #[serde(rename_all = "camelCase")]
    ContentStop { exit_code: i32, status: CommandStatus },
}

/// A piece of what was written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum Delta<'a> {
    Stdout(&'a str),
    Stderr(&'a str),
    StdoutBase64(String),
    StderrBase64(String),
}

impl Event<'_> {
    /// Writes it to standard output, as a line.
    pub fn print(&self) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        out.flush()
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// Where pieces go.
enum Sink {
    /// As they are.
    Plain(File),
    /// As events. The rest is the beginning of a character whose end has not come yet.
    Events { stream: Stream, rest: Vec<u8> },
}

impl Sink {
    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Plain(file) => write_all(file, bytes),
            Sink::Events { stream, rest } => {
                rest.extend_from_slice(bytes);
                let whole = match std::str::from_utf8(rest) {
                    Ok(_) => rest.len(),
                    // Only the last character is cut.
                    Err(error) if error.error_len().is_none() => error.valid_up_to(),
                    Err(_) => rest.len(),
                };
                let after = rest.split_off(whole);
                let piece = std::mem::replace(rest, after);
                tell(*stream, &piece)
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Sink::Plain(_) => Ok(()),
            Sink::Events { stream, rest } => tell(*stream, rest),
        }
    }
}

fn tell(stream: Stream, piece: &[u8]) -> io::Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    let encoded = || BASE64_STANDARD.encode(piece);
    let delta = match (stream, std::str::from_utf8(piece)) {
        (Stream::Out, Ok(text)) => Delta::Stdout(text),
        (Stream::Err, Ok(text)) => Delta::Stderr(text),
        (Stream::Out, Err(_)) => Delta::StdoutBase64(encoded()),
        (Stream::Err, Err(_)) => Delta::StderrBase64(encoded()),
    };
    Event::ContentDelta(delta).print()
}

/// Also to a descriptor that its owner has made non-blocking.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => bytes = &bytes[done..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut entry = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: one entry, valid for the call. Whatever it returns, the next write knows better.
                unsafe { libc::poll(&mut entry, 1, -1) };
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The command's ends of its streams; `None` where it has ours.
#[derive(Debug, Default)]
pub struct Ends {
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Pipes that nobody reads yet.
pub struct Pipes {
    ends: Vec<(Stream, PipeReader)>,
    json: bool,
}

impl Pipes {
    /// For a command. A terminal it gets as it is, so that it can be talked to.
    pub fn open(json: bool) -> io::Result<(Pipes, Ends)> {
        let (mut pipes, mut ends) = (Pipes { ends: Vec::new(), json }, Ends::default());
        for (stream, ours) in [(Stream::Out, io::stdout().as_fd()), (Stream::Err, io::stderr().as_fd())] {
            if !json && io::IsTerminal::is_terminal(&ours) {
                continue;
            }
            let (read, write) = io::pipe()?;
            // SAFETY: the descriptor is open. What is refused (a user's pipes may be limited) stays as it is.
            unsafe { libc::fcntl(read.as_raw_fd(), libc::F_SETPIPE_SZ, CHUNK as libc::c_int) };
            set_nonblocking(&read)?;
            pipes.ends.push((stream, read));
            let end = if stream == Stream::Out { &mut ends.stdout } else { &mut ends.stderr };
            *end = Some(write.into());
        }
        Ok((pipes, ends))
    }

    /// Starts passing on what comes.
    pub fn pass_on(self) -> io::Result<Passing> {
        let (done, all) = io::pipe()?;
        let (quit, stop) = io::pipe()?;
        let mut threads = Vec::new();
        for (stream, from) in self.ends {
            let sink = if self.json { Sink::Events { stream, rest: Vec::new() } } else { Sink::Plain(ours(stream)?) };
            let (quit, all) = (quit.try_clone()?, all.try_clone()?);
            let pass = move || {
                let tail = pass_on(from, &quit, sink);
                drop(all);
                tail
            };
            threads.push((stream, std::thread::Builder::new().name("stream".to_owned()).spawn(pass)?));
        }
        Ok(Passing { threads, done, stop: Some(stop) })
    }
}

fn ours(stream: Stream) -> io::Result<File> {
    let fd = match stream {
        Stream::Out => io::stdout().as_fd().try_clone_to_owned(),
        Stream::Err => io::stderr().as_fd().try_clone_to_owned(),
    };
    fd.map(File::from)
}

fn set_nonblocking(pipe: &PipeReader) -> io::Result<()> {
    // SAFETY: the descriptor is open. The flag is of this end alone: the command's blocks, as it expects.
    let set = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Passes on until the end, or after `quit` what is there by then; returns what came last. When its reader is gone, the
/// command is to learn of it as it would without us: its next write fails, and SIGPIPE ends it.
fn pass_on(mut from: PipeReader, quit: &PipeReader, mut sink: Sink) -> Vec<u8> {
    let mut chunk = vec![0; CHUNK];
    let mut tail = Vec::new();
    let mut left = usize::MAX;
    while left > 0 {
        if left == usize::MAX && poll(&[quit.as_raw_fd()], 0).is_ok_and(|ready| ready[0]) {
            left = waiting_in(&from);
            continue;
        }
        let some = left.min(CHUNK);
        let read = match from.read(&mut chunk[..some]) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if left != usize::MAX || poll(&[from.as_raw_fd(), quit.as_raw_fd()], -1).is_err() {
                    break;
                }
                continue;
            }
            Err(_) => break,
        };
        if left != usize::MAX {
            left -= read;
        }
        if tail.len() + read > 4 * REMEMBERED {
            tail.drain(..tail.len().saturating_sub(REMEMBERED));
        }
        tail.extend_from_slice(&chunk[read.saturating_sub(REMEMBERED)..read]);
        if sink.give(&chunk[..read]).is_err() {
            return tail;
        }
    }
    let _ = sink.end(); // Only a reader that is gone could miss it.
    tail
}

/// Bytes in a pipe that nobody has read yet.
fn waiting_in(pipe: &PipeReader) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and `bytes` is valid for the call to fill.
    let asked = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut bytes) };
    if asked == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// Streams that are passed on by threads.
pub struct Passing {
    threads: Vec<(Stream, JoinHandle<Vec<u8>>)>,
    done: PipeReader,
    stop: Option<PipeWriter>,
}

impl Passing {
    /// Can be read from when both have come to their end.
    pub fn done(&self) -> RawFd {
        self.done.as_raw_fd()
    }

    /// Has them end when nothing more is there, although somebody still has the other end.
    pub fn finish(&mut self) {
        self.stop = None;
    }

    /// What came last of standard output and standard error. Waits for both.
    pub fn tails(self) -> (Vec<u8>, Vec<u8>) {
        let mut tails = (Vec::new(), Vec::new());
        for (stream, thread) in self.threads {
            let tail = thread.join().unwrap_or_default();
            *(if stream == Stream::Out { &mut tails.0 } else { &mut tails.1 }) = tail;
        }
        tails
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_look_as_they_do_there() {
        let text = |event: &Event<'_>| serde_json::to_string(event).unwrap();
        assert_eq!(text(&Event::ContentStart {}), r#"{"contentStart":{}}"#);
        assert_eq!(text(&Event::ContentDelta(Delta::Stdout("é"))), r#"{"contentDelta":{"stdout":"é"}}"#);
        let raw = Delta::StderrBase64(BASE64_STANDARD.encode([0xff, 0]));
        assert_eq!(text(&Event::ContentDelta(raw)), r#"{"contentDelta":{"stderrBase64":"/wA="}}"#);
        let stop = Event::ContentStop { exit_code: -1, status: CommandStatus::TimedOut };
        assert_eq!(text(&stop), r#"{"contentStop":{"exitCode":-1,"status":"TIMED_OUT"}}"#);
    }

    #[test]
    fn a_character_in_two_pieces_is_one() {
        let mut sink = Sink::Events { stream: Stream::Err, rest: Vec::new() };
        let rest = |sink: &Sink| match sink {
            Sink::Events { rest, .. } => rest.clone(),
            Sink::Plain(_) => unreachable!(),
        };
        sink.give(&"aé".as_bytes()[..2]).unwrap();
        assert_eq!(rest(&sink), [0xc3]);
        sink.give(&[0xa9]).unwrap();
        assert_eq!(rest(&sink), [0; 0]);
        sink.give(&[0xff, b'x', 0xc3]).unwrap();
        assert_eq!(rest(&sink), [0; 0], "no UTF-8: it goes as it is");
    }
}
