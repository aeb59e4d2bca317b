//! Ends the tests when something hangs, and counts panics of any thread.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Far more than the slowest life takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wants to hear something from time to time, as long as it is there.
pub struct Watchdog(Sender<String>);

impl Watchdog {
    pub fn new() -> Watchdog {
        let (sender, heard) = channel();
        thread::spawn(move || {
            let mut doing = String::new();
            loop {
                match heard.recv_timeout(PATIENCE) {
                    Ok(what) => doing = what,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!("hangs for {PATIENCE:?}: {doing}");
                        std::process::abort();
                    }
                }
            }
        });
        Watchdog(sender)
    }

    pub fn doing(&self, what: String) {
        self.0.send(what).unwrap();
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// How many panics there were so far in this process. One in a background thread fails no test by itself.
pub fn panics() -> usize {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(info);
        }));
    });
    PANICS.load(Ordering::Relaxed)
}
