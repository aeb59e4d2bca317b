//! System calls that `std` does not have, as functions that return `io::Result`.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::ptr;
use std::thread;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn done(result: i64) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The errno of something that had to fail.
pub fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("this had to fail").raw_os_error().expect("an errno")
}

pub fn mknod(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    // SAFETY: the path is a C string.
    done(unsafe { libc::mknod(c(path).as_ptr(), mode, device) }.into()).map(drop)
}

pub fn rename2(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both paths are C strings.
    let result = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    done(result.into()).map(drop)
}

/// The mode, from a call that asks for nothing else.
pub fn mode_alone(path: &Path) -> io::Result<u32> {
    // SAFETY: statx is a struct of integers, for which all zeros is a value.
    let mut found: libc::statx = unsafe { mem::zeroed() };
    let (flags, what) = (libc::AT_SYMLINK_NOFOLLOW, libc::STATX_MODE);
    // SAFETY: the path is a C string, and `found` is a statx to be filled in.
    done(unsafe { libc::statx(libc::AT_FDCWD, c(path).as_ptr(), flags, what, &raw mut found) }.into())?;
    Ok(found.stx_mode.into())
}

/// Gives an open file a name.
pub fn link_open(file: &File, to: &Path) -> io::Result<()> {
    let (own, to) = (c(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))), c(to));
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: both paths are C strings.
    done(unsafe { libc::linkat(here, own.as_ptr(), here, to.as_ptr(), follow) }.into()).map(drop)
}

pub fn set_xattr(path: &Path, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    // SAFETY: path and name are C strings, the value has the stated length.
    let result = unsafe { libc::lsetxattr(c(path).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    done(result.into()).map(drop)
}

/// The value, read into a buffer of `size` bytes.
pub fn get_xattr_into(path: &Path, name: &CStr, size: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; size];
    // SAFETY: path and name are C strings, the buffer has the stated length.
    let result = unsafe { libc::lgetxattr(c(path).as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), size) };
    value.truncate(done(result as i64)? as usize);
    Ok(value)
}

pub fn get_xattr(path: &Path, name: &CStr) -> io::Result<Vec<u8>> {
    // SAFETY: path and name are C strings; size 0 asks for the size.
    let size = done(unsafe { libc::lgetxattr(c(path).as_ptr(), name.as_ptr(), ptr::null_mut(), 0) } as i64)?;
    get_xattr_into(path, name, size as usize)
}

/// The names, sorted.
pub fn list_xattrs(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    // SAFETY: the path is a C string; size 0 asks for the size.
    let size = done(unsafe { libc::llistxattr(c(path).as_ptr(), ptr::null_mut(), 0) } as i64)?;
    let mut names = vec![0_u8; size as usize];
    // SAFETY: the path is a C string, the buffer has the stated length.
    done(unsafe { libc::llistxattr(c(path).as_ptr(), names.as_mut_ptr().cast(), names.len()) } as i64)?;
    let mut names: Vec<Vec<u8>> = names.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    Ok(names)
}

pub fn remove_xattr(path: &Path, name: &CStr) -> io::Result<()> {
    // SAFETY: path and name are C strings.
    done(unsafe { libc::lremovexattr(c(path).as_ptr(), name.as_ptr()) }.into()).map(drop)
}

pub fn fallocate(file: &File, mode: i32, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) }.into()).map(drop)
}

pub fn seek(file: &File, offset: i64, whence: i32) -> io::Result<u64> {
    // SAFETY: the descriptor is open.
    done(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
}

pub fn copy_range(from: &File, mut from_at: i64, to: &File, mut to_at: i64, length: usize) -> io::Result<u64> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: the descriptors are open, the offsets outlive the call.
    done(unsafe { libc::copy_file_range(from, &raw mut from_at, to, &raw mut to_at, length, 0) } as i64)
}

/// A record lock: `command` is one of `F_SETLK`, `F_SETLKW`, `F_GETLK` or their `F_OFD_` kin, `kind` is `F_RDLCK`,
/// `F_WRLCK` or `F_UNLCK`. Returns what the kernel has made of it.
pub fn record_lock(file: &File, command: i32, kind: i32, start: i64, length: i64) -> io::Result<libc::flock> {
    // SAFETY: flock is a plain C struct, for which all zeros is a value (and l_pid must be 0 for the F_OFD_ commands).
    let mut range: libc::flock = unsafe { mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    (range.l_start, range.l_len) = (start, length);
    // SAFETY: the descriptor is open, and `range` outlives the call.
    done(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) }.into())?;
    Ok(range)
}

/// Closes, and says what close(2) says; dropping a file does not.
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours, and given up here.
    done(unsafe { libc::close(file.into_raw_fd()) }.into()).map(drop)
}

/// A time as `(seconds, nanoseconds)`.
pub type Time = (i64, i64);
pub const NOW: Time = (0, libc::UTIME_NOW);
pub const OMIT: Time = (0, libc::UTIME_OMIT);

pub fn set_times(path: &Path, atime: Time, mtime: Time) -> io::Result<()> {
    let times = [atime, mtime].map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    // SAFETY: the path is a C string, `times` an array of two.
    let result =
        unsafe { libc::utimensat(libc::AT_FDCWD, c(path).as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    done(result.into()).map(drop)
}

pub fn statvfs(path: &Path) -> io::Result<libc::statvfs> {
    // SAFETY: statvfs is a struct of integers, for which all zeros is a value.
    let mut found = unsafe { mem::zeroed() };
    // SAFETY: the path is a C string, and `found` outlives the call.
    done(unsafe { libc::statvfs(c(path).as_ptr(), &raw mut found) }.into())?;
    Ok(found)
}

/// A mapping of a file's beginning.
pub struct Map {
    start: *mut u8,
    length: usize,
}

impl Map {
    /// Shared and writable.
    pub fn of(file: &File, length: usize) -> io::Result<Map> {
        Map::with(file, length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
    }

    /// Writable, with its stores its own.
    pub fn private(file: &File, length: usize) -> io::Result<Map> {
        Map::with(file, length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
    }

    /// Only to be looked at, as its stores would be a signal.
    pub fn read_only(file: &File, length: usize) -> io::Result<Map> {
        Map::with(file, length, libc::PROT_READ, libc::MAP_SHARED)
    }

    fn with(file: &File, length: usize, protection: i32, flags: i32) -> io::Result<Map> {
        // SAFETY: a new mapping, at an address the kernel chooses, of an open file.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Map { start: start.cast(), length })
        }
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping is ours.
        done(unsafe { libc::msync(self.start.cast(), self.length, libc::MS_SYNC) }.into()).map(drop)
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped readable for this length as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl DerefMut for Map {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped writable for this length as long as `self` lives.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody borrows it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// An open directory stream.
pub struct Dir(*mut libc::DIR);

impl Dir {
    pub fn open(path: &Path) -> io::Result<Dir> {
        // SAFETY: the path is a C string.
        let stream = unsafe { libc::opendir(c(path).as_ptr()) };
        if stream.is_null() { Err(io::Error::last_os_error()) } else { Ok(Dir(stream)) }
    }

    pub fn tell(&self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    pub fn seek(&self, place: i64) {
        // SAFETY: the stream is open.
        unsafe { libc::seekdir(self.0, place) }
    }
}

impl Iterator for Dir {
    type Item = OsString;

    /// The next name, `.` and `..` among them.
    fn next(&mut self) -> Option<OsString> {
        // SAFETY: the stream is open; the entry is valid until the next call, and copied before.
        unsafe {
            let entry = libc::readdir(self.0).as_ref()?;
            Some(OsString::from_vec(CStr::from_ptr(entry.d_name.as_ptr()).to_bytes().to_vec()))
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and nobody uses it any more.
        unsafe { libc::closedir(self.0) };
    }
}

/// Runs `work` on a thread with these ids, no other groups, no capabilities and this umask.
pub fn as_user<T: Send>(uid: u32, gid: u32, umask: u32, work: impl FnOnce() -> T + Send) -> T {
    let become_user = || {
        // SAFETY: the bare system calls (not libc's) change the calling thread alone, which ends after `work`; `unshare`
        // gives it a umask of its own.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_FS), 0);
            libc::umask(umask);
            assert_eq!(libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()), 0);
            assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
            assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
        }
        work()
    };
    thread::scope(|scope| match scope.spawn(become_user).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A file handle, as `name_to_handle_at` makes it: it names a file without its path.
#[repr(C)]
pub struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

pub fn handle_of(path: &Path) -> io::Result<Handle> {
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0;
    let to: *mut libc::file_handle = (&raw mut handle).cast();
    // SAFETY: the path is a C string; `handle` begins as a `file_handle` does and has room for the bytes that it states.
    let result = unsafe { libc::name_to_handle_at(libc::AT_FDCWD, c(path).as_ptr(), to, &raw mut mount, 0) };
    done(result.into()).map(|_| handle)
}

/// Opens what a handle names, on the file system that `on` is of.
pub fn open_by_handle(on: &File, handle: &mut Handle) -> io::Result<File> {
    // SAFETY: the descriptor is open, and the handle is one that the kernel has filled in.
    let result = unsafe { libc::open_by_handle_at(on.as_raw_fd(), (&raw mut *handle).cast(), libc::O_RDONLY) };
    let descriptor = done(result.into())? as i32;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}
