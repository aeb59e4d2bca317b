//! `top`: what mounted sessions are doing, as the difference of their figures from one look to the next,
//! and which files most of it is about, which the servers count between the two.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::metrics::{of_all, of_session};
use crate::cli::access::server;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes, table};
use crate::control::ControlError;
use crate::session::tree::Shown;
use crate::session::{Figures, HotFile, OperationFigures, Times};

/// To the corner, and what is below it away (ECMA-48: CUP, ED).
const REDRAW: &str = "\x1b[H\x1b[J";

/// How much later than it should a server may answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is left of an interval after a slow look is at least this.
const SHORTEST: Duration = Duration::from_millis(50);

/// What happened over an interval.
#[derive(Debug, PartialEq, Serialize)]
struct Table {
    /// The most frequent first.
    operations: Vec<Row>,
    /// Those that most operations were about, and most bytes, of each session.
    hot: Vec<HotRow>,
    /// Operations that were too many to see what they were about.
    lost: u64,
}

/// A file or directory of a session, over an interval.
#[derive(Debug, PartialEq, Serialize)]
struct HotRow {
    session: String,
    #[serde(flatten)]
    file: HotFile,
    /// Operations a second.
    rate: f64,
    /// Bytes a second, read, written and copied.
    bytes_rate: f64,
}

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
        let (hot, lost) = hot(context, &before, interval.saturating_sub(at.elapsed()).max(SHORTEST))?;
        std::thread::sleep(interval.saturating_sub(at.elapsed()));
        let (now, since) = (look(context, session)?, at.elapsed());
        at = Instant::now();
        let table = Table { operations: rows(&before, &now, since.as_secs_f64()), hot, lost };
        context.answer(&table, |out| {
            if redraw {
                out.write_all(REDRAW.as_bytes())?;
            }
            print(out, &table)
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

/// What happens on all these from now on is about which files: the most operations first. Whoever ends meanwhile has none.
fn hot(context: &Context, sessions: &[Figures], long: Duration) -> Result<(Vec<HotRow>, u64), Failure> {
    let ask = |session: &str| {
        let Some(client) = server(context, &context.store.session(&context.session(session)?))? else {
            return Ok(None);
        };
        match client.patience(long + PATIENCE).and_then(|client| client.hot(long)) {
            Ok(hot) => Ok(Some(hot)),
            Err(ControlError::Lost(_)) => Ok(None),
            Err(error) => Err(Failure::of_control(session, error)),
        }
    };
    let asked: Vec<_> = std::thread::scope(|scope| {
        let one = |of: &Figures| {
            let session = of.status.session.clone();
            scope.spawn(move || (ask(&session), session))
        };
        let threads: Vec<_> = sessions.iter().map(one).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let (mut rows, mut lost) = (Vec::new(), 0);
    for (hot, session) in asked {
        let Some(hot) = hot? else { continue };
        lost += hot.lost;
        rows.extend(hot.files.into_iter().map(|file| HotRow {
            session: session.clone(),
            rate: file.operations as f64 / long.as_secs_f64(),
            bytes_rate: file.bytes as f64 / long.as_secs_f64(),
            file,
        }));
    }
    rows.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    Ok((rows, lost))
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

fn print(out: &mut dyn Write, of: &Table) -> io::Result<()> {
    let mut lines = vec![["SESSION", "OP", "OPS/S", "ERRORS/S", "P50 ≤", "P99 ≤"].map(str::to_owned).to_vec()];
    lines.extend(of.operations.iter().map(|row| {
        let (rate, errors) = (format!("{:.1}", row.rate), format!("{:.1}", row.errors));
        vec![row.session.clone(), row.op.clone(), rate, errors, time(row.p50), time(row.p99)]
    }));
    table(out, &lines, &[false, false, true, true, true, true])?;
    if !of.hot.is_empty() {
        writeln!(out)?;
        let mut lines = vec![["SESSION", "OPS/S", "BYTES/S", "PATH"].map(str::to_owned).to_vec()];
        lines.extend(of.hot.iter().map(|row| {
            let bytes = human_bytes(row.bytes_rate as u64);
            vec![row.session.clone(), format!("{:.1}", row.rate), bytes, path(&row.file)]
        }));
        table(out, &lines, &[false, true, true, false])?;
    }
    if of.lost > 0 {
        writeln!(out, "{} operations more than could be looked at", of.lost)?;
    }
    writeln!(out)
}

fn path(of: &HotFile) -> String {
    let path = of.path.as_ref().map(|path| of.path_bytes.as_deref().unwrap_or(path.as_bytes()));
    path.map_or_else(|| format!("inode {}", of.ino), |path| Shown(path).to_string())
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
