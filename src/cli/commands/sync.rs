//! `sync`

use crate::base::SessionId;
use crate::cli::access::{Access, reach};
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes};
use crate::session::{Receipt, SessionDir, Status, StopReport};

/// A session that is not mounted was committed when it was stopped; one that was not stopped is recovered here.
pub fn sync(context: &Context, session: &str) -> Result<u8, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let report = safe(context, &dir)?;
    context.report(&report, || described(&report))?;
    Ok(0)
}

/// Has everything committed, unless it is.
pub fn safe(context: &Context, dir: &SessionDir) -> Result<StopReport, Failure> {
    let status = Status::read(dir)?;
    if status.clean && status.pid.is_none() { Ok(stopped(status)) } else { commit(context, dir.id()) }
}

fn commit(context: &Context, id: &SessionId) -> Result<StopReport, Failure> {
    match reach(context, id, "sync", None)? {
        Access::Served(client) => client.sync().map_err(|error| Failure::of_control(id.as_str(), error)),
        Access::Ours(session) => Ok(session.stop()?),
    }
}

fn stopped(status: Status) -> StopReport {
    let Status { uuid, epoch, txid, digest, files, dirs, content_bytes: bytes, .. } = status;
    StopReport { session: status.session, receipt: Receipt { uuid, epoch, txid, digest, files, dirs, bytes } }
}

/// What is safe, in one line.
pub fn described(report: &StopReport) -> String {
    format!(
        "{}: committed at transaction {}: {} files, {} directories, {}",
        report.session,
        report.receipt.txid,
        report.receipt.files,
        report.receipt.dirs,
        human_bytes(report.receipt.bytes)
    )
}
