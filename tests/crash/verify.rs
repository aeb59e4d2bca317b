//! What must be true of a session whose server was killed: it recovers to the state after the last operation that was
//! acknowledged or after the one under way, it is whole, and it goes on.

use std::collections::BTreeMap;
use std::path::Path;

use sessionfs::base::Ino;
use sessionfs::fs::Fs;
use sessionfs::store::{Omit, Store};

use crate::child::{self, Answer, database, start, unlink_open};
use crate::op::Op;
use crate::perform::{makes, on_fs};
use crate::reference::Model;
use crate::script::{BYTES_LIMIT, INODES_LIMIT, on_model, script};
use crate::snapshot::{Numbers, Snapshot};

/// What came true, or what is wrong.
pub type Outcome<T = ()> = Result<T, String>;

/// Every state a script goes through.
pub struct States {
    script: Vec<Op>,
    /// What a run that nobody killed answered.
    answers: Vec<Answer>,
    /// By the number of operations done.
    snapshots: Vec<Snapshot>,
}

/// A model, and the numbers of its nodes.
struct Reference {
    model: Model,
    numbers: Numbers,
}

impl Reference {
    fn new() -> Reference {
        Reference { model: Model::new(BYTES_LIMIT, INODES_LIMIT), numbers: BTreeMap::from([(0, Ino::ROOT)]) }
    }

    /// Does an operation that the file system answered so.
    fn apply(&mut self, op: &Op, answer: &Answer) -> Outcome {
        let value = on_model(&mut self.model, op).map_err(|errno| errno.code());
        if value != answer.value {
            return Err(format!("{op:?} answers {:?}, the model {value:?}", answer.value));
        }
        if let (Some(ino), Some(path)) = (answer.made, makes(op)) {
            if self.numbers.values().any(|&old| old >= ino) {
                return Err(format!("{op:?} made inode {ino}, which is not new"));
            }
            let node = self.model.find(path).map_err(|errno| format!("{op:?}: {errno}"))?;
            self.numbers.insert(node, ino);
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::of_model(&self.model, &self.numbers, None)
    }
}

impl States {
    /// Those of a seed, when a run of it answered so.
    pub fn new(seed: u64, answers: &[Answer]) -> Outcome<States> {
        let script = script(seed);
        if answers.len() != script.len() {
            return Err(format!("{} answers for {} operations", answers.len(), script.len()));
        }
        let mut reference = Reference::new();
        let mut snapshots = vec![reference.snapshot()];
        for (op, answer) in script.iter().zip(answers) {
            reference.apply(op, answer)?;
            snapshots.push(reference.snapshot());
        }
        Ok(States { script, answers: answers.to_vec(), snapshots })
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.script.len()
    }

    /// Whether a child that was killed had answered the same.
    pub fn begins_with(&self, answers: &[Answer]) -> Outcome {
        let differs = self.answers.iter().zip(answers).position(|(one, two)| one != two);
        differs.map_or(Ok(()), |at| Err(format!("operation {at} answers otherwise than before: {:?}", answers[at])))
    }

    /// Recovers what is in `dir`, where `acknowledged` operations had been, and looks whether all is well. Returns the
    /// state it is in.
    pub fn verify(&self, dir: &Path, acknowledged: usize, omit: Omit) -> Outcome<usize> {
        self.verify_one_of(dir, &[acknowledged, acknowledged + 1], omit)
    }

    /// The same, when the state has to be one of these.
    pub fn verify_one_of(&self, dir: &Path, allowed: &[usize], omit: Omit) -> Outcome<usize> {
        if !database(dir).exists() {
            // The very first crash, before there was a session.
            child::create(dir).map_err(|error| format!("create: {error}"))?;
        }
        let fs = start(dir, omit).map_err(|error| format!("recover: {error}"))?;
        let found = snapshot(&fs)?;
        let here = allowed.iter().find(|&&at| self.snapshots.get(at).is_some_and(|state| found.is_like(state)));
        let Some(&here) = here else {
            fs.abandon();
            return Err(format!("after {allowed:?} operations: {}", self.difference(&found, allowed[0])));
        };
        check(dir)?;
        self.go_on(dir, fs, here, omit)?;
        Ok(here)
    }

    fn difference(&self, found: &Snapshot, expected: usize) -> String {
        match self.snapshots.iter().position(|state| found.is_like(state)) {
            Some(at) => format!("it is the state after {at}"),
            None => self.snapshots[expected].difference(found).unwrap_or_default(),
        }
    }

    /// A few operations from here on, a stop and a look at what came of it.
    fn go_on(&self, dir: &Path, fs: std::sync::Arc<Fs>, here: usize, omit: Omit) -> Outcome {
        let mut reference = Reference::new();
        for (op, answer) in self.script.iter().zip(&self.answers).take(here) {
            reference.apply(op, answer)?;
        }
        // What was open is not, in the next life.
        reference.model.forget();
        let mut held = Vec::new();
        for op in few_more().iter().chain(self.script[here..].iter().take(4)) {
            let value = match op {
                Op::Fsync | Op::Remount | Op::Forget => fs.fsync().map(|()| 0),
                Op::Commit => fs.commit().map(|()| 0),
                Op::UnlinkOpen(path) => unlink_open(&fs, path, &mut held),
                op => on_fs(&fs, op),
            };
            if !matches!(op, Op::Remount | Op::Forget) {
                let answer = Answer::new(&fs, op, value);
                reference.apply(op, &answer).map_err(|what| format!("after the recovery: {what}"))?;
            }
        }
        fs.stop().map_err(|error| format!("stop: {error}"))?;
        check(dir)?;
        if dir.join("session.journal").exists() {
            return Err("a stop has left the journal".to_owned());
        }
        let fs = start(dir, omit).map_err(|error| format!("start after a stop: {error}"))?;
        let difference = reference.snapshot().difference(&snapshot(&fs)?);
        fs.stop().map_err(|error| format!("second stop: {error}"))?;
        difference.map_or(Ok(()), |what| Err(format!("after a stop: {what}")))
    }
}

/// What can be done in every state.
fn few_more() -> [Op; 6] {
    let path = |name: &str| crate::op::Path(name.split('/').map(|part| part.as_bytes().to_vec()).collect());
    [
        Op::Mkdir(path("after")),
        Op::Create(path("after/one")),
        Op::Write { path: path("after/one"), at: 4_000, len: 70_001, byte: 9 },
        Op::Rename(path("after/one"), path("after/two")),
        Op::Fsync,
        Op::Link(path("after/two"), path("after/three")),
    ]
}

fn snapshot(fs: &Fs) -> Outcome<Snapshot> {
    Snapshot::of_fs(fs).map_err(|errno| format!("a read fails: {errno}"))
}

pub fn check(dir: &Path) -> Outcome {
    let findings = Store::open_read_only(&database(dir))
        .and_then(|store| sessionfs::store::check(&store, &mut |_, _| {}))
        .map_err(|error| format!("check: {error}"))?;
    if findings.is_empty() { Ok(()) } else { Err(format!("check: {findings:#?}")) }
}
