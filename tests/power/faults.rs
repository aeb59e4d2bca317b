//! Which call to the disk fails, and how. The calls are counted first, so that every one of them can be made to fail.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Create,
    Open,
    Read,
    Write,
    Resize,
    Size,
    Sync,
    Rename,
    Remove,
    SyncDirectory,
    SharedMemory,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub errno: i32,
    /// A write does half of its work first.
    pub short: bool,
}

impl Failure {
    /// A disk that is full can still be read.
    fn of(self, kind: Kind) -> Failure {
        let takes_no_room = matches!(kind, Kind::Read | Kind::Size | Kind::Remove);
        Failure { errno: if takes_no_room { libc::EIO } else { self.errno }, ..self }
    }
}

/// The call that fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// `None`: a call of any kind.
    pub kind: Option<Kind>,
    /// Counted from 0.
    pub nth: u64,
    /// So do all calls of that kind behind it.
    pub for_ever: bool,
    pub failure: Failure,
}

#[derive(Debug, Default)]
pub struct Faults {
    armed: Option<Fault>,
    calls: BTreeMap<Kind, u64>,
    hit: Option<Kind>,
}

impl Faults {
    pub fn arm(&mut self, fault: Option<Fault>) {
        *self = Faults { armed: fault, ..Faults::default() };
    }

    /// Counts a call; returns how it has to fail, if it has to.
    pub fn call(&mut self, kind: Kind) -> Result<(), Failure> {
        let fault = self.armed;
        let matching = |fault: &Fault| fault.kind.is_none_or(|wanted| wanted == kind);
        let before = match fault.and_then(|fault| fault.kind) {
            Some(kind) => self.calls.get(&kind).copied().unwrap_or(0),
            None => self.total(),
        };
        *self.calls.entry(kind).or_default() += 1;
        let Some(fault) = fault.filter(matching) else { return Ok(()) };
        let again = fault.for_ever && before > fault.nth && self.hit == Some(kind);
        if before == fault.nth || again {
            self.hit = Some(kind);
            return Err(fault.failure.of(kind));
        }
        Ok(())
    }

    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }

    /// The kind of call that failed, once one has.
    pub fn hit(&self) -> Option<Kind> {
        self.hit
    }
}
