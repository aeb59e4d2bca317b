//! A tar stream onto the host: the way out of a session, as cp -a would do it.
//!
//! Every step goes by descriptor and never through a link: what a workload has put into its session, while we were
//! reading it or before, cannot lead anywhere else on the host.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::archive_read::unpack;
use super::host_sys::{
    c_name, chown_at, link_at, mkdir_at, mknod_at, open_at, own_special, set_xattr, symlink_at, unlink_at, utime_at,
};
use super::item::{Item, ItemKind, Sink, Target, Totals};
use super::{Failures, TreeError};

const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY;

/// Makes what is in the stream at `path` on the host: directories are merged, everything else is replaced. The
/// directory that `path` is in must be there.
pub fn unpack_to_host(input: &mut dyn Read, path: &Path) -> Result<Totals, TreeError> {
    let failed = |source| TreeError::Host { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EINVAL)))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = File::open(parent).map_err(|source| TreeError::Host { path: parent.to_owned(), source })?;
    let name = c_name(name.as_bytes()).map_err(failed)?;
    // SAFETY: geteuid cannot fail and touches no memory.
    let uid = unsafe { libc::geteuid() };
    unpack(input, &mut Out { parent, name, path: path.to_owned(), uid, dirs: Vec::new() })
}

struct Out {
    /// Directory and name of the top.
    parent: File,
    name: CString,
    path: PathBuf,
    /// Who we are: only root gives files away.
    uid: u32,
    /// Directories whose modes and times come last.
    dirs: Vec<Item>,
}

impl Out {
    /// The directory that an item is in, and its name there.
    fn place(&self, path: &[Vec<u8>]) -> io::Result<(File, CString)> {
        let Some((last, parents)) = path.split_last() else {
            return Ok((self.parent.try_clone()?, self.name.clone()));
        };
        let mut dir = open_at(self.parent.as_raw_fd(), &self.name, DIRECTORY, 0)?;
        for part in parents {
            dir = open_at(dir.as_raw_fd(), &c_name(part)?, DIRECTORY, 0)?;
        }
        Ok((dir, c_name(last)?))
    }

    fn error(&self, item: &Item) -> impl FnOnce(io::Error) -> TreeError + use<> {
        let path = item.path.iter().fold(self.path.clone(), |path, part| path.join(std::ffi::OsStr::from_bytes(part)));
        move |source| TreeError::Host { path, source }
    }

    /// Makes everything but files.
    fn make(&mut self, item: &Item) -> io::Result<()> {
        let (dir, name) = self.place(&item.path)?;
        let fd = dir.as_raw_fd();
        if item.kind == ItemKind::Directory {
            match mkdir_at(fd, &name, 0o700) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(open_at(fd, &name, DIRECTORY, 0)?),
                other => other?,
            }
            self.dirs.push(item.clone());
            return Ok(());
        }
        let special = matches!(item.kind, ItemKind::Fifo | ItemKind::CharDevice(..) | ItemKind::BlockDevice(..));
        clear(&dir, &name, special)?;
        let device = |kind, major, minor| mknod_at(fd, &name, kind | 0o600, libc::makedev(major, minor));
        match &item.kind {
            ItemKind::Symlink(target) => symlink_at(&c_name(target)?, fd, &name)?,
            ItemKind::HardLink(path) => {
                let (from, from_name) = self.place(path)?;
                return link_at(from.as_raw_fd(), &from_name, fd, &name);
            }
            ItemKind::Fifo => mknod_at(fd, &name, libc::S_IFIFO | 0o600, 0)?,
            ItemKind::CharDevice(major, minor) => device(libc::S_IFCHR, *major, *minor)?,
            ItemKind::BlockDevice(major, minor) => device(libc::S_IFBLK, *major, *minor)?,
            ItemKind::File { .. } | ItemKind::Directory => {}
        }
        let owner = (self.uid == 0).then_some((item.uid, item.gid));
        match (&item.kind, owner) {
            (ItemKind::Symlink(_), Some((uid, gid))) => chown_at(fd, &name, uid, gid)?,
            (ItemKind::Symlink(_), None) => {}
            (ItemKind::CharDevice(..), _) => own_special(fd, &name, libc::S_IFCHR, owner, self.mode(item))?,
            (ItemKind::BlockDevice(..), _) => own_special(fd, &name, libc::S_IFBLK, owner, self.mode(item))?,
            _ => own_special(fd, &name, libc::S_IFIFO, owner, self.mode(item))?,
        }
        utime_at(fd, &name, item.mtime)
    }

    fn create(&self, item: &Item) -> io::Result<(File, File, CString)> {
        let (dir, name) = self.place(&item.path)?;
        clear(&dir, &name, false)?;
        let file = open_at(dir.as_raw_fd(), &name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600)?;
        Ok((file, dir, name))
    }

    /// Owner, xattrs, mode and time, in the order in which none undoes another.
    fn dress(&self, item: &Item, file: &File, dir: &File, name: &CString) -> io::Result<()> {
        if self.uid == 0 {
            std::os::unix::fs::fchown(file, Some(item.uid), Some(item.gid))?;
        }
        for (name, value) in &item.xattrs {
            match set_xattr(file, &c_name(name)?, value) {
                Err(error) if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::EACCES)) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(self.mode(item)))?;
        utime_at(dir.as_raw_fd(), name, item.mtime)
    }

    /// Set-id bits only for the owner they were given by.
    fn mode(&self, item: &Item) -> u32 {
        if self.uid == 0 || item.uid == self.uid { item.mode } else { item.mode & 0o1777 }
    }
}

/// Takes away what a new thing replaces. A directory is not replaced, and a device or FIFO only by another: cp(1) would
/// write into it, which nobody means who copies a workspace, and `/dev/null` is not to become a file.
fn clear(dir: &File, name: &CString, special: bool) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let there = open_at(dir.as_raw_fd(), name, libc::O_PATH, 0).and_then(|file| file.metadata());
    let kind = there.map(|meta| meta.file_type());
    if !special && kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_block_device()) {
        return Err(io::Error::other("a device or FIFO is there, which a copy does not replace"));
    }
    match unlink_at(dir.as_raw_fd(), name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // unlink(2) of a directory says EISDIR here, EPERM by POSIX.
        other => other,
    }
}

impl Target for Out {
    fn put(&mut self, item: &Item, data: &mut dyn FnMut(Sink<'_>) -> Result<(), TreeError>) -> Result<(), TreeError> {
        if !matches!(item.kind, ItemKind::File { .. }) {
            let error = self.error(item);
            return self.make(item).map_err(error);
        }
        let (file, dir, name) = self.create(item).map_err(self.error(item))?;
        data(&mut |offset, bytes| file.write_all_at(bytes, offset).map_err(self.error(item)))?;
        file.set_len(item.size).map_err(self.error(item))?;
        self.dress(item, &file, &dir, &name).map_err(self.error(item))
    }

    fn finish(&mut self) -> Result<(), TreeError> {
        let mut failures = Failures::default();
        for item in std::mem::take(&mut self.dirs).into_iter().rev() {
            let done = self.place(&item.path).and_then(|(dir, name)| {
                let file = open_at(dir.as_raw_fd(), &name, DIRECTORY, 0)?;
                self.dress(&item, &file, &dir, &name)
            });
            if let Err(error) = done {
                failures.take(self.error(&item)(error))?;
            }
        }
        failures.result(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack_host;
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_host_tree_survives_the_journey() {
        let temp = tempfile::tempdir().unwrap();
        let from = temp.path().join("from");
        std::fs::create_dir_all(from.join("sub/deep")).unwrap();
        std::fs::write(from.join("sub/file"), b"hello").unwrap();
        std::fs::hard_link(from.join("sub/file"), from.join("again")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.write_all_at(b"x", 1 << 20).unwrap();
        sparse.set_len(3 << 20).unwrap();
        std::fs::set_permissions(from.join("sub"), PermissionsExt::from_mode(0o555)).unwrap();

        let mut stream = Vec::new();
        let sent = pack_host(&from, &mut stream).unwrap();
        assert!(stream.len() < 1 << 20, "holes are not shipped");
        let to = temp.path().join("to");
        assert_eq!(unpack_to_host(&mut stream.as_slice(), &to).unwrap(), sent);
        assert_eq!(std::fs::read(to.join("sub/file")).unwrap(), b"hello");
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
        let meta = |path: &str| std::fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!(meta("again").ino(), meta("sub/file").ino());
        assert_eq!(meta("sub").mode() & 0o777, 0o555);
        assert_eq!(meta("sparse").len(), 3 << 20);
        assert!(meta("sparse").blocks() * 512 < 1 << 20);
        for path in ["sub", "sub/deep", "link", "sparse", "again"] {
            let before = std::fs::symlink_metadata(from.join(path)).unwrap();
            assert_eq!((before.mtime(), before.mtime_nsec()), (meta(path).mtime(), meta(path).mtime_nsec()), "{path}");
        }
        // Once more onto itself: merged, nothing refused but what root may not do either.
        std::fs::set_permissions(to.join("sub"), PermissionsExt::from_mode(0o755)).unwrap();
        unpack_to_host(&mut stream.as_slice(), &to).unwrap();
        std::fs::set_permissions(to.join("sub"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(from.join("sub"), PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_device_or_fifo_is_not_replaced_by_a_file_and_the_rest_is_copied() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        for dir in [&from, &to] {
            std::fs::create_dir_all(dir.join("d")).unwrap();
        }
        for name in ["d/a", "d/pipe", "d/z"] {
            std::fs::write(from.join(name), b"x").unwrap();
        }
        std::fs::set_permissions(from.join("d"), PermissionsExt::from_mode(0o750)).unwrap();
        let dir = File::open(to.join("d")).unwrap();
        mknod_at(dir.as_raw_fd(), c"pipe", libc::S_IFIFO | 0o600, 0).unwrap();
        let mut stream = Vec::new();
        pack_host(&from, &mut stream).unwrap();
        let error = unpack_to_host(&mut stream.as_slice(), &to).unwrap_err().to_string();
        assert!(error.contains("pipe: a device or FIFO is there") && !error.contains("more could"), "{error}");
        assert_eq!(std::fs::read(to.join("d/a")).unwrap(), b"x");
        assert_eq!(std::fs::read(to.join("d/z")).unwrap(), b"x");
        assert_eq!(std::fs::metadata(to.join("d")).unwrap().mode() & 0o777, 0o750);
        // A stream that breaks off leaves the directories as they should be, too.
        let cut = temp.path().join("cut");
        unpack_to_host(&mut &stream[..stream.len() - 2048], &cut).unwrap_err();
        assert_eq!(std::fs::metadata(cut.join("d")).unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("from/d")).unwrap();
        std::fs::write(temp.path().join("from/d/f"), b"x").unwrap();
        std::fs::create_dir_all(temp.path().join("outside")).unwrap();
        std::fs::create_dir_all(temp.path().join("to")).unwrap();
        symlink(temp.path().join("outside"), temp.path().join("to/d")).unwrap();
        let mut stream = Vec::new();
        pack_host(&temp.path().join("from"), &mut stream).unwrap();
        assert!(unpack_to_host(&mut stream.as_slice(), &temp.path().join("to")).is_err());
        assert_eq!(std::fs::read_dir(temp.path().join("outside")).unwrap().count(), 0);
    }
}
