//! What tells two things apart that are compared with each other only: 128 bits of XXH3, against chance and no adversary.

use xxhash_rust::xxh3::Xxh3Default;

/// A fingerprint in the making.
#[derive(Default)]
pub struct Fingerprint(Xxh3Default);

impl Fingerprint {
    /// Takes more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes bytes as a part of its own: "a" and "bc" are not "ab" and "c".
    pub fn part(&mut self, bytes: &[u8]) {
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    /// In hexadecimal.
    pub fn text(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}
