//! `gc`, and `rm --all-idle`, which is the half of it that goes by time.

use std::io::Write;

use crate::base::Timestamp;
use crate::cli::args::GcArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes};
use crate::session::{Collect, Collected, Collection, Reason, Rules};

pub fn gc(context: &Context, args: &GcArgs) -> Result<u8, Failure> {
    let set = &context.config().retention;
    let rules = Rules {
        idle_days: args.idle_days.unwrap_or(set.idle_days),
        store_bytes: args.store_bytes.or(set.store_bytes).map(|size| size.0),
    };
    collect(context, &Collect { rules, dry_run: args.dry_run, clock_is_right: args.clock_is_right, by: "gc" })
}

pub fn all_idle(context: &Context, dry_run: bool, clock_is_right: bool) -> Result<u8, Failure> {
    let rules = Rules { idle_days: context.config().retention.idle_days, store_bytes: None };
    collect(context, &Collect { rules, dry_run, clock_is_right, by: "rm --all-idle" })
}

fn collect(context: &Context, how: &Collect<'_>) -> Result<u8, Failure> {
    let done = context.store.collect(how, Timestamp::now().secs)?;
    if context.json || !context.quiet {
        context.answer(&done, |out| print(out, &done))?;
    }
    let named = |exit, left: &crate::session::Left, what| {
        Failure::new(exit, format!("session {} {what}: {}", left.session, left.error))
            .hint(format!("sessionfs check {}", left.session))
    };
    let failed = done.failed.iter().map(|left| named(Exit::Failure, left, "could not be removed"));
    let unreadable = done.unreadable.iter().map(|left| named(Exit::Damaged, left, "stays, its last use is unknown"));
    let mut failures = failed.chain(unreadable);
    let Some(first) = failures.next() else { return Ok(0) };
    failures.for_each(|failure| failure.print(context.json));
    Err(first)
}

fn print(out: &mut dyn Write, done: &Collection) -> std::io::Result<()> {
    let (removed, freed) = if done.dry_run { ("would go", "to free") } else { ("removed", "freed") };
    for one in &done.removed {
        writeln!(out, "{}: {removed}, {}, {} {freed}", one.session, why(one), human_bytes(one.bytes_freed))?;
    }
    let left = done.unreadable.len() + done.failed.len();
    let rest = if left > 0 { format!(", {left} not judged or not removable") } else { String::new() };
    writeln!(
        out,
        "{} {removed}, {} {freed}; {} kept{rest}",
        done.removed.len(),
        human_bytes(done.bytes_freed),
        done.kept
    )
}

fn why(one: &Collected) -> String {
    match one.reason {
        Reason::Idle { days, idle_days } => format!("idle for {days} days, may be for {idle_days}"),
        Reason::StoreBytes { days } => format!("beyond the store's bytes, idle for {days} days"),
    }
}
