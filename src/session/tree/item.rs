//! One thing in an archive, between the two ends of a copy.

use super::TreeError;
use crate::base::Timestamp;

/// What kind of thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// A regular file. `extents` are its pieces of data (offset, length), in order; the rest are holes.
    File {
        /// Where its data is.
        extents: Vec<(u64, u64)>,
    },
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name of this thing, which came earlier.
    HardLink(Vec<Vec<u8>>),
    /// A FIFO.
    Fifo,
    /// A character device with its major and minor number.
    CharDevice(u32, u32),
    /// A block device with its major and minor number.
    BlockDevice(u32, u32),
}

/// One thing in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place, below the top of the archive; the top itself is empty.
    pub path: Vec<Vec<u8>>,
    /// What it is.
    pub kind: ItemKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of a file.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl Item {
    /// The path as one text, for messages.
    pub fn shown(&self) -> Vec<u8> {
        self.path.join(&b'/')
    }
}

/// What went through a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// Files, hard links counted each.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Links, FIFOs and devices.
    pub others: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Sockets, which no archive can hold: they were left out.
    pub skipped: u64,
}

impl Totals {
    /// Counts an item.
    pub fn count(&mut self, item: &Item) {
        match &item.kind {
            ItemKind::File { extents } => {
                self.files += 1;
                self.bytes += extents.iter().map(|(_, length)| length).sum::<u64>();
            }
            ItemKind::HardLink(_) => self.files += 1,
            ItemKind::Directory => self.dirs += 1,
            _ => self.others += 1,
        }
    }
}

/// The data of a file on its way: calls back with an offset and bytes, piece by piece.
pub(super) type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), TreeError>;

/// Where the items of an archive go.
pub(super) trait Target {
    /// Makes one thing. `data` delivers the content of a file; what is not delivered is a hole.
    fn put(&mut self, item: &Item, data: &mut dyn FnMut(Sink<'_>) -> Result<(), TreeError>) -> Result<(), TreeError>;

    /// Does what has to wait for the end: times and modes of directories.
    fn finish(&mut self) -> Result<(), TreeError>;
}

/// Device numbers as the kernel packs them into 32 bits (`new_encode_dev`).
pub(super) fn split_rdev(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

/// The other way round.
pub(super) fn join_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(1, 3), (10, 229), (259, 70_000), (0xfff, 0xf_ffff)] {
            assert_eq!(split_rdev(join_rdev(major, minor)), (major, minor));
        }
    }
}
