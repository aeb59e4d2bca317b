//! FUSE over io_uring (Linux 6.14, `Documentation/filesystems/fuse/fuse-io-uring.rst`): requests are answered by a thread
//! on the processor of the caller, which costs a fraction of waking one on another (`docs/decisions.md`).
//!
//! It stands beside fuser, which makes the handshake, reads what the kernel still sends by `/dev/fuse` (FORGET), and serves
//! everything where the kernel offers no ring.

mod answer;
mod queue;
mod serve;
mod wire;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{debug, error};

use self::queue::Queue;
pub(super) use self::serve::Server;

/// Off in the kernel's own configuration; root may write Y.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// The kernel wants a queue for each processor that there could be.
const PROCESSORS: &str = "/sys/devices/system/cpu/possible";

/// Beyond this many processors the threads and buffers are more than a mount is worth.
const PROCESSORS_MAX: usize = 64;
/// Threads on all processors together, where that leaves each between two and sixteen. More than one, for a thread that
/// waits for the disk or the committer answers nobody else. One that was never needed costs its stack.
const THREADS: usize = 32;

/// What starts the waiting threads.
type Start = (Arc<OwnedFd>, Arc<Server>);

/// Threads that are ready to serve, and wait for a connection. Dropped, they end.
pub(super) struct Rings {
    start: Vec<Sender<Start>>,
    threads: Vec<JoinHandle<()>>,
}

impl Rings {
    /// Prepares a ring for every thread.
    ///
    /// # Errors
    /// Why this machine, or this container, cannot have them.
    pub fn prepare() -> io::Result<Rings> {
        let switch =
            fs::read_to_string(SWITCH).map_err(|_| io::Error::other("this kernel has no FUSE over io_uring"))?;
        if switch.trim() != "Y" {
            return Err(io::Error::other(format!("it is switched off: echo Y > {SWITCH}")));
        }
        let processors = possible_processors(&fs::read_to_string(PROCESSORS)?)
            .filter(|&count| count <= PROCESSORS_MAX)
            .ok_or_else(|| io::Error::other(format!("more than {PROCESSORS_MAX} processors")))?;
        let each = (THREADS / processors).clamp(2, 16);
        let (report, reports) = bounded(processors * each);
        let mut rings = Rings { start: Vec::new(), threads: Vec::new() };
        for thread in 0..processors * each {
            let processor = (thread % processors) as u16;
            let (start, wait) = bounded(1);
            let report = report.clone();
            let body = move || run(processor, &report, &wait);
            rings.threads.push(thread::Builder::new().name(format!("ring-{processor}")).spawn(body)?);
            rings.start.push(start);
        }
        for _ in 0..rings.threads.len() {
            reports.recv().map_err(io::Error::other)??;
        }
        Ok(rings)
    }

    /// Has them serve this connection, on which the handshake has agreed on the ring. The threads end with it.
    pub fn serve(self, connection: OwnedFd, server: Server) -> Vec<JoinHandle<()>> {
        let connection = Arc::new(connection);
        let server = Arc::new(server);
        for start in self.start {
            // A thread that is gone has said why.
            let _ = start.send((Arc::clone(&connection), Arc::clone(&server)));
        }
        self.threads
    }
}

fn run(processor: u16, report: &Sender<io::Result<()>>, wait: &Receiver<Start>) {
    let mut queue = match Queue::new(processor) {
        Ok(queue) => queue,
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let _ = report.send(Ok(()));
    let Ok((connection, server)) = wait.recv() else { return };
    match queue.serve(&connection, &server) {
        Ok(()) => debug!("processor {processor}: the connection has ended"),
        Err(error) => {
            error!("FUSE over io_uring on processor {processor}: {error}; mount with --transport device");
            (server.give_up)();
        }
    }
}

/// The number of processors in a list such as `0-3` or `0,2-5`.
fn possible_processors(list: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        (last + 1).checked_sub(first)
    };
    list.trim().split(',').map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::possible_processors;

    #[test]
    fn processors_are_counted() {
        for (list, count) in [("0\n", Some(1)), ("0-1\n", Some(2)), ("0,2-3,8-15", Some(11)), ("", None)] {
            assert_eq!(possible_processors(list), count, "{list:?}");
        }
    }
}
