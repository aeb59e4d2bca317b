//! `status`

use std::io::{self, Write};
use std::time::Duration;

use crate::cli::access::server;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes, table};
use crate::cli::receipt;
use crate::session::{Status, Verified};

/// A server that is busy for so long is reported from the session database instead.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn status(context: &Context, session: &str) -> Result<u8, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let live = match server(context, &dir) {
        Ok(Some(client)) => client.patience(PATIENCE).and_then(|client| client.status()).map(Some),
        Ok(None) => Ok(None),
        Err(failure) => {
            failure.print(context.json);
            Ok(None)
        }
    };
    let status = match live {
        Ok(Some(status)) => status,
        Ok(None) => Status::read(&dir)?,
        Err(error) => {
            Failure::of_control(session, error).print(context.json);
            Status::read(&dir)?
        }
    };
    let config = context.config();
    let status = status.expiring(config.retention.idle_days).filling(&config.soft_limits);
    context.answer(&status, |out| print(out, &status))?;
    Ok(0)
}

fn print(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    let share = |used: u64, limit: u64| used.saturating_mul(100).checked_div(limit).unwrap_or(100);
    let used =
        |used: u64, limit: u64| format!("{} of {} ({}%)", human_bytes(used), human_bytes(limit), share(used, limit));
    let mut rows = vec![("session", status.session.clone()), ("state", state(status))];
    if let Some(mountpoint) = &status.mountpoint {
        rows.push(("mounted at", mountpoint.display().to_string()));
    }
    if let Some(failed) = &status.failed {
        rows.push(("FAILED", failed.clone()));
    }
    rows.extend([
        ("space", used(status.bytes_used, status.bytes_limit)),
        (
            "inodes",
            format!(
                "{} of {} ({}%)",
                status.inodes_used,
                status.inodes_limit,
                share(status.inodes_used, status.inodes_limit)
            ),
        ),
    ]);
    for (what, percent) in [("space", status.soft_limit_bytes), ("inodes", status.soft_limit_inodes)] {
        if percent > 0 {
            let text = format!("{percent}% of the cap on {what} is passed: sessionfs du {}", status.session);
            rows.push(("FILLS UP", text));
        }
    }
    rows.extend([
        ("ephemeral", if status.ephemeral.is_empty() { "nothing".to_owned() } else { status.ephemeral.join(" ") }),
        ("files", format!("{}, {} directories", status.files, status.dirs)),
        ("content", human_bytes(status.content_bytes)),
        ("on disk", human_bytes(status.database_bytes)),
        (
            "to commit",
            format!("{}, {} of journal", human_bytes(status.dirty_bytes), human_bytes(status.journal_waiting)),
        ),
        ("transaction", status.txid.to_string()),
        ("digest", status.digest.clone()),
        ("created", status.created.clone()),
        ("last active", status.last_active.clone()),
        ("uuid", status.uuid.clone()),
    ]);
    match &status.expires {
        _ if status.pinned => rows.push(("expires", "never, pinned".to_owned())),
        Some(at) => rows.push(("expires", at.clone())),
        None => {}
    }
    if let Some(version) = &status.runtime_version {
        rows.push(("runtime", version.clone()));
    }
    if let Some(stop) = &status.last_stop {
        rows.push(("last stop", format!("{:.0}: {}", stop.at, receipt::state(&stop.receipt))));
    }
    let verified = match status.verified {
        Verified::None => None,
        Verified::Running => Some("under way"),
        Verified::Ok => Some("yes"),
        Verified::Failed => Some("FAILED: sessionfs check says what is wrong"),
    };
    rows.extend(verified.map(|text| ("verified", text.to_owned())));
    if let Some(found) = &status.recovery {
        let how = if status.pid.is_some() { "recovered" } else { "to recover" };
        let text = format!("{} operations, {}", found.operations, human_bytes(found.bytes));
        rows.push((how, if status.pid.is_some() { format!("{text} in {} ms", found.millis) } else { text }));
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(out, &rows, &[])
}

/// Mounted, in use by a command, idle, or left by something that died.
pub fn state(status: &Status) -> String {
    match (status.mounted, status.pid) {
        (true, pid) => format!("mounted, process {}", pid.unwrap_or(0)),
        (false, Some(pid)) => format!("in use, process {pid}"),
        (false, None) if status.error.is_some() => "unreadable".to_owned(),
        (false, None) if status.clean => "idle".to_owned(),
        (false, None) => "idle, not stopped cleanly: the next use recovers it".to_owned(),
    }
}
