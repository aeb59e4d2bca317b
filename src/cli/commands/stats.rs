//! `stats`: the four figures, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::{Context, table};
use crate::session::{Cold, History, SessionError};

/// The last openings that the chart shows.
const SHOWN: usize = 60;
/// Its heights.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The four figures, and what they are made of.
#[derive(Serialize)]
struct Figures<'a> {
    /// Absent of the sum of a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    /// Minutes of set-up that were not spent again, for each time a session came back.
    setup_minutes_avoided_per_resume: Option<f64>,
    /// Of 1.
    resume_success_rate: Option<f64>,
    /// Cold openings to all, of 1.
    cold_rebuild_frequency: Option<f64>,
    /// The median.
    first_action_seconds: Option<f64>,
    #[serde(flatten)]
    history: &'a History,
}

#[derive(Serialize)]
struct Answer<'a> {
    all: Figures<'a>,
    sessions: Vec<Figures<'a>>,
}

impl<'a> Figures<'a> {
    fn of(session: Option<&'a str>, history: &'a History) -> Figures<'a> {
        let share = |part: f64, of: u64| (of > 0).then(|| part / of as f64);
        Figures {
            session,
            setup_minutes_avoided_per_resume: share(history.avoided_millis as f64 / 60_000.0, history.resumes_good),
            resume_success_rate: share(history.resumes_good as f64, history.resumes()),
            cold_rebuild_frequency: share(history.cold_openings() as f64, history.openings),
            first_action_seconds: history.first_action_median().map(|millis| millis as f64 / 1000.0),
            history,
        }
    }
}

/// Of one session, or of all that the store knows, removed ones included.
pub fn stats(context: &Context, session: Option<&str>) -> Result<u8, Failure> {
    let ids = match session {
        Some(session) => {
            let id = context.session(session)?;
            if context.store.events(&id)?.is_empty() && !context.store.session(&id).exists()? {
                return Err(SessionError::Unknown { id, store: context.store.path().to_owned() }.into());
            }
            vec![id]
        }
        None => context.store.registered()?,
    };
    let mut histories = Vec::new();
    let mut sum = History::default();
    for id in ids {
        let history = context.store.history(&id)?;
        sum.add(&history);
        histories.push((id, history));
    }
    let sessions = histories.iter().map(|(id, history)| Figures::of(Some(id.as_str()), history)).collect();
    let answer = Answer { all: Figures::of(None, &sum), sessions };
    context.answer(&answer, |out| match (session, answer.sessions.as_slice()) {
        (Some(session), [one]) => print(out, session, one),
        (_, all) => {
            print(out, &context.store.path().display().to_string(), &answer.all)?;
            rows(out, all)
        }
    })?;
    Ok(0)
}

fn print(out: &mut dyn Write, what: &str, figures: &Figures<'_>) -> io::Result<()> {
    let history = figures.history;
    let since = history.since.map(|at| format!(", since {at:.0}")).unwrap_or_default();
    writeln!(out, "{what}: {} openings{since}", history.openings)?;
    let known = |value: Option<String>| value.unwrap_or_else(|| "nothing known yet".to_owned());
    let avoided = figures.setup_minutes_avoided_per_resume.map(|each| {
        format!(
            "{} per resume; {} in all, {} steps passed over; {} steps done in {}",
            human_time(each * 60.0),
            human_time(history.avoided_millis as f64 / 1000.0),
            history.steps_avoided,
            history.steps_done,
            human_time(history.steps_millis as f64 / 1000.0)
        )
    });
    let resumed = figures
        .resume_success_rate
        .map(|rate| format!("{:.1}%: {} of {}", rate * 100.0, history.resumes_good, history.resumes()));
    let cold = figures.cold_rebuild_frequency.map(|rate| {
        let why =
            Cold::ALL.iter().filter_map(|why| history.cold.get(why).map(|count| format!("{} {count}", why.name())));
        let why = why.collect::<Vec<_>>().join(", ");
        format!("{:.1}%: {} of {} openings  {why}", rate * 100.0, history.cold_openings(), history.openings)
    });
    let first = figures.first_action_seconds.map(|median| {
        format!(
            "{} median of {}  {}",
            human_time(median),
            history.first_action_millis.len(),
            chart(&history.first_action_millis)
        )
    });
    let rows = [
        ("set-up avoided", known(avoided)),
        ("resumes that went well", known(resumed)),
        ("cold starts", known(cold)),
        ("first action after", known(first)),
    ];
    table(out, &rows.map(|(name, value)| vec![format!("  {name}"), value.trim_end().to_owned()]), &[])
}

/// Seconds, or minutes where they are many.
fn human_time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 9.95 => format!("{seconds:.2} s"),
        _ if seconds < 99.95 => format!("{seconds:.1} s"),
        _ => format!("{:.1} min", seconds / 60.0),
    }
}

/// A bar for each of the last openings; the longest is the highest.
fn chart(millis: &[u64]) -> String {
    let last = &millis[millis.len().saturating_sub(SHOWN)..];
    let most = last.iter().copied().max().unwrap_or(0).max(1);
    last.iter().map(|&one| BARS[usize::try_from(one.saturating_mul(7) / most).unwrap_or(7).min(7)]).collect()
}

fn rows(out: &mut dyn Write, all: &[Figures<'_>]) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let head = ["SESSION", "OPENINGS", "RESUMES", "WENT WELL", "COLD", "AVOIDED", "FIRST ACTION"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    let none = || "-".to_owned();
    rows.extend(all.iter().map(|of| {
        vec![
            of.session.unwrap_or_default().to_owned(),
            of.history.openings.to_string(),
            of.history.resumes().to_string(),
            of.resume_success_rate.map_or_else(none, |rate| format!("{:.0}%", rate * 100.0)),
            of.history.cold_openings().to_string(),
            human_time(of.history.avoided_millis as f64 / 1000.0),
            of.first_action_seconds.map_or_else(none, human_time),
        ]
    }));
    table(out, &rows, &[false, true, true, true, true, true, true])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_is_as_high_as_its_longest() {
        assert_eq!(chart(&[0, 50, 100]), "▁▄█");
        assert_eq!(chart(&[]), "");
        assert_eq!(chart(&[7; 100]).chars().count(), SHOWN);
    }
}
