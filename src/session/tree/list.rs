//! Listing a directory and reading a file.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::resolve::{Follow, Node, resolve};
use super::{TreeError, text_and_bytes};
use crate::base::{Cookie, Errno, FileKind, Ino, Timestamp};
use crate::fs::{Attr, Fs};

/// Names taken from a directory at a time, and bytes from a file.
const BATCH: usize = 512;
const READ_SIZE: usize = 1 << 20;

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // stat(2)'s own, but for the names below.
pub struct Entry {
    /// The name, for people: bytes that are no text are escaped.
    pub name: String,
    /// The name itself, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name_bytes: Option<Vec<u8>>,
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `char`, `block`.
    pub kind: String,
    pub ino: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Bytes charged to the cap.
    pub charged: u64,
    pub mtime: String,
    pub mtime_ns: u32,
    pub rdev: u32,
    /// Where a symbolic link leads, as `name` says it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// The target itself, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_bytes: Option<Vec<u8>>,
}

impl Entry {
    fn of(fs: &Fs, name: &[u8], attr: &Attr) -> Result<Entry, TreeError> {
        let target = match attr.kind {
            FileKind::Symlink => Some(fs.readlink(attr.ino).map_err(TreeError::at(name))?),
            _ => None,
        };
        let (name, name_bytes) = text_and_bytes(name);
        let (target, target_bytes) = match target.as_deref().map(text_and_bytes) {
            Some((target, bytes)) => (Some(target), bytes),
            None => (None, None),
        };
        Ok(Entry {
            name,
            name_bytes,
            kind: kind_name(attr.kind).to_owned(),
            ino: attr.ino.0,
            mode: attr.mode & 0o7777,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            charged: attr.pieces * crate::base::limits::PIECE_SIZE as u64,
            mtime: crate::session::rfc3339(attr.mtime),
            mtime_ns: attr.mtime.nanos,
            rdev: attr.rdev,
            target,
            target_bytes,
        })
    }

    /// The name as the file system has it.
    pub fn name_bytes(&self) -> &[u8] {
        self.name_bytes.as_deref().unwrap_or(self.name.as_bytes())
    }

    /// The target as the file system has it.
    pub fn target_bytes(&self) -> Option<&[u8]> {
        self.target_bytes.as_deref().or(self.target.as_ref().map(String::as_bytes))
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char",
        FileKind::BlockDevice => "block",
    }
}

/// Lists a directory, or the one thing at `path`.
pub fn list(fs: &Fs, path: &[u8], each: &mut dyn FnMut(&Entry) -> Result<(), TreeError>) -> Result<(), TreeError> {
    let node = resolve(fs, path, Follow::NotLast)?;
    if node.attr().kind != FileKind::Directory {
        let name = path.rsplit(|&b| b == b'/').find(|part| !part.is_empty()).unwrap_or(path);
        return each(&Entry::of(fs, name, node.attr())?);
    }
    children(fs, node.ino(), path, &mut |name, child| each(&Entry::of(fs, name, child.attr())?))
}

/// What is called for every name of a directory.
type Each<'e, 'a> = &'e mut dyn FnMut(&[u8], Node<'a>) -> Result<(), TreeError>;

/// Calls `each` for every name of a directory. Nothing is locked meanwhile: names are taken in batches.
pub(super) fn children<'a>(fs: &'a Fs, ino: Ino, path: &[u8], each: Each<'_, 'a>) -> Result<(), TreeError> {
    let mut from = Cookie(0);
    loop {
        let mut batch: Vec<(Vec<u8>, Node<'a>)> = Vec::new();
        fs.readdir(ino, from, true, &mut |entry| {
            if batch.len() == BATCH {
                return false;
            }
            from = entry.cookie;
            if let Some(attr) = entry.attr {
                batch.push((entry.name.to_vec(), Node::counted(fs, attr)));
            }
            true
        })
        .map_err(TreeError::at(path))?;
        if batch.is_empty() {
            return Ok(());
        }
        for (name, node) in batch {
            each(&name, node)?;
        }
    }
}

/// Writes a file's content to `out`.
pub fn read(fs: &Fs, path: &[u8], out: &mut dyn Write) -> Result<u64, TreeError> {
    let node = resolve(fs, path, Follow::Last)?;
    match node.attr().kind {
        FileKind::Regular => {}
        FileKind::Directory => return Err(TreeError::at(path)(Errno::IsDir)),
        // There is nobody at the other end of a FIFO that is not mounted.
        _ => return Err(TreeError::at(path)(Errno::Inval)),
    }
    let mut buffer = Vec::with_capacity(READ_SIZE);
    let mut offset = 0;
    loop {
        buffer.clear();
        fs.read(node.ino(), offset, READ_SIZE, &mut buffer).map_err(TreeError::at(path))?;
        if buffer.is_empty() {
            return Ok(offset);
        }
        out.write_all(&buffer)?;
        offset += buffer.len() as u64;
    }
}

/// What the archive keeps of a time.
pub(super) fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.secs).unwrap_or(0)
}
