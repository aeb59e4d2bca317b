//! `check`

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, Progress};
use crate::store::{self, Store, StoreError};

#[derive(Serialize)]
struct Answer {
    session: String,
    ok: bool,
    txid: u64,
    /// Operations that the next use will replay.
    in_journal: u64,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    code: String,
    text: String,
}

/// Beside a running server it checks the state of the last commit; of a session that was not stopped, the journal too.
pub fn check(context: &Context, session: &str) -> Result<u8, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let failed = |source| dir.database_error(source);
    let witness = context.store.entry(dir.id())?.witness;
    let database = Store::open_read_only(&dir.database()).map_err(failed)?;
    let mut progress = Progress::new(context, "checking", false);
    let found = store::check(&database, &mut |done, total| progress.at(done, total)).map_err(failed)?;
    drop(progress);
    let txid = database.superblock().map_err(failed)?.txid.0;
    let mut findings: Vec<Found> =
        found.into_iter().map(|found| Found { code: found.code.to_owned(), text: found.text }).collect();
    if let Some(lacks) = witness.map_or(Ok(None), |seen| seen.missing_in(&database)).map_err(failed)? {
        findings.push(Found { code: "witness".to_owned(), text: lacks.to_string() });
    }
    let journal = match context.store.holder(dir.id())? {
        // It changes under our eyes.
        Some(_) => Ok(0),
        None => database.inspect_journal(&dir.journal()).map(|found| found.operations),
    };
    let in_journal = match journal {
        Ok(operations) => operations,
        Err(StoreError::Journal(text)) => {
            findings.push(Found { code: "journal".to_owned(), text });
            0
        }
        Err(source) => return Err(failed(source).into()),
    };
    let answer = Answer { session: session.to_owned(), ok: findings.is_empty(), txid, in_journal, findings };
    context.answer(&answer, |out| {
        answer.findings.iter().try_for_each(|found| writeln!(out, "{}: {}", found.code, found.text))?;
        match answer.findings.len() {
            0 if context.quiet => Ok(()),
            0 if in_journal > 0 => writeln!(
                out,
                "{session}: clean at transaction {txid}; {in_journal} operations more in the journal, for the next use"
            ),
            0 => writeln!(out, "{session}: clean at transaction {txid}"),
            1 => writeln!(out, "{session}: 1 finding"),
            many => writeln!(out, "{session}: {many} findings"),
        }
    })?;
    Ok(if answer.ok { 0 } else { Exit::Findings.code() })
}
