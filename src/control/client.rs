//! The commands' end of the control socket.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::frames::{FrameReader, FrameWriter, SentFault, receive, send};
use super::message::{Fault, Reply, Request};
use super::socket;
use crate::session::tree::{Entry, Totals};
use crate::session::{Changed, Figures, Hot, OpenOptions, SessionDir, Status, StopReport, Told, TraceFilter};

/// Why a command to a server did not work.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The session's lock is held, but nobody answers at its socket.
    #[error("its server does not answer: {0}")]
    NoAnswer(io::Error),
    /// The connection ended in the middle: the server died, most likely.
    #[error("its server went away while it was being asked: {0}")]
    Lost(io::Error),
    /// The server says no.
    #[error("{}", .0.message)]
    Refused(Fault),
    /// Our own end failed: the file or pipe that a stream goes to or comes from.
    #[error("{0}")]
    Local(io::Error),
}

/// A connection to the server of a mounted session.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    input: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    pub fn connect(dir: &SessionDir) -> Result<Client, ControlError> {
        let stream = socket::connect(dir).map_err(ControlError::NoAnswer)?;
        let input = BufReader::new(stream.try_clone().map_err(ControlError::NoAnswer)?);
        Ok(Client { stream, input })
    }

    /// The server's process by our numbers, where it has one.
    pub fn server_pid(&self) -> Option<u32> {
        let pid = socket::peer(&self.stream).ok()?.pid;
        u32::try_from(pid).ok().filter(|&pid| pid != 0)
    }

    /// Gives up when no answer comes for so long.
    pub fn patience(self, patience: Duration) -> Result<Client, ControlError> {
        self.stream.set_read_timeout(Some(patience)).map_err(ControlError::NoAnswer)?;
        Ok(self)
    }

    /// How the server is doing.
    pub fn status(mut self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(unexpected(other)),
        }
    }

    /// How the server is doing, and what it has done.
    pub fn figures(mut self) -> Result<Figures, ControlError> {
        match self.ask(&Request::Figures)? {
            Reply::Figures(figures) => Ok(*figures),
            other => Err(unexpected(other)),
        }
    }

    /// Comes into the workspace.
    pub fn visit(mut self) -> Result<Visit, ControlError> {
        match self.ask(&Request::Visit)? {
            Reply::Welcome { mountpoint } => Ok(Visit { client: self, mountpoint }),
            other => Err(unexpected(other)),
        }
    }

    /// The files that most operations are about, for so long from now on.
    pub fn hot(mut self, long: Duration) -> Result<Hot, ControlError> {
        let millis = u64::try_from(long.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Hot { millis })? {
            Reply::Hot(hot) => Ok(hot),
            other => Err(unexpected(other)),
        }
    }

    /// Changes the caps that are given.
    pub fn resize(mut self, options: &OpenOptions) -> Result<Status, ControlError> {
        let OpenOptions { bytes_limit: bytes, inodes_limit: inodes, .. } = *options;
        match self.ask(&Request::Resize { bytes, inodes })? {
            Reply::Status(status) => Ok(*status),
            other => Err(unexpected(other)),
        }
    }

    /// Has everything committed.
    pub fn sync(mut self) -> Result<StopReport, ControlError> {
        match self.ask(&Request::Sync)? {
            Reply::Safe(report) => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    /// Has the session stopped; returns when the server is gone and its lock is free.
    pub fn stop(mut self, lazy: bool) -> Result<StopReport, ControlError> {
        match self.ask(&Request::Stop { lazy })? {
            Reply::Safe(report) => {
                let _ = self.input.read_to_end(&mut Vec::new());
                Ok(report)
            }
            other => Err(unexpected(other)),
        }
    }

    /// Lists.
    pub fn list(self, request: &Request, each: &mut dyn FnMut(&Entry) -> io::Result<()>) -> Result<(), ControlError> {
        self.lines(request, &mut |entry| each(entry).map(ControlFlow::Continue))
    }

    /// Follows the operations of the mount until the session is stopped, or `each` has enough.
    pub fn trace(
        self,
        filter: &TraceFilter,
        each: &mut dyn FnMut(&Told) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), ControlError> {
        self.lines(&Request::Trace(filter.clone()), each)
    }

    /// Receives a stream of JSON lines.
    fn lines<T: DeserializeOwned>(
        mut self,
        request: &Request,
        each: &mut dyn FnMut(&T) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), ControlError> {
        self.stream_reply(request)?;
        let mut lines = BufReader::new(FrameReader::new(&mut self.input));
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).map_err(ControlError::of_stream)? == 0 {
                return Ok(());
            }
            let one = serde_json::from_str(&line).map_err(|error| ControlError::Lost(error.into()))?;
            if each(&one).map_err(ControlError::Local)?.is_break() {
                return Ok(());
            }
        }
    }

    /// Receives a stream (`read`, `export`): `take` reads it to its end.
    pub fn receive<T>(mut self, request: &Request, take: impl FnOnce(&mut dyn Read) -> T) -> Result<T, ControlError> {
        self.stream_reply(request)?;
        Ok(take(&mut FrameReader::new(&mut self.input)))
    }

    /// Sends a stream (`import`): `give` writes it. A failure of `give` tells the server that it broke off.
    pub fn send<E: std::fmt::Display>(
        mut self,
        request: &Request,
        give: impl FnOnce(&mut dyn Write) -> Result<Totals, E>,
    ) -> Result<Result<Totals, E>, ControlError> {
        self.stream_reply(request)?;
        let mut out = BufWriter::new(&self.stream);
        let mut frames = FrameWriter::new(&mut out);
        let given = give(&mut frames);
        let result = given.as_ref().map(drop).map_err(|error| Fault { message: error.to_string(), ..Fault::default() });
        // The answer says more than a pipe that broke: it is read in any case.
        let ended = frames.end(result).and_then(|()| out.flush());
        drop(out);
        match receive(&mut self.input) {
            Ok(Reply::Imported(_)) => Ok(given),
            Ok(Reply::Fault(fault)) if given.is_ok() => Err(ControlError::Refused(fault)),
            _ if given.is_err() => Ok(given),
            Ok(other) => Err(unexpected(other)),
            Err(error) => Err(ControlError::Lost(ended.err().unwrap_or(error))),
        }
    }

    fn stream_reply(&mut self, request: &Request) -> Result<(), ControlError> {
        match self.ask(request)? {
            Reply::Stream => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, ControlError> {
        // Who is turned away is told so without being heard: the answer says more than a pipe that broke.
        let sent = send(&mut &self.stream, request);
        match receive(&mut self.input) {
            Ok(Reply::Fault(fault)) => Err(ControlError::Refused(fault)),
            Ok(reply) => sent.map(|()| reply).map_err(ControlError::Lost),
            Err(error) => Err(ControlError::Lost(sent.err().unwrap_or(error))),
        }
    }
}

/// A stay in a workspace. It ends with the connection, when not before.
#[derive(Debug)]
pub struct Visit {
    client: Client,
    /// Where it is mounted, as the server sees it.
    pub mountpoint: PathBuf,
}

impl Visit {
    /// The server: its process by our numbers, where it has one, and its user and group.
    pub fn server(&self) -> Option<(u32, u32, u32)> {
        let peer = socket::peer(&self.client.stream).ok()?;
        Some((u32::try_from(peer.pid).ok().filter(|&pid| pid != 0)?, peer.uid, peer.gid))
    }

    /// Whether the server is still there: what was learnt of its process before is true.
    pub fn is_alive(&mut self) -> bool {
        self.client.ask(&Request::Visit).is_ok()
    }

    /// Ends it. What was changed in the workspace meanwhile; and, where the mount was for those who visit and this was
    /// the last, what is safe: then the server is gone and its lock is free.
    pub fn leave(mut self) -> Result<(Changed, Option<StopReport>), ControlError> {
        match self.client.ask(&Request::Leave)? {
            Reply::Left(changed) => Ok((changed, None)),
            Reply::LeftLast { changed, safe } => {
                let _ = self.client.input.read_to_end(&mut Vec::new());
                Ok((changed, Some(safe)))
            }
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(reply: Reply) -> ControlError {
    match reply {
        Reply::Fault(fault) => ControlError::Refused(fault),
        other => ControlError::Lost(io::Error::other(format!("an answer that does not fit: {other:?}"))),
    }
}

impl ControlError {
    /// The fault in the error of a stream, if one was sent; otherwise the connection broke.
    pub fn of_stream(error: io::Error) -> ControlError {
        match error.downcast::<SentFault>() {
            Ok(SentFault(fault)) => ControlError::Refused(fault),
            Err(error) => ControlError::Lost(error),
        }
    }
}
