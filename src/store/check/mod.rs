//! The check: every invariant of `docs/format.md`, executed on one committed state. It writes nothing.
//!
//! Memory stays bounded: rows are streamed in the order of their keys, packs are decoded one at a time, and what has
//! to be sorted is sorted by SQLite, on disk when it is much.

mod packs;
mod rules;
mod scan;

use std::fmt;

use rusqlite::{Connection, InterruptHandle};

use super::rows::{Bad, Summed};
use super::schema::{KNOWN_COMPAT, KNOWN_INCOMPAT, KNOWN_RO_COMPAT};
use super::{Store, StoreError, superblock};
use crate::base::Map;
use crate::format::RowSum;

/// Findings of one code that are listed; more are only counted. A destroyed table must not fill the memory.
const LISTED: u64 = 100;

/// Characters of a finding: a name of 255 bytes, each escaped, and what is said of it.
const TEXT_MAX: usize = 2_000;

/// KiB of page cache: inodes are looked up in the order of names.
const CACHE_KIB: i64 = 32 << 10;

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Which invariant, as `docs/format.md` names it.
    pub code: &'static str,
    /// Where, and what is there.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

/// Checks a session database as last committed; returns what is wrong, sorted. `progress` hears how many steps of how
/// many are done. Damage is a finding; an error means that the check could not be made.
pub fn check(store: &Store, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Finding>, StoreError> {
    check_until(store, &mut |_| (), progress)
}

/// Ends a check that another thread is at. What it interrupts is the statement that runs just then, if one does: say it
/// again until the check has returned, with an error.
pub struct Interrupt(InterruptHandle);

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Interrupts.
    pub fn say(&self) {
        self.0.interrupt();
    }
}

/// The same; `begin` is given what ends it before its time.
pub fn check_until(
    store: &Store,
    begin: &mut dyn FnMut(Interrupt),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Finding>, StoreError> {
    let sql = store.pool.get()?;
    begin(Interrupt(sql.get_interrupt_handle()));
    let usual = cache(&sql, -CACHE_KIB)?;
    let findings = check_with(&sql, progress);
    cache(&sql, usual)?;
    findings
}

/// Sets the size of a connection's page cache, and returns what it was.
fn cache(sql: &Connection, size: i64) -> Result<i64, StoreError> {
    let before = sql.query_row("PRAGMA cache_size", [], |row| row.get(0))?;
    sql.pragma_update(None, "cache_size", size)?;
    Ok(before)
}

fn check_with(sql: &Connection, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Finding>, StoreError> {
    // One read transaction: a commit in between would look like damage.
    let snapshot = sql.unchecked_transaction()?;
    let mut report = Report::default();
    // Steps are packs and rules; an unreadable table of packs is a finding further down.
    let packs = snapshot.query_row("SELECT count(*) FROM pack", [], |row| row.get::<_, i64>(0)).unwrap_or(0);
    let of = packs.cast_unsigned() + rules::RULES.len() as u64 + 3;
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done.min(of), of);
    };
    report.attempt(|report| integrity(&snapshot, report))?;
    step();
    report.attempt(|report| superblock(&snapshot, report))?;
    for rule in rules::RULES {
        report.attempt(|report| rule.run(&snapshot, report))?;
        step();
    }
    report.attempt(|report| scan::scan(&snapshot, report))?;
    step();
    report.attempt(|report| packs::packs(&snapshot, report, &mut step))?;
    progress(of, of);
    Ok(report.into_findings())
}

/// What was found so far.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
    found: Map<&'static str, u64>,
}

impl Report {
    fn add(&mut self, code: &'static str, text: impl Into<String>) {
        let found = self.found.entry(code).or_default();
        *found += 1;
        if *found <= LISTED {
            // Names may hold any byte, and in a damaged row be of any length; a report is read on a terminal.
            let text = text.into();
            let shown = text.chars().take(TEXT_MAX).map(|c| if c.is_control() { '?' } else { c });
            let text = shown.chain(text.chars().nth(TEXT_MAX).map(|_| '…')).collect();
            self.findings.push(Finding { code, text });
        }
    }

    /// The row, if it is one at all; what is wrong with it becomes a finding.
    fn take<T: RowSum>(&mut self, row: Result<Summed<T>, Bad>) -> Option<T> {
        let (row, bad) = match row.map(Summed::parts) {
            Ok((row, bad)) => (Some(row), bad),
            Err(bad) => (None, Some(bad)),
        };
        if let Some(bad) = bad {
            self.add(bad.code, bad.text);
        }
        row
    }

    /// Runs a part of the check; what it cannot read is a finding, and the other parts still run.
    fn attempt(&mut self, part: impl FnOnce(&mut Report) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match part(self) {
            Err(StoreError::Damaged(text)) => {
                self.add("unreadable", text);
                Ok(())
            }
            other => other,
        }
    }

    fn into_findings(mut self) -> Vec<Finding> {
        for (&code, &found) in self.found.iter().filter(|(_, found)| **found > LISTED) {
            self.findings.push(Finding { code, text: format!("… and {} more of these", found - LISTED) });
        }
        self.findings.sort();
        self.findings.dedup();
        self.findings
    }
}

/// What SQLite itself says about its pages, its indexes and the types in its columns.
fn integrity(sql: &Connection, report: &mut Report) -> Result<(), StoreError> {
    let mut query = sql.prepare(&format!("PRAGMA integrity_check({LISTED})"))?;
    let mut rows = query.query([])?;
    loop {
        match rows.next().map_err(StoreError::from) {
            Ok(Some(row)) => {
                let line: String = row.get(0)?;
                if line != "ok" {
                    report.add("sqlite", line);
                }
            }
            Ok(None) => return Ok(()),
            // So damaged that it gives up.
            Err(StoreError::Damaged(text)) => {
                report.add("sqlite", text);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// The row itself, its features, and the last line of the log of commits.
fn superblock(sql: &Connection, report: &mut Report) -> Result<(), StoreError> {
    let rows: i64 = sql.query_row("SELECT count(*) FROM superblock", [], |row| row.get(0))?;
    if rows != 1 {
        report.add("superblock", format!("{rows} rows"));
        return Ok(());
    }
    let layout = superblock::layout(sql)?;
    let unknown = [
        ("compatible", layout.compat & !KNOWN_COMPAT),
        ("read-only-compatible", layout.ro_compat & !KNOWN_RO_COMPAT),
        ("incompatible", layout.incompat & !KNOWN_INCOMPAT),
    ];
    for (kind, flags) in unknown.into_iter().filter(|(_, flags)| *flags != 0) {
        report.add("features", format!("unknown {kind} flags {flags:#x}"));
    }
    match superblock::read(sql) {
        Ok(_) => Ok(()),
        Err(StoreError::Damaged(text)) => {
            report.add("superblock", text);
            Ok(())
        }
        Err(error) => Err(error),
    }
}
