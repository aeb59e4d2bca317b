//! What a worker wrote down, and what that says about what may be there now.

use std::fs;
use std::path::Path;

use crate::compare::{differences, same};
use crate::op::Op;
use crate::rng::fill;
use crate::tree::{Content, Tree};

/// The largest request of the kernel, in its pages.
const PAGE: u64 = 4096;
const REQUEST_PAGES: u64 = 256;

/// How far an operation got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The system call returned: that is the acknowledgement. With the bytes of a write.
    Done(u64),
    /// It was under way when the server or the worker ended. So many bytes were acknowledged.
    InFlight(u64),
}

pub struct Record {
    pub op: Op,
    pub outcome: Outcome,
}

/// One worker's time in one cycle.
#[derive(Default)]
pub struct History {
    pub pid: i32,
    pub records: Vec<Record>,
    /// Failures that are not those of a dead server.
    pub unexpected: Vec<String>,
}

/// What a dead server makes of a system call. A mount that is gone lets paths end in the directory below it, and one that
/// is being stopped changes nothing any more.
pub fn is_death(errno: i32, unmounted: bool) -> bool {
    // The middle three are what a request is told that io_uring had in hand.
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::EINTR | libc::EIO)
        || (unmounted && matches!(errno, libc::ENOENT | libc::EROFS))
}

impl History {
    /// Reads a log: `@ pid`, `> operation`, `= bytes`, `~ bytes` (a write cut short by the death), `! errno text`.
    /// A last line without its end was never finished.
    pub fn read(log: &Path, unmounted: bool) -> History {
        let text = fs::read_to_string(log).unwrap_or_default();
        let mut history = History::default();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let (mark, rest) = line.split_at(2);
            let set = |history: &mut History, outcome| history.records.last_mut().unwrap().outcome = outcome;
            match mark {
                "@ " => history.pid = rest.parse().unwrap(),
                "> " => {
                    let op = serde_json::from_str(rest).unwrap();
                    history.records.push(Record { op, outcome: Outcome::InFlight(0) });
                }
                "= " => set(&mut history, Outcome::Done(rest.parse().unwrap())),
                "~ " => set(&mut history, Outcome::InFlight(rest.parse().unwrap())),
                "! " => {
                    let errno: i32 = rest.split(' ').next().unwrap().parse().unwrap();
                    if !is_death(errno, unmounted) {
                        let op = history.records.last().map(|record| format!("{:?}", record.op));
                        history.unexpected.push(format!("{} failed: {rest}", op.unwrap_or_default()));
                    }
                }
                _ => panic!("not a line of a log: {line:?}"),
            }
        }
        history
    }

    pub fn acknowledged(&self) -> u64 {
        self.records.iter().filter(|record| matches!(record.outcome, Outcome::Done(_))).count() as u64
    }

    /// Whether what was found is what it has to be.
    pub fn judge(&self, before: &Tree, found: &Tree) -> Verdict {
        let mut tree = before.clone();
        let mut pending = None;
        for record in &self.records {
            match record.outcome {
                Outcome::Done(done) => tree.apply(&record.op, done),
                Outcome::InFlight(done) => pending = Some((&record.op, done)),
            }
        }
        if same(&tree, found) {
            let not_done = matches!(pending, Some((op, 0)) if op.changes(&tree));
            return Verdict::Kept(if not_done { InFlight::NotDone } else { InFlight::None });
        }
        if let Some((op, done)) = pending {
            for candidate in candidates(&tree, op, done, found) {
                if same(&candidate, found) {
                    return Verdict::Kept(InFlight::Done);
                }
            }
        }
        let in_flight =
            pending.map_or("nothing".to_owned(), |(op, done)| format!("{op:?} ({done} bytes acknowledged)"));
        Verdict::Lost(Loss { differences: differences(&tree, found), in_flight, lost: self.lost(before, found) })
    }

    /// How many acknowledged operations are missing, if what was found is a state that there was. Otherwise what
    /// differs from the state that is nearest to it.
    fn lost(&self, before: &Tree, found: &Tree) -> Result<u64, Vec<String>> {
        let mut tree = before.clone();
        let mut behind = same(&tree, found).then_some(0);
        let mut nearest = differences(&tree, found);
        for (nth, record) in self.records.iter().enumerate() {
            let Outcome::Done(done) = record.outcome else { continue };
            if behind.is_none() && candidates(&tree, &record.op, 0, found).iter().any(|partly| same(partly, found)) {
                behind = Some(0);
            }
            tree.apply(&record.op, done);
            behind = if same(&tree, found) { Some(0) } else { behind.map(|behind| behind + 1) };
            if behind.is_none() && tree.names.keys().eq(found.names.keys()) {
                let mut now = differences(&tree, found);
                if now.len() < nearest.len() {
                    now.insert(0, format!("nearest: after operation {nth}, {:?}", record.op));
                    nearest = now;
                }
            }
        }
        behind.ok_or(nearest)
    }
}

/// What became of the operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    None,
    Done,
    NotDone,
}

pub enum Verdict {
    Kept(InFlight),
    Lost(Loss),
}

pub struct Loss {
    pub differences: Vec<String>,
    pub in_flight: String,
    /// The operations at the end that are missing; or how it differs from all states that there were.
    pub lost: Result<u64, Vec<String>>,
}

/// The states in which the operation in flight may have left a tree, other than untouched.
fn candidates(tree: &Tree, op: &Op, acknowledged: u64, found: &Tree) -> Vec<Tree> {
    let applied = |done| {
        let mut tree = tree.clone();
        tree.apply(op, done);
        tree
    };
    match op {
        Op::Write { path: _, offset, length, .. } => {
            prefixes(*offset, *length, acknowledged).into_iter().map(applied).collect()
        }
        Op::Append { path, length, .. } => {
            prefixes(tree.size(path), *length, acknowledged).into_iter().map(applied).collect()
        }
        Op::Store { path, offset, seed, length, .. } => {
            stored(tree, found, path, *offset, &fill(*seed, *length)).into_iter().collect()
        }
        _ => vec![applied(op.length())],
    }
}

/// How much of a write may be there: whole requests, and at least what was acknowledged. The kernel ends a request after
/// so many pages, and after a first page that the write covers in part and that is not in its cache.
fn prefixes(offset: u64, length: u64, acknowledged: u64) -> Vec<u64> {
    let first = offset / PAGE;
    let from =
        |page: u64| (0..).map(move |nth| (page + nth * REQUEST_PAGES) * PAGE).skip_while(move |end| *end <= offset);
    let within = |end: &u64| *end < offset + length;
    let alone = from(first + 1).take_while(within);
    let mut ends: Vec<u64> = from(first).take_while(within).chain(alone).map(|end| end - offset).collect();
    if offset.is_multiple_of(PAGE) {
        ends.retain(|end| end.is_multiple_of(REQUEST_PAGES * PAGE));
    }
    ends.extend([acknowledged, length]);
    ends.retain(|end| *end >= acknowledged.max(1));
    ends
}

/// Mapped pages are written back in any order and at any moment: each byte is the old or the new one.
fn stored(tree: &Tree, found: &Tree, path: &str, offset: u64, new: &[u8]) -> Option<Tree> {
    let (old, there) = (tree.content(path)?, found.content(path)?);
    let range = offset as usize..offset as usize + new.len();
    let (old, there) = (old.0.get(range.clone())?, there.0.get(range)?);
    let either = there.iter().zip(old.iter().zip(new)).all(|(there, (old, new))| there == old || there == new);
    if !either {
        return None;
    }
    let mut candidate = tree.clone();
    let mut content: Content = candidate.content(path)?.clone();
    content.put(offset, there);
    *candidate.content_mut(path) = content;
    Some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_write_is_there_in_whole_requests() {
        assert_eq!(prefixes(0, 100, 0), [100]);
        assert_eq!(prefixes(0, 1 << 20, 0), [1 << 20]);
        assert_eq!(prefixes(4096, (1 << 20) + 4096, 0), [1 << 20, (1 << 20) + 4096]);
        assert_eq!(prefixes(0, 3 << 20, 2 << 20), [2 << 20, 2 << 20, 3 << 20]);
        assert_eq!(prefixes(100, 5000, 0), [3996, 5000]);
        let all_in_one_or_the_first_page_alone = [(1 << 20) - 100, 3996, (1 << 20) + 3996, (1 << 20) + 5000];
        assert_eq!(prefixes(100, (1 << 20) + 5000, 0), all_in_one_or_the_first_page_alone);
    }

    #[test]
    fn what_is_missing_is_counted_and_a_mixture_is_known_as_one() {
        let mut tree = Tree::rooted("w0");
        let before = tree.clone();
        let mut history = History::default();
        let mut states = vec![tree.clone()];
        for (path, mode) in [("w0/a", 0o600), ("w0/b", 0o600), ("w0/c", 0o600)] {
            let op = Op::Create { path: path.to_owned(), mode };
            tree.apply(&op, 0);
            states.push(tree.clone());
            history.records.push(Record { op, outcome: Outcome::Done(0) });
        }
        let lost = |found: &Tree| match history.judge(&before, found) {
            Verdict::Kept(_) => None,
            Verdict::Lost(loss) => Some(loss.lost.ok()),
        };
        assert_eq!(lost(&states[3]), None);
        assert_eq!(lost(&states[2]), Some(Some(1)));
        assert_eq!(lost(&states[0]), Some(Some(3)));
        let mut mixture = states[2].clone();
        mixture.apply(&Op::Unlink { path: "w0/a".to_owned(), keep: false }, 0);
        assert_eq!(lost(&mixture), Some(None));
    }

    #[test]
    fn what_was_in_flight_may_be_there_or_not_and_nothing_else_may() {
        let mut before = Tree::rooted("w0");
        before.apply(&Op::Create { path: "w0/a".to_owned(), mode: 0o600 }, 0);
        before.apply(&Op::Append { path: "w0/a".to_owned(), seed: 2, length: 5000 }, 5000);
        let judged = |op: &Op, found: &Tree| {
            let records = vec![Record { op: op.clone(), outcome: Outcome::InFlight(0) }];
            match (History { records, ..History::default() }).judge(&before, found) {
                Verdict::Kept(what) => Some(what),
                Verdict::Lost(_) => None,
            }
        };
        let by = crate::op::WrittenBackBy::Msync;
        for op in [
            Op::Store { path: "w0/a".to_owned(), offset: 10, seed: 4, length: 4500, by },
            Op::Write { path: "w0/a".to_owned(), offset: 10, seed: 4, length: 4500 },
        ] {
            let mut after = before.clone();
            after.apply(&op, op.length());
            let mut half = before.clone();
            half.content_mut("w0/a").put(10, &fill(4, 4500)[..2000]);
            assert_eq!(judged(&op, &before), Some(InFlight::NotDone));
            assert_eq!(judged(&op, &after), Some(InFlight::Done));
            // Pages are written back one by one; one request is there whole or not at all.
            let is_store = matches!(op, Op::Store { .. });
            assert_eq!(judged(&op, &half), is_store.then_some(InFlight::Done));
            let mut page = before.clone();
            page.content_mut("w0/a").put(10, &fill(4, 4500)[..4086]);
            assert_eq!(judged(&op, &page), Some(InFlight::Done));
        }
    }
}
