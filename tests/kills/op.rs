//! The operations: each is one system call that changes something, so it is either done or not.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::rng::fill;
use crate::sys;
use crate::tree::{Kind, Tree};

/// Unlinked files that a worker keeps open.
pub const ORPHANS: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Create {
        path: String,
        mode: u32,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Symlink {
        path: String,
        target: String,
    },
    Write {
        path: String,
        offset: u64,
        seed: u64,
        length: u64,
    },
    Append {
        path: String,
        seed: u64,
        length: u64,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Punch {
        path: String,
        offset: u64,
        length: u64,
    },
    /// Stores to mapped memory, acknowledged when the call has returned that is to write it back.
    Store {
        path: String,
        offset: u64,
        seed: u64,
        length: u64,
        by: WrittenBackBy,
    },
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        one: String,
        other: String,
    },
    Link {
        from: String,
        to: String,
    },
    /// `keep`: the file stays open, and is written to later.
    Unlink {
        path: String,
        keep: bool,
    },
    Rmdir {
        path: String,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    SetXattr {
        path: String,
        name: String,
        seed: u64,
        length: u64,
    },
    RemoveXattr {
        path: String,
        name: String,
    },
    Sync {
        path: String,
        data_only: bool,
    },
    WriteOrphan {
        which: usize,
        offset: u64,
        seed: u64,
        length: u64,
    },
    TruncateOrphan {
        which: usize,
        size: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WrittenBackBy {
    Msync,
    Munmap,
    Close,
}

impl Op {
    /// The bytes it writes, if it writes.
    pub fn length(&self) -> u64 {
        match self {
            Op::Write { length, .. } | Op::Append { length, .. } | Op::WriteOrphan { length, .. } => *length,
            _ => 0,
        }
    }

    /// Its name, for tables.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split(' ').next().unwrap_or_default().to_owned()
    }

    /// Whether it makes a difference that can be seen in this tree.
    pub fn changes(&self, tree: &Tree) -> bool {
        let mut after = tree.clone();
        after.apply(self, self.length());
        after.names != tree.names || after.nodes != tree.nodes
    }
}

/// Who performs operations: a mount, and the unlinked files that are still open.
pub struct Performer<'a> {
    root: &'a Path,
    orphans: VecDeque<File>,
}

impl<'a> Performer<'a> {
    pub fn new(root: &'a Path) -> Performer<'a> {
        Performer { root, orphans: VecDeque::new() }
    }

    /// Makes the system call. Returns how many bytes of a write were accepted.
    pub fn perform(&mut self, op: &Op) -> io::Result<u64> {
        let at = |path: &String| self.root.join(path);
        let open = |path: &String| File::options().read(true).write(true).open(at(path));
        match op {
            Op::Create { path, mode } => {
                File::options().write(true).create_new(true).mode(*mode).open(at(path)).map(drop)?;
            }
            Op::Mkdir { path, mode } => fs::DirBuilder::new().mode(*mode).create(at(path))?,
            Op::Symlink { path, target } => std::os::unix::fs::symlink(target, at(path))?,
            Op::Write { path, offset, seed, length } => {
                return open(path)?.write_at(&fill(*seed, *length), *offset).map(|done| done as u64);
            }
            Op::Append { path, seed, length } => {
                let mut file = File::options().append(true).open(at(path))?;
                return io::Write::write(&mut file, &fill(*seed, *length)).map(|done| done as u64);
            }
            Op::Truncate { path, size } => open(path)?.set_len(*size)?,
            Op::Punch { path, offset, length } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                sys::fallocate(&open(path)?, mode, *offset as i64, *length as i64)?;
            }
            Op::Store { path, offset, seed, length, by } => {
                store(self.root, open(path)?, *offset as usize, &fill(*seed, *length), *by)?;
            }
            Op::Rename { from, to } => fs::rename(at(from), at(to))?,
            Op::Exchange { one, other } => sys::rename2(&at(one), &at(other), libc::RENAME_EXCHANGE)?,
            Op::Link { from, to } => fs::hard_link(at(from), at(to))?,
            Op::Unlink { path, keep } => {
                let kept = if *keep { Some(open(path)?) } else { None };
                fs::remove_file(at(path))?;
                self.keep(kept);
            }
            Op::Rmdir { path } => fs::remove_dir(at(path))?,
            Op::Chmod { path, mode } => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?,
            Op::SetXattr { path, name, seed, length } => {
                sys::set_xattr(&at(path), &CString::new(name.as_str())?, &fill(*seed, *length), 0)?;
            }
            Op::RemoveXattr { path, name } => sys::remove_xattr(&at(path), &CString::new(name.as_str())?)?,
            Op::Sync { path, data_only: true } => open(path)?.sync_data()?,
            Op::Sync { path, data_only: false } => File::open(at(path))?.sync_all()?,
            Op::WriteOrphan { which, offset, seed, length } => {
                let Some(file) = self.orphans.get(*which) else { return Ok(*length) };
                return file.write_at(&fill(*seed, *length), *offset).map(|done| done as u64);
            }
            Op::TruncateOrphan { which, size } => {
                self.orphans.get(*which).map_or(Ok(()), |file| file.set_len(*size))?;
            }
        }
        Ok(op.length())
    }

    fn keep(&mut self, file: Option<File>) {
        self.orphans.extend(file);
        if self.orphans.len() > ORPHANS {
            self.orphans.pop_front();
        }
    }
}

/// The promise is about msync, munmap and close. munmap cannot say that it failed, and close does not always: that the
/// server answered a question after they returned says that it was there to take the pages.
fn store(root: &Path, file: File, offset: usize, bytes: &[u8], by: WrittenBackBy) -> io::Result<()> {
    let mut map = sys::Map::of(&file, offset + bytes.len())?;
    map[offset..].copy_from_slice(bytes);
    match by {
        WrittenBackBy::Msync => return map.sync(),
        WrittenBackBy::Munmap => drop(map),
        WrittenBackBy::Close => {
            // SAFETY: the descriptor is ours, and given up here.
            if unsafe { libc::close(file.into_raw_fd()) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    is_served(root)
}

/// Asks the server something that the kernel never answers for it. Where the mount is gone, the directory below it must
/// not be taken for an answer.
pub fn is_served(root: &Path) -> io::Result<()> {
    const FUSE: i64 = 0x6573_5546;
    let path = CString::new(root.as_os_str().as_bytes())?;
    // SAFETY: statfs is a struct of integers, for which all zeros is a value.
    let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and `answer` outlives the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if answer.f_type == FUSE { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOENT)) }
}

impl Tree {
    /// The symbolic links and files, the empty directories: what can be taken away.
    pub fn is_removable(&self, name: &str) -> bool {
        self.node(name).is_some_and(|node| node.kind != Kind::Dir)
    }
}
