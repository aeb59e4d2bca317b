//! `trace`: the operations of a mounted session, a line each.

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::metrics::mounted;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::session::tree::Shown;
use crate::session::{Told, TraceFilter, Traced};

/// Ends with the session, or after `count` operations.
pub fn trace(context: &Context, session: &str, filter: &TraceFilter, count: Option<u64>) -> Result<u8, Failure> {
    let client = mounted(context, session)?;
    let mut left = count;
    if left == Some(0) {
        return Ok(0);
    }
    let mut out = io::stdout().lock();
    let mut each = |told: &Told| {
        if context.json {
            writeln!(out, "{}", serde_json::to_string(told)?)?;
        } else {
            match told {
                Told::Operation(traced) => writeln!(out, "{}", line(traced))?,
                Told::Lost { lost } => {
                    writeln!(out, "-- {lost} operations lost: they came faster than they were read")?
                }
            }
        }
        if let (Some(left), Told::Operation(_)) = (&mut left, told) {
            *left -= 1;
        }
        Ok(if left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    client.trace(filter, &mut each).map_err(|error| Failure::of_control(session, error))?;
    Ok(0)
}

/// The path is last: it may contain anything.
fn line(of: &Traced) -> String {
    let range = match (of.offset, of.size) {
        (Some(offset), Some(size)) => format!("{offset}+{size}"),
        (Some(offset), None) => format!("{offset}+"),
        (None, Some(size)) => format!("+{size}"),
        (None, None) => "-".to_owned(),
    };
    let path = of.path.as_ref().map(|path| of.path_bytes.as_deref().unwrap_or(path.as_bytes()));
    let to = of.to.as_ref().map(|path| of.to_bytes.as_deref().unwrap_or(path.as_bytes()));
    let path = path.map_or_else(|| format!("inode {}", of.ino), |path| Shown(path).to_string());
    let to = to.map(|path| format!(" -> {}", Shown(path))).unwrap_or_default();
    let (pid, took, error) = (of.pid, took(of.nanos), of.errno.as_deref().unwrap_or("ok"));
    format!("{} {pid:>7} {took:>9} {:<15} {error:<9} {range:<14} {path}{to}", of.at, of.op)
}

fn took(nanos: u64) -> String {
    match nanos as f64 {
        short if short < 1e6 => format!("{:.1} µs", short / 1e3),
        some if some < 1e9 => format!("{:.1} ms", some / 1e6),
        long => format!("{:.1} s", long / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_all_there_is_to_say() {
        let mut of = Traced {
            at: "2026-11-23T08:15:00.000001Z".to_owned(),
            op: "write".to_owned(),
            ino: 17,
            path: Some("/a\nb".to_owned()),
            path_bytes: None,
            to: None,
            to_bytes: None,
            offset: Some(8192),
            size: Some(10),
            errno: None,
            nanos: 12_340,
            pid: 4711,
        };
        let words = |of: &Traced| line(of).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&of), "2026-11-23T08:15:00.000001Z 4711 12.3 µs write ok 8192+10 /a\\nb");
        of.op = "rename".to_owned();
        (of.offset, of.size, of.nanos) = (None, None, 2_500_000);
        of.errno = Some("EXDEV".to_owned());
        of.to = Some("/\\xff".to_owned());
        of.to_bytes = Some(b"/\xff".to_vec());
        assert!(words(&of).ends_with("4711 2.5 ms rename EXDEV - /a\\nb -> /\\xff"), "{}", line(&of));
        (of.path, of.to) = (None, None);
        assert!(line(&of).ends_with(" inode 17"), "{}", line(&of));
    }
}
