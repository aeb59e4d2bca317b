//! One thread of the ring: an io_uring of its own with one request at a time in it.
//!
//! The kernel has a queue for each processor, and asks the queue of the processor that the caller runs on; it gives a
//! request to the thread that became free last. So a caller that is alone meets the same warm thread on its own
//! processor again and again, and the others stand by for when that one waits.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use log::debug;
use zerocopy::{FromBytes, IntoBytes};

use super::serve::{Request, Server};
use super::wire::{CommandRequest, Header, InHeader, OutHeader};
use crate::base::limits::MAX_WRITE;

/// `FUSE_IO_URING_CMD_REGISTER`: here is a buffer, fill it with a request.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: here is an answer, fill the buffer with the next request.
const COMMIT_AND_FETCH: u32 = 2;

/// Where the length of the vectors lies in a submission (`struct io_uring_sqe`), which the crate has no way to set.
const SQE_LEN: usize = 24;

/// One thread's ring and buffers. Made by the thread that uses it: the kernel binds the ring to it.
pub(super) struct Queue {
    // Before the buffers that the kernel knows, so that it is closed before they are freed.
    ring: IoUring<squeue::Entry128>,
    header: Box<Header>,
    /// Of a fixed place: it never grows beyond what it was made with.
    payload: Vec<u8>,
    vectors: Box<[libc::iovec; 2]>,
    processor: u16,
}

impl Queue {
    /// Sets up what the thread on this processor's queue needs, before there is a connection.
    ///
    /// # Errors
    /// No io_uring, or none for us (seccomp, `kernel.io_uring_disabled`), or not with what this needs (Linux 6.1).
    pub fn new(processor: u16) -> io::Result<Queue> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(1)?;
        let empty = Header { in_out: [0; 128], op_in: [0; 128], entry: Default::default() };
        let mut header = Box::new(empty);
        let mut payload: Vec<u8> = Vec::with_capacity(MAX_WRITE as usize);
        let vectors = Box::new([
            libc::iovec { iov_base: (&raw mut *header).cast(), iov_len: size_of::<Header>() },
            libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.capacity() },
        ]);
        Ok(Queue { ring, header, payload, vectors, processor })
    }

    /// Serves until the connection ends.
    ///
    /// # Errors
    /// The kernel does not take the buffers, or an answer.
    pub fn serve(&mut self, connection: &Arc<OwnedFd>, server: &Server) -> io::Result<()> {
        stay_on(self.processor);
        if let Err(error) = self.exchange(connection, REGISTER) {
            return if ended(&error) { Ok(()) } else { Err(error) };
        }
        loop {
            self.answer(server);
            match self.exchange(connection, COMMIT_AND_FETCH) {
                Ok(()) => {}
                Err(error) if ended(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers the request in the buffers with what is to be sent.
    fn answer(&mut self, server: &Server) {
        let Ok((header, _)) = InHeader::read_from_prefix(&self.header.in_out) else { return };
        let size = self.header.entry.payload_size as usize;
        // SAFETY: the kernel has written this many bytes into the buffer of this capacity, which it was told.
        unsafe { self.payload.set_len(size.min(self.payload.capacity())) };
        let request = Request { header, argument: &self.header.op_in };
        let error = match server.answer(&request, &mut self.payload) {
            Ok(()) => 0,
            Err(error) => {
                self.payload.clear();
                -error.code()
            }
        };
        let len = (size_of::<OutHeader>() + self.payload.len()) as u32;
        let out = OutHeader { len, error, unique: header.unique };
        self.header.in_out[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
        self.header.entry.payload_size = self.payload.len() as u32;
    }

    /// Sends a command and waits for the request that answers it.
    fn exchange(&mut self, connection: &Arc<OwnedFd>, command: u32) -> io::Result<()> {
        // The kernel has the addresses for good.
        assert_eq!(self.payload.as_ptr(), self.vectors[1].iov_base.cast(), "a reply outgrew its buffer");
        let entry = self.command(connection, command);
        // SAFETY: the buffers that the kernel reads and fills live as long as the ring, and nothing in this process
        // touches them before the completion that ends this command.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let completed = self.ring.completion().next().map(|done: cqueue::Entry| done.result());
            match completed {
                Some(result) if result < 0 => return Err(io::Error::from_raw_os_error(-result)),
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }

    fn command(&self, connection: &Arc<OwnedFd>, command: u32) -> squeue::Entry128 {
        let commit_id = self.header.entry.commit_id;
        let request = CommandRequest { commit_id, qid: self.processor, ..CommandRequest::default() };
        let mut bytes = [0; 80];
        bytes[..size_of::<CommandRequest>()].copy_from_slice(request.as_bytes());
        let vectors = (command == REGISTER).then_some(self.vectors.as_ptr() as u64);
        let build = opcode::UringCmd80::new(types::Fd(connection.as_raw_fd()), command).cmd(bytes).addr(vectors);
        let mut entry = build.build();
        if command == REGISTER {
            let count = self.vectors.len() as u32;
            // SAFETY: Entry128 is `repr(C)` and begins with the kernel's io_uring_sqe of 64 bytes, whose length of
            // vectors is the aligned u32 there.
            unsafe { (&raw mut entry).cast::<u8>().add(SQE_LEN).cast::<u32>().write(count) };
        }
        entry
    }
}

/// Whether this is how a connection ends: unmounted, or aborted.
fn ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV))
}

/// Keeps this thread on a processor. Where that is not ours to use, callers are not on it either.
fn stay_on(processor: u16) {
    // SAFETY: a cpu_set_t is an array of integers, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: CPU_SET changes only `set`, and ignores a processor beyond its end.
    unsafe { libc::CPU_SET(processor.into(), &mut set) };
    // SAFETY: `set` is of the stated size and outlives the call; 0 is this thread.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        debug!("processor {processor}: {}", io::Error::last_os_error());
    }
}
