//! What a power cut leaves of a disk.
//!
//! Promised, and so always there: what a file held at its last sync that succeeded, its length included, and the names
//! there were at the last sync of the directory. Everything after may be there or not, in any combination that a disk
//! can produce: each sector of 512 bytes holds what some moment since then would have put there, the length of a file
//! is that of some moment, and of the changes of names the first few happened.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use sessionfs::format::content_hash;

use crate::op::Rng;
use crate::tape::{Event, FileId};

const SECTOR: u64 = 512;

/// The files of a session, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Database,
    Wal,
    Journal,
}

impl Class {
    fn of(name: &str) -> Class {
        match name {
            name if name.contains(".journal") => Class::Journal,
            name if name.ends_with("-wal") => Class::Wal,
            _ => Class::Database,
        }
    }
}

/// What is kept of the writes that were not synced.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    Nothing,
    Everything,
    /// Of each file all but its last one.
    NotTheLast,
    EveryOther,
    /// Those of one sort of file.
    Only(Class),
    Except(Class),
    /// Every write without a random choice of pieces of this size: one in so many of them.
    Torn {
        piece: u64,
        one_in: u64,
        seed: u64,
    },
}

/// What is kept of lengths, and of names.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    Nothing,
    Everything,
    /// As of a random moment.
    Some(u64),
}

/// One way to lose what was not synced.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    pub data: Data,
    pub sizes: Extent,
    pub names: Extent,
}

impl Pattern {
    pub const NOTHING: Pattern = Pattern { data: Data::Nothing, sizes: Extent::Nothing, names: Extent::Nothing };
    pub const EVERYTHING: Pattern =
        Pattern { data: Data::Everything, sizes: Extent::Everything, names: Extent::Everything };

    /// Nothing is lost: what the death of the process leaves.
    pub fn keeps_everything(&self) -> bool {
        matches!(self.data, Data::Everything)
    }

    /// The patterns for one cut: the simple ones always, and torn ones by this seed.
    pub fn all(seed: u64) -> Vec<Pattern> {
        use {Class::*, Data::*};
        let with = |data, sizes, names| Pattern { data, sizes, names };
        let (all, none, some) = (Extent::Everything, Extent::Nothing, Extent::Some(seed));
        let torn = |piece, one_in| Torn { piece, one_in, seed: seed.wrapping_mul(31).wrapping_add(one_in) };
        vec![
            Pattern::NOTHING,
            Pattern::EVERYTHING,
            with(Nothing, all, all),
            with(NotTheLast, all, all),
            with(EveryOther, all, none),
            with(Only(Journal), all, all),
            with(Only(Wal), all, some),
            with(Only(Database), all, all),
            with(Except(Journal), some, all),
            with(torn(512, 2), some, some),
            with(torn(4096, 2), all, all),
            with(torn(4096, 3), some, all),
            // Few enough that what frames the content of a write is likely to be whole.
            with(torn(512, 16), all, all),
            with(torn(512, 256), all, all),
        ]
    }
}

/// What a file holds: these bytes, and zeros up to its length. A journal is mostly zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    bytes: Vec<u8>,
    len: u64,
}

/// The names and contents that are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(pub BTreeMap<String, Content>);

impl Image {
    /// Makes it real, in an empty directory.
    pub fn write(&self, directory: &Path) {
        for (name, content) in &self.0 {
            let file = File::create_new(directory.join(name)).unwrap();
            file.write_all_at(&content.bytes, 0).unwrap();
            file.set_len(content.len).unwrap();
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// To know an image again. Of the hashes at hand this is the one that is fast in a debug build, too.
    pub fn hash(&self) -> u64 {
        let parts = self
            .0
            .iter()
            .flat_map(|(name, content)| [content_hash(name.as_bytes()), content.len, content_hash(&content.bytes)]);
        content_hash(&parts.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
    }
}

impl Content {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let (at, end) = (at as usize, at as usize + bytes.len());
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        self.len = self.len.max(end as u64);
    }

    fn resize(&mut self, len: u64) {
        self.bytes.truncate(len as usize);
        self.len = len;
    }
}

pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|&first| first == 0 && bytes[..bytes.len() - 1] == bytes[1..])
}

/// A change to a file since it was synced last.
#[derive(Clone, Debug)]
struct Change {
    what: What,
    /// Covered by a sync, but behind one that a failed sync has left in doubt.
    synced: bool,
    /// Was there when a sync failed: no later one covers it.
    doubtful: bool,
}

#[derive(Clone, Debug)]
enum What {
    Write { at: u64, bytes: Arc<[u8]> },
    Resize { size: u64 },
}

#[derive(Debug, Default)]
struct FileState {
    class: Option<Class>,
    durable: Content,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Naming {
    Create { file: FileId, name: String },
    Rename { from: String, to: String },
    Remove { name: String },
}

/// A disk on its way along a tape.
#[derive(Debug)]
pub struct Simulation<'t> {
    tape: &'t [Event],
    at: usize,
    files: BTreeMap<FileId, FileState>,
    names: BTreeMap<String, FileId>,
    namings: Vec<Naming>,
}

impl<'t> Simulation<'t> {
    pub fn new(tape: &'t [Event]) -> Simulation<'t> {
        Simulation { tape, at: 0, files: BTreeMap::new(), names: BTreeMap::new(), namings: Vec::new() }
    }

    /// Goes on until the first `at` events have happened.
    pub fn advance(&mut self, at: usize) {
        for event in &self.tape[self.at..at] {
            self.happened(event);
        }
        self.at = at;
    }

    fn happened(&mut self, event: &Event) {
        match event.clone() {
            Event::Present { file, name, bytes } => {
                let class = Some(Class::of(&name));
                let mut durable = Content::default();
                durable.write(0, &bytes);
                self.files.insert(file, FileState { class, durable, changes: Vec::new() });
                self.names.insert(name, file);
            }
            Event::Create { file, name } => {
                self.files.insert(file, FileState { class: Some(Class::of(&name)), ..FileState::default() });
                self.namings.push(Naming::Create { file, name });
            }
            Event::Write { file, at, bytes } => self.changed(file, What::Write { at, bytes }),
            Event::Resize { file, size } => self.changed(file, What::Resize { size }),
            Event::Sync(file) => self.files.entry(file).or_default().sync(),
            Event::SyncFailed(file) => {
                let changes = &mut self.files.entry(file).or_default().changes;
                changes.iter_mut().filter(|change| !change.synced).for_each(|change| change.doubtful = true);
            }
            Event::Rename { from, to } => self.namings.push(Naming::Rename { from, to }),
            Event::Remove { name } => self.namings.push(Naming::Remove { name }),
            Event::SyncDirectory => {
                let namings = std::mem::take(&mut self.namings);
                namings.iter().for_each(|naming| apply(&mut self.names, naming));
                self.files.retain(|file, _| self.names.values().any(|named| named == file));
            }
            Event::Mark(_) => {}
        }
    }

    fn changed(&mut self, file: FileId, what: What) {
        let state = self.files.entry(file).or_default();
        let what = match what {
            // Zeros where there is nothing but zeros make the file longer, if anything.
            What::Write { at, bytes } if at >= state.written() && is_zero(&bytes) => {
                What::Resize { size: state.sizes()[state.changes.len()].max(at + bytes.len() as u64) }
            }
            what => what,
        };
        state.changes.push(Change { what, synced: false, doubtful: false });
    }

    /// Whether there is more than one disk that a power cut here can leave.
    pub fn has_doubts(&self) -> bool {
        !self.namings.is_empty() || self.files.values().any(|state| !state.changes.is_empty())
    }

    /// The disk after a power cut here.
    pub fn image(&self, pattern: &Pattern) -> Image {
        let mut names = self.names.clone();
        let kept = match pattern.names {
            Extent::Nothing => 0,
            Extent::Everything => self.namings.len(),
            Extent::Some(seed) => Rng(seed | 1).below(self.namings.len() as u64 + 1) as usize,
        };
        self.namings[..kept].iter().for_each(|naming| apply(&mut names, naming));
        let content =
            |file: &FileId| self.files.get(file).map_or_else(Content::default, |state| state.content(*file, pattern));
        Image(names.iter().map(|(name, file)| (name.clone(), content(file))).collect())
    }
}

fn apply(names: &mut BTreeMap<String, FileId>, naming: &Naming) {
    match naming.clone() {
        Naming::Create { file, name } => {
            names.insert(name, file);
        }
        Naming::Rename { from, to } => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        Naming::Remove { name } => {
            names.remove(&name);
        }
    }
}

impl FileState {
    fn sync(&mut self) {
        if self.changes.iter().any(|change| change.doubtful) {
            let sound = self.changes.iter_mut().filter(|change| !change.doubtful);
            sound.for_each(|change| change.synced = true);
            return;
        }
        for change in self.changes.drain(..) {
            match change.what {
                What::Write { at, bytes } => self.durable.write(at, &bytes),
                What::Resize { size } => self.durable.resize(size),
            }
        }
    }

    /// Behind here there are only zeros, whatever is kept.
    fn written(&self) -> u64 {
        let ends = self.changes.iter().map(|change| match &change.what {
            What::Write { at, bytes } => at + bytes.len() as u64,
            What::Resize { .. } => 0,
        });
        ends.fold(self.durable.bytes.len() as u64, u64::max)
    }

    /// What it holds after a cut. Every sector is as it was behind the last kept change that touches it: a disk writes
    /// what is in the cache, and that has all changes up to then in it.
    fn content(&self, file: FileId, pattern: &Pattern) -> Content {
        let sizes = self.sizes();
        let written = self.written();
        let mut last = vec![0; written.div_ceil(SECTOR) as usize];
        for (i, change) in self.changes.iter().enumerate() {
            self.keep(i, change, file, pattern.data, written, &mut last);
        }
        let mut content = self.durable.bytes.clone();
        content.resize(written as usize, 0);
        for (i, change) in self.changes.iter().enumerate() {
            let (at, bytes) = match &change.what {
                What::Write { at, bytes } => (*at, &bytes[..]),
                // Only what it takes away is a change of sectors.
                What::Resize { size } => (*size, &[][..]),
            };
            for sector in sectors(at, end_of(change, written)) {
                if last[sector as usize] <= i {
                    continue;
                }
                let (from, until) = ((sector * SECTOR).max(at), (sector + 1) * SECTOR);
                let until = until.min(end_of(change, written));
                let (range, source) = (from as usize..until as usize, (from - at) as usize..(until - at) as usize);
                match bytes.get(source) {
                    Some(bytes) => content[range].copy_from_slice(bytes),
                    None => content[range].fill(0),
                }
            }
        }
        let len = self.size(pattern.sizes, &sizes);
        content.truncate(len as usize);
        Content { bytes: content, len }
    }

    /// The file's length before each change, and behind the last.
    fn sizes(&self) -> Vec<u64> {
        let mut sizes = vec![self.durable.len];
        for change in &self.changes {
            let before = sizes[sizes.len() - 1];
            sizes.push(match &change.what {
                What::Write { at, bytes } => before.max(at + bytes.len() as u64),
                What::Resize { size } => *size,
            });
        }
        sizes
    }

    /// Notes in which sectors the change with this index is kept.
    fn keep(&self, i: usize, change: &Change, file: FileId, data: Data, written: u64, last: &mut [usize]) {
        let ours = |class| self.class == Some(class);
        let whole = change.synced
            || match data {
                Data::Nothing | Data::Torn { .. } => false,
                Data::Everything => true,
                Data::NotTheLast => i + 1 < self.changes.len(),
                Data::EveryOther => i % 2 == 1,
                Data::Only(class) => ours(class),
                Data::Except(class) => !ours(class),
            };
        let from = match &change.what {
            What::Write { at, .. } => *at,
            What::Resize { size } => *size,
        };
        for sector in sectors(from, end_of(change, written)) {
            let torn = matches!(data, Data::Torn { piece, one_in, seed }
                if !choice(seed, file, i, sector * SECTOR / piece).is_multiple_of(one_in));
            if whole || torn {
                last[sector as usize] = i + 1;
            }
        }
    }

    fn size(&self, extent: Extent, sizes: &[u64]) -> u64 {
        // What a sync has covered is not in doubt.
        let least = self.changes.iter().rposition(|change| change.synced).map_or(0, |i| i + 1);
        let moment = match extent {
            Extent::Nothing => least,
            Extent::Everything => sizes.len() - 1,
            Extent::Some(seed) => least + Rng(seed | 1).below((sizes.len() - least) as u64) as usize,
        };
        sizes[moment]
    }
}

/// Where the sectors end that a change touches. A file that is cut loses all that was behind.
fn end_of(change: &Change, written: u64) -> u64 {
    match &change.what {
        What::Write { at, bytes } => at + bytes.len() as u64,
        What::Resize { .. } => written,
    }
}

fn sectors(from: u64, until: u64) -> std::ops::Range<u64> {
    if from < until { from / SECTOR..until.div_ceil(SECTOR) } else { 0..0 }
}

/// A number for each piece of each write.
fn choice(seed: u64, file: FileId, change: usize, piece: u64) -> u64 {
    let mixed = [seed, file as u64, change as u64, piece];
    let mixed = mixed.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |state, &part| {
        (state ^ part).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    });
    mixed >> 32
}
