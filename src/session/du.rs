//! What takes the space of a session: by directory, by extension, the largest files. Read from the last commit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::SessionDir;
use super::tree::Shown;
use crate::base::limits::PIECE_SIZE;
use crate::base::{FileKind, Ino, Map, Set};
use crate::format::InodeRow;
use crate::store::{Named, Store};

/// Of what, and how much of it is wanted.
#[derive(Clone, Debug)]
pub struct DuOptions {
    /// A directory, from the root of the session.
    pub path: Vec<u8>,
    /// Directories are listed down to this depth below it.
    pub depth: usize,
    /// The largest so many of each kind.
    pub top: usize,
}

/// Sums over files, each counted once, however many names it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Bytes charged to the cap, as `df` and `st_blocks` count them.
    pub charged: u64,
    /// Lengths: of regular files and of the targets of symbolic links.
    pub apparent: u64,
    /// Whatever is no directory.
    pub files: u64,
    /// Directories, the topmost included.
    pub directories: u64,
}

impl Sums {
    fn of(row: &InodeRow) -> Sums {
        let directory = row.kind() == FileKind::Directory;
        Sums {
            charged: row.pieces * PIECE_SIZE as u64,
            apparent: if directory { 0 } else { row.size },
            files: u64::from(!directory),
            directories: u64::from(directory),
        }
    }

    fn add(&mut self, other: &Sums) {
        self.charged += other.charged;
        self.apparent += other.apparent;
        self.files += other.files;
        self.directories += other.directories;
    }
}

/// A directory, an extension, a file, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// A path from the root of the session, or an extension with its dot; what is no text is escaped.
    pub name: String,
    /// What it comes to; of a directory with all below it.
    #[serde(flatten)]
    pub sums: Sums,
}

/// What takes the space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Du {
    /// The session.
    pub session: String,
    /// The directory.
    pub path: String,
    /// The state that this is of.
    pub txid: u64,
    /// All below the directory, and itself.
    #[serde(flatten)]
    pub all: Sums,
    /// Files without a name that are open; only of the root.
    pub orphans: Sums,
    /// The session's cap in bytes.
    pub bytes_limit: u64,
    /// Patterns of directories whose content is neither charged nor counted here.
    pub ephemeral: Vec<String>,
    /// The largest directories.
    pub by_directory: Vec<Share>,
    /// The extensions that take most.
    pub by_extension: Vec<Share>,
    /// The largest files, by one of their names.
    pub largest: Vec<Share>,
}

/// Bytes charged, length, directory and name of a file.
type Large = (u64, u64, Ino, Vec<u8>);

/// A directory on the way.
#[derive(Debug)]
struct Dir {
    parent: Ino,
    name: Vec<u8>,
    sums: Sums,
    /// Below the directory that is wanted, so many levels.
    depth: Option<usize>,
}

/// All that is collected: a directory takes some 100 bytes of memory, a file with one name none.
#[derive(Default)]
struct Walk {
    dirs: Map<Ino, Dir>,
    /// Files with several names that were counted.
    seen: Set<Ino>,
    orphans: Sums,
    extensions: Map<Vec<u8>, Sums>,
    largest: BinaryHeap<Reverse<Large>>,
    /// Depths are known from the first file on.
    settled: bool,
    wanted: Vec<Vec<u8>>,
    top: usize,
}

impl Du {
    /// Of the last commit. `progress` is called now and then with the number of names seen. `None`: no such directory.
    pub fn of(
        dir: &SessionDir,
        options: &DuOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Du>, SessionError> {
        let failed = |source| dir.database_error(source);
        let store = Store::open_read_only(&dir.database()).map_err(failed)?;
        let superblock = store.superblock().map_err(failed)?;
        let wanted: Vec<Vec<u8>> = options
            .path
            .split(|&byte| byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"."))
            .map(<[u8]>::to_vec)
            .collect();
        let is_root = wanted.is_empty();
        let mut walk = Walk { wanted, top: options.top, ..Walk::default() };
        let root = Dir { parent: Ino::ROOT, name: Vec::new(), sums: Sums::default(), depth: None };
        walk.dirs.insert(Ino::ROOT, root);
        let mut names = 0;
        let each = &mut |named: Named<'_>| {
            names += 1;
            if names % 10_000 == 0 {
                progress(names);
            }
            walk.take(&named);
        };
        store.names(each).map_err(failed)?;
        walk.settle();
        let Some(top) = walk.topmost() else { return Ok(None) };
        let all = walk.sum_up(top);
        let path = walk.path(top);
        Ok(Some(Du {
            session: dir.id().to_string(),
            path,
            txid: superblock.txid.0,
            all,
            orphans: if is_root { walk.orphans } else { Sums::default() },
            bytes_limit: superblock.bytes_limit,
            ephemeral: dir.home().entry(dir.id())?.settings.ephemeral,
            by_directory: walk.directories(options.depth),
            by_extension: walk.by_extension(),
            largest: walk.largest(),
        }))
    }
}

impl Walk {
    fn take(&mut self, named: &Named<'_>) {
        match named {
            Named::Root(row) => self.add_to(Ino::ROOT, &Sums::of(row)),
            Named::Orphan(row) => self.orphans.add(&Sums::of(row)),
            Named::Name(dentry, row) if row.kind() == FileKind::Directory => {
                let name = dentry.name.to_vec();
                self.dirs.insert(row.ino, Dir { parent: dentry.parent, name, sums: Sums::of(row), depth: None });
            }
            Named::Name(dentry, row) => {
                self.settle();
                let wanted = self.dirs.get(&dentry.parent).is_some_and(|dir| dir.depth.is_some());
                if wanted && (row.nlink == 1 || self.seen.insert(row.ino)) {
                    self.file(dentry.parent, &dentry.name, row);
                }
            }
        }
    }

    fn add_to(&mut self, ino: Ino, sums: &Sums) {
        if let Some(dir) = self.dirs.get_mut(&ino) {
            dir.sums.add(sums);
        }
    }

    fn file(&mut self, parent: Ino, name: &[u8], row: &InodeRow) {
        let sums = Sums::of(row);
        self.add_to(parent, &sums);
        self.extensions.entry(extension(name).to_vec()).or_default().add(&sums);
        self.largest.push(Reverse((sums.charged, sums.apparent, parent, name.to_vec())));
        if self.largest.len() > self.top {
            self.largest.pop();
        }
    }

    /// Once all directories are known: which of them are below the one that is wanted, and how deep.
    fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let mut depths: Map<Ino, Option<usize>> = Map::default();
        if let Some(top) = self.topmost() {
            depths.insert(top, Some(0));
        }
        depths.entry(Ino::ROOT).or_insert(None);
        for &ino in self.dirs.keys() {
            let (mut way, mut at) = (Vec::new(), ino);
            // No way is longer than there are directories, unless the database is damaged.
            while !depths.contains_key(&at) && way.len() <= self.dirs.len() {
                way.push(at);
                at = self.dirs.get(&at).map_or(Ino::ROOT, |dir| dir.parent);
            }
            let mut depth = depths.get(&at).copied().flatten();
            for ino in way.into_iter().rev() {
                depth = depth.map(|depth| depth + 1);
                depths.insert(ino, depth);
            }
        }
        for (ino, dir) in &mut self.dirs {
            dir.depth = depths.get(ino).copied().flatten();
        }
    }

    /// The directory that is wanted.
    fn topmost(&self) -> Option<Ino> {
        self.wanted.iter().try_fold(Ino::ROOT, |at, name| {
            self.dirs
                .iter()
                .find(|(ino, dir)| dir.parent == at && dir.name == *name && **ino != Ino::ROOT)
                .map(|(&ino, _)| ino)
        })
    }

    /// Adds what is in each directory to those above it, from the deepest up; the sums of the topmost.
    fn sum_up(&mut self, top: Ino) -> Sums {
        let mut below: Vec<(usize, Ino)> =
            self.dirs.iter().filter_map(|(&ino, dir)| dir.depth.map(|depth| (depth, ino))).collect();
        below.sort_unstable_by_key(|&(depth, _)| Reverse(depth));
        for (_, ino) in below {
            let Some(dir) = self.dirs.get(&ino).filter(|_| ino != top) else { continue };
            let (parent, sums) = (dir.parent, dir.sums);
            self.add_to(parent, &sums);
        }
        self.dirs.get(&top).map(|dir| dir.sums).unwrap_or_default()
    }

    fn path(&self, ino: Ino) -> String {
        let (mut parts, mut at) = (Vec::new(), ino);
        while at != Ino::ROOT && parts.len() <= self.dirs.len() {
            let Some(dir) = self.dirs.get(&at) else { break };
            parts.push(Shown(&dir.name).to_string());
            at = dir.parent;
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    fn directories(&self, depth: usize) -> Vec<Share> {
        let near = self.dirs.iter().filter(|(_, dir)| dir.depth.is_some_and(|at| (1..=depth).contains(&at)));
        let mut near: Vec<(&Ino, &Dir)> = near.collect();
        near.sort_unstable_by_key(|(ino, dir)| (Reverse((dir.sums.charged, dir.sums.apparent)), **ino));
        near.truncate(self.top);
        near.into_iter().map(|(&ino, dir)| Share { name: self.path(ino), sums: dir.sums }).collect()
    }

    fn by_extension(&self) -> Vec<Share> {
        let mut all: Vec<Share> =
            self.extensions.iter().map(|(name, &sums)| Share { name: Shown(name).to_string(), sums }).collect();
        all.sort_unstable_by(|a, b| {
            (b.sums.charged, b.sums.apparent, &a.name).cmp(&(a.sums.charged, a.sums.apparent, &b.name))
        });
        all.truncate(self.top);
        all
    }

    fn largest(&self) -> Vec<Share> {
        let mut all: Vec<_> = self.largest.iter().map(|Reverse(file)| file).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let share = |&&(charged, apparent, parent, ref name): &&Large| Share {
            name: format!("{}/{}", self.path(parent).trim_end_matches('/'), Shown(name)),
            sums: Sums { charged, apparent, files: 1, directories: 0 },
        };
        all.iter().map(share).collect()
    }
}

/// With its dot; empty where there is none, as of `.profile` and `Makefile`.
fn extension(name: &[u8]) -> &[u8] {
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(at) if at > 0 && at + 1 < name.len() => &name[at..],
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_what_follows_the_last_dot() {
        for (name, expected) in
            [("a.rs", ".rs"), ("a.tar.gz", ".gz"), (".profile", ""), ("Makefile", ""), ("odd.", ""), (".a.b", ".b")]
        {
            assert_eq!(extension(name.as_bytes()), expected.as_bytes(), "{name}");
        }
    }
}
