//! `cp`: between a session and the host, as cp -a would do it. What travels is a tar stream.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::SessionId;
use crate::cli::access::{Access, caller, cap_below_use, finish, reach, split_target, target};
use crate::cli::args::Size;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, Counted, Progress};
use crate::control::{ControlError, Request};
use crate::session::OpenOptions;
use crate::session::tree::{self, Totals, TreeError};

pub fn cp(context: &Context, from: &OsStr, to: &OsStr, size: Option<Size>, inodes: Option<u64>) -> Result<u8, Failure> {
    let (source, target_of) = (split_target(from.as_bytes()), split_target(to.as_bytes()));
    let totals = match (source, target_of) {
        (Some(_), None) => {
            let (id, path) = target(context, from.as_bytes())?;
            out_of(context, &id, &path, Path::new(to))?
        }
        (None, Some(_)) => {
            let (id, path) = target(context, to.as_bytes())?;
            let create = context.open_options(size, inodes);
            into(context, Path::new(from), &id, &path, create)?
        }
        (Some(_), Some(_)) => {
            return Err(Failure::new(Exit::Usage, "cp: both sides are in sessions")
                .hint("sessionfs cp ONE:/path DIR && sessionfs cp DIR TWO:/path"));
        }
        (None, None) => {
            return Err(Failure::new(Exit::Usage, "cp: neither side is in a session")
                .hint("sessionfs cp FILE SESSION:/path   # a host path with a colon: ./FILE"));
        }
    };
    if totals.skipped > 0 {
        log::warn!("{} sockets left out", totals.skipped);
    }
    if context.json || context.verbose > 0 {
        context.report(&totals, || {
            format!("{} files, {} directories, {} bytes", totals.files, totals.dirs, totals.bytes)
        })?;
    }
    Ok(0)
}

/// Session to host. Into a directory that is there it goes under its own name; the root of a session has none, and
/// is merged into it.
fn out_of(context: &Context, id: &SessionId, path: &[u8], to: &Path) -> Result<Totals, Failure> {
    let name = path.rsplit(|&b| b == b'/').find(|part| !part.is_empty() && *part != b".");
    let place = match (to.is_dir(), name) {
        (true, Some(b"..")) => {
            return Err(Failure::new(Exit::Usage, "cp: a path that ends in .. has no name"));
        }
        (true, Some(name)) => to.join(OsStr::from_bytes(name)),
        // `.` and `..` have no name in their parent: found by their real path.
        _ if to.file_name().is_none() => to.canonicalize().map_err(Failure::io(to.display()))?,
        _ => to.to_owned(),
    };
    let access = reach(context, id, "cp", None)?;
    let mut progress = Progress::new(context, "copying", true);
    match access {
        Access::Served(client) => {
            let request = Request::Export { path: path.into(), top: b"."[..].into() };
            let unpacked = client.receive(&request, |stream| {
                tree::unpack_to_host(&mut Counted { inner: stream, progress: &mut progress }, &place)
            });
            match unpacked.map_err(|error| Failure::of_control(id.as_str(), error))? {
                Ok(totals) => Ok(totals),
                Err(TreeError::Stream(error)) => Err(Failure::of_control(id.as_str(), ControlError::of_stream(error))),
                Err(error) => Err(error.into()),
            }
        }
        Access::Ours(session) => {
            let copied = through_a_pipe(
                |out| tree::export(session.fs(), &caller(), path, b".", out),
                |stream| tree::unpack_to_host(&mut Counted { inner: stream, progress: &mut progress }, &place),
            );
            finish(&session, copied)
        }
    }
}

/// Host to session.
fn into(context: &Context, from: &Path, id: &SessionId, path: &[u8], create: OpenOptions) -> Result<Totals, Failure> {
    std::fs::symlink_metadata(from).map_err(|source| TreeError::Host { path: from.to_owned(), source })?;
    let under = own_name(from)?;
    let access = reach(context, id, "cp", Some(create.clone()))?;
    let mut progress = Progress::new(context, "copying", true);
    match access {
        Access::Served(client) => {
            let request = Request::Import { path: path.into(), under: under.as_deref().map(Into::into) };
            let sent = client
                .send(&request, |out| tree::pack_host(from, &mut Counted { inner: out, progress: &mut progress }));
            Ok(sent.map_err(|error| Failure::of_control(id.as_str(), error))??)
        }
        Access::Ours(session) => {
            let usage = session.fs().usage();
            let warning = cap_below_use(id, &create, usage.bytes, usage.inodes);
            warning.iter().for_each(|warning| context.warn(warning));
            let copied = through_a_pipe(
                |out| tree::pack_host(from, &mut Counted { inner: out, progress: &mut progress }),
                |stream| tree::import(session.fs(), &caller(), path, under.as_deref(), stream, &mut |_| {}),
            );
            finish(&session, copied)
        }
    }
}

/// The name that a copy of `from` gets in a directory; for `.`, `..` and `/` there is none: their content is meant.
fn own_name(from: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let bytes = from.as_os_str().as_bytes();
    let last = bytes.rsplit(|&b| b == b'/').find(|part| !part.is_empty());
    match last {
        None | Some(b"." | b"..") => Ok(None),
        Some(name) => Ok(Some(PathBuf::from(OsStr::from_bytes(name)).into_os_string().as_bytes().to_vec())),
    }
}

/// Joins a writer and a reader of a tar stream. The reader's failure is the cause when both fail: the writer's is
/// then only the broken pipe.
fn through_a_pipe(
    write: impl FnOnce(&mut dyn std::io::Write) -> Result<Totals, TreeError> + Send,
    read: impl FnOnce(&mut dyn std::io::Read) -> Result<Totals, TreeError>,
) -> Result<Totals, Failure> {
    let (mut from, to) = std::io::pipe().map_err(Failure::io("pipe"))?;
    let (written, done) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || write(&mut std::io::BufWriter::with_capacity(256 << 10, to)));
        let done = read(&mut from);
        // Closed before the wait: a writer whose reader gave up must not wait for room.
        drop(from);
        (writer.join(), done)
    });
    let written = written.map_err(|_| Failure::new(Exit::Failure, "cp: internal error in the reading thread"))?;
    match (written, done) {
        (Ok(totals), Ok(_)) => Ok(totals),
        (Err(TreeError::Stream(_)), Err(error)) | (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
    }
}
