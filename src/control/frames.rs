//! A stream of bytes whose end, or failure, is said and not guessed.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use super::message::Fault;

/// Bytes collected before a frame is sent.
const FRAME: usize = 256 << 10;
/// Bytes of a line that is no data.
pub(super) const LINE_MAX: u64 = 1 << 20;

/// The line before, or instead of, bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Frame {
    /// So many bytes follow.
    Bytes(u64),
    /// That was all.
    End,
    /// It broke off.
    Fault(Fault),
}

/// Sends one value as a line.
pub(super) fn send<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Receives one line as a value.
pub(super) fn receive<T: for<'de> Deserialize<'de>>(input: &mut dyn BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    input.take(LINE_MAX).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The sending end: collects what is written and sends it as frames.
pub struct FrameWriter<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl<'a> FrameWriter<'a> {
    /// Frames to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        FrameWriter { out, buffer: Vec::with_capacity(FRAME) }
    }

    /// Ends the stream: complete, or with what went wrong.
    pub fn end(mut self, result: Result<(), Fault>) -> io::Result<()> {
        match result {
            Ok(()) => {
                self.flush()?;
                send(self.out, &Frame::End)
            }
            Err(fault) => send(self.out, &Frame::Fault(fault)),
        }
    }
}

impl Write for FrameWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= FRAME {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            send(self.out, &Frame::Bytes(self.buffer.len() as u64))?;
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        self.out.flush()
    }
}

/// The receiving end. A fault sent in the middle is a read error that carries it.
pub struct FrameReader<'a> {
    input: &'a mut dyn BufRead,
    left: u64,
    ended: bool,
}

/// A fault on its way through [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct SentFault(pub Fault);

impl<'a> FrameReader<'a> {
    /// Frames from `input`.
    pub fn new(input: &'a mut dyn BufRead) -> Self {
        FrameReader { input, left: 0, ended: false }
    }
}

impl Read for FrameReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if self.ended {
                return Ok(0);
            }
            match receive(self.input).map_err(cut)? {
                Frame::Bytes(bytes) => self.left = bytes,
                Frame::End => self.ended = true,
                Frame::Fault(fault) => return Err(io::Error::other(SentFault(fault))),
            }
        }
        let some = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let done = self.input.read(&mut buffer[..some])?;
        if done == 0 && some > 0 {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= done as u64;
        Ok(done)
    }
}

/// The end of the connection is not the end of the stream: who reads it must not take it for a short archive.
fn cut(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the connection ended in the middle")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_whole_or_says_why_not() {
        let data = vec![7; 3 * FRAME + 5];
        let mut whole = Vec::new();
        let mut writer = FrameWriter::new(&mut whole);
        writer.write_all(&data).unwrap();
        writer.end(Ok(())).unwrap();
        let mut out = Vec::new();
        FrameReader::new(&mut whole.as_slice()).read_to_end(&mut out).unwrap();
        assert_eq!(out, data);
        for cut in [0, 5, 100, FRAME, whole.len() - 1] {
            let error = FrameReader::new(&mut &whole[..cut]).read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "cut at {cut}");
        }

        let mut broken = Vec::new();
        let mut writer = FrameWriter::new(&mut broken);
        writer.write_all(b"abc").unwrap();
        writer.flush().unwrap();
        writer.end(Err(Fault { message: "no more".into(), errno: Some(5), ..Fault::default() })).unwrap();
        let error = FrameReader::new(&mut broken.as_slice()).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "no more");
    }
}
