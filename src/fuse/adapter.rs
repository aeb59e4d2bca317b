//! One method for each kind of request: convert, call [`Fs`], reply.
//!
//! What the transport cannot carry is not here: fuser 0.18 knows no TMPFILE, and answers it ENOSYS.
//! [`super::uring`] does the same work where the kernel offers a ring.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{self, COPY_MAX, FOR_EVER, GENERATION, caller, errno, file_attr};
use super::invalidate::Modes;
use super::kernel::{self, Agreed};
use super::prime::{PRIME_INO, Prime};
use super::reply::{attributes, empty, entry, sized, written};
use super::waiters::Waiters;
use crate::base::limits::{MAX_WRITE, NAME_MAX, PIECE_SIZE};
use crate::base::{Cookie, Errno, FileKind, Ino};
use crate::fs::{Fs, SetAttr, asked_by};

thread_local! {
    /// What a READ is answered from: one buffer for each thread, since fresh pages cost more than the copy.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves one [`Fs`] to the kernel.
pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) waiters: Waiters,
    pub(super) prime: Arc<Prime>,
    pub(super) modes: Modes,
    /// Whether requests are to come by io_uring.
    pub(super) ring: bool,
    /// What the handshake came to.
    pub(super) agreed: Arc<OnceLock<Agreed>>,
}

impl Adapter {
    /// The file system, for what this request asks of it.
    fn of(&self, request: &Request) -> &Fs {
        asked_by(request.pid());
        &self.fs
    }

    /// Makes a change, here or where it may wait. `space` is the content it brings or allocates, if it needs any space.
    fn change(&self, request: &Request, space: Option<u64>, job: impl FnOnce(&Fs) + Send + 'static) {
        if self.fs.would_wait(space) {
            self.waiters.change(request.pid(), 0, Box::new(job));
        } else {
            job(self.of(request));
        }
    }
}

/// A name that outlives its request.
fn owned(name: &OsStr) -> Box<[u8]> {
    name.as_bytes().into()
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = kernel::negotiate(config, self.ring);
        self.agreed.set(agreed).map_err(|_| io::Error::other("the kernel shakes hands twice"))
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(attr) = self.prime.answers(ino(parent), name.as_bytes()) {
            return reply.entry(&Prime::TTL, &file_attr(&attr), GENERATION);
        }
        match self.of(request).lookup(ino(parent), name.as_bytes()) {
            // Inode number 0 is ENOENT that the kernel may remember; the error itself it would forget at once.
            Err(Errno::NoEnt) => {
                reply.entry(&FOR_EVER, &convert::bare_attr(Ino(0), FileKind::Regular), GENERATION);
            }
            result => entry(reply, result),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, nlookup: u64) {
        if ino(number) != PRIME_INO {
            self.fs.forget(ino(number), nlookup);
        }
    }

    fn getattr(&self, request: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.of(request).getattr(ino(number)));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>, // ours alone
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let set = SetAttr { mode, uid, gid, size, atime, mtime };
        let caller = caller(request, 0);
        self.change(request, None, move |fs| attributes(reply, fs.setattr(&caller, ino(number), &set)));
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        match self.of(request).readlink(ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request, umask), owned(name));
        self.change(request, Some(0), move |fs| entry(reply, fs.mknod(&caller, ino(parent), &name, mode, rdev)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (caller, name) = (caller(request, umask), owned(name));
        self.change(request, Some(0), move |fs| entry(reply, fs.mkdir(&caller, ino(parent), &name, mode)));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.change(request, None, move |fs| empty(reply, fs.unlink(ino(parent), &name)));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.change(request, None, move |fs| empty(reply, fs.rmdir(ino(parent), &name)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, name, target) = (caller(request, 0), owned(name), owned(target.as_os_str()));
        let job = move |fs: &Fs| entry(reply, fs.symlink(&caller, ino(parent), &name, &target));
        self.change(request, Some(0), job);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match convert::rename_mode(flags.bits()) {
            Ok(mode) => mode,
            Err(error) => return reply.error(errno(error)),
        };
        let (name, to_name) = (owned(name), owned(to_name));
        self.change(request, Some(0), move |fs| empty(reply, fs.rename(ino(parent), &name, ino(to), &to_name, mode)));
    }

    fn link(&self, request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = owned(name);
        self.change(request, Some(0), move |fs| entry(reply, fs.link(ino(number), ino(parent), &name)));
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Told once, the kernel opens files by itself and keeps their pages from one open to the next.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn flush(&self, _request: &Request, _number: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = libc::S_IFREG | (mode & 0o7777);
        let (caller, name) = (caller(request, umask), owned(name));
        self.change(request, Some(0), move |fs| match fs.mknod(&caller, ino(parent), &name, mode, 0) {
            Ok(attr) => {
                let keep = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&FOR_EVER, &file_attr(&attr), GENERATION, FileHandle(0), keep);
            }
            Err(error) => reply.error(errno(convert::create_error(error, flags))),
        });
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            match self.of(request).read(ino(number), offset, size.min(MAX_WRITE) as usize, buffer) {
                Ok(()) => reply.data(buffer),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let flags = convert::write_flags(write_flags, request);
        if self.fs.would_wait(Some(data.len() as u64)) {
            let (data, length) = (data.to_vec(), data.len());
            let modes = self.modes.clone();
            let job = move |fs: &Fs| {
                let result = fs.write(ino(number), offset, &data, flags);
                modes.tell(fs);
                written(reply, result);
            };
            return self.waiters.change(request.pid(), length, Box::new(job));
        }
        let result = self.of(request).write(ino(number), offset, data, flags);
        self.modes.tell(&self.fs);
        written(reply, result);
    }

    fn fsync(&self, request: &Request, number: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.waiters.sync(&self.fs, request.pid(), ino(number), reply);
    }

    fn fsyncdir(&self, request: &Request, number: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.waiters.sync(&self.fs, request.pid(), ino(number), reply);
    }

    fn readdir(&self, request: &Request, number: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.of(request).readdir(ino(number), Cookie(offset), false, &mut |entry| {
            let name = OsStr::from_bytes(entry.name);
            !reply.add(INodeNo(entry.ino.0), entry.cookie.0, convert::file_type(entry.kind), name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result = self.of(request).readdir(ino(number), Cookie(offset), true, &mut |entry| {
            let attr = match &entry.attr {
                Some(attr) => file_attr(attr),
                None => convert::bare_attr(entry.ino, entry.kind),
            };
            let name = OsStr::from_bytes(entry.name);
            !reply.add(INodeNo(entry.ino.0), entry.cookie.0, name, &FOR_EVER, &attr, GENERATION)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let usage = self.fs.usage();
        let unit = PIECE_SIZE as u64;
        let free = usage.bytes_limit.saturating_sub(usage.bytes) / unit;
        let free_inodes = usage.inodes_limit.saturating_sub(usage.inodes);
        let (size, names) = (PIECE_SIZE as u32, NAME_MAX as u32);
        reply.statfs(usage.bytes_limit / unit, free, free, usage.inodes_limit, free_inodes, size, names, size);
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match convert::xattr_mode(flags) {
            Ok(mode) => mode,
            Err(error) => return reply.error(errno(error)),
        };
        let (caller, name, value) = (caller(request, 0), owned(name), Box::<[u8]>::from(value));
        let bytes = value.len() as u64;
        self.change(request, Some(bytes), move |fs| {
            empty(reply, fs.setxattr(&caller, ino(number), &name, &value, mode))
        });
    }

    fn getxattr(&self, request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(reply, size, self.of(request).getxattr(ino(number), name.as_bytes()));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        sized(reply, size, self.of(request).listxattr(&caller(request, 0), ino(number)));
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request, 0), owned(name));
        self.change(request, None, move |fs| empty(reply, fs.removexattr(&caller, ino(number), &name)));
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request, 0);
        let modes = self.modes.clone();
        self.change(request, Some(length), move |fs| {
            let allocated = fs.fallocate(&caller, ino(number), mode, offset, length);
            modes.tell(fs);
            empty(reply, allocated);
        });
    }

    fn lseek(&self, request: &Request, number: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let result = convert::seek(whence).and_then(|what| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NxIo)?;
            self.of(request).seek(ino(number), offset, what)
        });
        match result {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _from_fh: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_fh: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let length = length.min(COPY_MAX);
        let (caller, modes) = (caller(request, 0), self.modes.clone());
        self.change(request, Some(length), move |fs| {
            let copied = fs.copy_range(&caller, ino(from), from_offset, ino(to), to_offset, length);
            modes.tell(fs);
            written(reply, copied.map(|bytes| bytes as usize));
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    // Told once that we know neither, the kernel asks no more. (fuser's own methods also log a warning.)
    fn bmap(&self, _request: &Request, _number: INodeNo, _blocksize: u32, _index: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _handle: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
