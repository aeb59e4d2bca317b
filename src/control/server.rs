//! The server's end of the control socket: a thread that accepts, and one for each request at work.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::frames::{FrameReader, FrameWriter, receive, send};
use super::message::{Fault, PathBytes, Reply, Request};
use super::socket::{self, Peer};
use super::visits::Visits;
use crate::fs::{Caller, Filter, Fs, Watch};
use crate::session::tree::{self, Touched, TreeError};
use crate::session::{
    self, Figures, OpenOptions, Session, SessionDir, SessionError, Status, StopReport, TraceFilter, Verifier,
};
use crate::store::{Store, StoreError};

/// Requests at work at a time; more are told to come back.
const CONNECTIONS_MAX: usize = 512;
/// A client that does not say what it wants for so long is given up. A stream has no such limit: who reads it may be a
/// pager, who sends it may wait for a disk, and one that is gone is noticed at once, by the end of the connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the composer is reached: it owns the mount.
pub struct Hooks {
    /// Stops the mount and the session; the answer comes when everything is committed, or says why it was not done.
    pub stop: Box<dyn Fn(Stopping) + Send + Sync>,
    /// Where it is mounted.
    pub mountpoint: Box<dyn Fn() -> PathBuf + Send + Sync>,
    /// Whether the mount is for those who visit, and ends with the last of them.
    pub for_visits: bool,
    /// Makes the kernel forget what an import has changed behind its back.
    pub invalidate: Box<dyn Fn(&Touched) + Send + Sync>,
}

/// A request to stop, to be answered.
pub struct Stopping {
    /// In which way.
    pub how: Ending,
    /// Takes the answer; it has been sent when this returns.
    pub answer: Box<dyn FnOnce(Result<StopReport, Fault>) + Send>,
}

/// In which way a mount is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not while files on it are open.
    Unused,
    /// Also then.
    Lazy,
    /// Whatever is left in it is ended first: it was made for visits, and the last is over.
    Deserted,
}

/// The control socket, served. It ends with the process: its file goes by [`Server::remove`].
pub struct Server {
    shared: Arc<Shared>,
}

/// What the threads share.
pub(super) struct Shared {
    dir: SessionDir,
    pub(super) fs: Arc<Fs>,
    store: Arc<Store>,
    verifier: Arc<Verifier>,
    pub(super) hooks: Hooks,
    pub(super) visits: Visits,
    busy: AtomicUsize,
    patience: Duration,
}

/// One request at work. It is over when this is dropped, also by a panic.
struct Busy(Arc<Shared>);

impl Busy {
    /// `None` when there are too many already.
    fn begin(shared: &Arc<Shared>) -> Option<Busy> {
        let busy = Busy(Arc::clone(shared));
        (shared.busy.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX).then_some(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Binds the socket and starts answering.
    pub fn start(session: &Session, hooks: Hooks) -> io::Result<Server> {
        Self::start_with(session, hooks, PATIENCE)
    }

    fn start_with(session: &Session, hooks: Hooks, patience: Duration) -> io::Result<Server> {
        let listener = socket::bind(session.dir())?;
        let shared = Arc::new(Shared {
            dir: session.dir().clone(),
            fs: Arc::clone(session.fs()),
            store: Arc::clone(session.store()),
            verifier: Arc::clone(session.verifier()),
            hooks,
            visits: Visits::default(),
            busy: AtomicUsize::new(0),
            patience,
        });
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new().name("control".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Server { shared })
    }

    /// Lets nobody come to visit any more, if nobody is there; whether that is so.
    pub fn close(&self) -> bool {
        self.shared.visits.close()
    }

    /// Takes the socket away, while the session's lock is still held: afterwards it may be another server's.
    pub fn remove(self) {
        let _ = std::fs::remove_file(self.shared.dir.socket());
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
        let Some(busy) = Busy::begin(shared) else {
            let _ = send(&mut &stream, &refuse("too many commands at a time", libc::EAGAIN));
            continue;
        };
        let spawned = std::thread::Builder::new().name("control-request".into()).spawn(move || {
            if let Err(error) = busy.0.serve(&stream) {
                log::debug!("control request: {error}");
            }
        });
        if let Err(error) = spawned {
            log::warn!("control socket: {error}");
        }
    }
}

pub(super) fn refuse(message: &str, errno: i32) -> Reply {
    Reply::Fault(Fault { message: message.to_owned(), errno: Some(errno), ..Fault::default() })
}

impl Shared {
    fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let peer = socket::peer(stream)?;
        let mut out = BufWriter::new(stream);
        if !socket::allowed(peer) {
            log::warn!("control socket: user {} turned away", peer.uid);
            return send(&mut out, &refuse("not your session", libc::EACCES));
        }
        let mut input = BufReader::new(stream);
        let request: Request = receive(&mut input)?;
        log::debug!("control request from user {}: {request:?}", peer.uid);
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        match request {
            Request::Status => send(&mut out, &self.status())?,
            Request::Figures => send(&mut out, &self.figures())?,
            Request::Resize { bytes, inodes } => {
                let options = OpenOptions { bytes_limit: bytes, inodes_limit: inodes, ..OpenOptions::default() };
                let resized = Session::resize_parts(&self.dir, &self.fs, &options);
                send(&mut out, &resized.map_or_else(|error| Reply::Fault(fault(&error)), |()| self.status()))?;
            }
            Request::Trace(filter) => return self.trace(peer, &filter, stream, &mut out),
            Request::Hot { millis } => self.hot(Duration::from_millis(millis), stream, &mut out)?,
            Request::Sync => send(&mut out, &safe(self.sync().map_err(|error| fault(&error))))?,
            Request::Stop { lazy } => return self.stop(stream, lazy),
            Request::Visit => return self.visit(stream, &mut input),
            Request::Leave => send(&mut out, &refuse("nobody has come in on this connection", libc::EINVAL))?,
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

    fn status(&self) -> Reply {
        let verified = self.verifier.state();
        let status = Status::live(&self.dir, &self.fs, &self.store).map(|status| Status { verified, ..status });
        status.map_or_else(|error| Reply::Fault(fault(&error)), |status| Reply::Status(Box::new(status)))
    }

    fn figures(&self) -> Reply {
        let figures = Figures::live(&self.dir, &self.fs, &self.store);
        figures.map_or_else(|error| Reply::Fault(fault(&error)), |figures| Reply::Figures(Box::new(figures)))
    }

    fn sync(&self) -> Result<StopReport, SessionError> {
        Session::sync_parts(&self.dir, &self.fs, &self.store)
    }

    fn stop(&self, stream: &UnixStream, lazy: bool) -> io::Result<()> {
        // The answer may be long in coming, and goes out from the thread that stops: this process ends behind it.
        let mut answering = stream.try_clone()?;
        let answer = Box::new(move |result: Result<StopReport, Fault>| {
            let stopped = result.is_ok();
            if let Err(error) = send(&mut answering, &safe(result)) {
                log::warn!("nobody waits for the end of the stop any more: {error}");
            }
            // Left open when it stopped: the client knows by the end of the connection that the lock is free, too. One
            // that was refused is over, and this process goes on.
            if stopped {
                std::mem::forget(answering);
            }
        });
        let how = if lazy { Ending::Lazy } else { Ending::Unused };
        (self.hooks.stop)(Stopping { how, answer });
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
            Request::Status
            | Request::Figures
            | Request::Trace(_)
            | Request::Hot { .. }
            | Request::Resize { .. }
            | Request::Sync
            | Request::Stop { .. }
            | Request::Visit
            | Request::Leave
            | Request::Import { .. } => Ok(()),
        }
    }

    fn trace(
        &self,
        peer: Peer,
        filter: &TraceFilter,
        stream: &UnixStream,
        out: &mut BufWriter<&UnixStream>,
    ) -> io::Result<()> {
        let (filter, covered) = match filter.parse() {
            Ok((filter, covered)) => (Filter { not_by: peer.pid.try_into().unwrap_or_default(), ..filter }, covered),
            Err(error) => {
                send(out, &refuse(&error.to_string(), libc::EINVAL))?;
                return out.flush();
            }
        };
        let watch = match self.fs.watch(filter) {
            Ok(watch) => watch,
            Err(error) => {
                send(out, &refuse(&error.to_string(), libc::EAGAIN))?;
                return out.flush();
            }
        };
        send(out, &Reply::Stream)?;
        while_asked(stream, &watch, || {
            let mut frames = FrameWriter::new(out);
            session::trace(&self.fs, &watch, &covered, &mut |told| match told {
                Some(told) => send(&mut frames, told),
                None => frames.flush(),
            })?;
            frames.end(Ok(()))?;
            out.flush()
        })?
        // The watch goes last: a stop waits for it, and then this process is gone.
    }

    fn hot(&self, long: Duration, stream: &UnixStream, out: &mut dyn Write) -> io::Result<()> {
        let watch = match self.fs.watch(Filter::default()) {
            Ok(watch) => watch,
            Err(error) => return send(out, &refuse(&error.to_string(), libc::EAGAIN)),
        };
        let hot = while_asked(stream, &watch, || session::hot(&self.fs, &watch, long))?;
        send(out, &Reply::Hot(hot))?;
        out.flush()
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
        let refused = |error: TreeError| {
            let mut fault = tree_fault(&error);
            if fault.errno == Some(libc::ENOSPC) && self.fs.is_disk_full() {
                fault.disk_full = true;
                fault.message = format!("{error}: {}", StoreError::Full);
            }
            Reply::Fault(fault)
        };
        let reply = result.map_or_else(refused, Reply::Imported);
        send(out, &reply)
    }
}

/// Does something for a client that has nothing more to say; when it goes away, the watch ends.
fn while_asked<T>(stream: &UnixStream, watch: &Watch, work: impl FnOnce() -> T) -> io::Result<T> {
    std::thread::scope(|scope| {
        let wait = move || {
            let _ = (&mut &*stream).read(&mut [0]);
            watch.end();
        };
        std::thread::Builder::new().name("control-hangup".into()).spawn_scoped(scope, wait)?;
        let done = work();
        // It would wait for a client that waits for the end of this.
        let _ = stream.shutdown(Shutdown::Read);
        Ok(done)
    })
}

fn caller(peer: Peer) -> Caller {
    Caller { uid: peer.uid, gid: peer.gid, umask: 0o022 }
}

fn safe(result: Result<StopReport, Fault>) -> Reply {
    result.map_or_else(Reply::Fault, Reply::Safe)
}

fn fault(error: &SessionError) -> Fault {
    let disk_full = matches!(error, SessionError::Database { source: StoreError::Full, .. });
    Fault { message: error.to_string(), errno: disk_full.then_some(libc::ENOSPC), disk_full }
}

fn tree_fault(error: &TreeError) -> Fault {
    Fault { message: error.to_string(), errno: error.errno(), ..Fault::default() }
}

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::*;
    use crate::base::Ino;
    use crate::fs::WriteFlags;
    use crate::session::{Holder, StoreDir};

    const SHORT: Duration = Duration::from_millis(100);

    fn hooks() -> Hooks {
        let refused = || Fault { message: "not now".into(), ..Fault::default() };
        Hooks {
            stop: Box::new(move |stopping| (stopping.answer)(Err(refused()))),
            mountpoint: Box::new(PathBuf::new),
            for_visits: false,
            invalidate: Box::new(|_| panic!("as planned")),
        }
    }

    fn session(temp: &tempfile::TempDir) -> Session {
        let store = StoreDir::at(temp.path()).unwrap();
        let locked = store.lock(&"demo".parse().unwrap(), false, &Holder::current("test", None)).unwrap();
        locked.open(&OpenOptions::default()).unwrap()
    }

    #[test]
    fn a_stream_waits_for_a_slow_peer_but_a_silent_one_is_given_up() {
        let temp = tempfile::tempdir().unwrap();
        let session = session(&temp);
        let caller = Caller { uid: 0, gid: 0, umask: 0 };
        let file = session.fs().mknod(&caller, Ino::ROOT, b"big", libc::S_IFREG | 0o600, 0).unwrap();
        // More than a socket and both buffers hold.
        let bytes = vec![7; 8 << 20];
        for at in 0..8 {
            session.fs().write(file.ino, at << 20, &bytes[..1 << 20], WriteFlags::default()).unwrap();
        }
        let _server = Server::start_with(&session, hooks(), SHORT).unwrap();
        let path = PathBytes::from(&b"/big"[..]);
        let read = |stream: &mut dyn Read| {
            std::thread::sleep(SHORT * 5);
            let mut content = Vec::new();
            stream.read_to_end(&mut content).map(|_| content)
        };
        let content = Client::connect(session.dir()).unwrap().receive(&Request::Read { path }, read).unwrap();
        assert!(content.unwrap() == bytes);

        let mut silent = socket::connect(session.dir()).unwrap();
        silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap(), 0, "closed by the server");
        session.stop().unwrap();
    }

    #[test]
    fn a_refused_stop_closes_its_connection_and_a_panic_gives_its_place_back() {
        let temp = tempfile::tempdir().unwrap();
        let session = session(&temp);
        let _server = Server::start(&session, hooks()).unwrap();
        let mut asking = socket::connect(session.dir()).unwrap();
        asking.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        send(&mut asking, &Request::Stop { lazy: false }).unwrap();
        let mut said = String::new();
        asking.read_to_string(&mut said).unwrap();
        assert!(said.contains("not now"), "{said}");

        std::fs::write(temp.path().join("f"), b"x").unwrap();
        let from = temp.path().join("f");
        for _ in 0..CONNECTIONS_MAX + 5 {
            let request = Request::Import { path: b"/f"[..].into(), under: None };
            let client = Client::connect(session.dir()).unwrap();
            client.send(&request, |out| tree::pack_host(&from, out)).unwrap_err();
        }
        Client::connect(session.dir()).unwrap().status().unwrap();
        session.stop().unwrap();
    }
}
