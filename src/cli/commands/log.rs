//! `log`

use std::io::{self, Write};

use crate::cli::failure::Failure;
use crate::cli::output::{Context, grouped, human_bytes, table};
use crate::session::{CommandRecord, CommandStatus, SessionError};

/// Characters of a command that are shown, where more would break the line.
const SHOWN: usize = 100;

/// The commands that were run in a session, removed or not.
pub fn log(context: &Context, session: &str, last: Option<usize>, output: bool) -> Result<u8, Failure> {
    let id = context.session(session)?;
    let mut records = context.store.commands(&id)?;
    if records.is_empty() && !context.store.session(&id).exists()? {
        return Err(SessionError::Unknown { id, store: context.store.path().to_owned() }.into());
    }
    if let Some(last) = last {
        records.drain(..records.len().saturating_sub(last));
    }
    context.answer(&records, |out| if output { with_output(out, &records) } else { rows(out, &records) })?;
    Ok(0)
}

fn rows(out: &mut dyn Write, records: &[CommandRecord]) -> io::Result<()> {
    let head = ["STARTED", "BY", "TOOK", "EXIT", "FILES", "WRITTEN", "COMMAND"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(records.iter().map(row)).collect();
    table(out, &rows, &[false, false, true, true, true, true, false])
}

fn row(record: &CommandRecord) -> Vec<String> {
    let CommandRecord { started, by, millis, changed, .. } = record;
    vec![
        format!("{started:.3}"),
        by.clone(),
        format!("{:.1} s", *millis as f64 / 1000.0),
        match record.status {
            CommandStatus::Completed => record.exit.to_string(),
            CommandStatus::TimedOut => "timeout".to_owned(),
        },
        changed.map_or_else(|| "?".to_owned(), |changed| grouped(changed.files)),
        changed.map_or_else(|| "?".to_owned(), |changed| human_bytes(changed.bytes)),
        command(record),
    ]
}

/// On one line, and nothing in it that a terminal would take for more than text.
fn command(record: &CommandRecord) -> String {
    let text = record.argv.join(" ");
    let shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() { shown + "…" } else { shown }
}

fn with_output(out: &mut dyn Write, records: &[CommandRecord]) -> io::Result<()> {
    for record in records {
        writeln!(out, "{}", row(record).join("  "))?;
        for (stream, lines) in [("out", &record.stdout), ("err", &record.stderr)] {
            for line in lines.lines() {
                let line: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
                writeln!(out, "    {stream}| {line}")?;
            }
        }
    }
    Ok(())
}
