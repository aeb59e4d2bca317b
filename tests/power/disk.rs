//! A disk that writes down what is done to it, and fails where it is told to. Its files are real ones, in a directory of
//! their own; nothing is ever waited for, because the tape knows what was synced.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use sessionfs::store::{Disk, DiskFile};

use crate::cut::is_zero;
use crate::faults::{Failure, Fault, Faults, Kind};
use crate::tape::{Event, FileId, Mark};
use crate::vfs::Vfs;

/// What the disk and its SQLite VFS have in common.
#[derive(Debug)]
pub struct Shared {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub struct State {
    pub faults: Faults,
    tape: Vec<Event>,
    quiet: bool,
    names: BTreeMap<String, FileId>,
    files: usize,
    /// Behind here a file has only zeros, if anything. Only of files made here.
    written: BTreeMap<FileId, u64>,
    /// Files whose sync has failed.
    pub unsynced: Vec<String>,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    pub fn push(&mut self, event: Event) {
        if !self.quiet {
            self.tape.push(event);
        }
    }

    /// The file of this name; a new one if there is none and `create` says so.
    pub fn file(&mut self, path: &Path, create: bool) -> Option<FileId> {
        let name = base(path);
        match self.names.get(&name) {
            Some(&file) => Some(file),
            None if create => Some(self.add(name)),
            None => None,
        }
    }

    fn add(&mut self, name: String) -> FileId {
        let file = self.files;
        self.files += 1;
        self.names.insert(name.clone(), file);
        self.written.insert(file, 0);
        self.push(Event::Create { file, name });
        file
    }

    /// Whether a write makes a file longer at the most: the room of a journal is megabytes of zeros.
    fn is_room(&self, file: FileId, at: u64, bytes: &[u8]) -> bool {
        self.written.get(&file).is_some_and(|&written| at >= written) && is_zero(bytes)
    }

    pub fn write(&mut self, file: FileId, at: u64, bytes: &[u8]) {
        if let Some(written) = self.written.get_mut(&file) {
            *written = (*written).max(at + bytes.len() as u64);
        }
        if !self.quiet {
            self.push(Event::Write { file, at, bytes: bytes.into() });
        }
    }

    pub fn removed(&mut self, path: &Path) {
        let name = base(path);
        if self.names.remove(&name).is_some() {
            self.push(Event::Remove { name });
        }
    }

    /// A sync of a file, which succeeds unless it is to fail.
    pub fn sync(&mut self, file: FileId) -> Result<(), Failure> {
        let outcome = self.faults.call(Kind::Sync);
        self.push(if outcome.is_ok() { Event::Sync(file) } else { Event::SyncFailed(file) });
        if outcome.is_err() {
            let name = self.names.iter().find(|(_, id)| **id == file).map(|(name, _)| name.clone());
            self.unsynced.extend(name);
        }
        outcome
    }

    pub fn sync_directory(&mut self) -> Result<(), Failure> {
        self.faults.call(Kind::SyncDirectory)?;
        self.push(Event::SyncDirectory);
        Ok(())
    }
}

fn base(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).unwrap().to_owned()
}

fn failed(failure: Failure) -> io::Error {
    io::Error::from_raw_os_error(failure.errno)
}

/// See the module.
#[derive(Debug)]
pub struct RecordingDisk {
    shared: Arc<Shared>,
    vfs: Vfs,
}

impl RecordingDisk {
    /// A disk that holds what is in the directory. `quiet`: nothing is written down.
    pub fn over(directory: &Path, quiet: bool) -> Arc<RecordingDisk> {
        let mut state = State { quiet, ..State::default() };
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let (name, file) = (base(&path), state.files);
            state.files += 1;
            state.names.insert(name.clone(), file);
            if !quiet {
                state.push(Event::Present { file, name, bytes: fs::read(&path).unwrap().into() });
            }
        }
        let shared = Arc::new(Shared { directory: directory.to_owned(), state: Mutex::new(state) });
        let vfs = Vfs::register(Arc::clone(&shared));
        Arc::new(RecordingDisk { shared, vfs })
    }

    pub fn mark(&self, mark: Mark) {
        self.shared.lock().push(Event::Mark(mark));
    }

    /// Makes one call fail from here on, counted from here; `None`: only counts.
    pub fn arm(&self, fault: Option<Fault>) {
        self.shared.lock().faults.arm(fault);
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Everything so far.
    pub fn tape(&self) -> Vec<Event> {
        self.shared.lock().tape.clone()
    }

    pub fn as_disk(self: &Arc<Self>) -> Arc<dyn Disk> {
        Arc::clone(self) as Arc<dyn Disk>
    }

    fn opened(&self, path: &Path, file: FileId) -> io::Result<Box<dyn DiskFile>> {
        let real = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(RecordingFile { shared: Arc::clone(&self.shared), file, real }))
    }

    fn open_known(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        assert_eq!(path.parent(), Some(self.shared.directory.as_path()), "a store is one directory");
        let mut state = self.shared.lock();
        state.faults.call(Kind::Open).map_err(failed)?;
        let file = state.file(path, false).ok_or(io::ErrorKind::NotFound)?;
        self.opened(path, file)
    }
}

impl Drop for RecordingDisk {
    fn drop(&mut self) {
        self.vfs.unregister();
        self.shared.lock().tape = Vec::new();
    }
}

impl Disk for RecordingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.shared.lock();
        state.faults.call(Kind::Create).map_err(failed)?;
        if fs::remove_file(path).is_ok() {
            state.removed(path);
        }
        OpenOptions::new().write(true).create_new(true).open(path)?;
        let file = state.add(base(path));
        self.opened(path, file)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_known(path)
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_known(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.faults.call(Kind::Rename).map_err(failed)?;
        fs::rename(from, to)?;
        let (from, to) = (base(from), base(to));
        let file = state.names.remove(&from).unwrap();
        state.names.insert(to.clone(), file);
        state.push(Event::Rename { from, to });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.faults.call(Kind::Remove).map_err(failed)?;
        fs::remove_file(path)?;
        state.removed(path);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        assert_eq!(path, self.shared.directory, "a store is one directory");
        self.shared.lock().sync_directory().map_err(failed)
    }

    fn vfs(&self) -> Option<&str> {
        Some(self.vfs.name())
    }
}

#[derive(Debug)]
struct RecordingFile {
    shared: Arc<Shared>,
    file: FileId,
    real: File,
}

impl RecordingFile {
    /// Sparse: what it costs a disk does not matter here.
    fn lengthen(&self, state: &mut State, size: u64) -> io::Result<()> {
        if self.real.metadata()?.len() < size {
            self.real.set_len(size)?;
            state.push(Event::Resize { file: self.file, size });
        }
        Ok(())
    }
}

impl DiskFile for RecordingFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.shared.lock().faults.call(Kind::Read).map_err(failed)?;
        let mut done = 0;
        while done < bytes.len() {
            match self.real.read_at(&mut bytes[done..], at + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.shared.lock();
        let outcome = state.faults.call(Kind::Write);
        let done = match outcome {
            Ok(()) => bytes.len(),
            Err(Failure { short: true, .. }) => bytes.len() / 2,
            Err(_) => 0,
        };
        if state.is_room(self.file, at, &bytes[..done]) {
            self.lengthen(&mut state, at + done as u64)?;
        } else if done > 0 {
            self.real.write_all_at(&bytes[..done], at)?;
            state.write(self.file, at, &bytes[..done]);
        }
        outcome.map_err(failed)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.faults.call(Kind::Resize).map_err(failed)?;
        self.lengthen(&mut state, at + len)
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.faults.call(Kind::Resize).map_err(failed)?;
        self.real.set_len(len)?;
        state.push(Event::Resize { file: self.file, size: len });
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.shared.lock().faults.call(Kind::Size).map_err(failed)?;
        Ok(self.real.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.lock().sync(self.file).map_err(failed)
    }

    fn start_writeback(&self, _at: u64, _len: u64) {}
}
