//! Random damage to bytes.

use crate::op::Rng;

/// Values at which decoders go wrong.
const EXTREMES: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    16_384,
    16_385,
    0x7fff_ffff,
    0xffff_fff0,
    0xffff_ffff,
    1 << 52,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

pub fn extreme(rng: &mut Rng) -> u64 {
    EXTREMES[rng.below(EXTREMES.len() as u64) as usize]
}

/// Damages the bytes in one to three ways. `others` are what pieces may come from.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..1 + rng.below(3) {
        mutate_once(rng, bytes, others);
    }
}

fn mutate_once(rng: &mut Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.push(rng.next() as u8);
    }
    let at = rng.below(bytes.len() as u64) as usize;
    let rest = bytes.len() - at;
    match rng.below(9) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.next() as u8,
        2 => bytes.truncate(at),
        // A field of some width, set to the value that is most, least, or in between.
        3..=5 => {
            let width = [1, 2, 4, 8][rng.below(4) as usize].min(rest);
            let value = extreme(rng).to_le_bytes();
            bytes[at..at + width].copy_from_slice(&value[..width]);
        }
        6 => {
            let len = 1 + rng.below(rest.min(64) as u64) as usize;
            let piece = bytes[at..at + len].to_vec();
            let to = rng.below(bytes.len() as u64 + 1) as usize;
            bytes.splice(to..to, piece);
        }
        7 => {
            let len = 1 + rng.below(rest.min(64) as u64) as usize;
            bytes.drain(at..at + len);
        }
        _ if others.is_empty() => bytes[at] = !bytes[at],
        _ => {
            let other = &others[rng.below(others.len() as u64) as usize];
            let from = rng.below(other.len() as u64 + 1) as usize;
            let len = rng.below((other.len() - from).min(4096) as u64 + 1) as usize;
            bytes.splice(at..at, other[from..from + len].iter().copied());
        }
    }
}
