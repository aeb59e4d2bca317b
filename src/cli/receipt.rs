//! A receipt, for people: one line.

use super::output::{grouped, human_bytes};
use crate::session::{How, Receipt, Resume};

/// Characters of a digest that are enough to tell two apart at a glance.
const DIGEST_SHOWN: usize = 8;

/// What a resume says of itself.
pub fn resumed(session: &str, resume: &Resume) -> String {
    let state = state(&resume.receipt);
    let since = match (&resume.last_stop, resume.as_stopped) {
        (Some(stop), true) => format!(", as the stop of {:.0} left it", stop.at),
        (Some(stop), false) => format!(", later than the stop of {:.0}", stop.at),
        (None, _) => String::new(),
    };
    let version = resume.runtime_version.as_ref().map(|version| format!(", runtime version {version}"));
    let version = version.unwrap_or_default();
    match resume.how {
        How::Created => format!("created {session}: empty{version}"),
        How::Reset => format!("began {session} anew: empty{version}"),
        How::Resumed => format!("resumed {session}: {state}{since}{version}"),
        How::Adopted => format!("adopted {session}: {state}, of which this store has seen no stop{version}"),
        How::Recovered => {
            let replayed = match resume.recovery {
                Some(recovery) => format!("{} operations replayed", grouped(recovery.operations)),
                None => "nothing to replay".to_owned(),
            };
            format!("recovered {session} ({replayed}): {state}{since}{version}")
        }
    }
}

/// A state.
pub fn state(receipt: &Receipt) -> String {
    format!(
        "{} files, {} directories, {}, transaction {}, digest {}…",
        grouped(receipt.files),
        grouped(receipt.dirs),
        human_bytes(receipt.bytes),
        receipt.txid,
        receipt.digest.get(..DIGEST_SHOWN).unwrap_or(&receipt.digest)
    )
}
