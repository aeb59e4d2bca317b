//! SQLite's way to the recording disk: its own "unix" VFS, with every call that touches the disk written down first.
//!
//! The index of the WAL is shared memory: it goes to "unix" as it is, never onto the tape, and a power cut takes it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::ffi;

use crate::disk::Shared;
use crate::faults::{Failure, Kind};
use crate::tape::FileId;

/// A registered VFS. It is never freed, because connections may outlive the disk by a moment.
#[derive(Debug)]
pub struct Vfs {
    name: String,
    raw: *mut ffi::sqlite3_vfs,
}

// SAFETY: the pointer is only handed back to SQLite, which locks its list of them.
unsafe impl Send for Vfs {}
// SAFETY: as above.
unsafe impl Sync for Vfs {}

/// An open file: this, and behind it the one of "unix".
#[repr(C)]
struct Shim {
    methods: *const ffi::sqlite3_io_methods,
    shared: *const Shared,
    /// `None`: of no interest, as SQLite's own temporary files.
    file: Option<FileId>,
    /// The first sync of a journal that may be new also syncs its directory, as "unix" does it.
    syncs_directory: bool,
}

impl Vfs {
    pub fn register(shared: Arc<Shared>) -> Vfs {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("recording-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let unix = unix();
        // SAFETY: `unix` is SQLite's own and lives as long as the process. Its other functions look at nothing of the
        // VFS they are called with but `mxPathname`, so a copy serves for them.
        let mut vfs = unsafe { *unix };
        vfs.szOsFile += size_of::<Shim>() as c_int;
        vfs.pNext = std::ptr::null_mut();
        vfs.zName = CString::new(name.as_str()).unwrap().into_raw();
        vfs.pAppData = Arc::into_raw(shared).cast_mut().cast();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        let raw = Box::into_raw(Box::new(vfs));
        // SAFETY: `raw` is never freed.
        assert_eq!(unsafe { ffi::sqlite3_vfs_register(raw, 0) }, ffi::SQLITE_OK);
        Vfs { name, raw }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn unregister(&self) {
        // SAFETY: it was registered, and stays allocated for connections that are still open.
        unsafe { ffi::sqlite3_vfs_unregister(self.raw) };
    }
}

fn unix() -> *mut ffi::sqlite3_vfs {
    // SAFETY: the name ends in a NUL; SQLite initialises itself here if nothing did before.
    let unix = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    assert!(!unix.is_null());
    unix
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // 2: with a WAL, without mapped reads.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The file of "unix" behind ours.
fn inner(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocates `szOsFile` bytes, which is ours and theirs.
    unsafe { file.cast::<Shim>().add(1).cast() }
}

/// Calls a method of the file of "unix".
macro_rules! forward {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let inner = inner($file);
        // SAFETY: a file that SQLite calls a method of is open, and so is the one behind it.
        unsafe { (*(*inner).pMethods).$method.unwrap()(inner $(, $argument)*) }
    }};
}

/// A failure as SQLite is told of it: it looks at errno, too.
fn fail(failure: Failure, code: c_int) -> c_int {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = failure.errno };
    code
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    const OURS: c_int = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_WAL;
    // SAFETY: SQLite hands over the VFS that was registered, and room for the file.
    let (shared, shim) = unsafe { (&*(*vfs).pAppData.cast::<Shared>(), &mut *file.cast::<Shim>()) };
    shim.methods = std::ptr::null();
    let mut state = shared.lock();
    if let Err(failure) = state.faults.call(Kind::Open) {
        return fail(failure, ffi::SQLITE_CANTOPEN);
    }
    // SAFETY: what SQLite gave is passed on; `unix` is the VFS these functions belong to.
    let code = unsafe { (*unix()).xOpen.unwrap()(unix(), name, inner(file), flags, out) };
    if code != ffi::SQLITE_OK {
        return code;
    }
    let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
    shim.file = None;
    if !name.is_null() && flags & OURS != 0 {
        // SAFETY: a name that is not null ends in a NUL.
        shim.file = state.file(path(unsafe { CStr::from_ptr(name) }), create);
    }
    shim.syncs_directory = create && flags & (ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_WAL) != 0;
    shim.shared = shared;
    shim.methods = &METHODS;
    code
}

fn path(name: &CStr) -> &Path {
    Path::new(name.to_str().unwrap())
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: as in `open`; a name to delete is never null.
    let (shared, path) = unsafe { (&*(*vfs).pAppData.cast::<Shared>(), path(CStr::from_ptr(name))) };
    let mut state = shared.lock();
    if let Err(failure) = state.faults.call(Kind::Remove) {
        return fail(failure, ffi::SQLITE_IOERR_DELETE);
    }
    // SAFETY: as in `open`.
    let code = unsafe { (*unix()).xDelete.unwrap()(unix(), name, 0) };
    if code != ffi::SQLITE_OK {
        return code;
    }
    state.removed(path);
    if sync_directory != 0
        && let Err(failure) = state.sync_directory()
    {
        return fail(failure, ffi::SQLITE_IOERR_DIR_FSYNC);
    }
    code
}

/// The disk of an open file.
fn shared<'a>(file: *mut ffi::sqlite3_file) -> (&'a Shared, &'a mut Shim) {
    // SAFETY: SQLite calls methods of open files only, one at a time, and the disk is never freed.
    unsafe {
        let shim = &mut *file.cast::<Shim>();
        (&*shim.shared, shim)
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    forward!(file, xClose)
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, len: c_int, at: i64) -> c_int {
    if let Err(failure) = shared(file).0.lock().faults.call(Kind::Read) {
        return fail(failure, ffi::SQLITE_IOERR_READ);
    }
    forward!(file, xRead, to, len, at)
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, len: c_int, at: i64) -> c_int {
    let (disk, shim) = shared(file);
    let mut state = disk.lock();
    let outcome = state.faults.call(Kind::Write);
    let done = match outcome {
        Ok(()) => len,
        Err(Failure { short: true, .. }) => len / 2,
        Err(_) => 0,
    };
    if done > 0 {
        let code = forward!(file, xWrite, from, done, at);
        if code != ffi::SQLITE_OK {
            return code;
        }
        if let Some(file) = shim.file {
            // SAFETY: SQLite hands over `len` bytes, of which `done` are read.
            let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), done as usize) };
            state.write(file, at as u64, bytes);
        }
    }
    match outcome {
        Ok(()) => ffi::SQLITE_OK,
        Err(failure) if failure.errno == libc::ENOSPC => fail(failure, ffi::SQLITE_FULL),
        Err(failure) => fail(failure, ffi::SQLITE_IOERR_WRITE),
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let (disk, shim) = shared(file);
    let mut state = disk.lock();
    if let Err(failure) = state.faults.call(Kind::Resize) {
        return fail(failure, ffi::SQLITE_IOERR_TRUNCATE);
    }
    let code = forward!(file, xTruncate, size);
    if let (Some(file), ffi::SQLITE_OK) = (shim.file, code) {
        state.push(crate::tape::Event::Resize { file, size: size as u64 });
    }
    code
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    let (disk, shim) = shared(file);
    let Some(id) = shim.file else { return ffi::SQLITE_OK };
    let mut state = disk.lock();
    if let Err(failure) = state.sync(id) {
        return fail(failure, ffi::SQLITE_IOERR_FSYNC);
    }
    if std::mem::take(&mut shim.syncs_directory) {
        // "unix" takes no notice of whether this works, either.
        let _ = state.sync_directory();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    if let Err(failure) = shared(file).0.lock().faults.call(Kind::Size) {
        return fail(failure, ffi::SQLITE_IOERR_FSTAT);
    }
    forward!(file, xFileSize, size)
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    forward!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    forward!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, held: *mut c_int) -> c_int {
    forward!(file, xCheckReservedLock, held)
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    forward!(file, xFileControl, op, argument)
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    forward!(file, xSectorSize)
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    forward!(file, xDeviceCharacteristics)
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    if let Err(failure) = shared(file).0.lock().faults.call(Kind::SharedMemory) {
        return fail(failure, ffi::SQLITE_IOERR_SHMMAP);
    }
    forward!(file, xShmMap, region, size, extend, out)
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    forward!(file, xShmLock, offset, n, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    forward!(file, xShmBarrier)
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    forward!(file, xShmUnmap, delete)
}
