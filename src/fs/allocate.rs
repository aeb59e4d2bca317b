//! Size and allocation: truncate, fallocate in its modes, SEEK_DATA and SEEK_HOLE.

use super::Core;
use super::blockmap::{Block, Span, mask_touching, mask_within, spans};
use super::inode::{Body, File};
use super::state::{Op, Step};
use super::types::{Caller, Seek};
use crate::base::limits::{BLOCK_SIZE, FILE_SIZE_MAX, PIECE_SIZE, PIECES_PER_BLOCK, RANGE_STEP};
use crate::base::{DataId, Errno, Ino};
use crate::format::Change;

const BLOCK: u64 = BLOCK_SIZE as u64;
const PIECE: u64 = PIECE_SIZE as u64;

impl Op<'_> {
    fn block(&self, ino: Ino, index: u64) -> Option<Block> {
        self.blocks(ino).ok().and_then(|blocks| blocks.get(index))
    }

    /// Makes the span read as zeros and gives the block this mask; returns by how many pieces the file grew or shrank.
    fn zero(&mut self, ino: Ino, span: Span, mask: u64) -> i64 {
        let old = self.block(ino, span.index);
        if mask == 0 {
            return self.drop_blocks(ino, span.index, span.index + 1);
        }
        let data = match old {
            Some(block) if block.data != DataId::ZEROS && !span.is_whole() => self.zeroed(block, span),
            _ => DataId::ZEROS,
        };
        let shared = old.is_some_and(|old| old.shared && old.data == data);
        self.put_block(ino, Block { index: span.index, data, mask, shared })
    }

    /// A version of the block's content with zeros in the span.
    fn zeroed(&mut self, block: Block, span: Span) -> DataId {
        let id = self.writable(Some(block));
        let len = self.running.data.get(&id).map_or(0, |buffer| buffer.len());
        if span.until >= len {
            self.record(Change::Cut { id, keep: span.from as u32 });
        } else {
            self.record(Change::Fill { id, at: span.from as u32, bytes: &vec![0; span.len()] });
        }
        id
    }

    /// Makes the blocks `from..until` holes; returns the change in pieces.
    pub fn drop_blocks(&mut self, ino: Ino, from: u64, until: u64) -> i64 {
        let Ok(Body::File(File { blocks: Some(blocks) })) = self.inode_mut(ino).map(|inode| &mut inode.body) else {
            return 0;
        };
        // Only as far as there are blocks: ends beyond any file mean "all the rest".
        let Some(last) = blocks.range(from, until).last().map(|block| block.index) else { return 0 };
        let gone = blocks.remove_range(from, until);
        self.record(Change::DropBlocks { ino, from, until: last + 1 });
        -(gone as i64)
    }

    /// Sets a file's length; what is cut off is gone, what is added is a hole.
    pub fn resize_file(&mut self, ino: Ino, size: u64) -> Step<()> {
        self.blocks(ino)?;
        if size > FILE_SIZE_MAX {
            return Err(Errno::FBig.into());
        }
        let old_size = self.inode(ino)?.row.size;
        let mut grown = 0;
        if size <= old_size {
            let tail = Span { index: size / BLOCK, from: (size % BLOCK) as usize, until: BLOCK_SIZE };
            let cut = self.block(ino, tail.index).filter(|_| tail.from > 0);
            if cut.is_some() {
                self.look_at_bases(ino, std::iter::once(tail))?;
            }
            grown += self.drop_blocks(ino, size.div_ceil(BLOCK), u64::MAX);
            if let Some(block) = cut {
                grown += self.zero(ino, tail, block.mask & mask_touching(0, tail.from));
            }
        }
        let now = self.now;
        self.update(ino, |inode| {
            inode.row.size = size;
            inode.modified(now);
            inode.row.pieces = inode.row.pieces.saturating_add_signed(grown);
        });
        Ok(())
    }

    /// Whether what is a hole in the range fits under the cap.
    fn affords(&self, ino: Ino, offset: u64, until: u64) -> Step<()> {
        let blocks = self.blocks(ino)?;
        let wanted = until.div_ceil(PIECE) - offset / PIECE;
        let present = |span: Span| {
            let there = blocks.get(span.index).map_or(0, |block| block.mask);
            u64::from((there & mask_touching(span.from, span.until)).count_ones())
        };
        // What is there can be at most the whole file, so an absurd length is refused without being walked.
        self.room(0, wanted.saturating_sub(self.inode(ino)?.row.pieces))?;
        Ok(self.room(0, wanted - spans(offset, until).map(present).sum::<u64>())?)
    }

    /// Allocates what is a hole in the range, which fits.
    fn allocate(&mut self, ino: Ino, offset: u64, until: u64) -> Step<i64> {
        self.blocks(ino)?;
        let mut grown = 0;
        for span in spans(offset, until) {
            let old = self.block(ino, span.index);
            let mask = old.map_or(0, |old| old.mask) | mask_touching(span.from, span.until);
            if old.is_none_or(|old| old.mask != mask) {
                let zeros = Block { index: span.index, data: DataId::ZEROS, mask, shared: false };
                grown += self.put_block(ino, Block { mask, ..old.unwrap_or(zeros) });
            }
        }
        Ok(grown)
    }

    /// Makes the range read as zeros and gives back the pieces that lie wholly in it.
    fn punch(&mut self, ino: Ino, offset: u64, until: u64) -> Step<i64> {
        self.blocks(ino)?;
        let (first, last) = (offset.div_ceil(BLOCK), until / BLOCK);
        let head = spans(offset, until.min(first * BLOCK)).next();
        let tail = if last >= first { spans(last * BLOCK, until).next() } else { None };
        let edges: Vec<Span> = head.into_iter().chain(tail).collect();
        self.look_at_bases(ino, edges.iter().copied())?;
        let mut grown = if first < last { self.drop_blocks(ino, first, last) } else { 0 };
        for span in edges {
            if let Some(block) = self.block(ino, span.index) {
                grown += self.zero(ino, span, block.mask & !mask_within(span.from, span.until));
            }
        }
        Ok(grown)
    }

    /// What is done to a file's allocation is a change of its content, as far as times and set-id bits go.
    pub fn finish_allocation(&mut self, caller: &Caller, ino: Ino, grown: i64, size: u64) {
        let now = self.now;
        self.drop_capability(ino);
        if let Some(group) = caller.kills_priv() {
            self.lose_set_id(ino, group);
        }
        self.update(ino, |inode| {
            inode.modified(now);
            inode.row.size = inode.row.size.max(size);
            inode.row.pieces = inode.row.pieces.saturating_add_signed(grown);
        });
    }
}

impl Core {
    /// fallocate(2): allocates, punches holes, zeroes. Collapsing and inserting ranges is EOPNOTSUPP.
    pub fn fallocate(&self, caller: &Caller, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<(), Errno> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        if length == 0 {
            return Err(Errno::Inval);
        }
        let until = offset.checked_add(length).filter(|&until| until <= FILE_SIZE_MAX).ok_or(Errno::FBig)?;
        let mut at = offset;
        while at < until {
            // Holes are punched in one go: they are one row however long they are.
            let next = if mode == PUNCH { until } else { until.min((at / RANGE_STEP + 1) * RANGE_STEP) };
            self.change(|op| {
                op.look_at_capability(ino)?;
                let grown = match mode {
                    0 | KEEP => op.affords(ino, at, until).and_then(|()| op.allocate(ino, at, next))?,
                    PUNCH => op.punch(ino, at, next)?,
                    mode if mode & !KEEP == ZERO => {
                        op.affords(ino, at, until)?;
                        op.zero_range(ino, at, next)?
                    }
                    _ => return Err(Errno::OpNotSupp.into()),
                };
                let size = if mode & KEEP == 0 { next } else { 0 };
                op.finish_allocation(caller, ino, grown, size);
                Ok(())
            })?;
            at = next;
        }
        Ok(())
    }

    /// The next data or hole at or after `offset`; ENXIO at and behind the end of the file.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, Errno> {
        self.look(|look| {
            let blocks = look.blocks(ino)?;
            let size = look.inode(ino)?.row.size;
            if offset >= size {
                return Err(Errno::NxIo.into());
            }
            let mut at = offset;
            while at < size {
                let Some(block) = blocks.get(at / BLOCK) else {
                    if what == Seek::Hole {
                        return Ok(at);
                    }
                    match blocks.range(at / BLOCK, u64::MAX).first() {
                        Some(next) => at = next.index * BLOCK,
                        None => return Err(Errno::NxIo.into()),
                    }
                    continue;
                };
                let first = (at % BLOCK / PIECE) as u32;
                let wanted = if what == Seek::Data { block.mask } else { !block.mask };
                let found = (wanted >> first << first).trailing_zeros();
                if found < PIECES_PER_BLOCK {
                    let start = block.index * BLOCK + u64::from(found) * PIECE;
                    return if start < size { Ok(start.max(at)) } else { self::end_of(what, size) };
                }
                at = (block.index + 1) * BLOCK;
            }
            end_of(what, size)
        })
    }
}

/// The answer when the end of the file is reached first: there is a hole there, and no data.
fn end_of(what: Seek, size: u64) -> Step<u64> {
    if what == Seek::Hole { Ok(size) } else { Err(Errno::NxIo.into()) }
}

impl Op<'_> {
    /// Makes the range read as zeros and allocates all of it.
    fn zero_range(&mut self, ino: Ino, offset: u64, until: u64) -> Step<i64> {
        self.look_at_bases(ino, spans(offset, until).filter(|span| !span.is_whole()))?;
        let mut grown = self.allocate(ino, offset, until)?;
        for span in spans(offset, until) {
            if let Some(block) = self.block(ino, span.index) {
                grown += self.zero(ino, span, block.mask);
            }
        }
        Ok(grown)
    }
}
