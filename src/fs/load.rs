//! Bringing into memory what an operation asked for. The store is read with the state unlocked.
//!
//! This is sound because what is in memory stays there: a directory, block map or xattr set that is not in memory was
//! not changed since the session was opened, so what the store has of it is current, whatever is being committed.
//!
//! Each row was checked by the store; that none is missing is checked here, against what the inode says they add up to,
//! and that none came twice, as the rows of a page do which a damaged b-tree leads to twice.

use log::{debug, error};

use super::Core;
use super::blockmap::BlockMap;
use super::committer;
use super::inode::{Body, File, Inode};
use super::names::entry_cost;
use super::sealed::Reloaded;
use super::state::{Contents, Need, State};
use crate::base::limits::{WARM_INODES, WARM_STEP, attached_pieces};
use crate::base::{DataId, Errno, Ino, Map};
use crate::format::{DentryRow, InodeRow};
use crate::store::StoreError;

/// How often content may be missing from the store before that counts as damage. A reader that was overtaken by a
/// commit finds its data id gone, and finds another one in the block map the next time.
const MISSES_ALLOWED: u32 = 4;

/// What was loaded for one operation, across its restarts.
#[derive(Default)]
pub(super) struct Loaded {
    contents: Contents,
    misses: Map<DataId, u32>,
    reloaded: Reloaded,
}

impl Loaded {
    pub fn contents(&self) -> &Contents {
        &self.contents
    }
}

impl Core {
    pub(super) fn load(&self, need: Need, loaded: &mut Loaded) -> Result<(), Errno> {
        match need {
            Need::Dir(ino) => self.load_directory(ino),
            Need::Blocks(ino) => self.load_blocks(ino),
            Need::Xattrs(ino) => self.load_xattrs(ino),
            Need::Contents(ids) => self.load_contents(&ids, loaded),
        }
        .map_err(|failure| {
            error!("{failure}");
            failure.errno()
        })
    }

    /// Loads what leads to an inode that somebody knows by its number alone: a file handle from before the session was
    /// opened. What is not there afterwards does not exist.
    pub(super) fn load_by_number(&self, ino: Ino) -> Result<(), Errno> {
        let failed = |failure: StoreError| {
            error!("{failure}");
            failure.errno()
        };
        let mut above: Vec<Ino> = Vec::new();
        let mut at = ino;
        while !self.state.lock().inodes.contains_key(&at) {
            match self.store.parent(at).map_err(failed)? {
                Some(parent) if !above.contains(&parent) => above.push(parent),
                // No name leads here from the root.
                _ => return Ok(()),
            }
            at = above[above.len() - 1];
        }
        above.into_iter().rev().try_for_each(|directory| self.load_directory(directory)).map_err(failed)
    }

    /// Loads a directory's names together with their inodes: whoever lists a directory looks at its files next.
    fn load_directory(&self, ino: Ino) -> Result<(), StoreError> {
        let _loading = self.loading.lock();
        if self.state.lock().inodes.get(&ino).and_then(Inode::dir).is_none_or(|dir| dir.loaded) {
            return Ok(()); // Someone else was faster, or it is gone: the operation will see.
        }
        let rows = self.store.directory(ino)?;
        self.install_directory(ino, rows)
    }

    /// Loads directories before anybody asks for them, by inode number, until there are none, or memory has its share. Runs
    /// on a thread of its own beside everything else.
    pub fn warm(&self) {
        committer::give_way();
        let mut next = Some(Ino(Ino::ROOT.0 - 1));
        while let Some(after) = next {
            next = self.warm_some(after).unwrap_or_else(|failure| {
                // A stop has closed the store; or it is damaged, and who comes there is told.
                debug!("no more is loaded ahead: {failure}");
                None
            });
        }
    }

    /// Loads some directories behind this one; returns behind which to go on.
    fn warm_some(&self, after: Ino) -> Result<Option<Ino>, StoreError> {
        let _loading = self.loading.lock();
        if self.state.lock().inodes.len() >= WARM_INODES {
            return Ok(None);
        }
        let (directories, next) = self.store.directories(after, WARM_STEP)?;
        for (ino, rows) in directories {
            // Not known: moved below a directory that is younger, and loaded when it is asked for.
            if self.state.lock().inodes.get(&ino).and_then(Inode::dir).is_some_and(|dir| !dir.loaded) {
                self.install_directory(ino, rows)?;
            }
        }
        Ok(next)
    }

    /// Brings a directory's rows into memory, while `loading` is held.
    fn install_directory(&self, ino: Ino, rows: Vec<(DentryRow, InodeRow)>) -> Result<(), StoreError> {
        in_order(ino, "names", rows.iter().map(|(dentry, _)| dentry.cookie))?;
        let size = rows.iter().map(|(dentry, _)| entry_cost(&dentry.name)).sum();
        let mut state = self.state.lock();
        adds_up(&state, ino, "names", |row| row.size, size)?;
        state.inodes.reserve(rows.len());
        let mut names = Vec::with_capacity(rows.len());
        for (dentry, row) in rows {
            let entry = super::inode::Entry { ino: dentry.ino, kind: dentry.kind, cookie: dentry.cookie };
            names.push((dentry.name, entry));
            // A file with several names may be here already, and be newer.
            state.inodes.entry(dentry.ino).or_insert_with(|| Inode::stored(row, ino, dentry.cookie));
        }
        if let Some(dir) = state.inodes.get_mut(&ino).and_then(Inode::dir_mut) {
            dir.reserve(names.len());
            for (name, entry) in names {
                dir.put(name, entry);
            }
            dir.loaded = true;
        }
        Ok(())
    }

    fn load_blocks(&self, ino: Ino) -> Result<(), StoreError> {
        let _loading = self.loading.lock();
        let rows = self.store.blocks(ino)?;
        in_order(ino, "blocks", rows.iter().map(|block| block.index))?;
        let pieces = rows.iter().map(|block| u64::from(block.mask.count_ones())).sum();
        let mut state = self.state.lock();
        if let Some(Inode { body: Body::File(File { blocks: None }), .. }) = state.inodes.get(&ino) {
            adds_up(
                &state,
                ino,
                "blocks",
                |row| row.pieces.saturating_sub(attached_pieces(row.attached.into())),
                pieces,
            )?;
        }
        if let Some(Inode { body: Body::File(file), .. }) = state.inodes.get_mut(&ino) {
            file.blocks.get_or_insert_with(|| BlockMap::from_rows(&rows));
        }
        Ok(())
    }

    fn load_xattrs(&self, ino: Ino) -> Result<(), StoreError> {
        let _loading = self.loading.lock();
        let rows = self.store.xattrs(ino)?;
        in_order(ino, "xattrs", rows.iter().map(|(name, _)| name))?;
        let bytes = rows.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum();
        let mut state = self.state.lock();
        if state.inodes.get(&ino).is_some_and(|inode| inode.xattrs.is_none()) {
            adds_up(
                &state,
                ino,
                "xattrs",
                |row| u64::from(row.attached).saturating_sub(row.target.len() as u64),
                bytes,
            )?;
        }
        if let Some(inode) = state.inodes.get_mut(&ino) {
            inode.xattrs.get_or_insert_with(|| Box::new(rows.into_iter().collect()));
        }
        Ok(())
    }

    fn load_contents(&self, ids: &[DataId], loaded: &mut Loaded) -> Result<(), StoreError> {
        for &id in ids {
            if let Some(content) = self.content(id, &loaded.reloaded)? {
                loaded.contents.insert(id, content);
                continue;
            }
            let misses = loaded.misses.entry(id).or_default();
            *misses += 1;
            if *misses > MISSES_ALLOWED {
                return Err(StoreError::Damaged(format!("content {id} is named by a block and is not there")));
            }
        }
        Ok(())
    }
}

/// Whether what was loaded is in the order it was asked for in, and nothing of it twice.
fn in_order(ino: Ino, what: &str, keys: impl Iterator<Item = impl Ord>) -> Result<(), StoreError> {
    if keys.is_sorted_by(|one, next| one < next) {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("inode {ino}: its {what} are out of order, or some come twice")))
}

/// Whether what was loaded is all there is: a row that got lost would otherwise be a name that is gone, or a hole.
fn adds_up(
    state: &State,
    ino: Ino,
    what: &str,
    promised: impl Fn(&InodeRow) -> u64,
    found: u64,
) -> Result<(), StoreError> {
    let Some(inode) = state.inodes.get(&ino) else { return Ok(()) };
    let promised = promised(&inode.row);
    if promised == found {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("inode {ino}: its {what} add up to {found}, not to {promised}")))
}
