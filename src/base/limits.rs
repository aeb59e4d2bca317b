//! Every limit of sessionfs: a name, a unit, a reason.

/// Bytes of one block, the unit of a file's content on disk. Measured in `docs/decisions.md`.
pub const BLOCK_SIZE: usize = 16 << 10;

/// Bytes of a piece: what `st_blocks`, the cap and `SEEK_DATA` count in. The page size of the kernel's page cache,
/// so a mapped page is all there or not at all.
pub const PIECE_SIZE: usize = 4 << 10;

/// Pieces of a block: the width of a presence mask.
pub const PIECES_PER_BLOCK: u32 = (BLOCK_SIZE / PIECE_SIZE) as u32;

/// Raw bytes at which a pack is closed. Measured in `docs/decisions.md`.
pub const PACK_TARGET: usize = 256 << 10;

/// The most blocks in a pack of a commit. Reached by files of a few bytes, whose directory would outgrow their content.
pub const PACK_BLOCKS: usize = 4_096;

/// The most raw bytes of a pack of a commit, its directory of 12 bytes a block included: one block can follow a pack
/// that is a byte short of its target.
pub const PACK_RAW_MAX: u64 = (PACK_TARGET + BLOCK_SIZE + 12 * PACK_BLOCKS) as u64;

/// The most raw bytes of a cold pack, likewise: four of a commit always fit. Measured in `docs/decisions.md`.
pub const COLD_PACK_MAX: u64 = 4 * PACK_RAW_MAX;

/// The fewest: more than a commit ever makes, so that its length tells a cold pack from others.
pub const COLD_PACK_MIN: u64 = 3 * PACK_TARGET as u64;

/// The most bytes of content a pack can hold.
pub const PACK_MAX: usize = COLD_PACK_MAX as usize;

/// zstd level of a commit. Measured in `docs/decisions.md`.
pub const PACK_LEVEL: i32 = 3;

/// The same while a burst waits behind it.
pub const PACK_LEVEL_BURST: i32 = 1;

/// zstd level of a cold pack, made when nothing else is to be done. Measured in `docs/decisions.md`.
pub const COLD_PACK_LEVEL: i32 = 12;

/// SQLite page size in bytes. Measured in `docs/decisions.md`.
pub const DB_PAGE_SIZE: u32 = 4 << 10;

/// Bytes of a file name: `NAME_MAX` of Linux.
pub const NAME_MAX: usize = 255;

/// Bytes of a symbolic link's target: `PATH_MAX` less its NUL.
pub const SYMLINK_MAX: usize = 4095;

/// Links to one file, as ext4 has it: enough for a link farm, and a count that fits every tool's type.
pub const LINK_MAX: u32 = 65_000;

/// The largest file in bytes: what `off_t` can say.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// The most blocks a file can have.
pub const FILE_BLOCKS_MAX: u64 = FILE_SIZE_MAX.div_ceil(BLOCK_SIZE as u64);

/// The most 4 KiB pieces one inode can be charged: a file of the largest size, its xattrs and its target.
pub const INODE_PIECES_MAX: u64 = FILE_SIZE_MAX / PIECE_SIZE as u64 + 1 + (1 << 20);

/// The largest id of any kind: what SQLite can keep.
pub const ID_MAX: u64 = i64::MAX as u64;

/// The largest cookie of a name: with the end of a listing beside it, it has to fit into the kernel's offset.
pub const COOKIE_MAX: u64 = (1 << 42) - 4;

/// What the counters of a session stay below: the next ids, transactions, epochs. None will ever come near.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Bytes of an xattr's name: `XATTR_NAME_MAX` of Linux.
pub const XATTR_NAME_MAX: usize = 255;

/// Bytes of an xattr's value: `XATTR_SIZE_MAX` of Linux.
pub const XATTR_VALUE_MAX: usize = 64 << 10;

/// Bytes of all xattr names of one inode, NULs included: `XATTR_LIST_MAX` of Linux.
pub const XATTR_LIST_MAX: usize = 64 << 10;

/// Bytes of xattrs and symlink target that ride in the inode free of charge, as in an ext4 inode.
pub const ATTACHED_FREE: u64 = 256;

/// Bytes a directory is charged for an entry, besides its name.
pub const DENTRY_COST: u64 = 24;

/// Characters of a session ID; it is a directory name.
pub const SESSION_ID_MAX: usize = 255;

/// Default cap in bytes: what AgentCore gives a session.
pub const DEFAULT_BYTES_LIMIT: u64 = 1 << 30;

/// The smallest cap in bytes: below it not even a directory and a file fit.
pub const MIN_BYTES_LIMIT: u64 = 64 << 10;

/// Default cap on inodes.
pub const DEFAULT_INODES_LIMIT: u64 = 1_000_000;

/// Bytes of content at which a transaction ends before its timer.
pub const DIRTY_COMMIT: usize = 16 << 20;

/// Row changes at which a transaction ends before its timer: bounds a transaction of empty files.
pub const DIRTY_ROWS_COMMIT: usize = 50_000;

/// Bytes that transactions waiting for their commit may take in memory. What is beyond it lies in the journal alone.
pub const DIRTY_MAX: usize = 64 << 20;

/// Bytes of one file that one operation allocates or zeroes: bounds its record and its time under the lock.
pub const RANGE_STEP: u64 = 256 << 20;

/// Bytes of the journal's first segment. It is written with zeros when the session is mounted, before anything is served,
/// so it is small.
pub const JOURNAL_FIRST_SEGMENT: u64 = 256 << 10;

/// Bytes of every further segment of the journal: of the order of one commit, which is what gives segments back.
pub const JOURNAL_SEGMENT: u64 = 8 << 20;

/// Bytes of the journal at which changes wait for a commit: the disk it costs, and what a recovery has to read. A burst
/// of a session's default cap fits, so that it is taken at the journal's speed and not at that of compression.
pub const JOURNAL_MAX: u64 = (1 << 30) + (128 << 20);

/// Bytes of the journal's file that are kept when it is no longer needed; what a burst took beyond it goes back to the disk.
pub const JOURNAL_KEEP: u64 = 64 << 20;

/// The most bytes of one record. Operations are cut so that none needs more; the largest are a 1 MiB write with its rows,
/// and the rows of [`RANGE_STEP`] bytes of file.
pub const RECORD_MAX: usize = 2 << 20;

/// Orphans that one operation deletes: bounds its record.
pub const FORGET_STEP: usize = 10_000;

/// Bytes of records that may wait for being appended: with one more record they still fit into one segment.
pub const UNAPPENDED_MAX: u64 = 4 << 20;

/// Bytes of the journal after which the disk is asked to begin writing out, so that a small `fsync` does not pay for
/// everything before it.
pub const JOURNAL_WRITEOUT: u64 = 4 << 20;

/// Milliseconds after the first change at which a transaction is committed although nobody asked: `sync(2)` never
/// reaches a FUSE server, so people who type `sync` rely on it.
pub const COMMIT_INTERVAL_MS: u64 = 1_000;

/// Milliseconds between two tries of a commit for which the disk under the store had no room.
pub const DISK_FULL_RETRY_MS: u64 = 1_000;

/// Milliseconds of housekeeping after which the committer looks whether there is something to commit.
pub const MAINTAIN_STEP_MS: u64 = 50;

/// Milliseconds without a change after which what is stored counts as cold.
pub const COLD_AFTER_MS: u64 = 5_000;

/// Bytes of decompressed packs kept for readers.
pub const PACK_CACHE_BYTES: usize = 24 << 20;

/// Inodes in memory at which a mount loads no more directories ahead: some 40 MiB.
pub const WARM_INODES: usize = 100_000;

/// Names loaded ahead at a time: a millisecond or two, for which who needs a directory itself has to wait.
pub const WARM_STEP: usize = 512;

/// Bytes of SQLite's WAL after which the committer copies it back into the session database.
pub const WAL_CHECKPOINT_BYTES: u64 = 32 << 20;

/// Milliseconds an operation that found the session full waits for unlinked files to be given back by the kernel.
pub const ORPHAN_DRAIN_MS: u64 = 200;

/// Seconds after a utimensat in which a page written back from a mapping does not set mtime: the page may have been stored
/// to before. As old as the kernel lets a dirty page become, and its next look at them (`vm.dirty_expire_centisecs`,
/// `vm.dirty_writeback_centisecs`: 30 and 5 seconds).
pub const LATE_PAGE_SECS: u64 = 35;

/// Who may watch the operations of one mount at a time.
pub const WATCHES_MAX: usize = 8;

/// Operations that wait for one who watches; those that find no room are lost to them. Some 2 MiB at the most.
pub const WATCH_QUEUE: usize = 8192;

/// Paths that a trace remembers of inodes that may be gone when it tells of them; then it begins anew.
pub const TRACE_PATHS: usize = 65_536;

/// Inodes whose operations are counted while somebody looks for those with the most; what others are asked is lost.
pub const HOT_INODES: usize = 65_536;

/// Bytes of one write request: the kernel's own maximum at 4 KiB pages (`FUSE_MAX_MAX_PAGES`).
pub const MAX_WRITE: u32 = 1 << 20;

/// The pieces that `bytes` occupy, the last one begun counting whole.
pub fn pieces(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE_SIZE as u64)
}

/// The pieces charged for `bytes` of xattrs and symlink target.
pub fn attached_pieces(bytes: u64) -> u64 {
    pieces(bytes.saturating_sub(ATTACHED_FREE))
}
