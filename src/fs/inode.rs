//! An inode in memory: its row, its kernel references, and what hangs on it once it was loaded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::blockmap::BlockMap;
use crate::base::limits::{LATE_PAGE_SECS, attached_pieces};
use crate::base::{Cookie, FileKind, Ino, Map, Name, Timestamp};
use crate::format::InodeRow;

/// Xattrs by name.
pub(super) type Xattrs = BTreeMap<Name, Box<[u8]>>;

/// One inode. Once in memory it stays there until it is deleted, so what is not in memory was never changed.
#[derive(Debug)]
pub(super) struct Inode {
    pub row: InodeRow,
    /// The directory that it was found in, made in, or moved or linked into last, and its name's cookie there: of a
    /// directory the one that it is in; a file may have lost this name and have others.
    pub parent: Ino,
    pub cookie: Cookie,
    /// When utimensat last set the mtime, if nothing has changed it since.
    pub mtime_set: Option<Instant>,
    /// References the kernel holds: an unlinked inode lives until they are gone.
    pub lookups: u64,
    /// `None` until loaded.
    pub xattrs: Option<Box<Xattrs>>,
    pub body: Body,
}

/// What an inode has besides its row.
#[derive(Debug)]
pub(super) enum Body {
    Dir(Box<Dir>),
    File(File),
    /// Links, FIFOs, sockets, devices: the row is all there is.
    Leaf,
}

/// A file's blocks; `None` until loaded.
#[derive(Debug, Default)]
pub(super) struct File {
    pub blocks: Option<BlockMap>,
}

/// A directory's names, empty until loaded.
#[derive(Debug)]
pub(super) struct Dir {
    pub loaded: bool,
    entries: Map<Name, Entry>,
    /// Names by cookie. New cookies are the largest, so this grows at its end; a removed name stays for a while and is
    /// recognised by not being in `entries` with this cookie.
    order: Vec<(Cookie, Name)>,
}

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub ino: Ino,
    pub kind: FileKind,
    pub cookie: Cookie,
}

impl Inode {
    /// An inode as the store has it; `parent` is the directory it was found in, by the name with this cookie.
    pub fn stored(row: InodeRow, parent: Ino, cookie: Cookie) -> Inode {
        Self::with_body(row, parent, cookie, false)
    }

    /// An inode that was just created: nothing of it is in the store, so all of it is loaded.
    pub fn created(row: InodeRow, parent: Ino, cookie: Cookie) -> Inode {
        Self::with_body(row, parent, cookie, true)
    }

    fn with_body(row: InodeRow, parent: Ino, cookie: Cookie, new: bool) -> Inode {
        let no_xattrs = new || row.attached as usize == row.target.len();
        let no_blocks = new || row.pieces == attached_pieces(row.attached.into());
        let body = match row.kind() {
            FileKind::Directory => Body::Dir(Box::new(Dir::new(new))),
            FileKind::Regular => Body::File(File { blocks: no_blocks.then(BlockMap::default) }),
            _ => Body::Leaf,
        };
        Inode { row, parent, cookie, mtime_set: None, lookups: 0, xattrs: no_xattrs.then(Default::default), body }
    }

    /// The content is another from now on.
    pub fn modified(&mut self, now: Timestamp) {
        self.row.mtime = now;
        self.mtime_set = None;
    }

    /// Pages of a mapping were written back. When they were stored to nobody knows, so an mtime that was set a short time
    /// ago stays: it may be younger than they are.
    pub fn written_back(&mut self, now: Timestamp) {
        let late = Duration::from_secs(LATE_PAGE_SECS);
        if self.mtime_set.is_none_or(|set| set.elapsed() > late) {
            self.modified(now);
        }
    }

    pub fn dir(&self) -> Option<&Dir> {
        match &self.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub fn dir_mut(&mut self) -> Option<&mut Dir> {
        match &mut self.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }
}

impl Dir {
    fn new(loaded: bool) -> Dir {
        Dir { loaded, entries: Map::default(), order: Vec::new() }
    }

    pub fn get(&self, name: &[u8]) -> Option<Entry> {
        self.entries.get(name).copied()
    }

    /// The name with this cookie, if it leads to this inode.
    pub fn name_of(&self, ino: Ino, cookie: Cookie) -> Option<&Name> {
        let at = self.order.binary_search_by_key(&cookie, |(cookie, _)| *cookie).ok()?;
        let name = &self.order[at].1;
        let leads_there = |entry: &Entry| entry.cookie == cookie && entry.ino == ino;
        self.entries.get(name).is_some_and(leads_there).then_some(name)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes room for a load that brings `count` names.
    pub fn reserve(&mut self, count: usize) {
        self.entries.reserve(count);
        self.order.reserve(count);
    }

    /// Adds a name, or leads one that is there elsewhere; then it keeps its place, so that a running `readdir` neither
    /// misses nor repeats it. A name may also take the place of one that was removed for it.
    pub fn put(&mut self, name: Name, entry: Entry) {
        if self.entries.insert(name.clone(), entry).is_none() {
            match self.order.binary_search_by_key(&entry.cookie, |(cookie, _)| *cookie) {
                Ok(at) => self.order[at].1 = name,
                Err(at) => self.order.insert(at, (entry.cookie, name)),
            }
        }
    }

    pub fn remove(&mut self, name: &[u8]) {
        self.entries.remove(name);
        if self.order.len() > 64 && self.entries.len() < self.order.len() / 2 {
            let entries = &self.entries;
            self.order.retain(|(cookie, name)| entries.get(name).is_some_and(|e| e.cookie == *cookie));
        }
    }

    /// The greatest cookie of a name, or of one that was lately removed; 0 when there never was one.
    pub fn last_cookie(&self) -> Cookie {
        self.order.last().map_or(Cookie(0), |(cookie, _)| *cookie)
    }

    /// Names whose cookie is greater than `after`, in order.
    pub fn after(&self, after: Cookie) -> impl Iterator<Item = (&Name, Entry)> {
        let start = self.order.partition_point(|(cookie, _)| *cookie <= after);
        self.order[start..].iter().filter_map(|(cookie, name)| {
            let entry = self.entries.get(name)?;
            (entry.cookie == *cookie).then_some((name, *entry))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_page_leaves_an_mtime_that_was_just_set() {
        let row = InodeRow {
            ino: Ino(2),
            mode: libc::S_IFREG,
            uid: 0,
            gid: 0,
            nlink: 1,
            rdev: 0,
            size: 0,
            pieces: 0,
            attached: 0,
            atime: Timestamp::new(0, 0),
            mtime: Timestamp::new(1, 0),
            ctime: Timestamp::new(0, 0),
            btime: Timestamp::new(0, 0),
            target: Box::default(),
        };
        let mut inode = Inode::created(row, Ino::ROOT, Cookie(1));
        let now = |seconds| Timestamp::new(seconds, 0);
        inode.written_back(now(2));
        assert_eq!(inode.row.mtime, now(2), "nobody has set it");
        inode.mtime_set = Some(Instant::now());
        inode.written_back(now(3));
        assert_eq!(inode.row.mtime, now(2));
        inode.mtime_set = Instant::now().checked_sub(Duration::from_secs(LATE_PAGE_SECS + 1));
        inode.written_back(now(4));
        assert_eq!(inode.row.mtime, now(4), "no page is dirty for so long");
        inode.mtime_set = Some(Instant::now());
        inode.modified(now(5));
        inode.written_back(now(6));
        assert_eq!(inode.row.mtime, now(6), "a write ends it");
    }
}
