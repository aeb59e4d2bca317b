//! How long things take, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Steps of a histogram: 1 µs, 2 µs, 4 µs and so on up to 8.4 s, and what takes longer.
pub const STEPS: usize = 25;

/// Durations, counted by powers of two of a microsecond.
#[derive(Debug, Default)]
pub struct Histogram {
    steps: [AtomicU64; STEPS],
    nanos: AtomicU64,
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many took at most 2^i µs and more than half of that; the last: longer than all others.
    pub steps: [u64; STEPS],
    /// What all took together.
    pub nanos: u64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.steps[step(nanos)].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Adds what it has counted so far. One that is being counted meanwhile may be in one figure and not yet in the other.
    pub fn add_to(&self, tally: &mut Tally) {
        for (sum, step) in tally.steps.iter_mut().zip(&self.steps) {
            *sum += step.load(Ordering::Relaxed);
        }
        tally.nanos += self.nanos.load(Ordering::Relaxed);
    }

    /// What it has counted so far.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.add_to(&mut tally);
        tally
    }
}

impl Tally {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.steps.iter().sum()
    }
}

/// The first step that is not shorter.
fn step(nanos: u64) -> usize {
    let micros = nanos.div_ceil(1_000).max(1);
    (micros.next_power_of_two().trailing_zeros() as usize).min(STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_step_that_holds_it() {
        for (nanos, at) in [(0, 0), (1_000, 0), (1_001, 1), (2_000, 1), (2_001, 2), (4_000, 2), (8_388_608_000, 23)] {
            assert_eq!(step(nanos), at, "{nanos} ns");
        }
        assert_eq!(step(8_388_608_001), STEPS - 1);
        assert_eq!(step(u64::MAX), STEPS - 1);
        let histogram = Histogram::default();
        [500, 1_500, 1_700].iter().for_each(|&nanos| histogram.record(Duration::from_nanos(nanos)));
        let tally = histogram.tally();
        assert_eq!((tally.count(), tally.nanos, tally.steps[0], tally.steps[1]), (3, 3_700, 1, 2));
    }
}
