//! `cat`

use std::io::{self, Read, Write};

use crate::cli::access::{Access, finish, reach, target};
use crate::cli::failure::Failure;
use crate::cli::output::{Context, stdout_failure};
use crate::control::{ControlError, Request};
use crate::session::tree::{self, TreeError};

pub fn cat(context: &Context, file: &str) -> Result<u8, Failure> {
    let (id, path) = target(context, file.as_bytes())?;
    let mut out = io::stdout().lock();
    match reach(context, &id, "cat", None)? {
        Access::Served(client) => {
            let request = Request::Read { path: path.as_slice().into() };
            let copied = client.receive(&request, |stream| copy(stream, &mut out));
            copied.and_then(|result| result).map_err(|error| of_served(id.as_str(), error))?;
        }
        Access::Ours(session) => {
            let read = tree::read(session.fs(), &path, &mut out);
            finish(&session, read.map_err(of_output))?;
        }
    }
    out.flush().map_err(stdout_failure)?;
    Ok(0)
}

/// A failure of what reads the session and writes to standard output: a full disk is the one, or the other.
pub fn of_output(error: TreeError) -> Failure {
    match error {
        TreeError::Stream(error) => stdout_failure(error),
        other => other.into(),
    }
}

/// The same, when a server reads.
pub fn of_served(session: &str, error: ControlError) -> Failure {
    match error {
        ControlError::Local(error) => stdout_failure(error),
        other => Failure::of_control(session, other),
    }
}

/// Copies a stream, telling a failure of the one end from one of the other.
pub fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<(), ControlError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(some) => to.write_all(&buffer[..some]).map_err(ControlError::Local)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ControlError::of_stream(error)),
        }
    }
}
