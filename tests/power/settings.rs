//! How much is tried: little enough for every change, or as much as somebody has the time for.

use std::ops::Range;

use sessionfs::store::Omit;

use crate::sweep::Sweep;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    first_seed: u64,
    seed_count: u64,
    /// Random operations behind a script's prologue.
    pub operations: usize,
    /// Cuts that are not at a sync.
    pub random_places: usize,
    /// Of so many calls one is made to fail; `None`: as many as fit the time.
    pub stride: Option<u64>,
    /// At every so many cuts the recovery is cut.
    pub recoveries_every: usize,
    goes_on_every: usize,
    /// Cuts of a journal that is many times larger than the others.
    pub recycled_places: usize,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

impl Settings {
    pub fn get() -> Settings {
        let stride = number("POWER_STRIDE");
        let long = stride == Some(1);
        Settings {
            first_seed: number("POWER_SEED").unwrap_or(1),
            seed_count: number("POWER_SEEDS").unwrap_or(1),
            operations: number("POWER_OPS").unwrap_or(50) as usize,
            random_places: if long { 200 } else { 10 },
            stride,
            recoveries_every: if long { 4 } else { 40 },
            goes_on_every: if long { 1 } else { 6 },
            recycled_places: if long { 100 } else { 3 },
        }
    }

    pub fn seeds(&self) -> Range<u64> {
        self.first_seed..self.first_seed + self.seed_count
    }

    pub fn sweep(&self, seed: u64) -> Sweep {
        Sweep { seed, omit: Omit::default(), goes_on_every: self.goes_on_every }
    }
}
