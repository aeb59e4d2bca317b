//! copy_file_range: blocks are shared where they line up, and copied where they do not.

use super::Core;
use super::blockmap::Block;
use super::state::{Op, Step};
use super::types::{Caller, WriteFlags};
use crate::base::limits::{BLOCK_SIZE, FILE_SIZE_MAX};
use crate::base::{DataId, Errno, Ino};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// The most bytes copied in one step under the lock when blocks cannot be shared.
const STEP: u64 = 1 << 20;

/// Blocks shared in one step under the lock: 16 MiB of file.
const SHARE: u64 = 1024;

/// One step of a copy.
#[derive(Clone, Copy)]
struct Copy {
    from: Ino,
    from_at: u64,
    to: Ino,
    to_at: u64,
    length: u64,
}

impl Op<'_> {
    /// How many whole blocks this copy may share. The last one may be short where both files end with it: behind their
    /// ends its content is zeros.
    fn shareable(&self, copy: Copy) -> Step<u64> {
        if !copy.from_at.is_multiple_of(BLOCK) || !copy.to_at.is_multiple_of(BLOCK) {
            return Ok(0);
        }
        let from_ends = copy.from_at + copy.length == self.inode(copy.from)?.row.size;
        let to_ends = copy.to_at + copy.length >= self.inode(copy.to)?.row.size;
        let blocks = if from_ends && to_ends { copy.length.div_ceil(BLOCK) } else { copy.length / BLOCK };
        Ok(blocks.min(SHARE))
    }

    /// Leads `count` blocks of the target to the source's content; returns the bytes covered.
    fn share(&mut self, caller: &Caller, copy: Copy, count: u64) -> Step<u64> {
        self.look_at_capability(copy.to)?;
        let (first, target) = (copy.from_at / BLOCK, copy.to_at / BLOCK);
        let sources: Vec<Block> = self.blocks(copy.from)?.range(first, first + count).to_vec();
        let replaced: u64 =
            self.blocks(copy.to)?.range(target, target + count).iter().map(|block| block.pieces()).sum();
        let gained: u64 = sources.iter().map(Block::pieces).sum();
        self.room(0, gained.saturating_sub(replaced))?;

        let mut grown = self.drop_blocks(copy.to, target, target + count);
        for source in sources {
            let shared = source.data != DataId::ZEROS;
            self.put_block(copy.from, Block { shared, ..source });
            grown += self.put_block(copy.to, Block { index: target + source.index - first, shared, ..source });
        }
        let bytes = copy.length.min(count * BLOCK);
        self.finish_allocation(caller, copy.to, grown, copy.to_at + bytes);
        self.record_inode(copy.from);
        Ok(bytes)
    }
}

impl Core {
    /// Copies up to `length` bytes; returns how many, fewer at the end of the source. Overlapping ranges of one file
    /// are EINVAL.
    pub fn copy_range(
        &self,
        caller: &Caller,
        from: Ino,
        from_at: u64,
        to: Ino,
        to_at: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let size = self.getattr(from)?.size;
        let length = length.min(size.saturating_sub(from_at));
        if to_at.checked_add(length).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(Errno::FBig);
        }
        if from == to && from_at < to_at + length && to_at < from_at + length {
            return Err(Errno::Inval);
        }
        let mut done = 0;
        while done < length {
            let copy = Copy { from, from_at: from_at + done, to, to_at: to_at + done, length: length - done };
            match self.copy_step(caller, copy) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(_) if done > 0 => break, // what was copied counts; the next call meets the error
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn copy_step(&self, caller: &Caller, copy: Copy) -> Result<u64, Errno> {
        let shared = self.change(|op| {
            let count = op.shareable(copy)?;
            if count == 0 { Ok(0) } else { op.share(caller, copy, count) }
        })?;
        if shared > 0 {
            return Ok(shared);
        }
        // Up to the next block boundary of the source, where sharing may become possible.
        let step = if copy.from_at % BLOCK == copy.to_at % BLOCK { BLOCK - copy.from_at % BLOCK } else { STEP };
        let mut bytes = Vec::new();
        self.read(copy.from, copy.from_at, copy.length.min(step) as usize, &mut bytes)?;
        let flags = WriteFlags { kill_priv: caller.kills_priv(), from_cache: false };
        self.write(copy.to, copy.to_at, &bytes, flags).map(|written| written as u64)
    }
}
