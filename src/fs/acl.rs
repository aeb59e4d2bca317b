//! POSIX ACLs: the part of them that belongs to the file system. The kernel checks access by them; what a new file
//! inherits, what a chmod does to them and what they do to the mode is decided here (acl(5), `fs/posix_acl.c`).
//!
//! The bytes are the kernel's xattr form: version 2 as u32, then entries of tag u16, permissions u16, id u32, all
//! little-endian.

use super::inode::Xattrs;
use crate::base::{Errno, FileKind, Name};

/// The ACL that access is checked by.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The ACL that a directory hands to what is created in it.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Errno> {
    let (version, entries) = bytes.split_first_chunk::<4>().ok_or(Errno::Inval)?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return Err(Errno::Inval);
    }
    let entries: Vec<Entry> = entries
        .chunks_exact(8)
        .map(|e| Entry {
            tag: u16::from_le_bytes([e[0], e[1]]),
            perm: u16::from_le_bytes([e[2], e[3]]),
            id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        })
        .collect();
    let count = |tag: u16| entries.iter().filter(|e| e.tag == tag).count();
    let known = |e: &Entry| matches!(e.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) && e.perm <= 7;
    let named = count(USER) + count(GROUP);
    let complete = [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1);
    if complete && count(MASK) <= 1 && (named == 0 || count(MASK) == 1) && entries.iter().all(known) {
        Ok(entries)
    } else {
        Err(Errno::Inval)
    }
}

fn format(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        bytes.extend_from_slice(&entry.tag.to_le_bytes());
        bytes.extend_from_slice(&entry.perm.to_le_bytes());
        bytes.extend_from_slice(&entry.id.to_le_bytes());
    }
    bytes
}

/// Whether the ACL says no more than nine mode bits can.
fn is_minimal(entries: &[Entry]) -> bool {
    entries.iter().all(|e| matches!(e.tag, USER_OBJ | GROUP_OBJ | OTHER))
}

/// The tag that the group bits of the mode stand for.
fn group_tag(entries: &[Entry]) -> u16 {
    if entries.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
}

/// The mode bits an entry stands for: how far to shift.
fn shift(entries: &[Entry], tag: u16) -> Option<u32> {
    match tag {
        USER_OBJ => Some(6),
        OTHER => Some(0),
        _ if tag == group_tag(entries) => Some(3),
        _ => None,
    }
}

fn mode_bits(entries: &[Entry]) -> u32 {
    entries.iter().filter_map(|e| Some(u32::from(e.perm) << shift(entries, e.tag)?)).sum()
}

/// Checks the form of an ACL.
pub(super) fn check(bytes: &[u8]) -> Result<(), Errno> {
    parse(bytes).map(drop)
}

/// The permission bits that an access ACL stands for, and whether they say all it says.
pub(super) fn mode_of(bytes: &[u8]) -> Result<(u32, bool), Errno> {
    let entries = parse(bytes)?;
    Ok((mode_bits(&entries), is_minimal(&entries)))
}

/// The access ACL after a chmod: owner, mask (or group) and others as the mode says.
pub(super) fn chmod(bytes: &[u8], mode: u32) -> Result<Vec<u8>, Errno> {
    let mut entries = parse(bytes)?;
    for at in 0..entries.len() {
        if let Some(shift) = shift(&entries, entries[at].tag) {
            entries[at].perm = (mode >> shift & 7) as u16;
        }
    }
    Ok(format(&entries))
}

/// Changes the ids of the users and groups that the entries name. What is no ACL stays as it is.
pub(super) fn map_ids(bytes: &mut [u8], user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) {
    let Some((_, entries)) = bytes.split_first_chunk_mut::<4>() else { return };
    for entry in entries.chunks_exact_mut(8) {
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let id = match u16::from_le_bytes([entry[0], entry[1]]) {
            USER => user(id),
            GROUP => group(id),
            _ => continue,
        };
        entry[4..].copy_from_slice(&id.to_le_bytes());
    }
}

/// What a new inode gets from its directory's default ACL: its mode, its access ACL where the mode cannot say it, and,
/// as a directory, the default ACL again. The umask plays no part.
pub(super) fn inherit(default: &[u8], mode: &mut u32, kind: FileKind, xattrs: &mut Xattrs) -> Result<(), Errno> {
    let mut entries = parse(default)?;
    for at in 0..entries.len() {
        if let Some(shift) = shift(&entries, entries[at].tag) {
            entries[at].perm &= (*mode >> shift & 7) as u16;
        }
    }
    *mode = *mode & !0o777 | mode_bits(&entries);
    if !is_minimal(&entries) {
        xattrs.insert(Name::from(ACCESS), format(&entries).into());
    }
    if kind == FileKind::Directory {
        xattrs.insert(Name::from(DEFAULT), default.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        format(&entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect::<Vec<_>>())
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn a_file_inherits_what_its_mode_allows() {
        let default =
            acl(&[(USER_OBJ, 7, NONE), (USER, 6, 1000), (GROUP_OBJ, 5, NONE), (MASK, 7, NONE), (OTHER, 5, NONE)]);
        let (mut mode, mut xattrs) = (libc::S_IFREG | 0o640, Xattrs::new());
        inherit(&default, &mut mode, FileKind::Regular, &mut xattrs).unwrap();
        assert_eq!(mode, libc::S_IFREG | 0o640, "mask takes the group bits, others nothing");
        let expected =
            acl(&[(USER_OBJ, 6, NONE), (USER, 6, 1000), (GROUP_OBJ, 5, NONE), (MASK, 4, NONE), (OTHER, 0, NONE)]);
        assert_eq!(xattrs.get(ACCESS).map(|v| v.to_vec()), Some(expected));
        assert!(!xattrs.contains_key(DEFAULT));
    }

    #[test]
    fn a_minimal_default_is_only_a_mode() {
        let default = acl(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 0, NONE), (OTHER, 0, NONE)]);
        let (mut mode, mut xattrs) = (libc::S_IFDIR | 0o777, Xattrs::new());
        inherit(&default, &mut mode, FileKind::Directory, &mut xattrs).unwrap();
        assert_eq!(mode, libc::S_IFDIR | 0o700);
        assert_eq!(xattrs.keys().map(|k| k.to_vec()).collect::<Vec<_>>(), [DEFAULT.to_vec()]);
    }

    #[test]
    fn chmod_moves_the_mask_not_the_group() {
        let before = acl(&[(USER_OBJ, 7, NONE), (USER, 7, 5), (GROUP_OBJ, 7, NONE), (MASK, 7, NONE), (OTHER, 7, NONE)]);
        let after = acl(&[(USER_OBJ, 6, NONE), (USER, 7, 5), (GROUP_OBJ, 7, NONE), (MASK, 4, NONE), (OTHER, 0, NONE)]);
        assert_eq!(chmod(&before, 0o640).unwrap(), after);
        assert_eq!(mode_of(&after).unwrap(), (0o640, false));
    }

    #[test]
    fn malformed_acls_are_refused() {
        let good = acl(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 7, NONE), (OTHER, 7, NONE)]);
        assert!(check(&good).is_ok());
        for cut in 0..good.len() {
            assert!(check(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(check(&acl(&[(USER_OBJ, 7, NONE), (USER, 7, 1), (GROUP_OBJ, 7, NONE), (OTHER, 7, NONE)])).is_err());
        assert!(check(&acl(&[(USER_OBJ, 8, NONE), (GROUP_OBJ, 7, NONE), (OTHER, 7, NONE)])).is_err());
    }
}
