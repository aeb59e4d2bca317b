//! Content: read and write, and the block versions that other operations build on.
//!
//! A block's content is a version with a data id. A version that no commit has seen is written in place; a sealed,
//! committed or shared one never changes, so a write to it makes a new version that begins as a copy.

use std::ops::Deref;
use std::sync::Arc;

use super::Core;
use super::blockmap::{Block, BlockMap, Span, mask_touching, spans};
use super::inode::{Body, File};
use super::sealed::Uncommitted;
use super::state::{Look, Need, Op, State, Step, Stop};
use super::types::WriteFlags;
use crate::base::limits::{BLOCK_SIZE, FILE_SIZE_MAX, PIECE_SIZE};
use crate::base::{DataId, Errno, Ino};
use crate::format::Change;
use crate::store::Content;

/// The content of a block, wherever it is. Zeros follow it to the end of the block.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    Zeros,
    /// Not committed yet.
    Buffer(Arc<Vec<u8>>),
    Stored(Content),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Zeros => &[],
            Bytes::Buffer(buffer) => buffer,
            Bytes::Stored(content) => content,
        }
    }
}

impl State {
    /// A file's block map.
    pub fn blocks(&self, ino: Ino) -> Step<&BlockMap> {
        match &self.inode(ino)?.body {
            Body::File(File { blocks: Some(blocks) }) => Ok(blocks),
            Body::File(File { blocks: None }) => Err(Stop::Need(Need::Blocks(ino))),
            Body::Dir(_) => Err(Errno::IsDir.into()),
            Body::Leaf => Err(Errno::Inval.into()),
        }
    }

    /// Whether the block's content may be written in place.
    fn is_own(&self, block: &Block) -> bool {
        block.data >= self.first_data && !block.shared
    }
}

impl Look<'_> {
    fn bytes(&self, id: DataId) -> Option<Bytes> {
        if id == DataId::ZEROS {
            Some(Bytes::Zeros)
        } else if let Uncommitted::Here(buffer) = self.uncommitted(id) {
            Some(Bytes::Buffer(buffer))
        } else {
            self.contents.get(&id).cloned()
        }
    }

    /// Asks for the content of those blocks that is not at hand.
    pub fn look_at_contents<'b>(&self, blocks: impl Iterator<Item = &'b Block>) -> Step<()> {
        let missing: Vec<DataId> = blocks.map(|b| b.data).filter(|&id| self.bytes(id).is_none()).collect();
        if missing.is_empty() { Ok(()) } else { Err(Stop::Need(Need::Contents(missing))) }
    }

    /// The content of a byte range, block by block.
    fn segments(&self, ino: Ino, offset: u64, size: usize) -> Step<Vec<(Span, Bytes)>> {
        let blocks = self.blocks(ino)?;
        let until = offset.saturating_add(size as u64).min(self.inode(ino)?.row.size);
        if offset >= until {
            return Ok(Vec::new());
        }
        let block_size = BLOCK_SIZE as u64;
        self.look_at_contents(blocks.range(offset / block_size, until.div_ceil(block_size)).iter())?;
        let content = |span: Span| {
            let bytes = blocks.get(span.index).and_then(|block| self.bytes(block.data));
            (span, bytes.unwrap_or(Bytes::Zeros))
        };
        Ok(spans(offset, until).map(content).collect())
    }
}

impl Op<'_> {
    /// Whether a write of this span leaves nothing of the block's old content.
    fn replaces(&self, ino: Ino, span: Span) -> bool {
        let size = self.inode(ino).map_or(0, |inode| inode.row.size);
        span.from == 0 && (span.until == BLOCK_SIZE || span.index * BLOCK_SIZE as u64 + span.until as u64 >= size)
    }

    /// Asks for the old content of the blocks that a write to these spans will build on.
    pub fn look_at_bases(&self, ino: Ino, spans: impl Iterator<Item = Span>) -> Step<()> {
        let blocks = self.blocks(ino)?;
        let bases: Vec<Block> = spans
            .filter(|&span| !self.replaces(ino, span))
            .filter_map(|span| blocks.get(span.index))
            .filter(|block| !self.is_own(block))
            .collect();
        self.look.look_at_contents(bases.iter())
    }

    /// A version of the block's content that may be written: its own, or a new one that begins as a copy of `base`.
    pub fn writable(&mut self, base: Option<Block>) -> DataId {
        if let Some(block) = base
            && self.is_own(&block)
        {
            return block.data;
        }
        let id = self.next.data;
        self.next.data = id.next();
        let old = base.map_or(DataId::ZEROS, |block| block.data);
        let bytes = self.look.bytes(old).unwrap_or(Bytes::Zeros);
        self.record(Change::NewData { id, base: old, keep: bytes.len() as u32, bytes: &bytes });
        id
    }

    /// Sets a block in the file's map; returns by how many pieces the file grew, or shrank.
    pub fn put_block(&mut self, ino: Ino, block: Block) -> i64 {
        let Ok(Body::File(File { blocks: Some(blocks) })) = self.inode_mut(ino).map(|inode| &mut inode.body) else {
            return 0;
        };
        let before = blocks.get(block.index).map_or(0, |old| old.pieces());
        blocks.put(block);
        self.record(Change::Block(block.row(ino)));
        block.pieces() as i64 - before as i64
    }

    /// Writes one span; returns by how many pieces the file grew.
    pub fn fill(&mut self, ino: Ino, span: Span, bytes: &[u8]) -> i64 {
        let old = self.blocks(ino).ok().and_then(|blocks| blocks.get(span.index));
        let base = old.filter(|block| self.is_own(block) || !self.replaces(ino, span));
        let data = self.writable(base);
        self.record(Change::Fill { id: data, at: span.from as u32, bytes });
        let mask = old.map_or(0, |old| old.mask) | mask_touching(span.from, span.until);
        self.put_block(ino, Block { index: span.index, data, mask, shared: false })
    }

    /// How far a write of these bytes gets before the cap; ENOSPC when nowhere.
    fn affordable(&self, ino: Ino, offset: u64, until: u64) -> Step<u64> {
        let blocks = self.blocks(ino)?;
        let mut free = self.pieces_free();
        for span in spans(offset, until) {
            let present = blocks.get(span.index).map_or(0, |block| block.mask);
            let mut new = mask_touching(span.from, span.until) & !present;
            if u64::from(new.count_ones()) <= free {
                free -= u64::from(new.count_ones());
                continue;
            }
            for _ in 0..free {
                new &= new - 1; // the lowest missing piece can be paid for
            }
            let stop = span.index * BLOCK_SIZE as u64 + u64::from(new.trailing_zeros()) * PIECE_SIZE as u64;
            return if stop > offset { Ok(stop) } else { Err(Errno::NoSpc.into()) };
        }
        Ok(until)
    }

    /// Writes as much as the cap allows; returns how much that was.
    pub fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Step<usize> {
        self.look_at_capability(ino)?;
        let until = self.affordable(ino, offset, offset + bytes.len() as u64)?;
        self.look_at_bases(ino, spans(offset, until))?;
        let mut rest = &bytes[..(until - offset) as usize];
        let mut grown = 0;
        for span in spans(offset, until) {
            let (now, later) = rest.split_at(span.len());
            grown += self.fill(ino, span, now);
            rest = later;
        }
        self.finish_write(ino, grown, until, flags);
        Ok((until - offset) as usize)
    }

    /// What a write means to the inode: its times, its length (at least `until`), its privileges.
    fn finish_write(&mut self, ino: Ino, grown: i64, until: u64, flags: WriteFlags) {
        self.drop_capability(ino);
        if let Some(group) = flags.kill_priv {
            self.lose_set_id(ino, group);
        }
        let now = self.now;
        self.update(ino, |inode| {
            if flags.from_cache {
                inode.written_back(now)
            } else {
                inode.modified(now)
            }
            inode.row.size = inode.row.size.max(until);
            inode.row.pieces = inode.row.pieces.saturating_add_signed(grown);
        });
    }
}

impl Op<'_> {
    /// Writes everything, or nothing and says ENOSPC.
    pub fn write_whole(&mut self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Step<usize> {
        let end = offset + bytes.len() as u64;
        if self.affordable(ino, offset, end)? < end {
            return Err(Errno::NoSpc.into());
        }
        self.write(ino, offset, bytes, flags)
    }

    /// Writes pages back that were stored to while mapped: every one that is allocated already or fits under the cap,
    /// whatever becomes of its neighbours. Returns whether that was all of them.
    pub fn write_mapped(&mut self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Step<bool> {
        let end = offset + bytes.len() as u64;
        self.look_at_capability(ino)?;
        let blocks = self.blocks(ino)?;
        let mut free = self.pieces_free();
        let mut taken = Vec::new();
        let mut all = true;
        for span in spans(offset, end) {
            let present = blocks.get(span.index).map_or(0, |block| block.mask);
            for piece in span.from / PIECE_SIZE..span.until.div_ceil(PIECE_SIZE) {
                let is_new = present >> piece & 1 == 0;
                if is_new && free == 0 {
                    all = false;
                    continue;
                }
                free -= u64::from(is_new);
                let (from, until) = (span.from.max(piece * PIECE_SIZE), span.until.min((piece + 1) * PIECE_SIZE));
                taken.push(Span { index: span.index, from, until });
            }
        }
        self.look_at_bases(ino, taken.iter().copied())?;
        let mut grown = 0;
        for span in taken {
            let at = (span.index * BLOCK_SIZE as u64 + span.from as u64 - offset) as usize;
            grown += self.fill(ino, span, &bytes[at..at + span.len()]);
        }
        // A mapping ends with its file: no length to change.
        self.finish_write(ino, grown, 0, flags);
        Ok(all)
    }
}

impl Core {
    /// Appends at most `size` bytes at `offset` to `out`; fewer only at the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
        let segments = self.look(|look| look.segments(ino, offset, size))?;
        out.reserve(segments.iter().map(|(span, _)| span.len()).sum());
        for (span, bytes) in segments {
            let end = out.len() + span.len();
            let there = bytes.get(span.from..span.until.min(bytes.len())).unwrap_or(&[]);
            out.extend_from_slice(there);
            out.resize(end, 0);
        }
        Ok(())
    }

    /// Returns the bytes written: fewer than given when the cap is reached on the way, ENOSPC when not one fits.
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(Errno::FBig);
        }
        if flags.from_cache {
            // As a whole first: that waits for the space of unlinked files, which for a part would never be asked for.
            match self.change(|op| op.write_whole(ino, offset, bytes, flags)) {
                Err(Errno::NoSpc) => {}
                done => return done,
            }
            // The kernel does not look at how much of a writeback was taken, so what is left out has to be an error.
            let all = self.change(|op| op.write_mapped(ino, offset, bytes, flags))?;
            return if all { Ok(bytes.len()) } else { Err(Errno::NoSpc) };
        }
        self.change(|op| op.write(ino, offset, bytes, flags))
    }
}
