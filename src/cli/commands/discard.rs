//! `discard-journal`

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::session::Holder;

#[derive(Serialize)]
struct Discarded {
    session: String,
    txid: u64,
    set_aside: Option<String>,
}

/// For a journal that cannot be replayed: goes back to the last commit.
pub fn discard_journal(context: &Context, session: &str) -> Result<u8, Failure> {
    let id = context.session(session)?;
    let locked = context.store.lock(&id, true, &Holder::current("discard-journal", None))?;
    let (superblock, aside) = locked.discard_journal()?;
    let set_aside = aside.map(|path| path.display().to_string());
    let answer = Discarded { session: id.to_string(), txid: superblock.txid.0, set_aside };
    context.report(&answer, || match &answer.set_aside {
        Some(path) => format!("{id}: is as transaction {} left it; the journal is now {path}", answer.txid),
        None => format!("{id}: is as transaction {} left it; there was no journal", answer.txid),
    })?;
    Ok(0)
}
