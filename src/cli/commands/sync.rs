//! `sync`

use crate::cli::access::server;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes};
use crate::session::{Status, StopReport};

/// A session that is not mounted has nothing to commit: what it says then is what a stop has left.
pub fn sync(context: &Context, session: &str) -> Result<u8, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let report = match server(context, &dir)? {
        Some(client) => client.sync().map_err(|error| Failure::of_control(session, error))?,
        None => {
            let status = Status::read(&dir)?;
            StopReport {
                session: status.session,
                txid: status.txid,
                files: status.files,
                dirs: status.dirs,
                bytes: status.content_bytes,
                digest: status.digest,
            }
        }
    };
    context.report(&report, || described(&report))?;
    Ok(0)
}

/// What is safe, in one line.
pub fn described(report: &StopReport) -> String {
    format!(
        "{}: committed at transaction {}: {} files, {} directories, {}",
        report.session,
        report.txid,
        report.files,
        report.dirs,
        human_bytes(report.bytes)
    )
}
