//! The one way to the disk under a store: the journal's files, and the names of everything. SQLite goes there by a VFS
//! of the same disk. One seam, so that tests can fail each call, tear each write and cut the power at each sync.

mod window;
mod writeback;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use self::window::Window;
use self::writeback::Writeback;
use crate::base::open_ordinary;

/// A disk that holds stores. Paths are those of the host.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a file of our own (0600) for reading and writing, in the place of one of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading.
    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// `rename(2)`. Durable only after [`Disk::sync_directory`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// `unlink(2)`. Durable only after [`Disk::sync_directory`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// The SQLite VFS that leads to this disk; `None` is SQLite's own.
    fn vfs(&self) -> Option<&str>;
}

/// An open file of a [`Disk`]. All calls work at positions; none moves a shared one.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads until `bytes` is full or the file ends; returns how much that was.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of it. After an error any part of it may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Takes the space of `at..at + len` from the disk, so that writing there cannot find it full. It reads as zeros.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;

    /// Gives everything from `len` on back to the disk.
    fn cut(&self, len: u64) -> io::Result<()>;

    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Returns once everything written before is on the disk: `fdatasync(2)`.
    fn sync_data(&self) -> io::Result<()>;

    /// The next writes go here, to bytes that are allocated: an implementation may make them cheaper. A hint.
    fn will_write(&self, _range: Range<u64>) {}

    /// Has the disk begin with writing out, so that a later sync has less to do. A hint.
    fn start_writeback(&self, at: u64, len: u64);
}

/// The disk of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDisk;

impl HostDisk {
    /// The same, to be shared.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(HostDisk)
    }
}

fn opened(options: &mut OpenOptions, path: &Path) -> io::Result<Box<dyn DiskFile>> {
    let (window, writes_since_sync) = (RwLock::new(None), AtomicU32::new(0));
    let file = Arc::new(open_ordinary(options, path)?);
    Ok(Box::new(HostFile { file, window, writes_since_sync, writeback: Writeback::default() }))
}

impl Disk for HostDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        opened(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600), path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        opened(OpenOptions::new().read(true).write(true), path)
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        opened(OpenOptions::new().read(true), path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn vfs(&self) -> Option<&str> {
        None
    }
}

/// Bytes above which a write goes by `pwrite`: it takes many pages at a time, where a mapping takes them one by one
/// (`cargo bench --bench append`).
const WINDOW_WRITE_MAX: usize = 32 << 10;

/// Writes after a sync that go by `pwrite` whatever their size. A store into a mapping makes the whole folio of the page
/// cache dirty, which may be a MiB, and the next sync writes all of it: too much for who syncs every few writes.
const WRITES_BEFORE_STORES: u32 = 32;

/// An open file of this host, with the part of it that is mapped.
#[derive(Debug)]
struct HostFile {
    file: Arc<File>,
    window: RwLock<Option<Window>>,
    writes_since_sync: AtomicU32,
    writeback: Writeback,
}

impl HostFile {
    fn forget_writable(&self) {
        if let Some(window) = &*self.window.read() {
            window.forget_writable();
        }
    }

    /// Takes space, and keeps what it got when there is not enough.
    fn take(&self, at: u64, len: u64) -> io::Result<()> {
        let (from, len) = (at.cast_signed(), len.cast_signed());
        loop {
            // SAFETY: the descriptor is open; the call takes only numbers.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, from, len) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => break,
                _ => return Err(error),
            }
        }
        // A file system that cannot promise space takes it when zeros are written.
        let zeros = vec![0; 64 << 10];
        let end = at + len.cast_unsigned();
        let mut at = at.max(self.size()?.min(end));
        while at < end {
            let piece = zeros.len().min((end - at) as usize);
            self.file.write_all_at(&zeros[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }
}

impl DiskFile for HostFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let before = self.writes_since_sync.fetch_add(1, Ordering::Relaxed);
        let small = before >= WRITES_BEFORE_STORES && bytes.len() <= WINDOW_WRITE_MAX;
        let stored = small && self.window.read().as_ref().is_some_and(|window| window.store(bytes, at));
        if stored { Ok(()) } else { self.file.write_all_at(bytes, at) }
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let before = self.size()?;
        self.take(at, len).inspect_err(|_| {
            // What was got before the disk was full is given back: a commit may need it. A failure here changes nothing.
            if before <= at {
                let _ = self.file.set_len(before);
            }
        })
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.writes_since_sync.store(0, Ordering::Relaxed);
        // What was written out is protected again.
        self.forget_writable();
        synced
    }

    fn will_write(&self, range: Range<u64>) {
        // The old one goes first: two segments at a time are never in memory.
        let mut window = self.window.write();
        *window = None;
        *window = Window::map(&self.file, range);
    }

    fn start_writeback(&self, at: u64, len: u64) {
        self.forget_writable();
        self.writeback.start(&self.file, at, len);
    }
}
