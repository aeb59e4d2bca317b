//! A transaction: the changes of many operations, merged to one value a row, on their way to one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::Change;
use super::rows::{BlockRow, DentryRow, InodeRow};
use crate::base::{DataId, Ino, Map, Name, Seq};

/// Bytes that a row takes in memory, roughly: an inode with its name.
const ROW_MEMORY: usize = 300;

/// What a transaction does to the blocks of one file: first the dropped ranges go, then the rows are put.
#[derive(Debug, Default)]
pub struct FileChanges {
    /// Ranges of block indexes that became holes.
    pub dropped: Vec<(u64, u64)>,
    /// Blocks with a new value, by index.
    pub rows: BTreeMap<u64, BlockRow>,
}

/// What a transaction does to the xattrs of one inode, by name.
pub type XattrChanges = Map<Name, Option<Box<[u8]>>>;

/// The running transaction. Merging is idempotent per row: only the last value stays.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Inodes by number; `None` is a dropped one.
    pub inodes: Map<Ino, Option<InodeRow>>,
    /// Names by directory; `None` is a dropped one.
    pub dentries: Map<Ino, Map<Name, Option<DentryRow>>>,
    /// Blocks by file.
    pub files: Map<Ino, FileChanges>,
    /// Xattrs by inode; `None` is a dropped one.
    pub xattrs: Map<Ino, XattrChanges>,
    /// Content that no commit has seen, by data id. Bytes behind the end of a buffer are zero.
    pub data: Map<DataId, Arc<Vec<u8>>>,
    /// Bytes in `data`.
    pub data_bytes: usize,
    /// Row changes merged in: a measure of the memory and the work this transaction costs.
    pub changes: usize,
    /// The last operation in it.
    pub last_seq: Seq,
}

/// A transaction that no operation can change any more.
pub type SealedTransaction = Arc<Transaction>;

impl Transaction {
    /// Whether a commit of it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// About what it takes in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.data_bytes + self.changes * ROW_MEMORY
    }

    /// Merges one change.
    pub fn apply(&mut self, change: Change<'_>) {
        self.changes += 1;
        match change {
            Change::Inode(row) => {
                self.inodes.insert(row.ino, Some(row.clone()));
            }
            Change::DropInode(ino) => self.drop_inode(ino),
            Change::Dentry(row) => {
                self.dentries.entry(row.parent).or_default().insert(row.name.clone(), Some(row.clone()));
            }
            Change::DropDentry { parent, name } => {
                self.dentries.entry(parent).or_default().insert(name.clone(), None);
            }
            Change::NewData { id, keep, bytes, .. } => self.new_data(id, &bytes[..bytes.len().min(keep as usize)]),
            Change::Fill { id, at, bytes } => self.fill(id, at as usize, bytes),
            Change::Cut { id, keep } => self.cut(id, keep as usize),
            Change::Block(row) => self.put_block(row),
            Change::DropBlocks { ino, from, until } => self.drop_blocks(ino, from, until),
            Change::Xattr { ino, name, value } => {
                self.xattrs.entry(ino).or_default().insert(name.clone(), Some(value.into()));
            }
            Change::DropXattr { ino, name } => {
                self.xattrs.entry(ino).or_default().insert(name.clone(), None);
            }
        }
    }

    fn drop_inode(&mut self, ino: Ino) {
        if let Some(file) = self.files.remove(&ino) {
            for row in file.rows.values() {
                self.release(row);
            }
        }
        self.xattrs.remove(&ino);
        self.inodes.insert(ino, None);
    }

    fn new_data(&mut self, id: DataId, bytes: &[u8]) {
        self.data_bytes += bytes.len();
        self.data.insert(id, Arc::new(bytes.to_vec()));
    }

    fn fill(&mut self, id: DataId, at: usize, bytes: &[u8]) {
        let buffer = Arc::make_mut(self.data.entry(id).or_default());
        let before = buffer.len();
        if buffer.len() < at {
            buffer.resize(at, 0);
        }
        let overlap = bytes.len().min(buffer.len() - at);
        buffer[at..at + overlap].copy_from_slice(&bytes[..overlap]);
        buffer.extend_from_slice(&bytes[overlap..]);
        self.data_bytes += buffer.len() - before;
    }

    fn cut(&mut self, id: DataId, keep: usize) {
        if let Some(buffer) = self.data.get_mut(&id) {
            let gone = buffer.len().saturating_sub(keep);
            if gone > 0 {
                Arc::make_mut(buffer).truncate(keep);
                self.data_bytes -= gone;
            }
        }
    }

    fn put_block(&mut self, row: BlockRow) {
        let file = self.files.entry(row.ino).or_default();
        if let Some(old) = file.rows.insert(row.index, row)
            && old.data != row.data
        {
            self.release(&old);
        }
    }

    fn drop_blocks(&mut self, ino: Ino, from: u64, until: u64) {
        let file = self.files.entry(ino).or_default();
        let gone: Vec<u64> = file.rows.range(from..until).map(|(&index, _)| index).collect();
        let rows: Vec<BlockRow> = gone.iter().filter_map(|index| file.rows.remove(index)).collect();
        match file.dropped.last_mut() {
            Some(last) if from <= last.1 && until >= last.0 => *last = (last.0.min(from), last.1.max(until)),
            _ => file.dropped.push((from, until)),
        }
        for row in &rows {
            self.release(row);
        }
    }

    /// Forgets content that was written and dropped again within this transaction, unless a copy may still name it.
    fn release(&mut self, row: &BlockRow) {
        if !row.shared
            && let Some(buffer) = self.data.remove(&row.data)
        {
            self.data_bytes -= buffer.len();
        }
    }
}
