//! Signals, taken one by one where they can be dealt with: blocked, and read from a descriptor or waited for.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    /// These.
    pub fn of(signals: &[i32]) -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset makes `set` a value; sigaddset only changes it, and ignores numbers that are none.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            Signals(set.assume_init())
        }
    }

    /// Blocks them in this thread and those it will start; returns what was blocked before.
    pub fn block(&self) -> io::Result<Signals> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are valid for the call, which fills `before` when it succeeds.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &self.0, before.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: filled, see above.
        Ok(Signals(unsafe { before.assume_init() }))
    }

    /// Makes this exactly what is blocked. Only system calls: it may run between fork and exec.
    pub fn restore(&self) {
        // SAFETY: the set is valid; pthread_sigmask is async-signal-safe.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }

    /// Waits for one of them, which must be blocked.
    pub fn wait(&self) -> i32 {
        let mut signal = 0;
        // SAFETY: the set and `signal` are valid for the call.
        while unsafe { libc::sigwait(&self.0, &mut signal) } != 0 {}
        signal
    }

    /// A descriptor to read them from; they must be blocked.
    pub fn descriptor(&self) -> io::Result<SignalFile> {
        // SAFETY: the set is valid; the descriptor returned is new and owned by nobody else.
        let fd = unsafe { libc::signalfd(-1, &self.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        // SAFETY: just opened, see above.
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(SignalFile(unsafe { File::from_raw_fd(fd) })) }
    }
}

/// Signals to be read.
pub struct SignalFile(File);

/// One that came.
#[derive(Clone, Copy, Debug)]
pub struct Caught {
    /// Which.
    pub signal: i32,
    /// Whether the kernel sent it: a key on the terminal, which the whole foreground process group got, or the
    /// terminal's hangup, which the leader of the session got.
    pub from_kernel: bool,
}

impl Caught {
    /// Whether it is to be passed on to a command in our process group. A key on the terminal went there as well; that the
    /// terminal is gone, the kernel tells the leader of its session alone.
    pub fn is_ours_alone(&self) -> bool {
        // SAFETY: touches no memory.
        let leads_session = || unsafe { libc::getsid(0) == libc::getpid() };
        !self.from_kernel || (self.signal == libc::SIGHUP && leads_session())
    }
}

impl SignalFile {
    /// The next one, if there is one.
    pub fn next(&mut self) -> Option<Caught> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let done = self.0.read(&mut info).ok()?;
        if done != info.len() {
            return None;
        }
        // SAFETY: the kernel filled in a whole signalfd_siginfo, a plain struct of integers, at any alignment.
        let info: libc::signalfd_siginfo = unsafe { std::ptr::read_unaligned(info.as_ptr().cast()) };
        Some(Caught { signal: info.ssi_signo as i32, from_kernel: info.ssi_code == SI_KERNEL })
    }

    /// For `poll`.
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `si_code` of a signal that the kernel sent by itself; the libc crate does not have it everywhere.
const SI_KERNEL: i32 = 0x80;

/// Gives signals their default action. Who started us may have had them ignored, which is inherited: then a blocked
/// one would never arrive, and an ended child never be reported.
pub fn reset(signals: &[i32]) {
    for &signal in signals {
        // SAFETY: the default action is no function of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Sends a signal. A process that has ended already is none that could complain.
pub fn send(pid: libc::pid_t, signal: i32) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(pid, signal) };
}

/// Waits until one of the descriptors can be read, or for so many milliseconds (-1: without end).
pub fn poll(descriptors: &[RawFd], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut entries: Vec<libc::pollfd> =
        descriptors.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    loop {
        // SAFETY: `entries` is as long as said and valid for the call to fill.
        let result = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout_ms) };
        if result >= 0 {
            return Ok(entries.iter().map(|entry| entry.revents != 0).collect());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
