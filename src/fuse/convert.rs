//! Between fuser's types and ours: errnos, attributes, times, flags. Nothing here touches the file system.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, Generation, INodeNo, Request, TimeOrNow};

use crate::base::limits::PIECE_SIZE;
use crate::base::{Errno, FileKind, Ino, Timestamp};
use crate::fs::{Attr, Caller, RenameMode, Seek, SetTime, WriteFlags, XattrMode};

/// How long the kernel may believe a name or an attribute: for ever, since every change goes through it. (A number of
/// seconds it can turn into jiffies without overflow, about 136 years.)
pub(super) const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Inode numbers are never reused, so there is only one generation; the kernel gives the root this one, too.
pub(super) const GENERATION: Generation = Generation(0);

/// Preferred size of I/O (`st_blksize`): stdio and its like buffer this much, and each of their writes is a round trip.
pub(super) const PREFERRED_IO: u32 = 64 << 10;

/// `st_blocks` counts these.
pub(super) const SECTORS_PER_PIECE: u64 = 8;

/// The most bytes one COPY_FILE_RANGE can answer for: its reply is 32 bits wide.
pub(super) const COPY_MAX: u64 = (u32::MAX as u64) & !(PIECE_SIZE as u64 - 1);

pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.code())
}

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::Directory => FileType::Directory,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Socket => FileType::Socket,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.pieces * SECTORS_PER_PIECE,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH, // macOS only
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: PREFERRED_IO,
        flags: 0, // macOS only
    }
}

/// Attributes of which only number and type mean something: what READDIRPLUS says of `.` and `..`, which the kernel
/// reads no further, and, with inode number 0, the answer "there is no such name, and you may remember it".
pub(super) fn bare_attr(ino: Ino, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

/// The time whose seconds and nanoseconds fuser takes apart again exactly, also before 1970.
pub(super) fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    if time.secs >= 0 {
        UNIX_EPOCH + Duration::from_secs(time.secs as u64) + nanos
    } else {
        UNIX_EPOCH - Duration::from_secs(time.secs.unsigned_abs()) + nanos
    }
}

/// The time the kernel sent. fuser 0.18 turns `(secs, nanos)` with negative seconds into `-(|secs| + nanos)` instead of
/// `secs + nanos` (its `system_time_from_time`); reading it back the same way undoes that exactly.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp::new(after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            Timestamp::new((before.as_secs() as i64).wrapping_neg(), before.subsec_nanos())
        }
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(timestamp(time)),
    }
}

pub(super) fn rename_mode(flags: u32) -> Result<RenameMode, Errno> {
    match flags {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::Inval),
    }
}

/// What a failed CREATE is told. The kernel believed there was no such name, and someone beside it made one: then ESTALE
/// has it look again.
pub(super) fn create_error(error: Errno, flags: i32) -> Errno {
    match error {
        Errno::Exist if flags & libc::O_EXCL == 0 => Errno::Stale,
        error => error,
    }
}

pub(super) fn write_flags(flags: fuser::WriteFlags, request: &Request) -> WriteFlags {
    WriteFlags {
        kill_priv: flags.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID).then_some(request.gid()),
        from_cache: flags.contains(fuser::WriteFlags::FUSE_WRITE_CACHE),
    }
}

pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::Inval),
    }
}

/// The kernel answers every other `whence` itself.
pub(super) fn seek(whence: i32) -> Result<Seek, Errno> {
    match whence {
        libc::SEEK_DATA => Ok(Seek::Data),
        libc::SEEK_HOLE => Ok(Seek::Hole),
        _ => Err(Errno::Inval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// fuser 0.18's own conversions (`src/time.rs`), which are private.
    fn as_fuser_decodes(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs as u64, nanos)
        } else {
            UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos)
        }
    }

    fn as_fuser_encodes(time: SystemTime) -> (i64, u32) {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
            Err(before) => {
                let (secs, nanos) = (before.duration().as_secs(), before.duration().subsec_nanos());
                match nanos {
                    0 => ((secs as i64).wrapping_neg(), 0),
                    _ => (-(secs as i64) - 1, 1_000_000_000 - nanos),
                }
            }
        }
    }

    #[test]
    fn every_time_survives_both_ways() {
        let year = 31_556_952;
        for secs in [i64::MIN, -(70 * year), -2, -1, 0, 1, 0x7fff_ffff, 0x8000_0000, 0x1_0000_0000, 530 * year] {
            for nanos in [0, 1, 499_999_999, 500_000_000, 999_999_999] {
                let time = Timestamp::new(secs, nanos);
                assert_eq!(as_fuser_encodes(system_time(time)), (secs, nanos));
                // The kernel clamps to the smallest second with no nanoseconds; fuser's sum would not fit.
                if (secs, nanos) <= (i64::MIN, 0) || secs > i64::MIN {
                    assert_eq!(timestamp(as_fuser_decodes(secs, nanos)), time);
                }
            }
        }
    }

    #[test]
    fn errnos_keep_their_number() {
        for error in [Errno::NoSpc, Errno::NoSys, Errno::OpNotSupp, Errno::Stale] {
            assert_eq!(i32::from(errno(error)), error.code());
        }
    }

    #[test]
    fn flags_nobody_defined_are_refused() {
        assert_eq!(rename_mode(libc::RENAME_WHITEOUT), Err(Errno::Inval));
        let both = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), Err(Errno::Inval));
        assert_eq!(xattr_mode(libc::XATTR_CREATE | libc::XATTR_REPLACE), Err(Errno::Inval));
        assert_eq!(seek(libc::SEEK_END), Err(Errno::Inval));
    }
}
