//! A stand-in for `fs`: builds transactions whose rows agree with each other, as the real one's do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sessionfs::base::limits::{BLOCK_SIZE, DENTRY_COST, PACK_TARGET, PIECE_SIZE, PIECES_PER_BLOCK, pieces};
use sessionfs::base::{DataId, FileKind, Ino, Name, Seq, Timestamp};
use sessionfs::format::{BlockRow, Change, DentryRow, InodeRow, Transaction};
use sessionfs::store::{CreateOptions, NextIds, Store, StoreError, Superblock, Writer, check};

/// A session database with a writer, and what it should hold.
pub struct Session {
    /// The directory the database lives in.
    pub dir: tempfile::TempDir,
    pub store: Arc<Store>,
    pub writer: Writer,
    pub txn: Transaction,
    pub next: NextIds,
    inodes: BTreeMap<Ino, InodeRow>,
    blocks: BTreeMap<(Ino, u64), BlockRow>,
    names: BTreeMap<(Ino, Name), DentryRow>,
    clock: i64,
}

pub const OPTIONS: CreateOptions = CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1_000, uid: 7, gid: 8 };

/// Full blocks that fill a pack.
pub const PACK_BLOCKS: u64 = PACK_TARGET.div_ceil(BLOCK_SIZE) as u64;

/// Every row and every content of a store, for comparison.
#[derive(Debug, PartialEq)]
pub struct Everything {
    pub inodes: Vec<InodeRow>,
    pub names: Vec<DentryRow>,
    pub blocks: Vec<(BlockRow, Vec<u8>)>,
    pub xattrs: Vec<(Ino, Name, Box<[u8]>)>,
}

/// Content that compresses a little and differs with `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 60) as u8 + 1
    };
    (0..len).map(step).collect()
}

pub fn name(text: &str) -> Name {
    text.as_bytes().into()
}

impl Session {
    pub fn new() -> Session {
        let dir = tempfile::tempdir().unwrap();
        Store::create(&dir.path().join("session.db"), &OPTIONS).unwrap();
        let mut session = Session::open(dir);
        // The root's times come from the clock; two sessions are to be comparable.
        session.change(Ino::ROOT, |row| (row.atime, row.btime) = (row.mtime, row.mtime));
        session
    }

    /// Opens what is in `dir`, and reads its rows back as the state to go on from.
    pub fn open(dir: tempfile::TempDir) -> Session {
        let (store, writer) = Store::open(&dir.path().join("session.db")).unwrap();
        let next = store.superblock().unwrap().next;
        let mut session = Session {
            dir,
            store,
            writer,
            txn: Transaction::default(),
            next,
            inodes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            names: BTreeMap::new(),
            clock: 1_000_000 + next.seq.0 as i64,
        };
        let all = session.everything();
        session.inodes = all.inodes.into_iter().map(|row| (row.ino, row)).collect();
        session.blocks = all.blocks.into_iter().map(|(row, _)| ((row.ino, row.index), row)).collect();
        session.names = all.names.into_iter().map(|row| ((row.parent, row.name.clone()), row)).collect();
        session
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("session.db")
    }

    pub fn commit(&mut self) -> Superblock {
        self.try_commit().unwrap()
    }

    pub fn try_commit(&mut self) -> Result<Superblock, StoreError> {
        let txn = std::mem::take(&mut self.txn);
        self.writer.commit(&txn, self.next)
    }

    /// Holds every invariant of `docs/format.md` against what is committed.
    pub fn assert_clean(&self) {
        assert_eq!(check(&self.store, &mut |_, _| ()).unwrap(), []);
    }

    /// Commits and closes, and opens again.
    pub fn reopen(mut self) -> Session {
        self.commit();
        self.assert_clean();
        self.writer.close().unwrap();
        drop(self.store);
        Session::open(self.dir)
    }

    /// Commits, closes, and leaves the file.
    pub fn close(mut self) -> (tempfile::TempDir, Superblock) {
        self.commit();
        self.assert_clean();
        let last = self.writer.close().unwrap();
        (self.dir, last)
    }

    fn apply(&mut self, change: Change<'_>) {
        self.txn.apply(change);
        self.txn.last_seq = self.next.seq;
        self.next.seq = Seq(self.next.seq.0 + 1);
    }

    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::new(self.clock, 123_456_789)
    }

    /// Changes an inode, as every operation does at its end.
    pub fn change(&mut self, ino: Ino, edit: impl FnOnce(&mut InodeRow)) {
        let now = self.now();
        let row = self.inodes.get_mut(&ino).unwrap();
        (row.mtime, row.ctime) = (now, now);
        edit(row);
        let row = row.clone();
        self.apply(Change::Inode(&row));
    }

    fn make(&mut self, mode: u32) -> Ino {
        let (ino, now) = (self.next.ino, self.now());
        self.next.ino = ino.next();
        let row = InodeRow {
            ino,
            mode,
            uid: 7,
            gid: 8,
            nlink: 0,
            rdev: 0,
            size: 0,
            pieces: 0,
            attached: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            target: Box::default(),
        };
        self.apply(Change::Inode(&row));
        self.inodes.insert(ino, row);
        ino
    }

    /// An inode without a name: what `O_TMPFILE` makes.
    pub fn tmpfile(&mut self) -> Ino {
        self.make(FileKind::Regular.mode_bits() | 0o600)
    }

    pub fn link(&mut self, ino: Ino, parent: Ino, at: &str) {
        let kind = FileKind::of_mode(self.inodes[&ino].mode).unwrap();
        let row = DentryRow { parent, name: name(at), ino, kind, cookie: self.next.cookie };
        self.next.cookie = self.next.cookie.next();
        self.apply(Change::Dentry(&row));
        self.names.insert((parent, row.name.clone()), row);
        let is_dir = kind == FileKind::Directory;
        self.change(ino, |row| row.nlink += if is_dir { 2 } else { 1 });
        self.charge(parent, at, 1, is_dir);
    }

    fn charge(&mut self, parent: Ino, at: &str, sign: i64, is_dir: bool) {
        self.change(parent, |row| {
            row.pieces -= pieces(row.size);
            row.size = row.size.checked_add_signed(sign * (DENTRY_COST as i64 + at.len() as i64)).unwrap();
            row.pieces += pieces(row.size);
            row.nlink = row.nlink.checked_add_signed(if is_dir { sign as i32 } else { 0 }).unwrap();
        });
    }

    pub fn file(&mut self, parent: Ino, at: &str) -> Ino {
        let ino = self.make(FileKind::Regular.mode_bits() | 0o644);
        self.link(ino, parent, at);
        ino
    }

    pub fn dir(&mut self, parent: Ino, at: &str) -> Ino {
        let ino = self.make(FileKind::Directory.mode_bits() | 0o755);
        self.link(ino, parent, at);
        ino
    }

    pub fn symlink(&mut self, parent: Ino, at: &str, target: &str) -> Ino {
        let ino = self.make(FileKind::Symlink.mode_bits() | 0o777);
        self.change(ino, |row| {
            row.target = target.as_bytes().into();
            row.size = target.len() as u64;
            row.set_attached(target.len() as u32);
        });
        self.link(ino, parent, at);
        ino
    }

    /// Takes a name away; the inode becomes an orphan with its last one.
    pub fn unlink(&mut self, parent: Ino, at: &str) -> Ino {
        let row = self.names.remove(&(parent, name(at))).unwrap();
        self.apply(Change::DropDentry { parent, name: &row.name });
        let is_dir = row.kind == FileKind::Directory;
        self.change(row.ino, |row| row.nlink -= if is_dir { 2 } else { 1 });
        self.charge(parent, at, -1, is_dir);
        row.ino
    }

    /// Gives an orphan up.
    pub fn forget(&mut self, ino: Ino) {
        self.inodes.remove(&ino);
        self.blocks.retain(|key, _| key.0 != ino);
        self.apply(Change::DropInode(ino));
    }

    /// Writes a whole block, which gets content of its own.
    pub fn write(&mut self, ino: Ino, index: u64, content: &[u8]) -> DataId {
        let id = self.next.data;
        self.next.data = id.next();
        self.apply(Change::NewData { id, base: DataId::ZEROS, keep: 0, bytes: &[] });
        self.apply(Change::Fill { id, at: 0, bytes: content });
        let mask = (1 << content.len().div_ceil(PIECE_SIZE)) - 1;
        self.put(
            BlockRow { ino, index, data: id, mask, shared: false },
            index * BLOCK_SIZE as u64 + content.len() as u64,
        );
        id
    }

    /// What `fallocate` does: zeros that nothing is stored for.
    pub fn allocate(&mut self, ino: Ino, index: u64) {
        let row = BlockRow { ino, index, data: DataId::ZEROS, mask: (1 << PIECES_PER_BLOCK) - 1, shared: false };
        self.put(row, (index + 1) * BLOCK_SIZE as u64);
    }

    /// Copies a block by naming its content twice.
    pub fn share(&mut self, from: (Ino, u64), to: (Ino, u64)) {
        let source = BlockRow { shared: true, ..self.blocks[&from] };
        let size = self.inodes[&from.0].size;
        self.put(source, size);
        self.put(BlockRow { ino: to.0, index: to.1, ..source }, (to.1 + 1) * BLOCK_SIZE as u64);
    }

    fn put(&mut self, row: BlockRow, end: u64) {
        self.apply(Change::Block(row));
        let old = self.blocks.insert((row.ino, row.index), row).map_or(0, |old| u64::from(old.mask.count_ones()));
        self.change(row.ino, |inode| {
            inode.size = inode.size.max(end);
            inode.pieces = inode.pieces + u64::from(row.mask.count_ones()) - old;
        });
    }

    /// Cuts a file off at a block boundary.
    pub fn truncate(&mut self, ino: Ino, blocks: u64) {
        self.apply(Change::DropBlocks { ino, from: blocks, until: u64::MAX });
        let gone: Vec<BlockRow> = self.blocks.range((ino, blocks)..=(ino, u64::MAX)).map(|(_, row)| *row).collect();
        self.blocks.retain(|key, _| key.0 != ino || key.1 < blocks);
        let gone: u64 = gone.iter().map(|row| u64::from(row.mask.count_ones())).sum();
        self.change(ino, |row| {
            row.pieces -= gone;
            row.size = row.size.min(blocks * BLOCK_SIZE as u64);
        });
    }

    /// Sets an xattr, or removes it. `old` is its length before.
    pub fn xattr(&mut self, ino: Ino, at: &str, value: Option<&[u8]>, old: Option<usize>) {
        let key = name(at);
        self.apply(match value {
            Some(value) => Change::Xattr { ino, name: &key, value },
            None => Change::DropXattr { ino, name: &key },
        });
        let cost = |len: Option<usize>| len.map_or(0, |len| (at.len() + len) as u32);
        self.change(ino, |row| row.set_attached(row.attached + cost(value.map(<[u8]>::len)) - cost(old)));
    }

    /// Everything the store has, orphans included.
    pub fn everything(&self) -> Everything {
        everything(&self.store)
    }

    /// A copy of the files as a power cut would leave them, in a directory of its own.
    pub fn crashed(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in ["session.db", "session.db-wal"] {
            std::fs::copy(self.dir.path().join(file), dir.path().join(file)).unwrap();
        }
        dir
    }
}

pub fn everything(store: &Store) -> Everything {
    let mut all = Everything { inodes: vec![], names: vec![], blocks: vec![], xattrs: vec![] };
    let last = store.superblock().unwrap().next.ino;
    for ino in (1..last.0).map(Ino) {
        let Some(row) = store.inode(ino).unwrap() else { continue };
        all.inodes.push(row);
        for (dentry, inode) in store.directory(ino).unwrap() {
            assert_eq!(store.inode(dentry.ino).unwrap().as_ref(), Some(&inode));
            all.names.push(dentry);
        }
        for block in store.blocks(ino).unwrap() {
            let content = store.data(block.data).unwrap().unwrap();
            all.blocks.push((block, content.to_vec()));
        }
        all.xattrs.extend(store.xattrs(ino).unwrap().into_iter().map(|(name, value)| (ino, name, value)));
    }
    all
}

/// Runs SQL on a database file with a connection of its own: what damages are planted and counted with.
pub fn sql(path: &Path, statement: &str) -> String {
    let output = std::process::Command::new("sqlite3").arg(path).arg(statement).output().unwrap();
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
