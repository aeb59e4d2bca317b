//! Listing a directory: in the order of cookies, which never change, so that a listing that goes on while names come
//! and go shows every name that stayed exactly once, and comes to an end (POSIX readdir).

use super::Core;
use super::state::{Contents, Look, Need, Stop};
use super::types::{Attr, DirEntry};
use crate::base::{Cookie, Errno, FileKind, Ino};

/// The kernel's offset of `.` and `..`; a name's is its cookie plus this.
const DOTS: u64 = 2;

impl Core {
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
    let inode = look.inode(ino)?;
    let dir = inode.dir().ok_or(Errno::NotDir)?;
    let kind = FileKind::Directory;
    let start = Place::decode(from.0);
    for (at, name, ino) in [(1, b".".as_slice(), ino), (2, b"..".as_slice(), inode.parent)] {
        let cookie = Cookie(Place { at, end: None }.encode());
        if start.at < at && !entry(&DirEntry { name, ino, kind, cookie, attr: None }) {
            return Ok(());
        }
    }
    let mut end = start.end.map(|end| (end, end.value(start.at)));
    for (name, found) in dir.after(Cookie(start.at.saturating_sub(DOTS))) {
        let at = found.cookie.0 + DOTS;
        let (end, last) = *end.get_or_insert_with(|| {
            let end = End::of(at, dir.last_cookie().0 + DOTS);
            (end, end.value(at))
        });
        if at > last {
            return Ok(());
        }
        let attr = if plus { Some(Attr::of(&look.inode(found.ino)?.row)) } else { None };
        let cookie = Cookie(Place { at, end: Some(end) }.encode());
        if !entry(&DirEntry { name, ino: found.ino, kind: found.kind, cookie, attr }) {
            return Ok(());
        }
        if plus {
            taken.push(found.ino);
        }
    }
    Ok(())
}

/// Bits of a place that say where it is: enough for 4 x 10^12 names made in a session's life.
const AT_BITS: u32 = 42;
/// Bits of the end.
const END_BITS: u32 = 16;
/// Bits of the unit that the end is in. With these an offset has its 63.
const SHIFT_BITS: u32 = 5;

/// Where a listing is, and where it ends. Both travel in the kernel's offset, since there is no open directory to keep
/// them in: without the end, a program that renames or copies each file it is shown would be shown its own work for ever.
/// The place has the higher bits, so that offsets rise from name to name, as programs expect that make some up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// 0: before the first name; 1 and 2: after `.` and `..`; then the cookie of the last name plus `DOTS`.
    at: u64,
    /// Set with the first real name.
    end: Option<End>,
}

/// The last place a listing shows, to the precision of `1 << shift`: names made later lie behind it. It is kept modulo
/// 2^16 of that unit, and found again from any place before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    low: u64,
    shift: u32,
}

impl End {
    /// The end of a listing whose first name lies at `at` and whose last at `last`, exact where these are less than
    /// 65,536 apart, otherwise rounded up.
    fn of(at: u64, last: u64) -> End {
        let mut shift = 0;
        while (last.div_ceil(1 << shift)) - (at >> shift) >= 1 << END_BITS {
            shift += 1;
        }
        End { low: last.div_ceil(1 << shift) & ((1 << END_BITS) - 1), shift }
    }

    /// The end itself, seen from a place at or before it; from one behind it, something else.
    fn value(self, at: u64) -> u64 {
        let base = at >> self.shift;
        let distance = self.low.wrapping_sub(base) & ((1 << END_BITS) - 1);
        // Every place within the first unit is not behind an end in that unit.
        if distance == 0 { ((base + 1) << self.shift) - 1 } else { (base + distance) << self.shift }
    }
}

impl Place {
    fn encode(self) -> u64 {
        debug_assert!(self.at < 1 << AT_BITS);
        let end = self.end.map_or(0, |end| end.low | u64::from(end.shift) << END_BITS);
        self.at << (END_BITS + SHIFT_BITS) | end
    }

    fn decode(offset: u64) -> Place {
        let at = offset >> (END_BITS + SHIFT_BITS);
        let low = offset & ((1 << END_BITS) - 1);
        let shift = (offset >> END_BITS) as u32 & ((1 << SHIFT_BITS) - 1);
        Place { at, end: (at > DOTS).then_some(End { low, shift }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_offset() {
        for (at, last) in
            [(3, 3), (3, 4), (3, 65_000), (70_000, 140_000), (3, 1 << 20), (5, 1 << 41), (1 << 40, 1 << 41)]
        {
            let place = Place { at, end: Some(End::of(at, last)) };
            assert!(place.encode() <= i64::MAX as u64);
            assert_eq!(Place::decode(place.encode()), place);
        }
        let dots = Place { at: 2, end: None };
        assert_eq!(Place::decode(dots.encode()), dots);
    }

    #[test]
    fn the_end_is_the_same_from_every_place_before_it() {
        for (first, last) in [(3, 3), (3, 100), (60_000, 70_000), (3, 65_537)] {
            let end = End::of(first, last);
            for at in first..=last {
                assert!(end.value(at) >= last, "{at} of {first}..{last}");
            }
            assert!(end.shift > 0 || end.value(first) == last);
        }
        let end = End::of(3, 1 << 20);
        for at in (3..1 << 20).step_by(997) {
            assert!((1 << 20..(1 << 20) + 64).contains(&end.value(at)), "{at}: {}", end.value(at));
        }
    }
}
