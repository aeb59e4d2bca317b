//! Rename, with `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.

use super::Core;
use super::inode::Entry;
use super::names::{check_own_name, entry_cost};
use super::state::{Op, State, Step};
use super::types::RenameMode;
use crate::base::{Cookie, Errno, FileKind, Ino, Name};

/// One end of a rename.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Ino,
    name: &'a [u8],
}

impl State {
    fn at(&self, place: Place<'_>) -> Step<Option<Entry>> {
        self.entry(place.parent, place.name)
    }

    /// Whether `ino` is `ancestor` or lies below it.
    fn is_below(&self, mut ino: Ino, ancestor: Ino) -> Result<bool, Errno> {
        loop {
            if ino == ancestor {
                return Ok(true);
            }
            if ino == Ino::ROOT {
                return Ok(false);
            }
            let inode = self.inode(ino)?;
            if !inode.row.is_dir() {
                return Err(Errno::NotDir);
            }
            ino = inode.parent;
        }
    }
}

impl Op<'_> {
    /// Refuses to move a directory into itself.
    fn check_no_loop(&self, moved: Entry, into: Ino) -> Result<(), Errno> {
        if moved.kind == FileKind::Directory && self.is_below(into, moved.ino)? { Err(Errno::Inval) } else { Ok(()) }
    }

    fn set_parent(&mut self, moved: Entry, parent: Ino, cookie: Cookie) {
        self.update(moved.ino, |inode| (inode.parent, inode.cookie) = (parent, cookie));
    }

    fn move_name(&mut self, from: Place<'_>, to: Place<'_>, moved: Entry, replaced: Option<Entry>) -> Step<()> {
        let is_dir = moved.kind == FileKind::Directory;
        if let Some(old) = replaced {
            let old_is_dir = old.kind == FileKind::Directory;
            match (is_dir, old_is_dir) {
                (true, false) => return Err(Errno::NotDir.into()),
                (false, true) => return Err(Errno::IsDir.into()),
                (true, true) if !self.dir(old.ino)?.1.is_empty() => return Err(Errno::NotEmpty.into()),
                _ => {}
            }
            self.check_links(old.ino, if old_is_dir { 2 } else { 1 })?;
        } else {
            if self.inode(to.parent)?.row.is_orphan() {
                return Err(Errno::NoEnt.into());
            }
            // In one directory the old name makes room for the new one, so only what is longer counts.
            let given_up = if to.parent == from.parent { entry_cost(from.name) } else { 0 };
            self.room(0, self.growth(to.parent, entry_cost(to.name).saturating_sub(given_up))?)?;
        }
        let subdirs = i32::from(is_dir);
        self.remove_name(from.parent, &Name::from(from.name), -subdirs);
        let gone = i32::from(replaced.is_some_and(|old| old.kind == FileKind::Directory));
        // Within a directory a file keeps its place whatever it is called: a listing shows it once.
        let place = (to.parent == from.parent).then_some(moved.cookie);
        let cookie = self.put_name(to.parent, &Name::from(to.name), moved.ino, subdirs - gone, place);
        self.set_parent(moved, to.parent, cookie);
        if let Some(old) = replaced {
            self.drop_links(old.ino, if old.kind == FileKind::Directory { 2 } else { 1 });
        }
        Ok(())
    }

    fn exchange(&mut self, from: Place<'_>, to: Place<'_>, one: Entry, other: Entry) -> Step<()> {
        self.check_no_loop(other, from.parent)?;
        let subdirs = i32::from(one.kind == FileKind::Directory) - i32::from(other.kind == FileKind::Directory);
        let here = self.put_name(from.parent, &Name::from(from.name), other.ino, -subdirs, None);
        let there = self.put_name(to.parent, &Name::from(to.name), one.ino, subdirs, None);
        self.set_parent(one, to.parent, there);
        self.set_parent(other, from.parent, here);
        Ok(())
    }
}

impl Core {
    /// Moves a name, or exchanges two.
    pub fn rename(&self, parent: Ino, name: &[u8], to: Ino, to_name: &[u8], mode: RenameMode) -> Result<(), Errno> {
        check_own_name(name)?;
        check_own_name(to_name)?;
        let (from, to) = (Place { parent, name }, Place { parent: to, name: to_name });
        self.change(|op| {
            let moved = op.at(from)?.ok_or(Errno::NoEnt)?;
            let there = op.at(to)?;
            op.check_no_loop(moved, to.parent)?;
            match (mode, there) {
                (RenameMode::NoReplace, Some(_)) => Err(Errno::Exist.into()),
                (RenameMode::Exchange, None) => Err(Errno::NoEnt.into()),
                // Two names of one file: POSIX wants success and no change.
                (_, Some(there)) if there.ino == moved.ino => Ok(()),
                (RenameMode::Exchange, Some(there)) => op.exchange(from, to, moved, there),
                (_, replaced) => op.move_name(from, to, moved, replaced),
            }
        })
    }
}
