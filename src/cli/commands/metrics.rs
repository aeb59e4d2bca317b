//! `metrics`

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::base::SessionId;
use crate::cli::access::server;
use crate::cli::exit::Exit;
use crate::cli::exposition;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::control::Client;
use crate::session::Figures;

/// A server that is silent for so long is left out.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn metrics(context: &Context, session: Option<&str>, textfile: Option<&Path>) -> Result<u8, Failure> {
    let (figures, exit) = match session {
        Some(session) => (vec![of_session(context, session)?], 0),
        None => of_all(context)?,
    };
    match textfile {
        Some(path) => replace(path, exposition::text(&figures).as_bytes())
            .map_err(Failure::io(format_args!("{} cannot be written", path.display())))?,
        None => context.answer(&figures, |out| out.write_all(exposition::text(&figures).as_bytes()))?,
    }
    Ok(exit)
}

/// The server of a session, which has to be mounted.
pub fn mounted(context: &Context, session: &str) -> Result<Client, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let not_mounted = || {
        let text = format!("session {session} is not mounted: there is nothing to see");
        Failure::new(Exit::NotMounted, text).hint(format!("sessionfs status {session}"))
    };
    server(context, &dir)?.ok_or_else(not_mounted)
}

/// The figures of one session, which has to be mounted.
pub fn of_session(context: &Context, session: &str) -> Result<Figures, Failure> {
    ask(context, &context.session(session)?, mounted(context, session)?)
}

/// Those of every mounted session of the store; one that does not answer is said, left out, and makes the exit code.
pub fn of_all(context: &Context) -> Result<(Vec<Figures>, u8), Failure> {
    let (mut all, mut exit) = (Vec::new(), 0);
    for dir in context.store.sessions()? {
        let asked = server(context, &dir).and_then(|client| client.map(|it| ask(context, dir.id(), it)).transpose());
        match asked {
            Ok(found) => all.extend(found),
            Err(failure) => {
                failure.print(context.json);
                exit = failure.exit.code();
            }
        }
    }
    Ok((all, exit))
}

fn ask(context: &Context, id: &SessionId, client: Client) -> Result<Figures, Failure> {
    let figures = client.patience(PATIENCE).and_then(|client| client.figures());
    let figures = figures.map_err(|error| Failure::of_control(id.as_str(), error))?;
    let status = figures.status.filling(&context.config().soft_limits);
    Ok(Figures { status, history: context.store.history(id)?, ..figures })
}

/// Puts a file in the place of another: whoever reads it meanwhile sees the one or the other, whole. Readable for all,
/// for node-exporter is another user.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    // Not `.prom`, which node-exporter would read.
    name.push(format!(".{}", std::process::id()));
    let building = path.with_file_name(name);
    let written = File::create(&building).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(bytes)?;
        fs::rename(&building, path)
    });
    written.inspect_err(|_| {
        let _ = fs::remove_file(&building);
    })
}
