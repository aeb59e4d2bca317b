//! `sync`

use crate::base::SessionId;
use crate::cli::access::{Access, reach};
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes};
use crate::session::{Status, StopReport};

/// A session that is not mounted was committed when it was stopped; one that was not stopped is recovered here.
pub fn sync(context: &Context, session: &str) -> Result<u8, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let status = Status::read(&dir)?;
    let report = if status.clean && status.pid.is_none() { stopped(status) } else { commit(context, dir.id())? };
    context.report(&report, || described(&report))?;
    Ok(0)
}

fn commit(context: &Context, id: &SessionId) -> Result<StopReport, Failure> {
    match reach(context, id, "sync", None)? {
        Access::Served(client) => client.sync().map_err(|error| Failure::of_control(id.as_str(), error)),
        Access::Ours(session) => Ok(session.stop()?),
    }
}

fn stopped(status: Status) -> StopReport {
    StopReport {
        session: status.session,
        txid: status.txid,
        files: status.files,
        dirs: status.dirs,
        bytes: status.content_bytes,
        digest: status.digest,
    }
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
