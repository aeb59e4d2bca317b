//! `pin`, `unpin`, `retain`: how long sessions are kept.

use serde::Serialize;

use crate::cli::args::Days;
use crate::cli::failure::Failure;
use crate::cli::output::Context;

#[derive(Serialize)]
struct Kept {
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<bool>,
    idle_days: Option<u32>,
}

pub fn pin(context: &Context, sessions: &[String], pinned: bool) -> Result<u8, Failure> {
    let ids = sessions.iter().map(|session| context.session(session)).collect::<Result<Vec<_>, _>>()?;
    for id in &ids {
        context.store.existing(id)?;
    }
    let mut all = Vec::new();
    for id in &ids {
        context.store.retain(id, |settings| settings.pinned = pinned)?;
        let idle_days = context.store.entry(id)?.settings.idle_days;
        all.push(Kept { session: id.to_string(), pinned: Some(pinned), idle_days });
    }
    let word = if pinned { "pinned" } else { "not pinned" };
    context.report(&all, || format!("{}: {word}", sessions.join(", ")))?;
    Ok(0)
}

pub fn retain(context: &Context, session: &str, days: Days) -> Result<u8, Failure> {
    let id = context.session(session)?;
    context.store.retain(&id, |settings| settings.idle_days = days.0)?;
    let kept = Kept { session: id.to_string(), pinned: None, idle_days: days.0 };
    context.report(&kept, || match days.0 {
        Some(days) => format!("{id}: kept for {days} days without use"),
        None => format!("{id}: kept as long without use as the store's other sessions"),
    })?;
    Ok(0)
}
