//! What persistence saved: four figures, from what a session's logs of events and commands say. `docs/metrics.md` defines
//! them; [`History::of`] is a pure function, so that each can be checked against a history worked out by hand.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::commands::CommandRecord;
use super::error::SessionError;
use super::events::{Event, SetUpReason, What};
use super::layout::StoreDir;
use super::receipt::How;
use crate::base::SessionId;

/// Why an opening came up without what was to be there, or had to do set-up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cold {
    /// There was no such session.
    New,
    /// It had been removed for being idle, or for the store's budget.
    Expired,
    /// It had been removed by somebody.
    Deleted,
    /// Another version of what runs in it was stated.
    Version,
    /// It had been refused, was accepted older, gave up its journal, or was found damaged.
    Damaged,
    /// What a step of its set-up depends on had changed.
    Key,
}

impl Cold {
    /// All of them, in the order in which the first that fits is the reason.
    pub const ALL: [Cold; 6] = [Cold::New, Cold::Expired, Cold::Deleted, Cold::Version, Cold::Damaged, Cold::Key];

    /// As figures have it.
    pub fn name(self) -> &'static str {
        match self {
            Cold::New => "new",
            Cold::Expired => "expired",
            Cold::Deleted => "deleted",
            Cold::Version => "version",
            Cold::Damaged => "damaged",
            Cold::Key => "key",
        }
    }
}

/// What the logs of a session, or of several, come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The first event that is known.
    pub since: Option<Timestamp>,
    /// Times a session was mounted.
    pub openings: u64,
    /// Times it should have come back, and did.
    pub resumes_good: u64,
    /// Times it should have, and was refused, was not as its last stop left it, or was found damaged while open.
    pub resumes_failed: u64,
    /// Steps of set-up that were done.
    pub steps_done: u64,
    /// How long they took.
    pub steps_millis: u64,
    /// Steps that were passed over in resumes that went well, where they would have been done again without persistence.
    pub steps_avoided: u64,
    /// How long they took when they were done.
    pub avoided_millis: u64,
    /// Openings that came up cold, by why.
    pub cold: BTreeMap<Cold, u64>,
    /// Of openings that came back: how long from their beginning to the first useful action, in milliseconds; in their order.
    pub first_action_millis: Vec<u64>,
    /// Of how many that is not known.
    pub first_action_unknown: u64,
}

/// An opening while its events are read.
struct Opening {
    begin: Timestamp,
    at: Timestamp,
    is_resume: bool,
    failed: bool,
    cold: Option<Cold>,
    /// Steps that were done in it, or whose time is credited.
    steps: BTreeSet<String>,
    did_set_up: bool,
    /// What each step that was passed over took when it was done.
    avoided: Vec<u64>,
    first_used: Option<u64>,
}

/// What one session's events have come to so far.
#[derive(Default)]
struct Reading {
    history: History,
    opening: Option<Opening>,
    /// Why the next opening is cold: the session was removed, or an opening of one that begins empty was refused.
    next: Option<Cold>,
    /// Something has gone wrong since it was last opened well.
    damaged: bool,
    /// Steps that are known to have been done in this life of the session.
    done: BTreeSet<String>,
}

impl History {
    /// Of one session: its events, and its commands, each in their order.
    pub fn of(events: &[Event], commands: &[CommandRecord]) -> History {
        let mut reading = Reading::default();
        reading.history.since = events.first().map(|event| event.at);
        for event in events {
            reading.take(event, commands);
        }
        reading.close(None, commands);
        reading.history
    }

    /// Adds those of another session.
    pub fn add(&mut self, other: &History) {
        self.since = [self.since, other.since].into_iter().flatten().min();
        self.openings += other.openings;
        self.resumes_good += other.resumes_good;
        self.resumes_failed += other.resumes_failed;
        self.steps_done += other.steps_done;
        self.steps_millis += other.steps_millis;
        self.steps_avoided += other.steps_avoided;
        self.avoided_millis += other.avoided_millis;
        for (&why, count) in &other.cold {
            *self.cold.entry(why).or_default() += count;
        }
        self.first_action_millis.extend(&other.first_action_millis);
        self.first_action_unknown += other.first_action_unknown;
    }

    /// Times a session should have come back.
    pub fn resumes(&self) -> u64 {
        self.resumes_good + self.resumes_failed
    }

    /// Openings that came up cold.
    pub fn cold_openings(&self) -> u64 {
        self.cold.values().sum()
    }

    /// The median time to the first useful action: the lower of two in the middle.
    pub fn first_action_median(&self) -> Option<u64> {
        let mut sorted = self.first_action_millis.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len().checked_sub(1)? / 2).copied()
    }
}

impl Reading {
    fn take(&mut self, event: &Event, commands: &[CommandRecord]) {
        match &event.what {
            What::Started { mountpoint, opening_millis, resume, .. } => {
                self.close(Some(event.at), commands);
                if mountpoint.is_some() {
                    self.open(event.at, opening_millis.unwrap_or(0), resume.how, resume.as_stopped);
                } else if resume.how == How::Created {
                    // A command made it: whoever mounts it next finds what that has put there.
                    self.next = None;
                    self.new_life();
                }
            }
            What::Stopped { first_used_millis, .. } => {
                if let Some(opening) = &mut self.opening {
                    opening.first_used = *first_used_millis;
                }
                self.close(Some(event.at), commands);
            }
            What::Refused { opened, .. } => {
                self.history.resumes_failed += 1;
                // It is not mounted then: the next that is comes up as this would have.
                match self.opening.take_if(|_| *opened).and_then(|refused| refused.cold) {
                    None => self.damaged = true,
                    cold => self.next = cold,
                }
            }
            What::Verified { verification, .. } if verification.findings > 0 => {
                self.damaged = true;
                if let Some(opening) = &mut self.opening {
                    opening.failed = true;
                }
            }
            What::Accepted { .. } | What::JournalDiscarded { .. } => self.damaged = true,
            What::SetUp { step, why, millis, exit, .. } => self.set_up(step, *why, *millis, *exit),
            What::SetUpSkipped { step, saved_millis, .. } => {
                // As the log may begin later than that.
                self.done.insert(step.clone());
                // A second time in the same opening, it would not have been done again anyway.
                if let Some(opening) = &mut self.opening
                    && opening.steps.insert(step.clone())
                {
                    opening.avoided.push(*saved_millis);
                }
            }
            What::Removed { by, .. } => {
                self.close(Some(event.at), commands);
                let why = if by == "rm" { Cold::Deleted } else { Cold::Expired };
                self.next = Some(if self.damaged { Cold::Damaged } else { why });
                self.new_life();
            }
            What::NotStopped { .. } => self.close(Some(event.at), commands),
            What::Verified { .. }
            | What::SoftLimit { .. }
            | What::VersionChanged { .. }
            | What::SplitOff { .. }
            | What::Other => {}
        }
    }

    fn new_life(&mut self) {
        self.done.clear();
        self.damaged = false;
    }

    fn open(&mut self, at: Timestamp, opening_millis: u64, how: How, as_stopped: bool) {
        let begin = at.as_millisecond().saturating_sub_unsigned(opening_millis);
        let is_resume = matches!(how, How::Resumed | How::Recovered | How::Adopted);
        let next = self.next.take();
        let cold = match how {
            How::Created => Some(next.unwrap_or(Cold::New)),
            How::Reset => Some(Cold::Version),
            How::Resumed | How::Recovered => next,
            // It was brought from elsewhere, whatever became of the one before.
            How::Adopted => None,
        };
        if !is_resume {
            self.new_life();
        }
        self.opening = Some(Opening {
            begin: Timestamp::from_millisecond(begin).unwrap_or(at),
            at,
            is_resume,
            // Only what a stop has left can differ from that.
            failed: how == How::Resumed && !as_stopped,
            cold,
            steps: BTreeSet::new(),
            did_set_up: false,
            avoided: Vec::new(),
            first_used: None,
        });
    }

    fn set_up(&mut self, step: &str, why: SetUpReason, millis: u64, exit: i32) {
        let again = self.done.contains(step);
        if let Some(opening) = &mut self.opening {
            opening.did_set_up = true;
            opening.steps.insert(step.to_owned());
            let cold = match why {
                SetUpReason::KeyChanged => Some(Cold::Key),
                // Its mark is gone, with whatever else is.
                SetUpReason::First if again => Some(Cold::Damaged),
                SetUpReason::First => None,
            };
            opening.cold = [opening.cold, cold].into_iter().flatten().min();
        }
        if exit == 0 {
            self.done.insert(step.to_owned());
            self.history.steps_done += 1;
            self.history.steps_millis += millis;
        }
    }

    /// The opening is over, or goes on if there is no end.
    fn close(&mut self, end: Option<Timestamp>, commands: &[CommandRecord]) {
        let Some(opening) = self.opening.take() else { return };
        let history = &mut self.history;
        history.openings += 1;
        if let Some(cold) = opening.cold {
            *history.cold.entry(cold).or_default() += 1;
        }
        if !opening.is_resume {
            return;
        }
        if opening.failed {
            history.resumes_failed += 1;
            return;
        }
        history.resumes_good += 1;
        history.steps_avoided += opening.avoided.len() as u64;
        history.avoided_millis += opening.avoided.iter().sum::<u64>();
        self.damaged = false;
        match opening.first_action(end, commands) {
            Some(millis) => history.first_action_millis.push(millis),
            None => history.first_action_unknown += 1,
        }
    }
}

impl Opening {
    /// Milliseconds from its beginning to the end of the first command that succeeded, or to the first use of its files,
    /// if that was not its set-up.
    fn first_action(&self, end: Option<Timestamp>, commands: &[CommandRecord]) -> Option<u64> {
        let since = |at: Timestamp| u64::try_from(at.as_millisecond() - self.begin.as_millisecond()).unwrap_or(0);
        let within =
            |record: &&CommandRecord| record.started >= self.begin && end.is_none_or(|end| record.started <= end);
        let useful = |record: &&CommandRecord| record.succeeded() && record.by != "setup";
        let command = commands.iter().filter(within).filter(useful).map(|record| since(record.ended())).min();
        let used = self.first_used.filter(|_| !self.did_set_up).map(|millis| since(self.at) + millis);
        [command, used].into_iter().flatten().min()
    }
}

impl StoreDir {
    /// What a session's logs come to, removed or not.
    pub fn history(&self, id: &SessionId) -> Result<History, SessionError> {
        Ok(History::of(&self.events(id)?, &self.commands(id)?))
    }
}
