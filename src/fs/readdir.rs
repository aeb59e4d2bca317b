//! Listing a directory: in the order of cookies, which never change, so that a listing that goes on while names come
//! and go shows every name that stayed exactly once (POSIX readdir).

use super::Fs;
use super::state::{Contents, Look, Need, Stop};
use super::types::{Attr, DirEntry};
use crate::base::{Cookie, Errno, FileKind, Ino};

/// The kernel's offset of `.` and `..`; a name's is its cookie plus this.
const DOTS: u64 = 2;

impl Fs {
    /// Calls `entry` for each name after `from` (0: from the start) until it returns false, which means that the entry
    /// was not taken. With `plus`, entries carry attributes and every one taken counts a reference.
    pub fn readdir(
        &self,
        ino: Ino,
        from: Cookie,
        plus: bool,
        entry: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut loaded = super::load::Loaded::default();
        let contents = Contents::default();
        let mut look = loop {
            let look = Look { state: self.state.lock(), contents: &contents };
            match look.dir(ino) {
                Ok(_) => break look,
                Err(Stop::Errno(errno)) => return Err(errno),
                Err(Stop::Need(need @ Need::Dir(_))) => {
                    drop(look);
                    self.load(need, &mut loaded)?;
                }
                Err(Stop::Need(_)) => return Err(Errno::Io),
            }
        };
        let mut taken = Vec::new();
        let result = list(&look, ino, from, plus, entry, &mut taken);
        for ino in taken {
            if let Ok(inode) = look.state.inode_mut(ino) {
                inode.lookups += 1;
            }
        }
        result
    }
}

/// Lists under the lock; the inodes whose attributes were taken are left in `taken`.
fn list(
    look: &Look<'_>,
    ino: Ino,
    from: Cookie,
    plus: bool,
    entry: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    taken: &mut Vec<Ino>,
) -> Result<(), Errno> {
    let dir = look.inode(ino)?.dir().ok_or(Errno::NotDir)?;
    let kind = FileKind::Directory;
    for (at, name, ino) in [(1, b".".as_slice(), ino), (2, b"..".as_slice(), dir.parent)] {
        if from.0 < at && !entry(&DirEntry { name, ino, kind, cookie: Cookie(at), attr: None }) {
            return Ok(());
        }
    }
    for (name, found) in dir.after(Cookie(from.0.saturating_sub(DOTS))) {
        let attr = if plus { Some(Attr::of(&look.inode(found.ino)?.row)) } else { None };
        let cookie = Cookie(found.cookie.0 + DOTS);
        if !entry(&DirEntry { name, ino: found.ino, kind: found.kind, cookie, attr }) {
            return Ok(());
        }
        if plus {
            taken.push(found.ino);
        }
    }
    Ok(())
}
