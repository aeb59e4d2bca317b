//! The server's end of the control socket: a thread that accepts, and one for each request at work.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::frames::{FrameReader, FrameWriter, receive, send};
use super::message::{Fault, PathBytes, Reply, Request};
use super::socket::{self, Peer};
use crate::fs::{Caller, Fs};
use crate::session::tree::{self, Touched, TreeError};
use crate::session::{Session, SessionDir, SessionError, Status, StopReport};
use crate::store::Store;

/// Requests at work at a time; more are told to come back.
const CONNECTIONS_MAX: usize = 64;
/// A client that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the composer is reached: it owns the mount.
pub struct Hooks {
    /// Stops the mount and the session; the answer comes when everything is committed, or says why it was not done.
    pub stop: Box<dyn Fn(Stopping) + Send + Sync>,
    /// Makes the kernel forget what an import has changed behind its back.
    pub invalidate: Box<dyn Fn(&Touched) + Send + Sync>,
}

/// A request to stop, to be answered.
pub struct Stopping {
    /// Also while files on the mount are open.
    pub lazy: bool,
    /// Takes the answer; it has been sent when this returns.
    pub answer: Box<dyn FnOnce(Result<StopReport, Fault>) + Send>,
}

/// The control socket, served. It ends with the process: its file goes by [`Server::remove`].
pub struct Server {
    dir: SessionDir,
}

/// What the threads share.
struct Shared {
    dir: SessionDir,
    fs: Arc<Fs>,
    store: Arc<Store>,
    hooks: Hooks,
    busy: AtomicUsize,
}

impl Server {
    /// Binds the socket and starts answering.
    pub fn start(session: &Session, hooks: Hooks) -> io::Result<Server> {
        let listener = socket::bind(session.dir())?;
        let shared = Arc::new(Shared {
            dir: session.dir().clone(),
            fs: Arc::clone(session.fs()),
            store: Arc::clone(session.store()),
            hooks,
            busy: AtomicUsize::new(0),
        });
        std::thread::Builder::new().name("control".into()).spawn(move || accept(&listener, &shared))?;
        Ok(Server { dir: session.dir().clone() })
    }

    /// Takes the socket away, while the session's lock is still held: afterwards it may be another server's.
    pub fn remove(self) {
        let _ = std::fs::remove_file(self.dir.socket());
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others will be closed.
                log::warn!("control socket: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if shared.busy.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            shared.busy.fetch_sub(1, Ordering::Relaxed);
            let _ = send(&mut &stream, &refuse("too many commands at a time", libc::EAGAIN));
            continue;
        }
        let at_work = Arc::clone(shared);
        let spawned = std::thread::Builder::new().name("control-request".into()).spawn(move || {
            if let Err(error) = at_work.serve(&stream) {
                log::debug!("control request: {error}");
            }
            at_work.busy.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            log::warn!("control socket: {error}");
            shared.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn refuse(message: &str, errno: i32) -> Reply {
    Reply::Fault(Fault { message: message.to_owned(), errno: Some(errno) })
}

impl Shared {
    fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let peer = socket::peer(stream)?;
        let mut out = BufWriter::new(stream);
        if !socket::allowed(peer) {
            log::warn!("control socket: user {} turned away", peer.uid);
            return send(&mut out, &refuse("not your session", libc::EACCES));
        }
        let mut input = BufReader::new(stream);
        let request: Request = receive(&mut input)?;
        log::debug!("control request from user {}: {request:?}", peer.uid);
        match request {
            Request::Status => {
                let status = Status::live(&self.dir, &self.fs, &self.store);
                let reply = status.map_or_else(|error| Reply::Fault(fault(&error)), |s| Reply::Status(Box::new(s)));
                send(&mut out, &reply)?;
            }
            Request::Sync => send(&mut out, &safe(self.sync().map_err(|error| fault(&error))))?,
            Request::Stop { lazy } => return self.stop(stream, lazy),
            Request::Import { path, under } => self.import(peer, &path, under.as_ref(), &mut input, &mut out)?,
            _ => {
                send(&mut out, &Reply::Stream)?;
                let mut frames = FrameWriter::new(&mut out);
                let result = self.stream(peer, &request, &mut frames);
                frames.end(result.map_err(|error| tree_fault(&error)))?;
            }
        }
        out.flush()
    }

    fn sync(&self) -> Result<StopReport, SessionError> {
        Session::sync_parts(&self.dir, &self.fs, &self.store)
    }

    fn stop(&self, stream: &UnixStream, lazy: bool) -> io::Result<()> {
        // The answer may be long in coming, and goes out from the thread that stops: this process ends behind it.
        let mut answering = stream.try_clone()?;
        let answer = Box::new(move |result: Result<StopReport, Fault>| {
            if let Err(error) = send(&mut answering, &safe(result)) {
                log::warn!("nobody waits for the end of the stop any more: {error}");
            }
            // Left open when it stopped: the client knows by the end of the connection that the lock is free, too.
            std::mem::forget(answering);
        });
        (self.hooks.stop)(Stopping { lazy, answer });
        Ok(())
    }

    fn stream(&self, peer: Peer, request: &Request, out: &mut dyn Write) -> Result<(), TreeError> {
        match request {
            Request::List { path } => tree::list(&self.fs, path.as_bytes(), &mut |entry| Ok(send(out, entry)?)),
            Request::Read { path } => tree::read(&self.fs, path.as_bytes(), out).map(drop),
            Request::Export { path, top } => {
                tree::export(&self.fs, &caller(peer), path.as_bytes(), top.as_bytes(), out).map(drop)
            }
            // `serve` has taken these.
            Request::Status | Request::Sync | Request::Stop { .. } | Request::Import { .. } => Ok(()),
        }
    }

    fn import(
        &self,
        peer: Peer,
        path: &PathBytes,
        under: Option<&PathBytes>,
        input: &mut BufReader<&UnixStream>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        send(out, &Reply::Stream)?;
        out.flush()?;
        let mut frames = FrameReader::new(input);
        let touched = &mut |touched: Touched| (self.hooks.invalidate)(&touched);
        let under = under.map(PathBytes::as_bytes);
        let result = tree::import(&self.fs, &caller(peer), path.as_bytes(), under, &mut frames, touched);
        if result.is_err() {
            // What is still on its way is taken, so that the client comes to read the answer.
            let _ = io::copy(&mut frames.by_ref(), &mut io::sink());
        }
        let reply = result.map_or_else(|error| Reply::Fault(tree_fault(&error)), Reply::Imported);
        send(out, &reply)
    }
}

fn caller(peer: Peer) -> Caller {
    Caller { uid: peer.uid, gid: peer.gid, umask: 0o022 }
}

fn safe(result: Result<StopReport, Fault>) -> Reply {
    result.map_or_else(Reply::Fault, Reply::Safe)
}

fn fault(error: &SessionError) -> Fault {
    let errno = match error {
        SessionError::Database { source: crate::store::StoreError::Full, .. } => Some(libc::ENOSPC),
        _ => None,
    };
    Fault { message: error.to_string(), errno }
}

fn tree_fault(error: &TreeError) -> Fault {
    Fault { message: error.to_string(), errno: error.errno() }
}
