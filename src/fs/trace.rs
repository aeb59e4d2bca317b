//! Who watches the operations of a mount, and what they are told of each.
//!
//! While nobody watches, an operation costs one relaxed load more. What is told goes to a queue of bounded length for each
//! who watches: who does not keep up loses some and is told how many. Nobody waits for them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use super::operations::OpKind;
use crate::base::limits::{WATCH_QUEUE, WATCHES_MAX};
use crate::base::{Errno, Ino, Timestamp};

thread_local! {
    /// The process that what this thread serves is for.
    static ASKER: Cell<u32> = const { Cell::new(0) };
}

/// Says which process asks for what this thread does next, for who watches; 0 is one that the kernel does not name.
pub fn asked_by(pid: u32) {
    ASKER.set(pid);
}

/// Which process was said to ask.
pub fn asker() -> u32 {
    ASKER.get()
}

/// What an operation is about: an inode, or a name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The inode; with a name, the directory.
    pub ino: Ino,
    /// The name.
    pub name: Option<Box<[u8]>>,
}

/// An operation that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it ended.
    pub ended: Timestamp,
    /// How long it took in the file system.
    pub took: Duration,
    /// What it was.
    pub kind: OpKind,
    /// What it was about.
    pub on: Place,
    /// The other end of a rename, a link, a copy.
    pub to: Option<Place>,
    /// The inode that was found or made.
    pub found: Option<Ino>,
    /// Where in the file, or in the directory's order.
    pub offset: Option<u64>,
    /// Bytes read, written or copied; of one that failed, and of other kinds, what was asked for.
    pub size: Option<u64>,
    /// How it failed.
    pub error: Option<Errno>,
    /// Who asked; 0 is the kernel itself, or a process that this mount cannot see.
    pub pid: u32,
    /// How many were lost between the one told before and this.
    pub lost: u64,
}

/// What somebody wants to be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// These kinds; all when it is empty.
    pub kinds: Vec<OpKind>,
    /// Only what failed.
    pub errors: bool,
    /// Only what took at least so long.
    pub slow: Duration,
    /// Not what this process asks for: the one that writes down what it is told. 0 is none.
    pub not_by: u32,
}

impl Filter {
    fn wants(&self, kind: OpKind, took: Duration, failed: bool, pid: u32) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (failed || !self.errors)
            && took >= self.slow
            && (pid == 0 || pid != self.not_by)
    }
}

/// What is asked of an operation, as long as it lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    on: (Ino, Option<&'a [u8]>),
    to: Option<(Ino, Option<&'a [u8]>)>,
    offset: Option<u64>,
    size: Option<u64>,
}

impl<'a> Asked<'a> {
    /// Of an inode.
    pub fn of(ino: Ino) -> Asked<'a> {
        Asked { on: (ino, None), to: None, offset: None, size: None }
    }

    /// Of a name in a directory.
    pub fn named(dir: Ino, name: &'a [u8]) -> Asked<'a> {
        Asked { on: (dir, Some(name)), ..Asked::of(dir) }
    }

    /// With another inode.
    pub fn and(self, ino: Ino) -> Asked<'a> {
        Asked { to: Some((ino, None)), ..self }
    }

    /// With another name.
    pub fn and_named(self, dir: Ino, name: &'a [u8]) -> Asked<'a> {
        Asked { to: Some((dir, Some(name))), ..self }
    }

    /// From here on.
    pub fn from(self, offset: u64) -> Asked<'a> {
        Asked { offset: Some(offset), ..self }
    }

    /// So many bytes.
    pub fn bytes(self, size: u64) -> Asked<'a> {
        Asked { size: Some(size), ..self }
    }
}

/// What came of it, if it succeeded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// The inode that was found or made.
    pub found: Option<Ino>,
    /// Bytes that went, where that may be fewer than were asked for.
    pub moved: Option<u64>,
}

/// One who watches, as those know them who serve.
#[derive(Debug)]
struct Queue {
    id: u64,
    filter: Filter,
    sender: Sender<Operation>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Queues {
    all: Vec<Queue>,
    last_id: u64,
    ended: bool,
}

/// Those who watch a mount.
#[derive(Debug)]
pub(super) struct Watchers {
    /// How many there are. Without order: what ends as somebody comes need not be told.
    count: AtomicUsize,
    queues: RwLock<Queues>,
    /// Each watch holds the sender, so that its receiver knows when the last is gone.
    held: RwLock<Option<Sender<()>>>,
    gone: Receiver<()>,
}

impl Default for Watchers {
    fn default() -> Watchers {
        let (held, gone) = bounded(0);
        Watchers { count: AtomicUsize::new(0), queues: RwLock::default(), held: RwLock::new(Some(held)), gone }
    }
}

impl Watchers {
    /// Whether anybody wants to know.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Tells those who want to know of an operation that has ended.
    #[cold]
    pub fn tell(&self, kind: OpKind, asked: &Asked<'_>, took: Duration, result: Result<Outcome, Errno>) {
        let (Outcome { found, moved }, error) = (result.unwrap_or_default(), result.err());
        let (ended, pid) = (Timestamp::now(), asker());
        let place = |(ino, name): (Ino, Option<&[u8]>)| Place { ino, name: name.map(Box::from) };
        for queue in &self.queues.read().all {
            if !queue.filter.wants(kind, took, error.is_some(), pid) {
                continue;
            }
            if queue.sender.is_full() {
                queue.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let lost = queue.lost.swap(0, Ordering::Relaxed);
            let told = Operation {
                ended,
                took,
                kind,
                on: place(asked.on),
                to: asked.to.map(place),
                found,
                offset: asked.offset,
                size: moved.or(asked.size),
                error,
                pid,
                lost,
            };
            if queue.sender.try_send(told).is_err() {
                queue.lost.fetch_add(lost + 1, Ordering::Relaxed);
            }
        }
    }

    /// Begins to tell somebody.
    ///
    /// # Errors
    /// There are [`WATCHES_MAX`] already, or the session is being stopped.
    pub fn watch(self: &Arc<Self>, filter: Filter) -> Result<Watch, Refused> {
        let held = self.held.read().clone();
        let mut queues = self.queues.write();
        let Some(held) = held.filter(|_| !queues.ended) else { return Err(Refused::Ended) };
        if queues.all.len() >= WATCHES_MAX {
            return Err(Refused::TooMany);
        }
        let (sender, operations) = bounded(WATCH_QUEUE);
        let lost = Arc::<AtomicU64>::default();
        queues.last_id += 1;
        let id = queues.last_id;
        queues.all.push(Queue { id, filter, sender, lost: Arc::clone(&lost) });
        self.count.store(queues.all.len(), Ordering::Relaxed);
        Ok(Watch { id, watchers: Arc::clone(self), operations, lost, _held: held })
    }

    fn remove(&self, id: u64) {
        let mut queues = self.queues.write();
        queues.all.retain(|queue| queue.id != id);
        self.count.store(queues.all.len(), Ordering::Relaxed);
    }

    /// Ends every watch: what was told before is still to be had.
    pub fn end(&self) {
        let mut queues = self.queues.write();
        queues.ended = true;
        queues.all.clear();
        self.count.store(0, Ordering::Relaxed);
        drop(queues);
        self.held.write().take();
    }

    /// After the end, waits until everybody is through with what they were told, but no longer than this.
    pub fn wait(&self, patience: Duration) {
        // Nothing is ever sent: it returns when the last sender is gone, or the time is over.
        let _ = self.gone.recv_timeout(patience);
    }
}

/// Why somebody cannot watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Others do.
    #[error("{WATCHES_MAX} watch its operations already (trace, top)")]
    TooMany,
    /// There is nothing more to see.
    #[error("it is being stopped")]
    Ended,
}

/// The operations of a mount, as they end.
#[derive(Debug)]
pub struct Watch {
    id: u64,
    watchers: Arc<Watchers>,
    operations: Receiver<Operation>,
    lost: Arc<AtomicU64>,
    _held: Sender<()>,
}

impl Watch {
    /// The next one, if it is there already.
    pub fn next_now(&self) -> Option<Operation> {
        self.operations.try_recv().ok()
    }

    /// The next one; `None` at the end.
    pub fn next(&self) -> Option<Operation> {
        self.operations.recv().ok()
    }

    /// How many were lost since the newest that was told.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Ends it: nothing more is told. Also while another thread waits for the next one.
    pub fn end(&self) {
        self.watchers.remove(self.id);
    }

    /// Whether nothing more is told.
    pub fn has_ended(&self) -> bool {
        self.watchers.queues.read().all.iter().all(|queue| queue.id != self.id)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watchers: &Watchers, kind: OpKind, error: Option<Errno>) {
        let asked = Asked::named(Ino(1), b"f").from(4).bytes(10);
        let outcome = Outcome { found: Some(Ino(9)), moved: Some(3) };
        watchers.tell(kind, &asked, Duration::from_micros(5), error.map_or(Ok(outcome), Err));
    }

    #[test]
    fn each_is_told_what_they_want_to_know() {
        let watchers = Arc::<Watchers>::default();
        assert!(!watchers.any());
        let all = watchers.watch(Filter::default()).unwrap();
        let reads = watchers.watch(Filter { kinds: vec![OpKind::Read], ..Filter::default() }).unwrap();
        let errors = watchers.watch(Filter { errors: true, ..Filter::default() }).unwrap();
        let slow = watchers.watch(Filter { slow: Duration::from_micros(6), ..Filter::default() }).unwrap();
        let others = watchers.watch(Filter { not_by: 7, ..Filter::default() }).unwrap();
        assert!(watchers.any());
        asked_by(7);
        told(&watchers, OpKind::Read, None);
        asked_by(8);
        told(&watchers, OpKind::Write, Some(Errno::NoSpc));
        let kinds = |watch: &Watch| std::iter::from_fn(|| watch.next_now()).map(|of| of.kind).collect::<Vec<_>>();
        let first = all.next().unwrap();
        assert_eq!((first.on.ino, first.on.name.as_deref(), first.to), (Ino(1), Some(&b"f"[..]), None));
        assert_eq!((first.offset, first.size, first.found, first.error), (Some(4), Some(3), Some(Ino(9)), None));
        let second = all.next().unwrap();
        assert_eq!((second.kind, second.size, second.found), (OpKind::Write, Some(10), None));
        assert_eq!((first.pid, second.pid, second.error), (7, 8, Some(Errno::NoSpc)));
        assert_eq!(kinds(&reads), [OpKind::Read]);
        assert_eq!(kinds(&errors), [OpKind::Write]);
        assert_eq!(kinds(&slow), []);
        assert_eq!(kinds(&others), [OpKind::Write]);
        drop((all, reads, errors, slow, others));
        assert!(!watchers.any());
    }

    #[test]
    fn who_does_not_keep_up_is_told_how_many_are_lost() {
        let watchers = Arc::<Watchers>::default();
        let watch = watchers.watch(Filter::default()).unwrap();
        (0..WATCH_QUEUE + 5).for_each(|_| told(&watchers, OpKind::Read, None));
        assert_eq!(watch.next().unwrap().lost, 0);
        told(&watchers, OpKind::Write, None);
        told(&watchers, OpKind::Write, None);
        let rest: Vec<Operation> = std::iter::from_fn(|| watch.next_now()).collect();
        assert_eq!(rest.len(), WATCH_QUEUE);
        let last = rest.last().unwrap();
        assert_eq!((last.kind, last.lost), (OpKind::Write, 5));
        assert!(rest[..rest.len() - 1].iter().all(|of| of.lost == 0));
        assert_eq!(watch.take_lost(), 1);
        assert_eq!(watch.take_lost(), 0);
    }

    #[test]
    fn there_is_a_bound_and_an_end() {
        let watchers = Arc::<Watchers>::default();
        let mut all: Vec<Watch> = (0..WATCHES_MAX).map(|_| watchers.watch(Filter::default()).unwrap()).collect();
        assert_eq!(watchers.watch(Filter::default()).unwrap_err(), Refused::TooMany);
        all.pop();
        all.push(watchers.watch(Filter::default()).unwrap());
        told(&watchers, OpKind::Read, None);
        let waiting = std::thread::spawn(move || {
            // What was told before the end comes before it.
            all.iter().for_each(|watch| assert!(watch.next().is_some() && watch.next().is_none() && watch.has_ended()));
        });
        watchers.end();
        watchers.wait(Duration::from_secs(10));
        waiting.join().unwrap();
        assert!(!watchers.any());
        assert_eq!(watchers.watch(Filter::default()).unwrap_err(), Refused::Ended);
    }
}
