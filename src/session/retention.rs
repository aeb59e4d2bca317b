//! Which sessions are to go, decided from what is known of them and the clock: no file is touched here.

use serde::Serialize;

use crate::base::SessionId;

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;
/// How far clocks of two hosts that share a store may differ before one of them is taken for wrong.
const SLACK: i64 = 300;
/// Days without any sign of the clock, from a session or an earlier `gc`, after which a jump is the likelier reason.
const GAP_DAYS: i64 = 30;

/// When sessions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Days without use, for sessions that have no number of their own.
    pub idle_days: u32,
    /// Bytes on the disk that all sessions together may take.
    pub store_bytes: Option<u64>,
}

/// What is known of a session when it is decided on. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The session.
    pub id: SessionId,
    /// When it was last used; or why nobody can tell.
    pub last_use: Result<i64, String>,
    /// Its own number of days.
    pub idle_days: Option<u32>,
    /// Never to be taken.
    pub pinned: bool,
    /// Its lock is held, or a change of its runtime version is half done.
    pub in_use: bool,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// What is to become of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stays,
    /// It stays, because nobody can tell when it was last used.
    Unreadable(String),
    /// It goes.
    Goes(Reason),
}

/// Why a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Nobody used it for long enough.
    Idle {
        /// Whole days since its last use.
        days: i64,
        /// How many it may be.
        idle_days: u32,
    },
    /// The sessions take more than they may together, and of those that can go it is the one idle for longest.
    StoreBytes {
        /// Whole days since its last use.
        days: i64,
    },
}

/// What makes the clock implausible. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockJump {
    /// Something happened later than now.
    Back {
        /// When.
        seen: i64,
    },
    /// Nothing happened for so long that it is likelier that the clock is wrong.
    Ahead {
        /// The newest that did.
        seen: i64,
    },
}

/// Holds the clock against what was seen: the last uses of all sessions, and the last `gc`.
pub fn judge_clock(now: i64, seen: impl IntoIterator<Item = i64>) -> Option<ClockJump> {
    let seen = seen.into_iter().max()?;
    if seen > now.saturating_add(SLACK) {
        return Some(ClockJump::Back { seen });
    }
    (now.saturating_sub(seen) > GAP_DAYS * DAY).then_some(ClockJump::Ahead { seen })
}

/// When a session may be removed for being idle.
pub fn expires_at(last_use: i64, idle_days: u32) -> i64 {
    last_use.saturating_add(i64::from(idle_days) * DAY)
}

/// What is to become of each session, in their order.
pub fn decide(now: i64, rules: &Rules, sessions: &[Known]) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = sessions.iter().map(|known| by_idleness(now, rules, known)).collect();
    let Some(budget) = rules.store_bytes else { return verdicts };
    let stays = |verdict: &Verdict| !matches!(verdict, Verdict::Goes(_));
    let mut total: u64 =
        sessions.iter().zip(&verdicts).filter(|(_, verdict)| stays(verdict)).map(|(known, _)| known.bytes).sum();
    let mut oldest: Vec<(i64, usize)> = sessions
        .iter()
        .enumerate()
        .filter(|(at, known)| verdicts[*at] == Verdict::Stays && !known.pinned && !known.in_use)
        .filter_map(|(at, known)| known.last_use.as_ref().ok().map(|&last| (last, at)))
        .collect();
    oldest.sort_by_key(|&(last, at)| (last, &sessions[at].id));
    for (last, at) in oldest {
        if total <= budget {
            break;
        }
        total -= sessions[at].bytes;
        verdicts[at] = Verdict::Goes(Reason::StoreBytes { days: days_since(now, last) });
    }
    verdicts
}

fn by_idleness(now: i64, rules: &Rules, known: &Known) -> Verdict {
    if known.in_use {
        return Verdict::Stays;
    }
    let last = match &known.last_use {
        Ok(last) => *last,
        Err(why) => return Verdict::Unreadable(why.clone()),
    };
    let idle_days = known.idle_days.unwrap_or(rules.idle_days);
    if known.pinned || now < expires_at(last, idle_days) {
        return Verdict::Stays;
    }
    Verdict::Goes(Reason::Idle { days: days_since(now, last), idle_days })
}

fn days_since(now: i64, last: i64) -> i64 {
    now.saturating_sub(last).max(0) / DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator (xorshift), so that a seed tells the case.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }

        fn known(&mut self, n: usize, now: i64) -> Known {
            let last = now - self.below(40 * DAY as u64) as i64 + 2 * DAY;
            Known {
                id: format!("s{n}").parse().unwrap(),
                last_use: if self.below(10) == 0 { Err("damaged".to_owned()) } else { Ok(last) },
                idle_days: (self.below(3) == 0).then_some(self.below(30) as u32 + 1),
                pinned: self.below(5) == 0,
                in_use: self.below(5) == 0,
                bytes: self.below(1000),
            }
        }
    }

    #[test]
    fn whatever_is_known_exactly_what_the_rules_say_goes() {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        eprintln!("seed {seed}");
        let mut random = Random(seed);
        for _ in 0..2000 {
            let now = 1_800_000_000 + random.below(1_000_000) as i64;
            let count = random.below(20) as usize;
            let sessions: Vec<Known> = (0..count).map(|n| random.known(n, now)).collect();
            let budget = (random.below(2) == 0).then(|| random.below(10_000));
            let rules = Rules { idle_days: random.below(30) as u32 + 1, store_bytes: budget };
            let verdicts = decide(now, &rules, &sessions);
            let each = || sessions.iter().zip(&verdicts);
            for (known, verdict) in each() {
                let may_go = !known.pinned && !known.in_use && known.last_use.is_ok();
                let limit = i64::from(known.idle_days.unwrap_or(rules.idle_days)) * DAY;
                let idle = known.last_use.as_ref().is_ok_and(|last| now - last >= limit);
                match verdict {
                    Verdict::Goes(Reason::Idle { .. }) => assert!(may_go && idle, "{known:?}"),
                    Verdict::Goes(Reason::StoreBytes { .. }) => assert!(may_go && !idle, "{known:?}"),
                    Verdict::Unreadable(_) => assert!(!known.in_use && known.last_use.is_err(), "{known:?}"),
                    Verdict::Stays => assert!(!(may_go && idle), "{known:?}"),
                }
            }
            let by_budget = |verdict: &Verdict| matches!(verdict, Verdict::Goes(Reason::StoreBytes { .. }));
            let gone: Vec<&Known> = each().filter(|(_, verdict)| by_budget(verdict)).map(|(known, _)| known).collect();
            let Some(budget) = budget else {
                assert!(gone.is_empty());
                continue;
            };
            let left: u64 = each().filter(|(_, v)| !matches!(v, Verdict::Goes(_))).map(|(known, _)| known.bytes).sum();
            let movable: Vec<&Known> = each()
                .filter(|(known, v)| **v == Verdict::Stays && !known.pinned && !known.in_use)
                .map(|(known, _)| known)
                .collect();
            assert!(left <= budget || movable.is_empty(), "over the budget with something left to take");
            let newest = gone.iter().max_by_key(|known| (known.last_use.clone().unwrap(), known.id.clone()));
            if let Some(newest) = newest {
                assert!(left + newest.bytes > budget, "one more than needed");
                let is_older = |known: &&Known| known.last_use.clone().unwrap() < newest.last_use.clone().unwrap();
                assert!(!movable.iter().any(is_older), "an older one was left");
            }
        }
    }

    #[test]
    fn a_clock_that_jumped_is_noticed_both_ways() {
        let now = 1_800_000_000;
        assert_eq!(judge_clock(now, []), None);
        assert_eq!(judge_clock(now, [now - 29 * DAY, now - 90 * DAY, now + 299]), None);
        assert_eq!(judge_clock(now, [now - DAY, now + 301]), Some(ClockJump::Back { seen: now + 301 }));
        assert_eq!(judge_clock(now, [now - 30 * DAY]), None);
        let seen = now - 30 * DAY - 1;
        assert_eq!(judge_clock(now, [seen, seen - 1]), Some(ClockJump::Ahead { seen }));
    }
}
