//! Values as they are written on the command line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use clap::builder::PossibleValuesParser;

use crate::fs::OpKind;
use crate::session::TraceFilter;

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: OsString,
    pub value: OsString,
}

impl Variable {
    pub(super) fn parse(text: OsString) -> Result<Variable, String> {
        let bytes = text.as_bytes();
        match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) if at > 0 => Ok(Variable {
                name: OsStr::from_bytes(&bytes[..at]).to_owned(),
                value: OsStr::from_bytes(&bytes[at + 1..]).to_owned(),
            }),
            _ => Err("it is written NAME=VALUE".to_owned()),
        }
    }
}

/// A session's own number of idle days, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(pub Option<u32>);

pub(super) fn idle_days(text: &str) -> Result<Days, String> {
    if text == "default" {
        return Ok(Days(None));
    }
    let days = text.parse::<u32>().ok().filter(|&days| days > 0);
    days.map(|days| Days(Some(days))).ok_or_else(|| format!("{text:?}: write days, at least 1, or default"))
}

/// Seconds of an interval.
/// The kinds of operations, by their names.
pub(super) fn ops() -> PossibleValuesParser {
    PossibleValuesParser::new(OpKind::ALL.iter().map(|kind| kind.name()))
}

pub(super) fn glob(text: &str) -> Result<String, String> {
    let filter = TraceFilter { paths: vec![text.to_owned()], ..TraceFilter::default() };
    filter.parse().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A number with a unit.
pub(super) fn nanos(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match &text[at..] {
        "us" | "µs" => Some(1e3),
        "ms" => Some(1e6),
        "s" => Some(1e9),
        _ => None,
    };
    let nanos = text[..at].parse::<f64>().ok().zip(unit).map(|(number, unit)| (number * unit) as u64);
    nanos.ok_or_else(|| format!("{text:?} is no duration: write a number with us, ms or s"))
}

pub(super) fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| format!("{text:?} is no interval: write seconds, from 0.1 to 3600"))
}

/// Bytes, as people write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    /// With the largest unit that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        match units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let bad = || format!("{text:?} is no size: write bytes, or a number with K, M, G or T (powers of 1024)");
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.trim_end_matches("IB").trim_end_matches('B');
        let (digits, shift) = match digits.as_bytes().last() {
            Some(b'K') => (&digits[..digits.len() - 1], 10),
            Some(b'M') => (&digits[..digits.len() - 1], 20),
            Some(b'G') => (&digits[..digits.len() - 1], 30),
            Some(b'T') => (&digits[..digits.len() - 1], 40),
            _ => (digits, 0),
        };
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        if digits.is_empty() {
            return Err(bad());
        }
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        // What SQLite, and the kernel's counts of bytes, can hold.
        let number = number.filter(|&number| number <= i64::MAX as u64);
        number.map(Size).ok_or_else(|| format!("{text:?} is too large: a cap is below 8388608T (2^63 bytes)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, is) in [("500us", 500_000), ("1.5ms", 1_500_000), ("2s", 2_000_000_000), ("3µs", 3_000), ("0s", 0)]
        {
            assert_eq!(nanos(text), Ok(is), "{text}");
        }
        for bad in ["", "5", "ms", "-1s", "1m", "1 s", "1.2.3s"] {
            assert!(nanos(bad).unwrap_err().contains("is no duration"), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("4096", 4096), ("512M", 512 << 20), ("1g", 1 << 30), ("2GiB", 2 << 30), ("3KB", 3 << 10), ("1T", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "G", "1.5G", "-1", "+1", "1X", "1 G"] {
            assert!(bad.parse::<Size>().unwrap_err().contains("is no size"), "{bad}");
        }
        for large in ["99999999999T", "8388608T", "9223372036854775808", "99999999999999999999999999"] {
            assert!(large.parse::<Size>().unwrap_err().contains("is too large"), "{large}");
        }
        assert_eq!("8388607T".parse(), Ok(Size(8_388_607 << 40)));
        for (bytes, text) in [(0, "0"), (1000, "1000"), (1 << 30, "1G"), (3 << 29, "1536M"), (5 << 40, "5T")] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
    }
}
