//! A file's blocks in memory: a sorted array, since most files have one block and long ones are written in order.

use crate::base::limits::{BLOCK_SIZE, PIECE_SIZE, PIECES_PER_BLOCK};
use crate::base::{DataId, Ino};
use crate::format::BlockRow;

/// One block that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub index: u64,
    pub data: DataId,
    /// Present pieces, bit by bit; never 0.
    pub mask: u64,
    /// Whether a copy may name the same data id: then it must not be written in place.
    pub shared: bool,
}

impl Block {
    pub fn row(&self, ino: Ino) -> BlockRow {
        BlockRow { ino, index: self.index, data: self.data, mask: self.mask, shared: self.shared }
    }

    pub fn pieces(&self) -> u64 {
        self.mask.count_ones().into()
    }
}

impl From<&BlockRow> for Block {
    fn from(row: &BlockRow) -> Block {
        Block { index: row.index, data: row.data, mask: row.mask, shared: row.shared }
    }
}

/// The blocks of one file by index.
#[derive(Debug, Default)]
pub(super) struct BlockMap(Vec<Block>);

impl BlockMap {
    pub fn from_rows(rows: &[BlockRow]) -> BlockMap {
        BlockMap(rows.iter().map(Block::from).collect())
    }

    fn find(&self, index: u64) -> Result<usize, usize> {
        match self.0.last() {
            Some(last) if last.index < index => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&index, |b| b.index),
        }
    }

    pub fn get(&self, index: u64) -> Option<Block> {
        self.find(index).ok().map(|at| self.0[at])
    }

    pub fn put(&mut self, block: Block) {
        debug_assert!(block.mask != 0);
        match self.find(block.index) {
            Ok(at) => self.0[at] = block,
            Err(at) => self.0.insert(at, block),
        }
    }

    /// The blocks of an index range.
    pub fn range(&self, from: u64, until: u64) -> &[Block] {
        let start = self.0.partition_point(|b| b.index < from);
        let end = start + self.0[start..].partition_point(|b| b.index < until);
        &self.0[start..end]
    }

    /// Makes a range of indexes holes; returns how many pieces that gave back.
    pub fn remove_range(&mut self, from: u64, until: u64) -> u64 {
        let start = self.0.partition_point(|b| b.index < from);
        let end = start + self.0[start..].partition_point(|b| b.index < until);
        self.0.drain(start..end).map(|b| b.pieces()).sum()
    }
}

/// The bits of the pieces that the bytes `from..until` of a block touch.
pub(super) fn mask_touching(from: usize, until: usize) -> u64 {
    debug_assert!(from < until && until <= BLOCK_SIZE);
    bits(from / PIECE_SIZE, until.div_ceil(PIECE_SIZE))
}

/// The bits of the pieces that lie wholly within the bytes `from..until` of a block.
pub(super) fn mask_within(from: usize, until: usize) -> u64 {
    bits(from.div_ceil(PIECE_SIZE), until / PIECE_SIZE)
}

/// Bits `from..until`.
fn bits(from: usize, until: usize) -> u64 {
    debug_assert!(until <= PIECES_PER_BLOCK as usize);
    let below = |n: usize| if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
    if from >= until { 0 } else { below(until) & !below(from) }
}

/// The part of a byte range that lies in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Block index.
    pub index: u64,
    /// First byte within the block.
    pub from: usize,
    /// The byte after the last within the block.
    pub until: usize,
}

impl Span {
    pub fn len(&self) -> usize {
        self.until - self.from
    }

    pub fn is_whole(&self) -> bool {
        self.len() == BLOCK_SIZE
    }
}

/// Cuts the bytes `from..until` of a file at block boundaries.
pub(super) fn spans(from: u64, until: u64) -> impl Iterator<Item = Span> {
    let size = BLOCK_SIZE as u64;
    let mut at = from;
    std::iter::from_fn(move || {
        (at < until).then(|| {
            let index = at / size;
            let end = until.min((index + 1).saturating_mul(size));
            let span = Span { index, from: (at % size) as usize, until: (end - index * size) as usize };
            at = end;
            span
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_byte_ranges() {
        assert_eq!(mask_touching(0, 1), 0b1);
        assert_eq!(mask_touching(4095, 4097), 0b11);
        assert_eq!(mask_touching(0, BLOCK_SIZE).count_ones(), PIECES_PER_BLOCK);
        assert_eq!(mask_within(1, 8192), 0b10);
        assert_eq!(mask_within(1, 8191), 0);
        assert_eq!(mask_within(4096, 4097), 0);
    }

    #[test]
    fn spans_cut_at_blocks() {
        let b = BLOCK_SIZE as u64;
        let all: Vec<_> = spans(b - 1, 2 * b + 3).collect();
        assert_eq!(
            all,
            [
                Span { index: 0, from: BLOCK_SIZE - 1, until: BLOCK_SIZE },
                Span { index: 1, from: 0, until: BLOCK_SIZE },
                Span { index: 2, from: 0, until: 3 },
            ]
        );
        assert_eq!(spans(5, 5).count(), 0);
    }

    #[test]
    fn ranges_of_blocks_come_and_go() {
        let mut map = BlockMap::default();
        for index in [5, 1, 9, 3, 7] {
            map.put(Block { index, data: DataId(index), mask: 0b11, shared: false });
        }
        assert_eq!(map.range(2, 8).iter().map(|b| b.index).collect::<Vec<_>>(), [3, 5, 7]);
        assert_eq!(map.remove_range(3, 6), 4);
        assert_eq!(map.get(5), None);
        assert_eq!(map.get(7).unwrap().data, DataId(7));
        assert_eq!(map.remove_range(0, u64::MAX), 6);
    }
}
