//! Verification: every row and every byte of a session held against the digest and the checksums that its commits left.
//! A resume compares what the last commit says of itself, which costs nothing; this looks at what is there.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::events::What;
use super::layout::SessionDir;
use super::receipt::Receipt;
use crate::base::memory;
use crate::fs::Fs;
use crate::store::{Interrupt, Store, StoreError, check_until};

/// What a verification came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The transaction that was looked at.
    pub txid: u64,
    /// What is wrong with it, counted; 0 when all is well.
    pub findings: u64,
    /// The first of that.
    pub first: Option<String>,
}

/// How far the verification of a session has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// Not begun.
    #[default]
    None,
    /// Under way.
    Running,
    /// Nothing was found.
    Ok,
    /// Something was.
    Failed,
}

impl From<&Verification> for Verified {
    fn from(verification: &Verification) -> Verified {
        if verification.findings == 0 { Verified::Ok } else { Verified::Failed }
    }
}

/// Verifies a session beside its use.
#[derive(Debug, Default)]
pub struct Verifier {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    now: Mutex<Now>,
    ending: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    state: Verified,
    ending: bool,
    interrupt: Option<Interrupt>,
}

impl Verifier {
    /// How far it has come.
    pub fn state(&self) -> Verified {
        self.shared.now.lock().state
    }

    /// Verifies now, on this thread.
    pub(super) fn verify(&self, dir: &SessionDir) -> Result<Verification, StoreError> {
        self.shared.verify(dir)
    }

    /// Starts a thread that keeps `found` as the session's witness, and verifies the session once nothing has been
    /// committed for `idle`.
    pub(super) fn start(&self, dir: &SessionDir, fs: &Arc<Fs>, found: &Receipt, idle: Duration) -> std::io::Result<()> {
        let (shared, dir, fs, found) = (Arc::clone(&self.shared), dir.clone(), Arc::clone(fs), found.clone());
        let work = move || {
            // Not before the mount serves: it waits for the disk. From here on a database without what this mount has
            // committed, its WAL lost for one, is older than its witness.
            dir.home().witness(dir.id(), &found, false);
            if !shared.wait_until_idle(&fs, idle) || shared.now.lock().state != Verified::None {
                return;
            }
            give_way();
            if let Err(error) = shared.verify(&dir)
                && !shared.now.lock().ending
            {
                log::warn!("session {} could not be verified: {error}", dir.id());
            }
            memory::give_back();
        };
        *self.thread.lock() = Some(std::thread::Builder::new().name("verifier".into()).spawn(work)?);
        Ok(())
    }

    /// Ends what is under way, so that the session database can be closed.
    pub(super) fn end(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        self.shared.now.lock().ending = true;
        self.shared.ending.notify_all();
        while !thread.is_finished() {
            if let Some(interrupt) = &self.shared.now.lock().interrupt {
                interrupt.say();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if thread.join().is_err() {
            log::error!("the verifier panicked");
        }
    }
}

impl Shared {
    /// False when it is to end.
    fn wait_until_idle(&self, fs: &Fs, idle: Duration) -> bool {
        let mut now = self.now.lock();
        let mut seen = None;
        loop {
            let health = fs.health();
            let state = Some((health.txid, health.dirty_bytes));
            if state == seen {
                return true;
            }
            seen = state;
            let until = Instant::now() + idle;
            while !now.ending && !self.ending.wait_until(&mut now, until).timed_out() {}
            if now.ending {
                return false;
            }
        }
    }

    fn verify(&self, dir: &SessionDir) -> Result<Verification, StoreError> {
        let started = Instant::now();
        self.now.lock().state = Verified::Running;
        let outcome = self.look(dir);
        let mut now = self.now.lock();
        now.interrupt = None;
        now.state = outcome.as_ref().map_or(Verified::None, Verified::from);
        drop(now);
        let verification = outcome?;
        if let Some(first) = &verification.first {
            log::error!("session {} is damaged: {} findings, the first: {first}", dir.id(), verification.findings);
        }
        let (store, kept) = (dir.home(), verification.clone());
        if let Err(error) = store.update_entry(dir.id(), |entry| entry.verified = Some(kept)) {
            log::warn!("session {}: its verification could not be kept: {error}", dir.id());
        }
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        store.record(dir.id(), What::Verified { verification: verification.clone(), millis });
        Ok(verification)
    }

    /// Through connections of its own, so that nobody who serves a request waits for one that is lent.
    fn look(&self, dir: &SessionDir) -> Result<Verification, StoreError> {
        let store = Store::open_read_only(&dir.database())?;
        let txid = store.superblock()?.txid.0;
        let mut begin = |interrupt| self.now.lock().interrupt = Some(interrupt);
        let findings = check_until(&store, &mut begin, &mut |_, _| ())?;
        Ok(Verification { txid, findings: findings.len() as u64, first: findings.first().map(ToString::to_string) })
    }
}

/// Has this thread run only when no other one wants to.
fn give_way() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads `none`; 0 is the calling thread (sched_setscheduler(2), on Linux).
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) } != 0 {
        log::debug!("the verifier keeps its priority: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::{Holder, OpenOptions, Session, StoreDir};
    use super::*;
    use crate::base::Ino;
    use crate::fs::{Caller, WriteFlags};

    const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

    fn open(store: &StoreDir) -> Session {
        let locked = store.lock(&"a".parse().unwrap(), false, &Holder::current("test", None)).unwrap();
        locked.open(&OpenOptions::default()).unwrap()
    }

    /// A stopped session of a mebibyte that does not compress.
    fn stopped() -> (tempfile::TempDir, StoreDir) {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        let session = open(&store);
        let file = session.fs().mknod(&CALLER, Ino::ROOT, b"file", libc::S_IFREG | 0o600, 0).unwrap().ino;
        let mut state = 7_u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..1 << 20).map(|_| byte()).collect();
        session.fs().write(file, 0, &noise, WriteFlags::default()).unwrap();
        session.stop().unwrap();
        (temp, store)
    }

    fn verified(session: &Session) -> Verified {
        session.watch(Duration::from_millis(10)).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !matches!(session.verifier().state(), Verified::Ok | Verified::Failed) {
            assert!(Instant::now() < until, "not verified within 20 seconds");
            std::thread::sleep(Duration::from_millis(5));
        }
        session.verifier().state()
    }

    #[test]
    fn an_idle_session_is_verified_and_its_witness_kept() {
        let (_temp, store) = stopped();
        let session = open(&store);
        assert_eq!(verified(&session), Verified::Ok);
        session.stop().unwrap();
        let last = store.events(session.id()).unwrap().pop().unwrap().what;
        assert!(matches!(last, What::Verified { verification: Verification { findings: 0, .. }, .. }), "{last:?}");
        let entry = store.entry(session.id()).unwrap();
        assert_eq!(entry.witness.unwrap().receipt, session.resume().receipt);
        assert_eq!(entry.verified.unwrap().findings, 0);
    }

    #[test]
    fn what_is_damaged_is_found_beside_the_use() {
        let (_temp, store) = stopped();
        let path = store.session(&"a".parse().unwrap()).database();
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let (middle, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
        let session = open(&store);
        assert_eq!(verified(&session), Verified::Failed);
        session.stop().unwrap();
        let verification = store.entry(session.id()).unwrap().verified.unwrap();
        assert!(verification.findings > 0 && verification.first.is_some(), "{verification:?}");
    }

    #[test]
    fn a_stop_does_not_wait_for_a_verification() {
        let (_temp, store) = stopped();
        for wait in 0..20 {
            let session = open(&store);
            session.watch(Duration::ZERO).unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            let begun = Instant::now();
            session.stop().unwrap();
            // Who holds the session database open keeps its WAL for a second, and then for good.
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?} after {wait} ms", begun.elapsed());
            assert!(!session.dir().wal().exists(), "after {wait} ms");
        }
    }
}
