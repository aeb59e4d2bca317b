//! User and group ids that mean something else on this host than in the session.

use std::fmt;
use std::str::FromStr;

/// The id that is none: chown(2) takes it for "leave as it is", and ACLs have it where an entry names nobody.
const NO_ID: u32 = u32::MAX;

/// Ids from `host` on are the ids from `session` on, `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first, as this host has it.
    pub host: u32,
    /// The first, as the session stores it.
    pub session: u32,
    /// How many.
    pub count: u32,
}

/// Why a map is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// Not the form of a range.
    #[error("{0:?} is no map of ids: write HOST:SESSION or HOST:SESSION:COUNT, in numbers")]
    Syntax(String),
    /// It has no ids, or leaves the numbers that ids can have.
    #[error("{0:?} is no map of ids: they are 0 to 4294967294, and COUNT is at least 1")]
    Range(String),
    /// Two ranges share an id, so it could not be undone.
    #[error("{0} and {1} both map {2} id {3}: each id can be mapped once")]
    Twice(IdRange, IdRange, &'static str, u32),
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.session)?;
        if self.count == 1 { Ok(()) } else { write!(f, ":{}", self.count) }
    }
}

impl FromStr for IdRange {
    type Err = IdMapError;

    fn from_str(text: &str) -> Result<IdRange, IdMapError> {
        let bad = || IdMapError::Syntax(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        if !(2..=3).contains(&parts.len()) || parts.iter().any(|part| !part.bytes().all(|b| b.is_ascii_digit())) {
            return Err(bad());
        }
        if parts.iter().any(|part| part.is_empty()) {
            return Err(bad());
        }
        // What is all digits and no number is too large for one.
        let outside = || IdMapError::Range(text.to_owned());
        let number = |at: usize| parts.get(at).map_or(Ok(1), |part| part.parse::<u32>().map_err(|_| outside()));
        let range = IdRange { host: number(0)?, session: number(1)?, count: number(2)? };
        let fits = |first: u32| u64::from(first) + u64::from(range.count) <= u64::from(NO_ID);
        if range.count > 0 && fits(range.host) && fits(range.session) { Ok(range) } else { Err(outside()) }
    }
}

/// A bijection of ids: what this host calls one, and what the session stores for it.
///
/// Ids in no range stay what they are, except where a range has taken their place: those get the places that the ranges
/// have left, in ascending order. So a map of one range lets the two sides change places, and no two ids ever become one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    to_session: Vec<Run>,
    to_host: Vec<Run>,
}

/// Ids from `from` on become those from `to` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    from: u32,
    to: u32,
    count: u32,
}

impl IdMap {
    /// The map of these ranges. Two that share an id on either side are an error.
    pub fn new(ranges: &[IdRange]) -> Result<IdMap, IdMapError> {
        let hosts = sides(ranges, "host", |range| range.host)?;
        let sessions = sides(ranges, "session", |range| range.session)?;
        let given = ranges.iter().map(|range| Run { from: range.host, to: range.session, count: range.count });
        let displaced = paired(&without(&sessions, &hosts), &without(&hosts, &sessions));
        let mut to_session: Vec<Run> = given.chain(displaced).collect();
        let mut to_host: Vec<Run> =
            to_session.iter().map(|run| Run { from: run.to, to: run.from, count: run.count }).collect();
        to_session.sort_unstable_by_key(|run| run.from);
        to_host.sort_unstable_by_key(|run| run.from);
        Ok(IdMap { to_session, to_host })
    }

    /// What the session stores for an id of this host.
    pub fn stored(&self, host: u32) -> u32 {
        follow(&self.to_session, host)
    }

    /// What this host calls an id that the session stores.
    pub fn shown(&self, session: u32) -> u32 {
        follow(&self.to_host, session)
    }
}

fn follow(runs: &[Run], id: u32) -> u32 {
    let at = runs.partition_point(|run| run.from <= id);
    match at.checked_sub(1).map(|at| runs[at]) {
        Some(run) if id - run.from < run.count => run.to + (id - run.from),
        _ => id,
    }
}

/// Ids from the first to before the second.
type Span = (u32, u32);

/// One side of the ranges, in order; an error where two meet.
fn sides(ranges: &[IdRange], side: &'static str, first: fn(&IdRange) -> u32) -> Result<Vec<Span>, IdMapError> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(first);
    for pair in sorted.windows(2) {
        if first(&pair[0]) + pair[0].count > first(&pair[1]) {
            return Err(IdMapError::Twice(pair[0], pair[1], side, first(&pair[1])));
        }
    }
    Ok(sorted.iter().map(|range| (first(range), first(range) + range.count)).collect())
}

/// What of `all` is not in `taken`; both in order.
fn without(all: &[Span], taken: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    for &(first, until) in all {
        let mut from = first;
        for &(start, end) in taken.iter().filter(|&&(start, end)| start < until && end > first) {
            if start > from {
                left.push((from, start));
            }
            from = from.max(end);
        }
        if from < until {
            left.push((from, until));
        }
    }
    left
}

/// Leads the ids of one list to those of another with as many, one after the other.
fn paired(from: &[Span], to: &[Span]) -> Vec<Run> {
    let mut runs = Vec::new();
    let (mut from, mut to) = (from.iter().copied(), to.iter().copied());
    let (mut source, mut target) = (from.next(), to.next());
    while let (Some((a, a_end)), Some((b, b_end))) = (source, target) {
        let count = (a_end - a).min(b_end - b);
        runs.push(Run { from: a, to: b, count });
        source = if a + count < a_end { Some((a + count, a_end)) } else { from.next() };
        target = if b + count < b_end { Some((b + count, b_end)) } else { to.next() };
    }
    runs
}

/// The maps of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Of users.
    pub users: IdMap,
    /// Of groups.
    pub groups: IdMap,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> Result<IdMap, IdMapError> {
        IdMap::new(&text.split_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>()?)
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        assert_eq!("1000:0".parse(), Ok(IdRange { host: 1000, session: 0, count: 1 }));
        assert_eq!("0:100000:65536".parse(), Ok(IdRange { host: 0, session: 100_000, count: 65_536 }));
        assert_eq!("0:100000:65536".parse::<IdRange>().unwrap().to_string(), "0:100000:65536");
        assert_eq!("7:8:1".parse::<IdRange>().unwrap().to_string(), "7:8");
        for bad in ["", "1", "1:", ":1", "1:2:3:4", "a:b", "-1:0", "+1:0", "1:2:", "1 :2"] {
            assert_eq!(bad.parse::<IdRange>(), Err(IdMapError::Syntax(bad.to_owned())));
        }
        for bad in ["4294967295:0", "0:4294967295", "0:1:0", "4294967296:0", "1:0:4294967295", "4294967290:0:6"] {
            assert_eq!(bad.parse::<IdRange>(), Err(IdMapError::Range(bad.to_owned())));
        }
        assert_eq!("4294967290:0:5".parse::<IdRange>().unwrap().count, 5);
    }

    #[test]
    fn one_range_changes_places() {
        let ids = map("1000:0").unwrap();
        assert_eq!([1000, 0, 1, 999, NO_ID].map(|host| ids.stored(host)), [0, 1000, 1, 999, NO_ID]);
        let ids = map("0:100000:65536").unwrap();
        assert_eq!((ids.stored(0), ids.stored(65_535), ids.stored(65_536)), (100_000, 165_535, 65_536));
        assert_eq!((ids.stored(100_000), ids.stored(165_535), ids.stored(165_536)), (0, 65_535, 165_536));
        assert_eq!(map("5:5").unwrap().stored(5), 5);
        assert_eq!(map("").unwrap(), IdMap::default());
    }

    #[test]
    fn ids_whose_place_is_taken_get_what_is_left_in_order() {
        // A chain: what it ends at goes back to its beginning.
        let chain = map("1:2 2:3").unwrap();
        assert_eq!([1, 2, 3].map(|host| chain.stored(host)), [2, 3, 1]);
        let two = map("1:20 2:10").unwrap();
        assert_eq!([1, 2, 10, 20].map(|host| two.stored(host)), [20, 10, 1, 2]);
        // Ranges that overlap across the sides.
        let shifted = map("0:5:10").unwrap();
        assert_eq!([0, 9, 10, 14, 15].map(|host| shifted.stored(host)), [5, 14, 0, 4, 15]);
    }

    #[test]
    fn what_is_no_bijection_is_refused() {
        for (text, words) in [
            ("1000:0 1000:1", "1000:0 and 1000:1 both map host id 1000"),
            ("1000:0 1001:0", "1000:0 and 1001:0 both map session id 0"),
            ("0:100:10 5:500", "0:100:10 and 5:500 both map host id 5"),
            ("0:100:10 50:109:2", "0:100:10 and 50:109:2 both map session id 109"),
            ("7:8 7:8", "7:8 and 7:8 both map host id 7"),
        ] {
            let error = map(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    /// Ranges, many of which meet: those that are no map are left out by the test.
    fn ranges() -> impl Strategy<Value = Vec<IdRange>> {
        let id = prop_oneof![0..40_u32, 1_000..1_040_u32, NO_ID - 40..NO_ID];
        let range = (id.clone(), id, 1..12_u32)
            .prop_filter_map("in bounds", |(host, session, count)| format!("{host}:{session}:{count}").parse().ok());
        prop::collection::vec(range, 0..6)
    }

    proptest! {
        #[test]
        fn every_map_is_a_bijection(ranges in ranges(), any in any::<u32>()) {
            let Ok(ids) = IdMap::new(&ranges) else { return Ok(()) };
            for range in &ranges {
                for i in 0..range.count {
                    prop_assert_eq!(ids.stored(range.host + i), range.session + i);
                }
            }
            let near = (0..60).chain(990..1_060).chain(NO_ID - 60..=NO_ID);
            for id in near.chain([any]) {
                prop_assert_eq!(ids.shown(ids.stored(id)), id);
                prop_assert_eq!(ids.stored(ids.shown(id)), id);
            }
            prop_assert_eq!(ids.stored(NO_ID), NO_ID);
        }

        #[test]
        fn maps_are_refused_exactly_when_an_id_is_in_two(ranges in ranges()) {
            let meet = |a: u32, b: u32, c: u32, d: u32| a < b + d && b < a + c;
            let mut twice = false;
            for (i, a) in ranges.iter().enumerate() {
                for b in &ranges[i + 1..] {
                    twice |= meet(a.host, b.host, a.count, b.count) || meet(a.session, b.session, a.count, b.count);
                }
            }
            prop_assert_eq!(IdMap::new(&ranges).is_err(), twice);
        }
    }
}
