//! Random numbers that a seed brings back: SplitMix64.

use std::time::SystemTime;

pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// At least `from`, less than `end`.
    pub fn within(&mut self, from: u64, end: u64) -> u64 {
        from + self.below(end - from)
    }

    /// True this often in a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len() as u64) as usize) }
    }
}

/// A seed of its own for each part of a run.
pub fn derived(seed: u64, parts: [u64; 2]) -> u64 {
    parts.iter().fold(seed, |seed, part| Rng::new(seed ^ part.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next())
}

pub fn from_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Rng::new(now.as_nanos() as u64).next() >> 32
}

/// Content that this seed brings back: half of the seeds noise, half something that compresses.
pub fn fill(seed: u64, length: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out = Vec::with_capacity(length as usize + 8);
    let word = rng.next();
    while (out.len() as u64) < length {
        // The odd words make one place differ from the next, so that content that is shifted is seen.
        let next = if seed.is_multiple_of(2) { rng.next() } else { word ^ (out.len() as u64 / 512) };
        out.extend_from_slice(&next.to_le_bytes());
    }
    out.truncate(length as usize);
    out
}
