//! `events`

use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes};
use crate::cli::receipt::{resumed, state};
use crate::session::{Event, Passed, SessionError, SetUpReason, What};

/// The events of a session, removed or not.
pub fn events(context: &Context, session: &str, last: Option<usize>) -> Result<u8, Failure> {
    let id = context.session(session)?;
    let mut events = context.store.events(&id)?;
    if events.is_empty() && !context.store.session(&id).exists()? {
        return Err(SessionError::Unknown { id, store: context.store.path().to_owned() }.into());
    }
    if let Some(last) = last {
        events.drain(..events.len().saturating_sub(last));
    }
    context.answer(&events, |out| {
        events.iter().try_for_each(|event| writeln!(out, "{:.3}  {}", event.at, described(id.as_str(), event)))
    })?;
    Ok(0)
}

/// One line.
fn described(session: &str, event: &Event) -> String {
    match &event.what {
        What::Started { by, mountpoint, resume, .. } => {
            let at = mountpoint.as_ref().map(|at| format!(" at {}", at.display())).unwrap_or_default();
            format!("{by}{at}: {}", resumed(session, resume))
        }
        What::Stopped { by, reason, millis, receipt, .. } => {
            format!("{by}: stopped after {:.1} s ({reason}): {}", *millis as f64 / 1000.0, state(receipt))
        }
        What::NotStopped { by, error } => format!("{by}: not stopped: {error}"),
        What::Refused { by, error, .. } => format!("{by}: refused: {error}"),
        What::Accepted { instead_of, receipt } => {
            let instead = instead_of.as_ref().map(|seen| format!(" instead of {seen}")).unwrap_or_default();
            format!("accepted as it is: {}{instead}", state(receipt))
        }
        What::JournalDiscarded { set_aside, receipt } => {
            let aside = set_aside.as_ref().map(|path| format!(", now {}", path.display())).unwrap_or_default();
            format!("journal given up{aside}: {}", state(receipt))
        }
        What::Verified { verification, millis } => {
            let Some(first) = &verification.first else {
                return format!("verified at transaction {} in {millis} ms", verification.txid);
            };
            format!(
                "damaged at transaction {}: {} findings, the first: {first}",
                verification.txid, verification.findings
            )
        }
        What::SoftLimit { passed: Passed { resource, percent, used, limit } } => {
            format!("{percent}% of the cap is passed: {used} of {limit} {resource}")
        }
        What::VersionChanged { change } => change.to_string(),
        What::SplitOff { from, runtime_version, receipt } => {
            let version = runtime_version.as_deref().unwrap_or("?");
            format!("is what {from} was at runtime version {version}: {}", state(receipt))
        }
        What::SetUp { step, why, millis, exit, .. } => {
            let why = match why {
                SetUpReason::First => "",
                SetUpReason::KeyChanged => " again, for what it depends on has changed",
            };
            let how = if *exit == 0 { "done".to_owned() } else { format!("failed ({exit})") };
            format!("set-up {step:?}{why}: {how} after {:.1} s", *millis as f64 / 1000.0)
        }
        What::SetUpSkipped { step, saved_millis, .. } => {
            format!("set-up {step:?} was done before: {:.1} s saved", *saved_millis as f64 / 1000.0)
        }
        What::Removed { by, freed } => format!("removed by {by}, {} freed", human_bytes(*freed)),
        What::Other => "something that a newer version wrote down".to_owned(),
    }
}
