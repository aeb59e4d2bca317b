//! `doctor`: what a mount needs, whether it is here, and what to do where it is not. Facts are gathered in one place and
//! judged in another.

mod facts;
mod judge;
mod scratch;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use serde::Serialize;

use self::facts::Facts;
use self::judge::{Check, Level, judge, works};
use super::exit::Exit;
use super::failure::Failure;
use super::output::Context;

/// What `doctor --json` answers.
#[derive(Serialize)]
struct Report {
    /// Whether a mount works here.
    works: bool,
    checks: Vec<Check>,
}

pub fn doctor(context: &Context) -> Result<u8, Failure> {
    let checks = judge(&Facts::gather(context));
    let report = Report { works: works(&checks), checks };
    context.answer(&report, |out| print(&report, context.quiet, out))?;
    Ok(if report.works { Exit::Success } else { Exit::Failure }.code())
}

/// With `--quiet` only what is not as it should be.
fn print(report: &Report, quiet: bool, out: &mut dyn Write) -> io::Result<()> {
    for check in report.checks.iter().filter(|check| !quiet || check.level > Level::Advice) {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Advice => "advice",
            Level::Warning => "warning",
            Level::Failure => "failure",
        };
        writeln!(out, "{level:8} {:12} {}", check.check, check.text)?;
        if let Some(fix) = &check.fix {
            for (place, text) in [("docker", &fix.docker), ("kubernetes", &fix.kubernetes), ("host", &fix.host)] {
                writeln!(out, "{:21} {:11} {text}", "", format!("{place}:"))?;
            }
        }
    }
    if !quiet {
        let words = if report.works { "a mount works here" } else { "a mount does not work here" };
        writeln!(out, "{words}")?;
    }
    Ok(())
}
