//! Soft limits: percentages of a session's caps at which it is said that it fills up, before a write fails.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fs::Usage;

/// Points that use has to fall below a limit before passing it is said again: who works at the edge is told once.
const HYSTERESIS: u64 = 5;

/// What there is a cap on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Space.
    Bytes,
    /// Files, directories and links.
    Inodes,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Bytes => "bytes",
            Resource::Inodes => "inodes",
        })
    }
}

/// A soft limit that use has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Of what.
    pub resource: Resource,
    /// The limit.
    pub percent: u8,
    /// What is used.
    pub used: u64,
    /// The cap.
    pub limit: u64,
}

/// Which limits were passed, and said so.
#[derive(Clone, Debug)]
pub struct SoftLimits {
    percentages: Vec<u8>,
    bytes: Vec<u8>,
    inodes: Vec<u8>,
}

impl SoftLimits {
    /// From now on: what is passed already is known.
    pub fn new(percentages: &[u8], now: &Usage) -> SoftLimits {
        let mut limits = SoftLimits { percentages: percentages.to_vec(), bytes: Vec::new(), inodes: Vec::new() };
        limits.look(now);
        limits
    }

    /// What has been passed since the last look, the lowest first.
    pub fn look(&mut self, now: &Usage) -> Vec<Passed> {
        let mut passed = Vec::new();
        for (resource, said, used, limit) in [
            (Resource::Bytes, &mut self.bytes, now.bytes, now.bytes_limit),
            (Resource::Inodes, &mut self.inodes, now.inodes, now.inodes_limit),
        ] {
            for &percent in &self.percentages {
                if !said.contains(&percent) {
                    if is_at(used, limit, percent.into()) {
                        said.push(percent);
                        passed.push(Passed { resource, percent, used, limit });
                    }
                } else if !is_at(used, limit, u64::from(percent).saturating_sub(HYSTERESIS)) {
                    said.retain(|&one| one != percent);
                }
            }
        }
        passed
    }
}

/// The highest of the limits that use is at or above; 0 when it is below all.
pub fn reached(percentages: &[u8], used: u64, limit: u64) -> u8 {
    percentages.iter().copied().filter(|&percent| is_at(used, limit, percent.into())).max().unwrap_or(0)
}

fn is_at(used: u64, limit: u64, percent: u64) -> bool {
    u128::from(used) * 100 >= u128::from(limit) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(bytes: u64, inodes: u64) -> Usage {
        Usage { bytes, bytes_limit: 1000, inodes, inodes_limit: 100 }
    }

    fn told(limits: &mut SoftLimits, now: &Usage) -> Vec<(Resource, u8)> {
        limits.look(now).into_iter().map(|passed| (passed.resource, passed.percent)).collect()
    }

    #[test]
    fn a_limit_is_told_once_until_use_has_fallen_well_below_it() {
        use Resource::{Bytes, Inodes};
        let mut limits = SoftLimits::new(&[80, 90, 95], &usage(100, 1));
        assert_eq!(told(&mut limits, &usage(799, 79)), []);
        assert_eq!(told(&mut limits, &usage(800, 79)), [(Bytes, 80)]);
        assert_eq!(told(&mut limits, &usage(760, 80)), [(Inodes, 80)]);
        assert_eq!(told(&mut limits, &usage(960, 81)), [(Bytes, 90), (Bytes, 95)]);
        // Below the limits, and not far enough.
        assert_eq!(told(&mut limits, &usage(750, 75)), []);
        assert_eq!(told(&mut limits, &usage(1000, 100)), [(Bytes, 90), (Bytes, 95), (Inodes, 90), (Inodes, 95)]);
        assert_eq!(told(&mut limits, &usage(749, 100)), []);
        assert_eq!(told(&mut limits, &usage(1000, 100)), [(Bytes, 80), (Bytes, 90), (Bytes, 95)]);
    }

    #[test]
    fn what_is_passed_when_it_begins_is_known_and_other_caps_are_other_limits() {
        let mut limits = SoftLimits::new(&[80, 90], &usage(850, 1));
        assert_eq!(told(&mut limits, &usage(860, 1)), []);
        assert_eq!(told(&mut limits, &Usage { bytes_limit: 2000, ..usage(860, 1) }), []);
        assert_eq!(told(&mut limits, &usage(860, 1)), [(Resource::Bytes, 80)]);
        assert_eq!(told(&mut limits, &Usage { bytes_limit: 0, ..usage(1, 1) }), [(Resource::Bytes, 90)]);
        assert_eq!((reached(&[80, 90], 950, 1000), reached(&[80, 90], 1, 1000), reached(&[], 5, 5)), (90, 0, 0));
    }
}
