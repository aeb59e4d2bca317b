//! The system calls of a faithful copy that the standard library does not have.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::item::Xattrs;
use crate::base::Timestamp;

/// A name for a system call.
pub(super) fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens a name of a directory, never through a link.
pub(super) fn open_at(dir: RawFd, name: &CStr, flags: i32, mode: libc::mode_t) -> io::Result<File> {
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` ends in NUL; the descriptor returned is new and owned by nobody else.
    let fd = unsafe { libc::openat(dir, name.as_ptr(), flags, mode as libc::c_uint) };
    // SAFETY: just opened, see above.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { File::from_raw_fd(fd) }) }
}

pub(super) fn mkdir_at(dir: RawFd, name: &CStr, mode: libc::mode_t) -> io::Result<()> {
    // SAFETY: `name` ends in NUL.
    check(unsafe { libc::mkdirat(dir, name.as_ptr(), mode) })
}

pub(super) fn unlink_at(dir: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` ends in NUL.
    check(unsafe { libc::unlinkat(dir, name.as_ptr(), 0) })
}

pub(super) fn symlink_at(target: &CStr, dir: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: both names end in NUL.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir, name.as_ptr()) })
}

pub(super) fn link_at(from: RawFd, from_name: &CStr, dir: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: both names end in NUL.
    check(unsafe { libc::linkat(from, from_name.as_ptr(), dir, name.as_ptr(), 0) })
}

pub(super) fn mknod_at(dir: RawFd, name: &CStr, mode: libc::mode_t, device: libc::dev_t) -> io::Result<()> {
    // SAFETY: `name` ends in NUL.
    check(unsafe { libc::mknodat(dir, name.as_ptr(), mode, device) })
}

/// Owner of a name, not of what it may link to.
pub(super) fn chown_at(dir: RawFd, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: `name` ends in NUL.
    check(unsafe { libc::fchownat(dir, name.as_ptr(), uid, gid, libc::AT_SYMLINK_NOFOLLOW) })
}

/// Owner, if one is given, and mode of a FIFO or device that was just made at a name. By a descriptor, and only if it
/// is of that kind: in a directory that somebody else may write to, the name may lead to another thing by now.
pub(super) fn own_special(
    dir: RawFd,
    name: &CStr,
    kind: libc::mode_t,
    owner: Option<(u32, u32)>,
    mode: libc::mode_t,
) -> io::Result<()> {
    let file = open_at(dir, name, libc::O_PATH, 0)?;
    if file.metadata()?.mode() & libc::S_IFMT != kind {
        return Err(io::Error::other("something else has taken its place while it was made"));
    }
    if let Some((uid, gid)) = owner {
        // SAFETY: the empty name ends in NUL; the descriptor is open.
        check(unsafe { libc::fchownat(file.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })?;
    }
    // fchmod refuses a descriptor that was not opened for reading or writing, and opening a device may do things.
    let fd = file.as_raw_fd();
    // SAFETY: the empty name ends in NUL; the descriptor is open.
    let set = unsafe { libc::syscall(libc::SYS_fchmodat2, fd, c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    if set == 0 {
        return Ok(());
    }
    // Before Linux 6.6, and where seccomp does not know the call.
    fs::set_permissions(format!("/proc/self/fd/{fd}"), fs::Permissions::from_mode(mode))
}

/// Sets the time of the last change of a name, not of what it may link to.
pub(super) fn utime_at(dir: RawFd, name: &CStr, mtime: Timestamp) -> io::Result<()> {
    let times = [
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        libc::timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    ];
    // SAFETY: `name` ends in NUL and `times` are the two timespecs the call reads.
    check(unsafe { libc::utimensat(dir, name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
}

pub(in crate::session) fn set_xattr(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    let (fd, len) = (file.as_raw_fd(), value.len());
    // SAFETY: `name` ends in NUL, `value` is `len` bytes long.
    check(unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), len, 0) })
}

/// Every xattr of a path, not of what it may link to. None where the file system keeps none.
pub(in crate::session) fn xattrs_of(path: &Path) -> io::Result<Xattrs> {
    let path = c_name(path.as_os_str().as_bytes())?;
    // SAFETY: `path` ends in NUL; the buffer is as long as said.
    let names = grow(|buffer| unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) });
    let names = match names {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let c = c_name(name)?;
        let get = |buffer: &mut [u8]| {
            // SAFETY: both names end in NUL; the buffer is as long as said.
            unsafe { libc::lgetxattr(path.as_ptr(), c.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
        };
        match grow(get) {
            Ok(value) => found.push((name.to_vec(), value)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EPERM | libc::EACCES)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Calls with a growing buffer until the answer fits.
fn grow(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 10];
    loop {
        let length = call(&mut buffer);
        if length >= 0 {
            buffer.truncate(length as usize);
            return Ok(buffer);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() > 1 << 20 {
            return Err(error);
        }
        buffer.resize(buffer.len() * 4, 0);
    }
}

/// Where a file's data is. One whose file system cannot tell is all data.
pub(super) fn extents(file: &File, size: u64) -> Vec<(u64, u64)> {
    let seek = |at: u64, whence| -> Result<u64, Option<i32>> {
        // SAFETY: lseek touches no memory; the descriptor is open.
        let found = unsafe { libc::lseek(file.as_raw_fd(), at as libc::off_t, whence) };
        if found < 0 { Err(io::Error::last_os_error().raw_os_error()) } else { Ok(found as u64) }
    };
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        match seek(at, libc::SEEK_DATA) {
            Ok(start) if start < size => {
                let end = seek(start, libc::SEEK_HOLE).map_or(size, |end| end.min(size));
                extents.push((start, end - start));
                at = end;
            }
            Ok(_) | Err(Some(libc::ENXIO)) => break,
            Err(_) => return vec![(0, size)],
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_mode_of_a_fifo_is_never_given_to_what_took_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        let at = |name: &str| temp.path().join(name);
        let mode = |name: &str| fs::symlink_metadata(at(name)).unwrap().mode() & 0o7777;
        let own =
            |name: &str| own_special(dir.as_raw_fd(), &c_name(name.as_bytes()).unwrap(), libc::S_IFIFO, None, 0o4777);
        mknod_at(dir.as_raw_fd(), c"fifo", libc::S_IFIFO | 0o600, 0).unwrap();
        own("fifo").unwrap();
        assert_eq!(mode("fifo"), 0o4777);
        fs::write(at("file"), b"").unwrap();
        fs::set_permissions(at("file"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("file", at("to-file")).unwrap();
        fs::hard_link(at("file"), at("same-file")).unwrap();
        symlink("fifo", at("to-fifo")).unwrap();
        for swapped in ["to-file", "same-file", "to-fifo"] {
            own(swapped).unwrap_err();
        }
        assert_eq!(mode("file"), 0o600);
    }
}
