//! The kernel adapter: converts a FUSE request, calls [`Fs`], converts the answer. It decides nothing.

mod adapter;
mod convert;
mod invalidate;
mod kernel;
mod mount;
mod prime;
mod reply;
mod uring;
mod waiters;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use fuser::{Config, Notifier, Session, SessionACL};
use log::{debug, error, info, warn};
use parking_lot::Mutex;

use self::adapter::Adapter;
pub use self::invalidate::Invalidator;
use self::invalidate::Modes;
use self::kernel::Agreed;
pub use self::kernel::KERNEL_MIN;
pub use self::mount::{HELPER, MountError};
use self::prime::Prime;
use self::uring::{Rings, Server};
use self::waiters::Waiters;
use crate::fs::Fs;

/// Threads that read requests from `/dev/fuse`: a second one goes on while the first fetches something from the store,
/// whatever the number of processors. Each costs a single caller about 1.3 µs a request, since they take turns.
/// (`docs/decisions.md`)
const EVENT_LOOPS: usize = 2;

/// How long a mount waits for its own first requests before it is handed over as it is.
const PRIME_PATIENCE: Duration = Duration::from_secs(5);

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Let other users in (`allow_other`).
    pub allow_other: bool,
    /// The source shown in `/proc/mounts`.
    pub fsname: String,
    /// How the kernel hands over its requests.
    pub transport: Transport,
}

/// How the kernel hands over its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// By io_uring where this machine can, else by `/dev/fuse`.
    #[default]
    Auto,
    /// By io_uring (Linux 6.14), or the mount fails.
    Uring,
    /// By `/dev/fuse`, as every kernel can.
    Device,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Auto => "auto",
            Transport::Uring => "uring",
            Transport::Device => "device",
        })
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(name: &str) -> Result<Transport, String> {
        match name {
            "auto" => Ok(Transport::Auto),
            "uring" => Ok(Transport::Uring),
            "device" => Ok(Transport::Device),
            _ => Err(format!("no transport is called {name}: auto, uring or device")),
        }
    }
}

impl Transport {
    /// The rings, where they are wanted and can be had.
    fn rings(self) -> Result<Option<Rings>, MountError> {
        match (self, (self != Transport::Device).then(Rings::prepare)) {
            (_, None) => Ok(None),
            (_, Some(Ok(rings))) => Ok(Some(rings)),
            (Transport::Uring, Some(Err(error))) => Err(MountError::Uring(error)),
            (_, Some(Err(error))) => {
                info!("requests come by /dev/fuse, which is slower than io_uring: {error}");
                Ok(None)
            }
        }
    }
}

/// Why requests cannot come by io_uring on this machine, for this process.
pub fn uring_refused() -> Option<String> {
    Rings::prepare().err().map(|error| error.to_string())
}

/// A mount being served by threads of this process. Dropped, it is taken away, in use or not.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    device: Option<libc::dev_t>,
    fs: Arc<Fs>,
    // The one strong reference: it holds the connection open, and must end with it.
    notifier: Arc<Mutex<Option<Arc<Notifier>>>>,
    ended: Arc<AtomicBool>,
    threads: Mutex<Option<JoinHandle<()>>>,
    agreed: Agreed,
}

impl Mounted {
    /// Mounts and starts serving; returns once the kernel has accepted the mount and knows how we want to be asked.
    ///
    /// # Errors
    /// What failed is a [`MountError`] inside the `io::Error`.
    pub fn start(fs: Arc<Fs>, mountpoint: &Path, options: &MountOptions) -> io::Result<Mounted> {
        let mountpoint =
            mountpoint.canonicalize().map_err(|error| MountError::Mountpoint(mountpoint.to_owned(), error))?;
        let rings = options.transport.rings()?;
        let connection = mount::mount(&mountpoint, options)?;
        let ring_connection = connection.try_clone().inspect_err(|_| give_up(&mountpoint))?;
        let prime = Arc::new(Prime::new());
        let (waiters, mut waiting_threads) = Waiters::start(&fs).inspect_err(|_| give_up(&mountpoint))?;
        let agreed = Arc::new(OnceLock::new());
        let modes = Modes::default();
        let adapter = Adapter {
            fs: Arc::clone(&fs),
            waiters,
            prime: Arc::clone(&prime),
            modes: modes.clone(),
            ring: rings.is_some(),
            agreed: Arc::clone(&agreed),
        };

        let mut config = Config::default();
        // With a ring, all that comes this way is what nobody waits for.
        config.n_threads = Some(if rings.is_some() { 1 } else { EVENT_LOOPS });
        // Who may come in is the kernel's to decide, by allow_other; fuser's own rule would only refuse more.
        let session = Session::from_fd(adapter, connection, SessionACL::All, config)
            .inspect_err(|_| give_up(&mountpoint))
            .map_err(MountError::Handshake)?;
        let agreed = agreed.get().cloned().ok_or_else(|| io::Error::other("there was no handshake"));
        let agreed = agreed.inspect_err(|_| give_up(&mountpoint)).map_err(MountError::Handshake)?;
        let notifier = Arc::new(session.notifier());
        modes.connect(&notifier);
        let notifier = Arc::new(Mutex::new(Some(notifier)));
        let ended = Arc::new(AtomicBool::new(false));
        match rings.filter(|_| agreed.ring) {
            Some(rings) => {
                let at = mountpoint.clone();
                let give_up = Box::new(move || give_up(&at));
                let server = Server { fs: Arc::clone(&fs), prime: Arc::clone(&prime), modes, give_up };
                waiting_threads.extend(rings.serve(ring_connection, server));
            }
            None => drop(ring_connection),
        }

        let (held, flag, at) = (Arc::clone(&notifier), Arc::clone(&ended), mountpoint.clone());
        let serve = move || {
            if let Err(error) = session.run() {
                error!("serving {}: {error}", at.display());
            }
            held.lock().take();
            flag.store(true, Ordering::Release);
            for thread in waiting_threads {
                let _ = thread.join();
            }
        };
        let threads = thread::Builder::new().name("fuse".into()).spawn(serve).inspect_err(|_| give_up(&mountpoint))?;
        let threads = Mutex::new(Some(threads));
        let mut mounted = Mounted { mountpoint, device: None, fs, notifier, ended, threads, agreed };
        mounted.device = mounted.prime(prime);
        Ok(mounted)
    }

    /// Where.
    pub fn mountpoint(&self) -> PathBuf {
        self.mountpoint.clone()
    }

    /// How its requests come: never [`Transport::Auto`].
    pub fn transport(&self) -> Transport {
        if self.agreed.ring { Transport::Uring } else { Transport::Device }
    }

    /// The version of the protocol that the kernel speaks, and what it does not have of what we ask for.
    pub fn protocol(&self) -> (String, Vec<String>) {
        (self.agreed.version.clone(), self.agreed.lacks.clone())
    }

    /// For telling the kernel of changes that it did not ask for.
    pub fn invalidator(&self) -> Invalidator {
        let notifier = self.notifier.lock().as_ref().map(Arc::downgrade).unwrap_or_default();
        Invalidator { notifier, fs: Arc::clone(&self.fs) }
    }

    /// Blocks until the mount is gone, whoever unmounted it, and every serving thread has ended.
    pub fn wait(&self) {
        // Whoever waits second waits for the lock.
        let mut threads = self.threads.lock();
        if let Some(threads) = threads.take() {
            let _ = threads.join();
        }
    }

    /// Takes the mount away: `lazy` also while files on it are open (they get ENOTCONN), otherwise EBUSY.
    ///
    /// Returns once it is gone from the tree; [`Mounted::wait`] waits for the end of what is under way. For an ordinary
    /// user, who cannot end a connection where `/sys/fs/fuse/connections` is not mounted, a lazy unmount leaves open files
    /// working until they are closed or this process ends.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        // Someone else may have unmounted it, and someone again may have mounted something else there.
        if self.device.is_some_and(|ours| mount::device_at(&self.mountpoint).is_ok_and(|there| there != ours)) {
            return Ok(());
        }
        mount::unmount(&self.mountpoint, self.device, lazy)
    }

    /// Sends the mount its first requests, from a thread of its own: were the mount not to answer, we could still go on.
    fn prime(&self, prime: Arc<Prime>) -> Option<libc::dev_t> {
        let (done, result) = bounded(1);
        let at = self.mountpoint.clone();
        let ask = move || {
            let _ = done.send(prime.run(&at));
        };
        if let Err(error) = thread::Builder::new().name("prime".into()).spawn(ask) {
            warn!("{} is not primed: {error}", self.mountpoint.display());
            return None;
        }
        match result.recv_timeout(PRIME_PATIENCE) {
            Ok(Ok(device)) => {
                kernel::set_read_ahead(device);
                Some(device)
            }
            Ok(Err(error)) => {
                debug!("{} is not primed: {error}", self.mountpoint.display());
                None
            }
            Err(_) => {
                warn!("{} does not answer", self.mountpoint.display());
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(true) {
            warn!("{} stays mounted: {error}", self.mountpoint.display());
        }
    }
}

fn give_up(mountpoint: &Path) {
    if let Err(error) = mount::unmount(mountpoint, None, true) {
        warn!("{} stays mounted: {error}", mountpoint.display());
    }
}
