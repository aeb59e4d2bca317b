//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::history::{InFlight, Loss};

/// Lines of a difference that are shown; the first ones say what kind of loss it is.
const SHOWN: usize = 8;

#[derive(Default)]
pub struct Report {
    pub kills: u64,
    by_kind: BTreeMap<&'static str, u64>,
    /// Losses, findings, wrong statuses: each in words.
    pub problems: Vec<String>,
    pub kills_with_losses: u64,
    pub lost: u64,
    pub mixtures: u64,
    pub acknowledged: u64,
    in_flight_done: u64,
    in_flight_not_done: u64,
    pub checks: u64,
    pub findings: u64,
    /// One for each resume after a kill, where the program says it.
    recoveries: Vec<Recovery>,
    pub resumes: Vec<f64>,
}

struct Recovery {
    records: u64,
    operations: u64,
    bytes: u64,
    millis: u64,
}

impl Report {
    pub fn killed(&mut self, kind: &'static str) {
        self.kills += 1;
        *self.by_kind.entry(kind).or_default() += 1;
    }

    pub fn problem(&mut self, what: String) {
        println!("PROBLEM {what}");
        self.problems.push(what);
    }

    pub fn found(&mut self, findings: Vec<String>, after: &str) {
        self.checks += 1;
        self.findings += findings.len() as u64;
        findings.into_iter().for_each(|finding| self.problem(format!("{after}: {finding}")));
    }

    pub fn kept(&mut self, in_flight: InFlight) {
        match in_flight {
            InFlight::Done => self.in_flight_done += 1,
            InFlight::NotDone => self.in_flight_not_done += 1,
            InFlight::None => {}
        }
    }

    pub fn lost(&mut self, which: &str, loss: &Loss) {
        let (how, what) = match &loss.lost {
            Ok(lost) => {
                self.lost += lost;
                (format!("the last {lost} operations lost"), &loss.differences)
            }
            Err(nearest) => {
                self.mixtures += 1;
                ("a state that never was".to_owned(), nearest)
            }
        };
        let more = what.len().saturating_sub(SHOWN);
        let shown = &what[..what.len() - more];
        let more = if more > 0 { format!("\n    and {more} more") } else { String::new() };
        self.problem(format!("{which}: {how}; in flight: {}\n    {}{more}", loss.in_flight, shown.join("\n    ")));
    }

    pub fn a_kill_with_losses(&mut self) {
        self.kills_with_losses += 1;
    }

    /// What `status --json` says about the recovery of a mount: null when nothing was to be replayed.
    pub fn recovered(&mut self, status: &Value) {
        let Some(recovery) = status.get("recovery") else { return };
        let number = |name: &str| match (recovery, recovery[name].as_u64()) {
            (Value::Null, _) => 0,
            (_, number) => number.unwrap_or_else(|| panic!("no {name} in {recovery}")),
        };
        let [records, operations, bytes, millis] = ["records", "operations", "bytes", "millis"].map(number);
        self.recoveries.push(Recovery { records, operations, bytes, millis });
    }

    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Minimum, median, 90th percentile, maximum.
fn spread(mut values: Vec<f64>) -> [f64; 4] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    [at(0.0), at(0.5), at(0.9), at(1.0)]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(f, "kills: {} ({})", self.kills, kinds.join(", "))?;
        writeln!(
            f,
            "operations: {} acknowledged; in flight: {} done, {} not done",
            self.acknowledged, self.in_flight_done, self.in_flight_not_done
        )?;
        writeln!(
            f,
            "losses: {} kills with losses, {} operations lost, {} mixtures",
            self.kills_with_losses, self.lost, self.mixtures
        )?;
        writeln!(f, "check: {} findings in {} checks", self.findings, self.checks)?;
        if !self.resumes.is_empty() {
            let [min, median, high, max] = spread(self.resumes.clone());
            writeln!(
                f,
                "seconds to mount after a kill: min {min:.3}, median {median:.3}, 90% {high:.3}, max {max:.3}"
            )?;
        }
        if self.recoveries.is_empty() {
            writeln!(f, "replayed: the program says nothing about recovery")?;
        } else {
            self.replayed(f)?;
        }
        write!(f, "problems: {}", self.problems.len())
    }
}

impl Report {
    fn replayed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = self.recoveries.iter().filter(|recovery| recovery.records > 0).count();
        let share = 100.0 * with as f64 / self.recoveries.len() as f64;
        writeln!(
            f,
            "replayed: records in {with} of {} resumes right after a kill ({share:.0}%)",
            self.recoveries.len()
        )?;
        type Column = (&'static str, fn(&Recovery) -> u64);
        let columns: [Column; 4] = [
            ("records", |recovery| recovery.records),
            ("operations", |recovery| recovery.operations),
            ("bytes", |recovery| recovery.bytes),
            ("millis", |recovery| recovery.millis),
        ];
        for (name, value) in columns {
            let values = self.recoveries.iter().map(|recovery| value(recovery) as f64).collect();
            let [min, median, high, max] = spread(values);
            writeln!(f, "  {name:<11} min {min}, median {median}, 90% {high}, max {max}")?;
        }
        Ok(())
    }
}
