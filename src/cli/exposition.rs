//! Figures as Prometheus reads them: its text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). A line is a name, labels and a number, and no value of
//! a label here can hold anything that would need quoting: session IDs, names of operations, of errnos.

use std::fmt::Write;

use crate::session::{Cold, Figures, Times};

/// One metric.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    values: fn(&Figures) -> Vec<(String, Value<'_>)>,
}

/// What a session has for a metric, beside labels as `,name="value"`.
enum Value<'a> {
    Count(u64),
    Seconds(u64),
    Times(&'a Times),
}

use Value::{Count, Seconds};

const fn counter(name: &'static str, help: &'static str, values: fn(&Figures) -> Vec<(String, Value<'_>)>) -> Family {
    Family { name, kind: "counter", help, values }
}

const fn gauge(name: &'static str, help: &'static str, values: fn(&Figures) -> Vec<(String, Value<'_>)>) -> Family {
    Family { name, kind: "gauge", help, values }
}

const fn times(name: &'static str, help: &'static str, values: fn(&Figures) -> Vec<(String, Value<'_>)>) -> Family {
    Family { name, kind: "histogram", help, values }
}

/// A number without further labels.
fn one(value: Value<'_>) -> Vec<(String, Value<'_>)> {
    vec![(String::new(), value)]
}

/// All there are; `docs/metrics.md` explains each.
const FAMILIES: &[Family] = &[
    counter("sessionfs_operations_total", "Operations of the mount, by kind.", |of| {
        of.operations.iter().map(|(op, had)| (format!(",op=\"{op}\""), Count(had.times.count()))).collect()
    }),
    counter("sessionfs_operation_errors_total", "Operations that failed, by kind and errno.", |of| {
        let errors = of.operations.iter().flat_map(|(op, had)| had.errors.iter().map(move |error| (op, error)));
        errors.map(|(op, (errno, &n))| (format!(",op=\"{op}\",errno=\"{errno}\""), Count(n))).collect()
    }),
    times("sessionfs_operation_seconds", "How long operations took in the file system.", |of| {
        of.operations.iter().map(|(op, had)| (format!(",op=\"{op}\""), Value::Times(&had.times))).collect()
    }),
    counter("sessionfs_read_bytes_total", "Bytes given to readers, beyond what the kernel had cached.", |of| {
        one(Count(of.bytes_read))
    }),
    counter("sessionfs_written_bytes_total", "Bytes taken from writers.", |of| one(Count(of.bytes_written))),
    gauge("sessionfs_used_bytes", "Bytes charged against the cap.", |of| one(Count(of.status.bytes_used))),
    gauge("sessionfs_limit_bytes", "Cap in bytes.", |of| one(Count(of.status.bytes_limit))),
    gauge("sessionfs_used_inodes", "Inodes charged against the cap.", |of| one(Count(of.status.inodes_used))),
    gauge("sessionfs_limit_inodes", "Cap in inodes.", |of| one(Count(of.status.inodes_limit))),
    gauge("sessionfs_soft_limit_percent", "The highest soft limit that use has reached; 0: none.", |of| {
        let reached = [("bytes", of.status.soft_limit_bytes), ("inodes", of.status.soft_limit_inodes)];
        reached.map(|(resource, percent)| (format!(",resource=\"{resource}\""), Count(percent.into()))).into()
    }),
    gauge("sessionfs_database_bytes", "Bytes of the session's directory on the disk.", |of| {
        one(Count(of.status.database_bytes))
    }),
    gauge("sessionfs_dirty_bytes", "Content that no commit has yet.", |of| one(Count(of.status.dirty_bytes))),
    gauge("sessionfs_dirty_memory_bytes", "Memory that what waits for its commit takes.", |of| {
        one(Count(of.status.memory_bytes))
    }),
    gauge("sessionfs_commit_lag_seconds", "Age of the oldest change that no commit has.", |of| {
        one(Seconds(of.commit_lag_nanos))
    }),
    times("sessionfs_commit_seconds", "How long commits took.", |of| one(Value::Times(&of.commits))),
    gauge("sessionfs_journal_bytes", "Size of the journal's file.", |of| one(Count(of.status.journal_bytes))),
    gauge("sessionfs_journal_waiting_bytes", "Records in the journal that no commit has yet.", |of| {
        one(Count(of.status.journal_waiting))
    }),
    times("sessionfs_journal_sync_seconds", "How long syncs of the journal took.", |of| one(Value::Times(&of.syncs))),
    counter("sessionfs_throttled_total", "Changes that had to wait for room in the journal.", |of| {
        one(Count(of.status.throttled))
    }),
    counter("sessionfs_pack_cache_hits_total", "Reads that found their pack in memory.", |of| one(Count(of.pack_hits))),
    counter("sessionfs_pack_cache_misses_total", "Reads that fetched and decoded their pack.", |of| {
        one(Count(of.pack_misses))
    }),
    counter("sessionfs_packs_written_total", "Packs written by commits.", |of| one(Count(of.packs_written))),
    counter("sessionfs_pack_raw_bytes_total", "Content in the packs written.", |of| one(Count(of.pack_raw_bytes))),
    counter("sessionfs_pack_stored_bytes_total", "Bytes that the packs written take.", |of| {
        one(Count(of.pack_stored_bytes))
    }),
    gauge("sessionfs_failed", "1 while changes are refused because the store failed or its disk is full.", |of| {
        one(Count(of.status.failed.is_some().into()))
    }),
    gauge("sessionfs_history_openings", "Times the session was mounted.", |of| one(Count(of.history.openings))),
    gauge("sessionfs_history_resumes", "Resumes that the log of events knows, by how they went.", |of| {
        let known = [("good", of.history.resumes_good), ("failed", of.history.resumes_failed)];
        known.map(|(result, count)| (format!(",result=\"{result}\""), Count(count))).into()
    }),
    gauge("sessionfs_history_cold_starts", "Openings that came up cold, by why.", |of| {
        let count = |why| of.history.cold.get(&why).copied().unwrap_or(0);
        Cold::ALL.map(|why| (format!(",why=\"{}\"", why.name()), Count(count(why)))).into()
    }),
    gauge("sessionfs_history_setup_avoided_seconds", "Set-up that was not done again.", |of| {
        one(Seconds(of.history.avoided_millis.saturating_mul(1_000_000)))
    }),
    gauge("sessionfs_history_first_action_seconds", "From a resume to the first useful action, the median.", |of| {
        let known = of.history.first_action_median();
        known.map(|millis| one(Seconds(millis.saturating_mul(1_000_000)))).unwrap_or_default()
    }),
];

/// The text of sessions, each with its label.
pub fn text(sessions: &[Figures]) -> String {
    let mut out = String::new();
    for family in FAMILIES {
        let Family { name, kind, help, .. } = family;
        // Writing into a string does not fail; so it is below.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for of in sessions {
            for (labels, value) in (family.values)(of) {
                let labels = format!("session=\"{}\"{labels}", of.status.session);
                let _ = match value {
                    Count(count) => writeln!(out, "{name}{{{labels}}} {count}"),
                    Seconds(nanos) => writeln!(out, "{name}{{{labels}}} {}", seconds(nanos)),
                    Value::Times(times) => write!(out, "{}", histogram(name, &labels, times)),
                };
            }
        }
    }
    out
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Every second of our steps: a factor of four tells fast from slow, with half the lines.
fn histogram(name: &str, labels: &str, times: &Times) -> String {
    let mut out = String::new();
    let (mut sum, last) = (0, times.steps.len().saturating_sub(1));
    for (step, &count) in times.steps.iter().take(last).enumerate() {
        sum += count;
        if step % 2 == 0 {
            let limit = (1u64 << step) as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{limit}\"}} {sum}");
        }
    }
    let all = times.count();
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {all}", seconds(times.nanos));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_adds_up_as_prometheus_wants_it() {
        let mut steps = vec![0; 25];
        (steps[0], steps[1], steps[2], steps[24]) = (1, 2, 4, 8);
        let text = histogram("h", "a=\"b\"", &Times { steps, nanos: 2_500_000_000 });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["h_bucket{a=\"b\",le=\"0.000001\"} 1", "h_bucket{a=\"b\",le=\"0.000004\"} 7"]);
        let end = ["h_bucket{a=\"b\",le=\"+Inf\"} 15", "h_sum{a=\"b\"} 2.5", "h_count{a=\"b\"} 15"];
        assert_eq!(lines[lines.len() - 4], "h_bucket{a=\"b\",le=\"4.194304\"} 7");
        assert_eq!(lines[lines.len() - 3..], end);
    }
}
