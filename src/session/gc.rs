//! Removes the sessions that are to go: looks at all, decides, and looks again at each under its lock.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::layout::{SessionDir, StoreDir};
use super::lock::Lock;
use super::remove::unique;
use super::retention::{DAY, Known, Reason, Rules, Verdict, decide, expires_at, judge_clock};
use super::status::{Status, rfc3339};
use crate::base::{SessionId, open_ordinary, read_ordinary};
use crate::store::Store;

/// In the registry: when `gc` last ran.
const MARK: &str = ".gc.json";
/// Bytes of it that are read.
const MARK_MAX: u64 = 4096;
/// Days that the events of a session outlive it.
const EVENTS_DAYS: i64 = 90;

/// How a collection is done.
#[derive(Clone, Copy, Debug)]
pub struct Collect<'a> {
    /// When sessions go.
    pub rules: Rules,
    /// Says what would go, and changes nothing.
    pub dry_run: bool,
    /// Goes on with a clock that looks wrong.
    pub clock_is_right: bool,
    /// What the log of events says did it.
    pub by: &'a str,
}

/// A session that went, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Its ID.
    pub session: String,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
    /// Bytes given back to the disk.
    pub bytes_freed: u64,
}

/// A session that stays, because it could not be judged or not be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Its ID.
    pub session: String,
    /// What is wrong.
    pub error: String,
}

/// What a collection came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collection {
    /// Whether nothing was done, only said.
    pub dry_run: bool,
    /// What went, the oldest rule first, by name.
    pub removed: Vec<Collected>,
    /// What nobody can tell the last use of.
    pub unreadable: Vec<Left>,
    /// What should have gone.
    pub failed: Vec<Left>,
    /// How many stay, besides those.
    pub kept: usize,
    /// The sum of what went.
    pub bytes_freed: u64,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    ran: Timestamp,
}

impl StoreDir {
    /// Removes what is to go at `now`, in seconds since 1970. A session that somebody uses, pins, or takes away
    /// meanwhile is left to him. Refuses a clock that jumped, before anything is removed.
    pub fn collect(&self, how: &Collect<'_>, now: i64) -> Result<Collection, SessionError> {
        let mut all = Vec::new();
        for dir in self.sessions()? {
            match self.known(&dir) {
                Ok(known) => all.push(known),
                // Removed while we looked.
                Err(_) if !dir.exists()? => {}
                Err(error) => return Err(error),
            }
        }
        if !how.clock_is_right {
            // A mark that cannot be read is no sign; this run replaces it.
            let mark = self.last_collection().inspect_err(|error| log::warn!("{error}")).ok().flatten();
            let seen = all.iter().filter_map(|known| known.last_use.as_ref().ok().copied()).chain(mark);
            if let Some(jump) = judge_clock(now, seen) {
                return Err(SessionError::Clock { now, jump });
            }
        }
        let mut done = Collection { dry_run: how.dry_run, ..Collection::default() };
        for (known, verdict) in all.iter().zip(decide(now, &how.rules, &all)) {
            match verdict {
                Verdict::Stays => done.kept += 1,
                Verdict::Unreadable(error) => done.unreadable.push(Left { session: known.id.to_string(), error }),
                Verdict::Goes(reason) => self.take(how, known, reason, &mut done),
            }
        }
        if !how.dry_run {
            self.sweep();
            self.forget_old_events(now)?;
            self.mark_collection(now)?;
        }
        Ok(done)
    }

    fn take(&self, how: &Collect<'_>, known: &Known, reason: Reason, done: &mut Collection) {
        let outcome = if how.dry_run {
            Ok(Some(known.bytes))
        } else {
            self.remove_if(&known.id, how.by, &mut |dir| self.is_as_judged(dir, known))
        };
        match outcome {
            Ok(Some(bytes_freed)) => {
                done.bytes_freed += bytes_freed;
                done.removed.push(Collected { session: known.id.to_string(), reason, bytes_freed });
            }
            Ok(None) | Err(SessionError::InUse { .. } | SessionError::Mounted { .. }) => done.kept += 1,
            // Another `gc`, or an `rm`, was first.
            Err(SessionError::Unknown { .. }) => {}
            Err(error) => done.failed.push(Left { session: known.id.to_string(), error: error.to_string() }),
        }
    }

    /// Whether a session, looked at under its lock, is still the one that was decided on.
    fn is_as_judged(&self, dir: &SessionDir, judged: &Known) -> Result<bool, SessionError> {
        if !dir.exists()? {
            return Ok(false);
        }
        let known = self.known(dir)?;
        Ok((&known.last_use, known.idle_days, known.pinned) == (&judged.last_use, judged.idle_days, judged.pinned))
    }

    /// What there is to know of a session for the decision. Changes nothing in it.
    pub(super) fn known(&self, dir: &SessionDir) -> Result<Known, SessionError> {
        let path = dir.lock_file();
        let holder = Lock::holder(&path).map_err(|source| SessionError::Store { path, what: "read", source })?;
        let mut known = Known {
            id: dir.id().clone(),
            last_use: Ok(0),
            idle_days: None,
            pinned: false,
            in_use: holder.is_some(),
            bytes: dir.disk_bytes(),
        };
        // Who cannot read the settings cannot tell that there is no pin among them.
        known.last_use = self.entry(dir.id()).map_err(|error| error.to_string()).and_then(|entry| {
            known.idle_days = entry.settings.idle_days;
            known.pinned = entry.settings.pinned;
            known.in_use |= entry.switching.is_some();
            last_use(dir, entry.witness.as_ref())
        });
        Ok(known)
    }

    /// When sessions were last collected, in seconds since 1970.
    fn last_collection(&self) -> Result<Option<i64>, SessionError> {
        let path = self.registry().join(MARK);
        match read_ordinary(&path, MARK_MAX) {
            Ok(text) => match serde_json::from_slice::<Mark>(&text) {
                Ok(mark) => Ok(Some(mark.ran.as_second())),
                Err(why) => Err(SessionError::Registry { path, why }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SessionError::Store { path, what: "read", source }),
        }
    }

    fn mark_collection(&self, now: i64) -> Result<(), SessionError> {
        let all = self.registry();
        // A store that holds nothing has nothing to be judged by either.
        if !all.is_dir() {
            return Ok(());
        }
        // Two may do this at once, also with the same process ID in two containers.
        let new = all.join(format!("{MARK}.new-{}-{}", std::process::id(), unique()));
        let path = all.join(MARK);
        let write = || {
            let ran = Timestamp::from_second(now).map_err(io::Error::other)?;
            let mut file = open_ordinary(File::options().write(true).create(true).truncate(true).mode(0o600), &new)?;
            file.write_all(&serde_json::to_vec(&Mark { ran })?)?;
            file.sync_all()?;
            self.give_to_owner(&new)?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| SessionError::Store { path: path.clone(), what: "written", source })
    }

    /// Takes away what the registry has on sessions that are long gone.
    fn forget_old_events(&self, now: i64) -> Result<(), SessionError> {
        for id in self.registered()? {
            // One that is there, or whose settings or witness are, is not gone.
            if !self.session(&id).path().exists()
                && !self.has_entry(&id)
                && self.newest_event(&id)? < now - EVENTS_DAYS * DAY
            {
                self.forget_events(&id)?;
            }
        }
        Ok(())
    }
}

/// When a session was last used. A database that is not what the store has seen says nothing about that.
fn last_use(dir: &SessionDir, witness: Option<&super::receipt::Witness>) -> Result<i64, String> {
    let store = Store::open_read_only(&dir.database()).map_err(|error| error.to_string())?;
    let superblock = store.superblock().map_err(|error| error.to_string())?;
    if let Some(lacks) = witness.map_or(Ok(None), |seen| seen.missing_in(&store)).map_err(|error| error.to_string())? {
        return Err(lacks.to_string());
    }
    let last = superblock.last_active.secs;
    if superblock.clean {
        return Ok(last);
    }
    // What was acknowledged after the last commit is only in the journal.
    let journal = fs::metadata(dir.journal()).and_then(|meta| meta.modified()).ok();
    let written = journal.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map(|since| since.as_secs());
    Ok(last.max(written.and_then(|secs| i64::try_from(secs).ok()).unwrap_or(last)))
}

impl Status {
    /// When the session may be removed, in seconds since 1970: never what is pinned or in use.
    pub fn expires_at(&self, idle_days: u32) -> Option<i64> {
        let last: Timestamp = self.last_active.parse().ok()?;
        let may_go = !self.pinned && self.pid.is_none() && self.error.is_none();
        may_go.then(|| expires_at(last.as_second(), self.idle_days.unwrap_or(idle_days)))
    }

    /// Says when it goes, where sessions without a number of their own may be idle for so many days.
    pub fn expiring(mut self, idle_days: u32) -> Status {
        self.expires = self.expires_at(idle_days).map(|at| rfc3339(crate::base::Timestamp::new(at, 0)));
        self.idle_days = Some(self.idle_days.unwrap_or(idle_days));
        self
    }
}

impl StoreDir {
    /// Changes how long a session is kept; it has to be there.
    pub fn retain(&self, id: &SessionId, change: impl FnOnce(&mut super::Settings)) -> Result<(), SessionError> {
        self.existing(id)?;
        let turn = self.turn(id)?;
        // It may have been removed while we waited.
        self.existing(id)?;
        self.update_in(&turn, id, |entry| change(&mut entry.settings)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::super::events::What;
    use super::super::{Holder, OpenOptions};
    use super::*;

    fn now() -> i64 {
        crate::base::Timestamp::now().secs
    }

    fn id(name: &str) -> SessionId {
        name.parse().unwrap()
    }

    /// Opens a session and stops it again: what a mount is to `gc`. False when there is none.
    fn used(store: &StoreDir, name: &str, existing: bool) -> bool {
        match store.lock(&id(name), existing, &Holder::current("mount", None)) {
            Ok(locked) => {
                locked.open(&OpenOptions::default()).unwrap().stop().unwrap();
                true
            }
            // Gone already, or just being judged.
            Err(SessionError::Unknown { .. } | SessionError::InUse { .. }) => false,
            // It went between the look and the lock.
            Err(SessionError::Store { source, .. }) if source.kind() == io::ErrorKind::NotFound => false,
            Err(error) => panic!("{name}: {error}"),
        }
    }

    fn age(store: &StoreDir, name: &str, days: i64) {
        let last = crate::base::Timestamp::new(now() - days * DAY, 0);
        Store::set_last_active(&store.session(&id(name)).database(), last).unwrap();
    }

    /// One that was made as a copy of another, which is quicker than a new one.
    fn copied(store: &StoreDir, of: &str, name: &str) {
        let dir = store.session(&id(name));
        dir.create().unwrap();
        fs::copy(store.session(&id(of)).database(), dir.database()).unwrap();
    }

    fn collecting(idle_days: u32) -> Collect<'static> {
        let rules = Rules { idle_days, store_bytes: None };
        Collect { rules, dry_run: false, clock_is_right: false, by: "gc" }
    }

    fn names(store: &StoreDir) -> BTreeSet<String> {
        store.sessions().unwrap().iter().map(|dir| dir.id().to_string()).collect()
    }

    #[test]
    fn under_load_exactly_what_the_rules_say_goes() {
        const EACH: usize = 125;
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        assert!(used(&store, "fresh", false));
        copied(&store, "fresh", "old");
        age(&store, "old", 20);
        let group = |name: &str| (0..EACH).map(|n| format!("{name}-{n}")).collect::<Vec<String>>();
        for name in [group("idle"), group("busy"), group("pinned")].concat() {
            copied(&store, "old", &name);
        }
        group("fresh").iter().for_each(|name| copied(&store, "fresh", name));
        group("pinned").iter().for_each(|name| store.retain(&id(name), |settings| settings.pinned = true).unwrap());
        let held = store.lock(&id("busy-0"), true, &Holder::current("mount", None)).unwrap();
        let (ends, at, rounds) = (AtomicBool::new(false), AtomicUsize::new(1), AtomicUsize::new(0));
        let (alive, made) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let n = at.fetch_add(1, Ordering::Relaxed);
                        if n >= EACH {
                            break;
                        }
                        let (old, new) = (format!("busy-{n}"), format!("new-{n}"));
                        if used(&store, &old, true) {
                            alive.lock().unwrap().insert(old);
                        }
                        if n.is_multiple_of(4) {
                            assert!(used(&store, &new, false));
                            made.lock().unwrap().insert(new);
                        }
                    }
                    ends.store(true, Ordering::Relaxed);
                });
            }
            // Two at once, until there is no load any more.
            for _ in 0..2 {
                scope.spawn(|| {
                    while at.load(Ordering::Relaxed) < EACH / 4 {
                        std::thread::yield_now();
                    }
                    while !ends.load(Ordering::Relaxed) {
                        let done = store.collect(&collecting(14), now()).unwrap();
                        assert!(done.failed.is_empty() && done.unreadable.is_empty(), "{done:?}");
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        drop(held);
        let mut expected: BTreeSet<String> = [group("fresh"), group("pinned")].concat().into_iter().collect();
        expected.extend(["fresh".to_owned(), "busy-0".to_owned()]);
        let (alive, made) = (alive.into_inner().unwrap(), made.into_inner().unwrap());
        eprintln!("{} collections, {} used meanwhile, {} made", rounds.into_inner(), alive.len(), made.len());
        assert!(alive.len() + 4 >= EACH / 4, "too little load to tell anything");
        expected.extend(alive);
        expected.extend(made);
        // What was just judged when somebody wanted it, or not yet, goes now; and what was held.
        store.collect(&collecting(14), now()).unwrap();
        expected.remove("busy-0");
        assert_eq!(names(&store), expected);
        assert!(
            fs::read_dir(temp.path())
                .unwrap()
                .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with(".removed-") })
        );
    }

    #[test]
    fn what_was_used_or_pinned_after_the_decision_stays() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        for name in ["a", "b", "c"] {
            assert!(used(&store, name, false));
            age(&store, name, 20);
        }
        let judged: Vec<Known> = store.sessions().unwrap().iter().map(|dir| store.known(dir).unwrap()).collect();
        store.retain(&id("a"), |settings| settings.pinned = true).unwrap();
        assert!(used(&store, "b", true));
        let mut done = Collection::default();
        let reason = Reason::Idle { days: 20, idle_days: 14 };
        judged.iter().for_each(|known| store.take(&collecting(14), known, reason, &mut done));
        assert_eq!((done.kept, done.removed.len()), (2, 1));
        assert_eq!(names(&store), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn a_pin_that_was_set_holds_and_one_that_came_too_late_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        let (mut held, mut late) = (0, 0);
        for round in 0..100 {
            let name = format!("s-{round}");
            assert!(used(&store, &name, false));
            age(&store, &name, 20);
            let judged = store.known(&store.session(&id(&name))).unwrap();
            let pinned = std::thread::scope(|scope| {
                let collecting = scope.spawn(|| {
                    let mut done = Collection::default();
                    store.take(&collecting(14), &judged, Reason::Idle { days: 20, idle_days: 14 }, &mut done);
                    assert!(done.failed.is_empty(), "{done:?}");
                });
                // Sooner or later.
                std::thread::sleep(std::time::Duration::from_micros(round % 20 * 20));
                let pinned = store.retain(&id(&name), |settings| settings.pinned = true);
                collecting.join().unwrap();
                pinned
            });
            match pinned {
                Ok(()) => {
                    assert!(
                        names(&store).contains(&name) && store.entry(&id(&name)).unwrap().settings.pinned,
                        "{name}"
                    );
                    held += 1;
                }
                Err(SessionError::Unknown { .. }) => {
                    assert!(!names(&store).contains(&name));
                    late += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        eprintln!("{held} held, {late} came too late");
    }

    #[test]
    fn damaged_ones_stay_and_are_named_and_nothing_is_touched_by_looking() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        for name in ["good", "bad", "settings"] {
            assert!(used(&store, name, false));
            age(&store, name, 20);
        }
        fs::write(store.session(&id("bad")).database(), "no database").unwrap();
        fs::write(store.registry_of(&id("settings")).join("entry.json"), "{").unwrap();
        let before = fs::read(store.session(&id("good")).database()).unwrap();
        let dry = store.collect(&Collect { dry_run: true, ..collecting(14) }, now()).unwrap();
        assert_eq!(fs::read(store.session(&id("good")).database()).unwrap(), before);
        let done = store.collect(&collecting(14), now()).unwrap();
        assert_eq!(Collection { dry_run: false, ..dry }, done);
        let unreadable: Vec<&str> = done.unreadable.iter().map(|left| left.session.as_str()).collect();
        assert_eq!(unreadable, ["bad", "settings"]);
        assert_eq!(names(&store), BTreeSet::from(["bad".to_owned(), "settings".to_owned()]));
        let events = store.events(&id("good")).unwrap();
        assert!(matches!(&events.last().unwrap().what, What::Removed { by, .. } if by == "gc"));
    }

    #[test]
    fn a_jumped_clock_is_refused_and_old_events_go() {
        let temp = tempfile::tempdir().unwrap();
        let store = StoreDir::at(temp.path()).unwrap();
        assert!(used(&store, "a", false));
        let refused = |at| matches!(store.collect(&collecting(14), at), Err(SessionError::Clock { .. }));
        assert!(refused(now() - DAY) && refused(now() + 31 * DAY));
        assert_eq!(names(&store).len(), 1);
        let sure = Collect { clock_is_right: true, ..collecting(14) };
        assert_eq!(store.collect(&sure, now() + 31 * DAY).unwrap().removed.len(), 1);
        // The store is empty, and still knows when that was.
        assert!(refused(now()));
        assert!(store.registry_of(&id("a")).is_dir());
        store.collect(&sure, now() + 91 * DAY).unwrap();
        assert!(!store.registry_of(&id("a")).exists());
    }
}
