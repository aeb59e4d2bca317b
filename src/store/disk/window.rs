//! A part of a file that is mapped, for writes that cost no system call.
//!
//! A store into a shared mapping is the page cache's as much as a `pwrite` is, so it survives the death of this process
//! just as well, and `fdatasync` makes it durable. What a mapping lacks is a way to report an error: a page that cannot be
//! made writable is a SIGBUS. So pages are made writable by `MADV_POPULATE_WRITE` first, which fails like any call; then
//! the caller falls back on `pwrite`, which says why. What is left: the kernel writes a page back by itself, and the file
//! system fails before the next store to that page. That SIGBUS ends the server as a kill would, and loses as little.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use parking_lot::Mutex;

/// What pages are counted in. Only a unit for `madvise`: with greater pages it fails, and nothing is mapped.
const PAGE: u64 = 4096;

/// Bytes that are made writable ahead of what is stored, at the most.
const AHEAD_MAX: u64 = 64 << 10;

/// A mapped range of a file.
#[derive(Debug)]
pub(super) struct Window {
    start: NonNull<u8>,
    place: Range<u64>,
    /// The bytes of the file whose pages were made writable since we last had them written out, which takes that away.
    writable: Mutex<Range<u64>>,
}

// SAFETY: the mapping belongs to the Window alone, is valid until it is dropped, and all stores go through a lock.
unsafe impl Send for Window {}
// SAFETY: as above; `store` is the only access through a shared reference, and it locks.
unsafe impl Sync for Window {}

impl Window {
    /// Maps a range of a file that is as long; `None` where that cannot be done.
    pub fn map(file: &File, place: Range<u64>) -> Option<Window> {
        let len = usize::try_from(place.end - place.start).ok()?;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing; the descriptor is open.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                place.start.cast_signed(),
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        let writable = Mutex::new(place.start..place.start);
        Some(Window { start: NonNull::new(start.cast())?, place, writable })
    }

    /// Writes `bytes` at this place of the file; false when it has to be done otherwise.
    pub fn store(&self, bytes: &[u8], at: u64) -> bool {
        let end = at + bytes.len() as u64;
        if at < self.place.start || end > self.place.end {
            return false;
        }
        let mut writable = self.writable.lock();
        if !(writable.contains(&at) && end <= writable.end) {
            let goes_on = writable.contains(&at) || at == writable.end && !writable.is_empty();
            let from = if goes_on { writable.end } else { at / PAGE * PAGE };
            // Many pages at a time are cheaper, but each is written by the next sync: so never more than were used.
            let ahead = if goes_on { (from - writable.start).min(AHEAD_MAX) } else { 0 };
            let until = (end + ahead).next_multiple_of(PAGE).min(self.place.end);
            if !self.populate(from..until) {
                return false;
            }
            *writable = if goes_on { writable.start..until } else { from..until };
        }
        // SAFETY: `at..end` lies within the mapping, which nobody else touches while the lock is held; `bytes` is no
        // part of it, since nothing hands out references into it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address(at), bytes.len()) };
        true
    }

    /// The pages are written out: the kernel asks the file system anew before it lets a store through.
    pub fn forget_writable(&self) {
        *self.writable.lock() = self.place.start..self.place.start;
    }

    fn populate(&self, range: Range<u64>) -> bool {
        let len = (range.end - range.start) as usize;
        // SAFETY: the range lies within the mapping; the advice changes no content.
        unsafe { libc::madvise(self.address(range.start).cast(), len, libc::MADV_POPULATE_WRITE) == 0 }
    }

    /// Where this place of the file is mapped. It must lie in the window.
    fn address(&self, at: u64) -> *mut u8 {
        // SAFETY: the offset is within the mapping, by contract.
        unsafe { self.start.as_ptr().add((at - self.place.start) as usize) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let len = (self.place.end - self.place.start) as usize;
        // SAFETY: the mapping was made by `map` with this length and is used by nobody any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), len) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_stored_is_read_back_from_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        let window = Window::map(&file, 8192..32768).unwrap();
        let mut expected = vec![0; 64 << 10];
        for (round, (at, len)) in
            [(8192, 1), (8193, 5000), (20000, 12768), (9000, 10), (8192, 24576)].into_iter().enumerate()
        {
            let bytes = vec![round as u8 + 1; len];
            assert!(window.store(&bytes, at as u64));
            expected[at..at + len].copy_from_slice(&bytes);
            if round % 2 == 1 {
                file.sync_data().unwrap();
                window.forget_writable();
            }
        }
        let mut found = vec![9; 64 << 10];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        assert!(!window.store(b"x", 8191) && !window.store(b"xy", 32767), "outside of it");
    }

    #[test]
    fn a_page_that_cannot_be_had_is_no_crash() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let window = Window::map(&file, 0..16384).unwrap();
        assert!(window.store(b"x", 8000));
        assert!(!window.store(b"x", 9000), "behind the end of the file");
    }
}
