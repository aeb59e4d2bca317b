//! Having the kernel begin with writing out, on a thread of its own: submitting 4 MiB takes up to a millisecond, which the
//! caller of a write would wait for.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::debug;

/// Ranges that may wait. What finds no room is written out by the kernel in its own time, or by a sync.
const QUEUE: usize = 16;

/// A range of a file: where it begins, and its length.
type Part = (u64, u64);

/// The thread of one file, from the first use to the file's end.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    queue: OnceLock<Option<Sender<Part>>>,
}

impl Writeback {
    /// Asks for a range. A hint: nobody is told when it fails.
    pub fn start(&self, file: &Arc<File>, at: u64, len: u64) {
        if let Some(queue) = self.queue.get_or_init(|| spawn(Arc::clone(file))) {
            let _ = queue.try_send((at, len));
        }
    }
}

fn spawn(file: Arc<File>) -> Option<Sender<Part>> {
    let (sender, parts) = bounded(QUEUE);
    let body = move || write_out(&file, &parts);
    match thread::Builder::new().name("writeback".into()).spawn(body) {
        Ok(_) => Some(sender),
        Err(error) => {
            debug!("nothing is written out ahead of a sync: {error}");
            None
        }
    }
}

fn write_out(file: &File, parts: &Receiver<Part>) {
    for (at, len) in parts {
        let (at, len) = (at.cast_signed(), len.cast_signed());
        // SAFETY: the descriptor is open; the call takes only numbers.
        unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}
