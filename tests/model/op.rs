//! The operations, and the generator that makes them.

/// A small generator (xorshift64*): the same seed, the same run, on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

/// A path in a tree of few names, so that operations meet each other.
#[derive(Clone, PartialEq, Eq)]
pub struct Path(pub Vec<Vec<u8>>);

impl std::ops::Deref for Path {
    type Target = Vec<Vec<u8>>;

    fn deref(&self) -> &Vec<Vec<u8>> {
        &self.0
    }
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for name in &self.0 {
            write!(f, "/{}", name[..name.len().min(8)].escape_ascii())?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(Path),
    Mkdir(Path),
    Symlink(Path, usize),
    Mkfifo(Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path),
    RenameNoReplace(Path, Path),
    Exchange(Path, Path),
    Write {
        path: Path,
        at: u64,
        len: usize,
        byte: u8,
    },
    Truncate {
        path: Path,
        size: u64,
    },
    Allocate {
        path: Path,
        at: u64,
        len: u64,
        keep: bool,
    },
    Punch {
        path: Path,
        at: u64,
        len: u64,
    },
    Zero {
        path: Path,
        at: u64,
        len: u64,
        keep: bool,
    },
    Copy {
        from: Path,
        from_at: u64,
        to: Path,
        to_at: u64,
        len: u64,
    },
    Chmod(Path, u32),
    SetXattr(Path, String, usize),
    RemoveXattr(Path, String),
    /// Opens a file (keeps a reference) and unlinks it; it is checked and written until the next `Forget`.
    UnlinkOpen(Path),
    Forget,
    /// New caps: so many bytes and inodes above the least that the run allows.
    #[allow(dead_code)] // Tests of crashes and power cuts leave the caps alone.
    Resize(u64, u64),
    Fsync,
    Commit,
    Remount,
    /// The process dies: the state is the one after the last operation.
    Crash,
}

fn path(rng: &mut Rng) -> Path {
    let depth = 1 + rng.below(3);
    let name = |rng: &mut Rng| match rng.below(12) {
        0 => b"\xff\n name".to_vec(),
        1 => vec![b'n'; 255],
        n => vec![b'a' + n as u8],
    };
    Path((0..depth).map(|_| name(rng)).collect())
}

fn xattr(rng: &mut Rng) -> String {
    format!("user.{}", rng.below(3))
}

/// Offsets near block and piece boundaries, where the mistakes live.
fn offset(rng: &mut Rng) -> u64 {
    let base = match rng.below(6) {
        0 => 0,
        1 => 4096 * rng.below(40),
        2 => 65_536 * rng.below(4),
        3 => 131_072 * rng.below(3),
        4 => rng.below(200_000),
        _ => 1_000_000 + rng.below(400_000),
    };
    (base + rng.below(3)).saturating_sub(1)
}

fn length(rng: &mut Rng) -> u64 {
    1 + match rng.below(5) {
        0 => rng.below(100),
        1 => rng.below(5000),
        2 => 4095,
        3 => 65_535 + rng.below(2),
        _ => rng.below(180_000),
    }
}

impl Op {
    pub fn random(rng: &mut Rng) -> Op {
        let keep = rng.below(2) == 0;
        match rng.below(100) {
            0..=13 => Op::Create(path(rng)),
            14..=21 => Op::Mkdir(path(rng)),
            22..=24 => Op::Symlink(path(rng), 1 + rng.below(600) as usize),
            25 => Op::Mkfifo(path(rng)),
            26..=29 => Op::Link(path(rng), path(rng)),
            30..=35 => Op::Unlink(path(rng)),
            36..=37 => Op::Rmdir(path(rng)),
            38..=42 => Op::Rename(path(rng), path(rng)),
            43 => Op::RenameNoReplace(path(rng), path(rng)),
            44..=45 => Op::Exchange(path(rng), path(rng)),
            46..=65 => {
                Op::Write { path: path(rng), at: offset(rng), len: length(rng) as usize, byte: rng.next() as u8 }
            }
            66..=70 => Op::Truncate { path: path(rng), size: offset(rng) },
            71..=73 => Op::Allocate { path: path(rng), at: offset(rng), len: length(rng), keep },
            74..=77 => Op::Punch { path: path(rng), at: offset(rng), len: length(rng) },
            78..=80 => Op::Zero { path: path(rng), at: offset(rng), len: length(rng), keep },
            81..=86 => {
                // Mostly aligned, so that blocks are shared.
                let align = if rng.below(4) == 0 { 1 } else { 65_536 };
                Op::Copy {
                    from: path(rng),
                    from_at: offset(rng) / align * align,
                    to: path(rng),
                    to_at: offset(rng) / align * align,
                    len: if rng.below(2) == 0 { 10_000_000 } else { length(rng) },
                }
            }
            87 => Op::Chmod(path(rng), rng.below(0o10000) as u32),
            88..=89 => Op::SetXattr(path(rng), xattr(rng), rng.below(9000) as usize),
            90 => Op::RemoveXattr(path(rng), xattr(rng)),
            91..=92 => Op::UnlinkOpen(path(rng)),
            93..=94 => Op::Forget,
            95 => Op::Fsync,
            96 => Op::Commit,
            97 => Op::Remount,
            // Where caps are met, often below what is in use.
            98 => Op::Resize(rng.below(3 << 19), rng.below(80)),
            _ => Op::Crash,
        }
    }
}
