//! A tree of the host as a tar stream: the way into a session.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::archive_write::Writer;
use super::host_sys::{extents, xattrs_of};
use super::item::{Item, ItemKind, Totals};
use super::{Failures, TreeError};
use crate::base::{Map, Timestamp};

const READ_SIZE: u64 = 1 << 20;

/// Writes what is at `path` on the host as a tar stream whose top is `.`, as cp -a would take it.
pub fn pack_host(path: &Path, out: &mut dyn Write) -> Result<Totals, TreeError> {
    let mut pack = Pack { out: Writer::new(out, b"."), seen: Map::default(), totals: Totals::default(), within: false };
    let mut failures = Failures::default();
    // Depth first, by a list of what is to come: as in `export`.
    let mut todo = vec![(Vec::new(), path.to_owned())];
    while let Some((names, path)) = todo.pop() {
        match pack.item(&names, &path) {
            Ok(true) => {}
            Ok(false) => continue,
            // In the middle of an item there is no way to say that it is not whole, but to break off.
            Err(error) if pack.within => return Err(error),
            Err(error) => {
                failures.take(error)?;
                continue;
            }
        }
        let failed = host_error(&path);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => {
                failures.take(failed(error))?;
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    failures.take(failed(error))?;
                    break;
                }
            };
            let mut names: Vec<Vec<u8>> = names.clone();
            names.push(entry.file_name().as_bytes().to_vec());
            todo.push((names, entry.path()));
        }
    }
    pack.out.finish()?;
    failures.result(pack.totals)
}

fn host_error(path: &Path) -> impl Fn(io::Error) -> TreeError + '_ {
    move |source| TreeError::Host { path: path.to_owned(), source }
}

struct Pack<'w> {
    out: Writer<'w>,
    /// Files with several names that are in the stream already, by device and inode.
    seen: Map<(u64, u64), Vec<Vec<u8>>>,
    totals: Totals,
    /// Whether an item is begun and not ended.
    within: bool,
}

impl Pack<'_> {
    /// Writes one thing; says whether it is a directory to be entered.
    fn item(&mut self, names: &[Vec<u8>], path: &Path) -> Result<bool, TreeError> {
        let meta = match fs::symlink_metadata(path) {
            // Unlinked while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !names.is_empty() => return Ok(false),
            other => other.map_err(host_error(path))?,
        };
        if meta.file_type().is_socket() {
            log::warn!("{}: a socket, left out", path.display());
            self.totals.skipped += 1;
            return Ok(false);
        }
        let (item, file) = self.describe(names, path, &meta).map_err(host_error(path))?;
        self.within = true;
        self.out.begin(&item)?;
        if let (ItemKind::File { extents }, Some(file)) = (&item.kind, &file) {
            self.content(path, file, extents)?;
        }
        self.out.end()?;
        self.within = false;
        self.totals.count(&item);
        if !meta.is_dir() && meta.nlink() > 1 {
            self.seen.entry((meta.dev(), meta.ino())).or_insert_with(|| names.to_vec());
        }
        Ok(meta.is_dir())
    }

    fn describe(&self, names: &[Vec<u8>], path: &Path, meta: &Metadata) -> io::Result<(Item, Option<File>)> {
        let kind = meta.file_type();
        let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        let mut file = None;
        let mut size = 0;
        let kind = match self.seen.get(&(meta.dev(), meta.ino())) {
            Some(first) if !kind.is_dir() => ItemKind::HardLink(first.clone()),
            _ if kind.is_dir() => ItemKind::Directory,
            _ if kind.is_symlink() => ItemKind::Symlink(fs::read_link(path)?.as_os_str().as_bytes().to_vec()),
            _ if kind.is_fifo() => ItemKind::Fifo,
            _ if kind.is_char_device() => ItemKind::CharDevice(major, minor),
            _ if kind.is_block_device() => ItemKind::BlockDevice(major, minor),
            _ => {
                // Not through a link, and without waiting, should it have become something else since.
                let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
                let opened = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
                size = opened.metadata()?.len();
                let extents = extents(&opened, size);
                file = Some(opened);
                ItemKind::File { extents }
            }
        };
        let item = Item {
            path: names.to_vec(),
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size,
            mtime: Timestamp::new(meta.mtime(), meta.mtime_nsec() as u32),
            xattrs: xattrs_of(path)?,
        };
        Ok((item, file))
    }

    fn content(&mut self, path: &Path, file: &File, extents: &[(u64, u64)]) -> Result<(), TreeError> {
        let mut buffer = vec![0; READ_SIZE as usize];
        for &(mut offset, mut left) in extents {
            while left > 0 {
                let some = &mut buffer[..left.min(READ_SIZE) as usize];
                let done = file.read_at(some, offset).map_err(host_error(path))?;
                if done == 0 {
                    // Cut shorter since: `end` fills up what the header has promised.
                    return Ok(());
                }
                self.out.data(&some[..done])?;
                offset += done as u64;
                left -= done as u64;
            }
        }
        Ok(())
    }
}
