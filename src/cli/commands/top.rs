//! `top`: what mounted sessions are doing, as the difference of their figures from one look to the next.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::metrics::{of_all, of_session};
use crate::cli::failure::Failure;
use crate::cli::output::{Context, table};
use crate::session::{Figures, OperationFigures, Times};

/// To the corner, and what is below it away (ECMA-48: CUP, ED).
const REDRAW: &str = "\x1b[H\x1b[J";

/// One kind of operation of one session, over an interval.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    session: String,
    op: String,
    /// Operations a second.
    rate: f64,
    /// Those that failed.
    errors: f64,
    /// The steps that half of them, and 99 in 100, did not pass, in seconds; beyond 8.4 s there is none.
    p50: Option<f64>,
    p99: Option<f64>,
}

pub fn top(context: &Context, session: Option<&str>, interval: f64, count: Option<u64>) -> Result<u8, Failure> {
    let interval = Duration::from_secs_f64(interval);
    let redraw = !context.json && io::stdout().is_terminal();
    let (mut before, mut at) = (look(context, session)?, Instant::now());
    let mut left = count;
    while left != Some(0) {
        std::thread::sleep(interval.saturating_sub(at.elapsed()));
        let (now, since) = (look(context, session)?, at.elapsed());
        at = Instant::now();
        let rows = rows(&before, &now, since.as_secs_f64());
        context.answer(&rows, |out| {
            if redraw {
                out.write_all(REDRAW.as_bytes())?;
            }
            print(out, &rows)
        })?;
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(0)
}

/// One that has ended meanwhile is missing from all sessions, and the end if it is the one.
fn look(context: &Context, session: Option<&str>) -> Result<Vec<Figures>, Failure> {
    match session {
        Some(session) => Ok(vec![of_session(context, session)?]),
        None => of_all(context).map(|(figures, _)| figures),
    }
}

/// What happened between two looks, the most frequent first.
fn rows(before: &[Figures], now: &[Figures], seconds: f64) -> Vec<Row> {
    let nothing = OperationFigures::default();
    let mut rows = Vec::new();
    for figures in now {
        // Mounted again since: its counts began anew.
        let same = |of: &&Figures| of.status.session == figures.status.session && of.status.pid == figures.status.pid;
        let old = before.iter().find(same);
        for (op, had) in &figures.operations {
            let old = old.and_then(|of| of.operations.get(op)).unwrap_or(&nothing);
            let times = since(&old.times, &had.times);
            if times.count() > 0 {
                let failed = |of: &OperationFigures| of.errors.values().sum::<u64>();
                rows.push(Row {
                    session: figures.status.session.clone(),
                    op: op.clone(),
                    rate: times.count() as f64 / seconds,
                    errors: failed(had).saturating_sub(failed(old)) as f64 / seconds,
                    p50: quantile(&times, 50),
                    p99: quantile(&times, 99),
                });
            }
        }
    }
    rows.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    rows
}

fn since(before: &Times, now: &Times) -> Times {
    let old = |step: usize| before.steps.get(step).copied().unwrap_or(0);
    Times {
        steps: now.steps.iter().enumerate().map(|(step, &count)| count.saturating_sub(old(step))).collect(),
        nanos: now.nanos.saturating_sub(before.nanos),
    }
}

/// The upper end of the step that this percentage of all does not pass, in seconds.
fn quantile(times: &Times, percent: u64) -> Option<f64> {
    let wanted = (times.count() * percent).div_ceil(100);
    let mut sum = 0;
    let step = times.steps.iter().position(|count| {
        sum += count;
        sum >= wanted
    })?;
    (step + 1 < times.steps.len()).then(|| (1u64 << step) as f64 / 1e6)
}

fn print(out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    let mut lines = vec![["SESSION", "OP", "OPS/S", "ERRORS/S", "P50 ≤", "P99 ≤"].map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let (rate, errors) = (format!("{:.1}", row.rate), format!("{:.1}", row.errors));
        vec![row.session.clone(), row.op.clone(), rate, errors, time(row.p50), time(row.p99)]
    }));
    table(out, &lines, &[false, false, true, true, true, true])?;
    writeln!(out)
}

fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "more".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(pid: u32, steps: &[(usize, u64)], failed: u64) -> Figures {
        let mut times = Times { steps: vec![0; 25], nanos: 0 };
        steps.iter().for_each(|&(step, count)| times.steps[step] = count);
        let errors = [("ENOENT".to_owned(), failed)].into();
        let mut figures = Figures::default();
        figures.status.session = "demo".to_owned();
        figures.status.pid = Some(pid);
        figures.operations.insert("lookup".to_owned(), OperationFigures { times, errors });
        figures
    }

    #[test]
    fn rates_and_quantiles_are_of_what_happened_between_two_looks() {
        let before = [figures(7, &[(0, 100), (24, 50)], 10)];
        let now = [figures(7, &[(0, 100), (2, 98), (10, 2), (24, 50)], 30)];
        let row = |rate, errors, p50, p99| Row {
            session: "demo".to_owned(),
            op: "lookup".to_owned(),
            rate,
            errors,
            p50,
            p99,
        };
        assert_eq!(rows(&before, &now, 2.0), [row(50.0, 10.0, Some(4e-6), Some(1.024e-3))]);
        assert_eq!(rows(&now, &now, 2.0), []);
        // Another process: all that it has counted is new.
        assert_eq!(rows(&[figures(8, &[(0, 100)], 0)], &before, 1.0), [row(150.0, 10.0, Some(1e-6), None)]);
        assert_eq!([None, Some(4e-6), Some(1.024e-3), Some(4.194)].map(time), ["more", "4 µs", "1 ms", "4.2 s"]);
    }
}
