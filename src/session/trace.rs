//! The operations of a mount for people: one after another with paths, and the files that most of them are about.
//!
//! Paths are looked up here, by the thread that tells them and not by those that serve.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::status::rfc3339_micros;
use super::tree::text_and_bytes;
use crate::base::limits::{HOT_INODES, TRACE_PATHS};
use crate::base::{Ino, Map};
use crate::fs::{Filter, Fs, GlobError, Globs, OpKind, Operation, Place, Watch};

/// How often the operations of a [`hot`] are taken out of the queue: more than 100,000 a second find room there.
const LOOK: Duration = Duration::from_millis(50);
/// Files with the most operations, and as many with the most bytes.
const HOT: usize = 5;

/// Which operations are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFilter {
    /// Of these kinds; all when it is empty.
    pub ops: Vec<String>,
    /// On what these patterns cover ([`Globs::cover`]); on anything when it is empty.
    pub paths: Vec<String>,
    /// That failed.
    pub errors: bool,
    /// That took at least so long.
    pub slow_nanos: u64,
}

/// A filter that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum TraceFilterError {
    /// No such kind.
    #[error("no operation is called {0}")]
    Op(String),
    /// No such pattern.
    #[error("{0}")]
    Path(#[from] GlobError),
}

impl TraceFilter {
    /// What is decided where the operations end, and what once the path is known.
    pub fn parse(&self) -> Result<(Filter, Globs), TraceFilterError> {
        let kind = |op: &String| {
            let found = OpKind::ALL.iter().copied().find(|kind| kind.name() == op);
            found.ok_or_else(|| TraceFilterError::Op(op.clone()))
        };
        let kinds = self.ops.iter().map(kind).collect::<Result<_, _>>()?;
        let slow = Duration::from_nanos(self.slow_nanos);
        Ok((Filter { kinds, errors: self.errors, slow, not_by: 0 }, Globs::parse(&self.paths)?))
    }
}

/// What a trace tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Told {
    /// An operation that has ended.
    Operation(Box<Traced>),
    /// Operations were too many for who reads.
    Lost {
        /// So many, of those that the filter wants but for its paths.
        lost: u64,
    },
}

/// An operation that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// When, in UTC to the microsecond.
    pub at: String,
    /// What, as in the figures.
    pub op: String,
    /// On which inode; with a name, the directory's.
    pub ino: u64,
    /// Where that is, from the root. `None` when it has no name, or not the one that is known.
    pub path: Option<String>,
    /// The path itself, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path_bytes: Option<Vec<u8>>,
    /// The other end of a rename, a link, a copy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to_bytes: Option<Vec<u8>>,
    /// Where in the file; of a directory, behind which cookie.
    pub offset: Option<u64>,
    /// Bytes: those that went, or were asked for.
    pub size: Option<u64>,
    /// How it failed, by errno(3)'s name.
    pub errno: Option<String>,
    /// How long it took in the file system.
    pub nanos: u64,
    /// Who asked; 0 is the kernel itself, or a process that the mount cannot see.
    pub pid: u32,
}

/// Looks up paths, and remembers the last one of each inode: by the time an operation is told its file may be gone.
struct Paths<'a> {
    fs: &'a Fs,
    last: Map<Ino, Vec<u8>>,
}

impl Paths<'_> {
    /// Without slashes around it.
    fn of(&mut self, ino: Ino) -> Option<Vec<u8>> {
        match self.fs.path(ino) {
            Ok(path) => {
                self.remember(ino, &path);
                Some(path)
            }
            Err(_) => self.last.get(&ino).cloned(),
        }
    }

    fn at(&mut self, place: &Place) -> Option<Vec<u8>> {
        let path = self.of(place.ino)?;
        Some(match &place.name {
            None => path,
            Some(name) if path.is_empty() => name.to_vec(),
            Some(name) => [&path, &b"/"[..], name].concat(),
        })
    }

    /// Where a file was that has just got this name, too.
    fn before(&mut self, ino: Ino, name: Option<&Vec<u8>>) -> Option<Vec<u8>> {
        self.last.get(&ino).cloned().or_else(|| self.of(ino)).filter(|path| Some(path) != name)
    }

    /// What was at the one path, and below it, is at the other.
    fn moved(&mut self, from: &[u8], to: &[u8]) {
        for path in self.last.values_mut() {
            if let Some(below) = path.strip_prefix(from).filter(|below| below.first().is_none_or(|&next| next == b'/'))
            {
                *path = [to, below].concat();
            }
        }
    }

    fn remember(&mut self, ino: Ino, path: &[u8]) {
        if self.last.len() >= TRACE_PATHS {
            self.last.clear();
        }
        self.last.insert(ino, path.to_vec());
    }
}

/// Tells the operations of a watch until it ends; `None` when there are no more for now, so that it can be sent.
pub fn trace(
    fs: &Fs,
    watch: &Watch,
    covered: &Globs,
    tell: &mut dyn FnMut(Option<&Told>) -> io::Result<()>,
) -> io::Result<()> {
    let mut paths = Paths { fs, last: Map::default() };
    loop {
        let operation = match watch.next_now() {
            Some(operation) => operation,
            None => {
                tell_lost(watch.take_lost(), tell)?;
                tell(None)?;
                match watch.next() {
                    Some(operation) => operation,
                    None => return Ok(()),
                }
            }
        };
        tell_lost(operation.lost, tell)?;
        if let Some(traced) = traced(&operation, covered, &mut paths) {
            tell(Some(&Told::Operation(Box::new(traced))))?;
        }
    }
}

fn tell_lost(lost: u64, tell: &mut dyn FnMut(Option<&Told>) -> io::Result<()>) -> io::Result<()> {
    if lost == 0 { Ok(()) } else { tell(Some(&Told::Lost { lost })) }
}

fn traced(operation: &Operation, covered: &Globs, paths: &mut Paths<'_>) -> Option<Traced> {
    let to = operation.to.as_ref().and_then(|to| paths.at(to));
    let path = match operation.kind {
        OpKind::Link => paths.before(operation.on.ino, to.as_ref()),
        _ => paths.at(&operation.on),
    };
    if let (Some(found), Some(name), Some(path)) = (operation.found, &operation.on.name, &path)
        && !matches!(&**name, b"." | b"..")
    {
        paths.remember(found, path);
    }
    if let (OpKind::Rename, None, Some(from), Some(to)) = (operation.kind, operation.error, &path, &to) {
        paths.moved(from, to);
    }
    let wanted = |path: &Option<Vec<u8>>| path.as_ref().is_some_and(|path| covered.cover(path));
    if !covered.is_empty() && !wanted(&path) && !wanted(&to) {
        return None;
    }
    let text = |path: Vec<u8>| text_and_bytes(&[b"/", &*path].concat());
    let (path, path_bytes) = path.map(text).unzip();
    let (to, to_bytes) = to.map(text).unzip();
    Some(Traced {
        at: rfc3339_micros(operation.ended),
        op: operation.kind.name().to_owned(),
        ino: operation.on.ino.0,
        path,
        path_bytes: path_bytes.flatten(),
        to,
        to_bytes: to_bytes.flatten(),
        offset: operation.offset,
        size: operation.size,
        errno: operation.error.map(|error| error.name().to_owned()),
        nanos: u64::try_from(operation.took.as_nanos()).unwrap_or(u64::MAX),
        pid: operation.pid,
    })
}

/// The files and directories that most operations were about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hot {
    /// The most operations first.
    pub files: Vec<HotFile>,
    /// Operations that were too many to be looked at.
    pub lost: u64,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotFile {
    /// Its number.
    pub ino: u64,
    /// Where it is, from the root, if it has a name.
    pub path: Option<String>,
    /// The path itself, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path_bytes: Option<Vec<u8>>,
    /// Operations on it; on a directory also those on its names.
    pub operations: u64,
    /// Bytes read, written and copied.
    pub bytes: u64,
}

/// What happens on a mount for so long, or until the watch ends.
pub fn hot(fs: &Fs, watch: &Watch, long: Duration) -> Hot {
    let until = Instant::now() + long;
    let mut counts: Map<Ino, (u64, u64)> = Map::default();
    let mut lost = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(LOOK));
        while let Some(operation) = watch.next_now() {
            lost += operation.lost;
            let known = counts.len() < HOT_INODES || counts.contains_key(&operation.on.ino);
            if known {
                count(&mut counts, &operation);
            } else {
                lost += 1;
            }
        }
        if left <= LOOK || watch.has_ended() {
            break;
        }
    }
    let named = |(ino, (operations, bytes)): (Ino, (u64, u64))| {
        let path = fs.path(ino).ok().map(|path| text_and_bytes(&[b"/", &*path].concat()));
        let (path, path_bytes) = path.unzip();
        HotFile { ino: ino.0, path, path_bytes: path_bytes.flatten(), operations, bytes }
    };
    Hot { files: hottest(counts).into_iter().map(named).collect(), lost: lost + watch.take_lost() }
}

fn count(counts: &mut Map<Ino, (u64, u64)>, operation: &Operation) {
    let moved = matches!(operation.kind, OpKind::Read | OpKind::Write | OpKind::CopyRange) && operation.error.is_none();
    let bytes = operation.size.filter(|_| moved).unwrap_or_default();
    let mut places = vec![operation.on.ino];
    places.extend(operation.to.as_ref().map(|to| to.ino).filter(|&to| to != operation.on.ino));
    for ino in places {
        let (operations, sum) = counts.entry(ino).or_default();
        *operations += 1;
        *sum += bytes;
    }
}

/// Those with the most operations, and those with the most bytes; the most operations first.
fn hottest(counts: Map<Ino, (u64, u64)>) -> Vec<(Ino, (u64, u64))> {
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_by_key(|&(ino, (operations, bytes))| (std::cmp::Reverse((operations, bytes)), ino));
    let mut rest = all.split_off(all.len().min(HOT));
    rest.sort_by_key(|&(ino, (operations, bytes))| (std::cmp::Reverse((bytes, operations)), ino));
    all.extend(rest.into_iter().take(HOT).filter(|(_, (_, bytes))| *bytes > 0));
    all.sort_by_key(|&(ino, (operations, bytes))| (std::cmp::Reverse((operations, bytes)), ino));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_are_by_operations_and_by_bytes() {
        let mut counts: Map<Ino, (u64, u64)> = (1..=20).map(|ino| (Ino(ino), (100 - ino, 0))).collect();
        counts.insert(Ino(30), (1, 1 << 30));
        let found: Vec<u64> = hottest(counts).into_iter().map(|(ino, _)| ino.0).collect();
        assert_eq!(found, [1, 2, 3, 4, 5, 30]);
    }

    #[test]
    fn a_filter_names_what_it_does_not_know() {
        let filter = TraceFilter { ops: vec!["write".into(), "lseek".into()], slow_nanos: 7, ..TraceFilter::default() };
        let (parsed, covered) = filter.parse().unwrap();
        assert_eq!(parsed.kinds, [OpKind::Write, OpKind::Seek]);
        assert_eq!((parsed.slow, covered.is_empty()), (Duration::from_nanos(7), true));
        let refused = |filter: TraceFilter| filter.parse().unwrap_err().to_string();
        assert_eq!(refused(TraceFilter { ops: vec!["x".into()], ..filter.clone() }), "no operation is called x");
        assert!(refused(TraceFilter { paths: vec!["a//b".into()], ..filter }).starts_with("\"a//b\""));
    }
}
