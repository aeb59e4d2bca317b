//! What a worker does next: something that can succeed in the tree as it is.

use crate::op::{ORPHANS, Op, WrittenBackBy};
use crate::rng::Rng;
use crate::tree::{Kind, Tree};

/// The directory that all workers use, each with names of its own.
pub const SHARED: &str = "shared";
/// Above these a worker takes away more than it adds: what comes back has to be read in every cycle.
const NAMES: usize = 60;
const BYTES: u64 = 6 << 20;
const DEPTH: usize = 5;

/// The directory of a worker.
pub fn home(worker: usize) -> String {
    format!("w{worker}")
}

/// How a worker's names in the shared directory begin.
pub fn shared_prefix(worker: usize) -> String {
    format!("{SHARED}/w{worker}-")
}

/// The next operation of a worker.
pub fn next(tree: &Tree, worker: usize, rng: &mut Rng) -> Op {
    let mut planner = Planner { tree, worker, rng };
    loop {
        let kind = planner.rng.below(100);
        if let Some(op) = planner.of_kind(kind) {
            return op;
        }
    }
}

struct Planner<'a> {
    tree: &'a Tree,
    worker: usize,
    rng: &'a mut Rng,
}

impl Planner<'_> {
    /// `None` where this tree has nothing to do it with.
    fn of_kind(&mut self, kind: u64) -> Option<Op> {
        let full = self.tree.names.len() > NAMES || self.tree.bytes() > BYTES;
        match kind {
            0..=13 if !full => Some(Op::Create { path: self.fresh()?, mode: self.file_mode() }),
            14..=18 if !full => Some(Op::Mkdir { path: self.fresh()?, mode: 0o700 | self.rng.below(0o100) as u32 }),
            19..=21 if !full => Some(Op::Symlink { path: self.fresh()?, target: format!("../to/{}", self.rng.next()) }),
            22..=38 => self.write(full),
            39..=48 => self.append(full),
            49..=54 => self.truncate(full),
            55..=59 => self.punch(),
            60..=64 => self.store(),
            65..=72 => self.rename(),
            73 => self.exchange(),
            74..=77 if !full => Some(Op::Link { from: self.file()?, to: self.fresh()? }),
            78..=80 => Some(Op::Unlink { path: self.removable()?, keep: false }),
            0..=21 | 74..=77 => Some(Op::Unlink { path: self.removable()?, keep: false }),
            81..=83 => Some(Op::Unlink { path: self.only_name()?, keep: true }),
            84..=85 => Some(Op::Rmdir { path: self.empty_dir()? }),
            86..=88 => self.chmod(),
            89..=92 => self.xattr(),
            93 => self.sync(),
            94..=98 => self.write_orphan(),
            _ => Some(Op::TruncateOrphan {
                which: self.rng.below(ORPHANS as u64) as usize,
                size: self.rng.below(100_000),
            }),
        }
    }

    fn file_mode(&mut self) -> u32 {
        0o600 | self.rng.below(0o200) as u32
    }

    /// Most are small, as they are in real life; one in forty is above what a single request carries.
    fn length(&mut self) -> u64 {
        match self.rng.below(40) {
            0 => self.rng.within(1 << 20, 5 << 19),
            1..=4 => self.rng.within(20_000, 300 << 10),
            5..=19 => self.rng.within(1, 20_000),
            _ => self.rng.within(1, 600),
        }
    }

    fn write(&mut self, full: bool) -> Option<Op> {
        let path = self.file()?;
        let size = self.tree.size(&path);
        // Now and then behind the end, so that a hole is made.
        let beyond = if full { 0 } else { 30_000 };
        let offset = if self.rng.percent(10) { self.rng.below(size + beyond + 1) } else { self.rng.below(size + 1) };
        let length = self.length();
        let length = if full { length.min(size - offset.min(size)).max(1) } else { length };
        Some(Op::Write { path, offset, seed: self.rng.next(), length })
    }

    fn append(&mut self, full: bool) -> Option<Op> {
        let length = if full { self.rng.within(1, 600) } else { self.length() };
        Some(Op::Append { path: self.file()?, seed: self.rng.next(), length })
    }

    fn truncate(&mut self, full: bool) -> Option<Op> {
        let path = self.file()?;
        let size = self.tree.size(&path);
        let up = !full && self.rng.percent(40);
        let size = if up { size + self.rng.below(50_000) } else { self.rng.below(size + 1) };
        Some(Op::Truncate { path, size })
    }

    /// A part of a file that is not empty.
    fn part(&mut self) -> Option<(String, u64, u64)> {
        let path = self.file()?;
        let size = self.tree.size(&path);
        if size == 0 {
            return None;
        }
        let offset = self.rng.below(size);
        let length = self.rng.within(1, (size - offset + 1).min(200_000));
        Some((path, offset, length.max(1)))
    }

    fn punch(&mut self) -> Option<Op> {
        let (path, offset, length) = self.part()?;
        Some(Op::Punch { path, offset, length: length + self.rng.below(5_000) })
    }

    fn store(&mut self) -> Option<Op> {
        let (path, offset, length) = self.part()?;
        let by = *self.rng.pick(&[WrittenBackBy::Msync, WrittenBackBy::Munmap, WrittenBackBy::Close])?;
        Some(Op::Store { path, offset, seed: self.rng.next(), length, by })
    }

    fn rename(&mut self) -> Option<Op> {
        let from = self.any()?;
        let over_existing = self.rng.percent(40);
        let to = match (over_existing, self.tree.is_dir(&from)) {
            (false, _) => self.fresh()?,
            (true, true) => self.empty_dir()?,
            (true, false) => self.removable()?,
        };
        // A directory goes neither onto itself nor below itself.
        (to != from && !to.starts_with(&format!("{from}/"))).then_some(Op::Rename { from, to })
    }

    fn exchange(&mut self) -> Option<Op> {
        let (one, other) = (self.removable()?, self.removable()?);
        (one != other).then_some(Op::Exchange { one, other })
    }

    fn chmod(&mut self) -> Option<Op> {
        let path = self.any()?;
        let low = self.rng.below(0o100) as u32;
        match self.tree.node(&path)?.kind {
            Kind::Symlink(_) => None, // It would go to the target.
            Kind::Dir => Some(Op::Chmod { path, mode: 0o700 | low }),
            Kind::File(_) => Some(Op::Chmod { path, mode: 0o600 | low }),
        }
    }

    fn xattr(&mut self) -> Option<Op> {
        let path = self.any()?;
        let node = self.tree.node(&path)?;
        if matches!(node.kind, Kind::Symlink(_)) {
            return None; // They carry no user.* attributes.
        }
        let name = format!("user.{}", self.rng.below(5));
        if node.xattrs.contains_key(&name) && self.rng.percent(40) {
            return Some(Op::RemoveXattr { path, name });
        }
        let length = if self.rng.percent(15) { self.rng.below(3000) } else { self.rng.below(60) };
        Some(Op::SetXattr { path, name, seed: self.rng.next(), length })
    }

    fn sync(&mut self) -> Option<Op> {
        // An fsync of everybody's is everybody's: too many of them, and nothing is ever at risk.
        if self.rng.percent(70) {
            return None;
        }
        Some(Op::Sync { path: self.file()?, data_only: self.rng.percent(50) })
    }

    fn write_orphan(&mut self) -> Option<Op> {
        let which = self.rng.below(ORPHANS as u64) as usize;
        let offset = self.rng.below(100_000);
        Some(Op::WriteOrphan { which, offset, seed: self.rng.next(), length: self.rng.within(1, 20_000) })
    }

    /// A name that is free: in a directory of this worker, or among its names in the shared one.
    fn fresh(&mut self) -> Option<String> {
        let is_place = |name: &&String| self.tree.is_dir(name) && name.matches('/').count() < DEPTH;
        let mut places: Vec<String> = self.tree.names.keys().filter(is_place).map(|dir| format!("{dir}/")).collect();
        places.push(shared_prefix(self.worker));
        let name = format!("{}{}", self.rng.pick(&places)?, self.rng.below(50));
        (!self.tree.names.contains_key(&name)).then_some(name)
    }

    fn one_of(&mut self, wanted: impl Fn(&Tree, &str) -> bool) -> Option<String> {
        let home = home(self.worker);
        let fits = |name: &&String| **name != home && wanted(self.tree, name);
        let names: Vec<&String> = self.tree.names.keys().filter(fits).collect();
        self.rng.pick(&names).map(|name| (*name).clone())
    }

    fn any(&mut self) -> Option<String> {
        self.one_of(|_, _| true)
    }

    fn file(&mut self) -> Option<String> {
        self.one_of(|tree, name| tree.content(name).is_some())
    }

    /// A file that is gone for everybody but who has it open, once this name is.
    fn only_name(&mut self) -> Option<String> {
        self.one_of(|tree, name| tree.content(name).is_some() && tree.links(tree.names[name]) == 1)
    }

    fn removable(&mut self) -> Option<String> {
        self.one_of(Tree::is_removable)
    }

    fn empty_dir(&mut self) -> Option<String> {
        self.one_of(Tree::is_empty_dir)
    }
}
