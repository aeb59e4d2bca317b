//! `accept`

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::cli::receipt::state;
use crate::session::{Holder, Receipt};

#[derive(Serialize)]
struct Accepted {
    session: String,
    /// Why it was refused before, if it was.
    instead: Option<String>,
    #[serde(flatten)]
    receipt: Receipt,
}

/// For a session database that was replaced on purpose.
pub fn accept(context: &Context, session: &str) -> Result<u8, Failure> {
    let id = context.session(session)?;
    let locked = context.store.lock(&id, true, &Holder::current("accept", None))?;
    let (receipt, lacked) = locked.accept()?;
    let instead = lacked.map(|lacked| lacked.to_string());
    let answer = Accepted { session: id.to_string(), instead, receipt };
    context.report(&answer, || match &answer.instead {
        Some(_) => format!("{id}: is from now on what is there: {}", state(&answer.receipt)),
        None => format!("{id}: is what was last seen of it, or later: {}", state(&answer.receipt)),
    })?;
    Ok(0)
}
