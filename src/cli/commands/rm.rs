//! `rm`

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes};

#[derive(Serialize)]
struct Removed {
    session: String,
    bytes_freed: u64,
}

/// Removes them all, or as many as can be: the first failure is the one reported by the exit code.
pub fn rm(context: &Context, sessions: &[String]) -> Result<u8, Failure> {
    // A name that is none stops everything: half a command line is not what was meant.
    let ids = sessions.iter().map(|session| context.session(session)).collect::<Result<Vec<_>, _>>()?;
    let mut failures = Vec::new();
    let mut all = Vec::new();
    for id in &ids {
        match context.store.remove(id, "rm") {
            Ok(bytes_freed) => {
                all.push(Removed { session: id.to_string(), bytes_freed });
                if !context.json {
                    context.report(&(), || format!("{id}: removed, {} freed", human_bytes(bytes_freed)))?;
                }
            }
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    // One document, whatever their number, and also when some of them are still there.
    if context.json {
        context.report(&all, String::new)?;
    }
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(0) };
    failures.for_each(|failure| failure.print(context.json));
    Err(first)
}
