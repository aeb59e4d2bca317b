//! `export`

use std::io::{self, IsTerminal, Write};

use super::cat::{copy, of_output, of_served};
use crate::cli::access::{Access, caller, finish, reach, split_target};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, Counted, Progress, stdout_failure};
use crate::control::Request;
use crate::session::tree;

pub fn export(context: &Context, text: &str) -> Result<u8, Failure> {
    if io::stdout().is_terminal() {
        return Err(Failure::new(Exit::Usage, "export: a tar archive is not for a terminal")
            .hint(format!("sessionfs export {text} > {}.tar", text.split(':').next().unwrap_or("session"))));
    }
    let (session, path) = split_target(text.as_bytes()).unwrap_or((text.as_bytes(), b""));
    let id = context.session(&String::from_utf8_lossy(session))?;
    let access = reach(context, &id, "export", None)?;
    let mut progress = Progress::new(context, "exporting", true);
    let mut out = Counted { inner: io::BufWriter::new(io::stdout().lock()), progress: &mut progress };
    match access {
        Access::Served(client) => {
            let request = Request::Export { path: path.into(), top: b""[..].into() };
            let copied = client.receive(&request, |stream| copy(stream, &mut out));
            copied.and_then(|result| result).map_err(|error| of_served(id.as_str(), error))?;
        }
        Access::Ours(session) => {
            let exported = tree::export(session.fs(), &caller(), path, b"", &mut out);
            finish(&session, exported.map_err(of_output))?;
        }
    }
    out.flush().map_err(stdout_failure)?;
    Ok(0)
}
