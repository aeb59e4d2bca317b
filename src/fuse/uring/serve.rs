//! One request of the ring: decode, call [`Fs`], encode. The counterpart of [`crate::fuse::adapter`], which does the same
//! through fuser; `O_TMPFILE`, which fuser cannot carry, is only here.
//!
//! A thread that serves may wait: each has one request at a time.

use std::sync::Arc;

use log::debug;
use zerocopy::FromBytes;

use super::answer::{self, put};
use super::wire::{
    ACL_KILL_SGID, CopyIn, CreateIn, CreateOut, FallocateIn, GetXattrIn, InHeader, KEEP_CACHE, LinkIn, LseekIn,
    LseekOut, MkdirIn, MknodIn, OpenOut, ReadIn, Rename2In, RenameIn, SetAttrIn, SetXattrIn, WriteIn, WriteOut, fattr,
    name_of, op, write_flag,
};
use crate::base::limits::MAX_WRITE;
use crate::base::{Cookie, Errno, Ino, Timestamp};
use crate::fs::{Attr, Caller, DirEntry, Fs, SetAttr, SetTime, WriteFlags, XattrMode, asked_by};
use crate::fuse::convert::{self, COPY_MAX};
use crate::fuse::invalidate::Modes;
use crate::fuse::prime::Prime;

/// Answers requests.
pub(in crate::fuse) struct Server {
    pub fs: Arc<Fs>,
    pub prime: Arc<Prime>,
    pub modes: Modes,
    /// Takes the mount away: what has agreed on the ring cannot go on without.
    pub give_up: Box<dyn Fn() + Send + Sync>,
}

/// A request without its payload.
pub(super) struct Request<'a> {
    pub header: InHeader,
    /// The operation's first argument and what lies behind it.
    pub argument: &'a [u8],
}

impl Request<'_> {
    fn node(&self) -> Ino {
        Ino(self.header.nodeid)
    }

    fn caller(&self, umask: u32) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, umask }
    }

    fn argument<T: FromBytes>(&self) -> Result<T, Errno> {
        T::read_from_prefix(self.argument).map(|(value, _)| value).map_err(|_| Errno::Inval)
    }
}

/// The name that the payload is, without the NUL behind it.
fn name(payload: &[u8]) -> Result<&[u8], Errno> {
    two_names(payload).map(|(name, _)| name)
}

/// The name that the payload begins with, and what follows its NUL.
fn two_names(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let end = payload.iter().position(|&byte| byte == 0).ok_or(Errno::Inval)?;
    Ok((&payload[..end], &payload[end + 1..]))
}

impl Server {
    /// Answers one request: its payload becomes that of the reply, empty where there is none.
    pub(super) fn answer(&self, request: &Request<'_>, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let InHeader { opcode, unique, nodeid, pid, .. } = request.header;
        asked_by(pid);
        // As fuser does it.
        debug!("FUSE({unique:3}) ino {nodeid:#018x} {}", name_of(opcode));
        match request.header.opcode {
            op::LOOKUP | op::MKNOD | op::MKDIR | op::SYMLINK | op::LINK | op::CREATE | op::TMPFILE => {
                self.entry(request, payload)
            }
            op::UNLINK | op::RMDIR | op::RENAME | op::RENAME2 => {
                self.names(request, payload)?;
                payload.clear();
                Ok(())
            }
            op::GETATTR | op::SETATTR | op::STATFS => self.attributes(request, payload),
            op::SETXATTR | op::GETXATTR | op::LISTXATTR | op::REMOVEXATTR => self.xattr(request, payload),
            op::READDIR => self.listing(request, false, payload),
            op::READDIRPLUS => self.listing(request, true, payload),
            _ => self.content(request, payload),
        }
    }

    /// Requests answered with an inode under its name.
    fn entry(&self, request: &Request<'_>, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let (fs, node) = (&*self.fs, request.node());
        let attr = match request.header.opcode {
            op::LOOKUP => return self.lookup(node, payload),
            op::CREATE | op::TMPFILE => return self.create(request, payload),
            op::MKNOD => {
                let MknodIn { mode, rdev, umask, .. } = request.argument()?;
                fs.mknod(&request.caller(umask), node, name(payload)?, mode, rdev)?
            }
            op::MKDIR => {
                let MkdirIn { mode, umask } = request.argument()?;
                fs.mkdir(&request.caller(umask), node, name(payload)?, mode)?
            }
            op::SYMLINK => {
                let (new, rest) = two_names(payload)?;
                fs.symlink(&request.caller(0), node, new, name(rest)?)?
            }
            _ => {
                let LinkIn { oldnodeid } = request.argument()?;
                fs.link(Ino(oldnodeid), node, name(payload)?)?
            }
        };
        put(payload, &answer::entry(&attr));
        Ok(())
    }

    fn lookup(&self, parent: Ino, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let name = name(payload)?;
        let found = match self.prime.answers(parent, name) {
            Some(attr) => {
                let ttl = Prime::TTL.as_secs();
                super::wire::EntryOut { entry_valid: ttl, attr_valid: ttl, ..answer::entry(&attr) }
            }
            None => match self.fs.lookup(parent, name) {
                Ok(attr) => answer::entry(&attr),
                Err(Errno::NoEnt) => answer::no_entry(),
                Err(error) => return Err(error),
            },
        };
        put(payload, &found);
        Ok(())
    }

    fn create(&self, request: &Request<'_>, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let (fs, parent) = (&*self.fs, request.node());
        let CreateIn { flags, mode, umask, .. } = request.argument()?;
        let caller = request.caller(umask);
        let attr = if request.header.opcode == op::TMPFILE {
            fs.tmpfile(&caller, parent, mode)?
        } else {
            let made = fs.mknod(&caller, parent, name(payload)?, libc::S_IFREG | mode & 0o7777, 0);
            made.map_err(|error| convert::create_error(error, flags as i32))?
        };
        let open = OpenOut { open_flags: KEEP_CACHE, ..OpenOut::default() };
        put(payload, &CreateOut { entry: answer::entry(&attr), open });
        Ok(())
    }

    /// Requests that change names and are answered with success alone.
    fn names(&self, request: &Request<'_>, payload: &[u8]) -> Result<(), Errno> {
        let (fs, node) = (&*self.fs, request.node());
        let (newdir, flags) = match request.header.opcode {
            op::UNLINK => return fs.unlink(node, name(payload)?),
            op::RMDIR => return fs.rmdir(node, name(payload)?),
            op::RENAME => (request.argument::<RenameIn>()?.newdir, 0),
            _ => {
                let Rename2In { newdir, flags, .. } = request.argument()?;
                (newdir, flags)
            }
        };
        let mode = convert::rename_mode(flags)?;
        let (old, rest) = two_names(payload)?;
        fs.rename(node, old, Ino(newdir), name(rest)?, mode)
    }

    fn attributes(&self, request: &Request<'_>, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let (fs, node) = (&*self.fs, request.node());
        match request.header.opcode {
            op::GETATTR => put(payload, &answer::attr(&fs.getattr(node)?)),
            op::STATFS => put(payload, &answer::statfs(&fs.usage())),
            _ => put(payload, &answer::attr(&self.set_attributes(request)?)),
        }
        Ok(())
    }

    fn set_attributes(&self, request: &Request<'_>) -> Result<Attr, Errno> {
        let given: SetAttrIn = request.argument()?;
        let has = |bit: u32| given.valid & bit != 0;
        let time = |set: u32, now: u32, secs: u64, nanos: u32| match () {
            () if has(now) => Some(SetTime::Now),
            () if has(set) => Some(SetTime::To(Timestamp::new(secs as i64, nanos))),
            () => None,
        };
        let set = SetAttr {
            mode: has(fattr::MODE).then_some(given.mode),
            uid: has(fattr::UID).then_some(given.uid),
            gid: has(fattr::GID).then_some(given.gid),
            size: has(fattr::SIZE).then_some(given.size),
            atime: time(fattr::ATIME, fattr::ATIME_NOW, given.atime, given.atime_nanos),
            mtime: time(fattr::MTIME, fattr::MTIME_NOW, given.mtime, given.mtime_nanos),
        };
        self.fs.setattr(&request.caller(0), request.node(), &set)
    }

    fn xattr(&self, request: &Request<'_>, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let (fs, node, caller) = (&*self.fs, request.node(), request.caller(0));
        match request.header.opcode {
            op::GETXATTR => {
                let value = fs.getxattr(node, name(payload)?)?;
                return answer::sized(payload, request.argument::<GetXattrIn>()?.size, &value);
            }
            op::LISTXATTR => {
                let names = fs.listxattr(&caller, node)?;
                return answer::sized(payload, request.argument::<GetXattrIn>()?.size, &names);
            }
            op::REMOVEXATTR => fs.removexattr(&caller, node, name(payload)?)?,
            _ => {
                let SetXattrIn { size, flags, setxattr_flags, .. } = request.argument()?;
                let (name, value) = two_names(payload)?;
                let value = value.get(..size as usize).ok_or(Errno::Inval)?;
                let mode = match setxattr_flags & ACL_KILL_SGID {
                    0 => convert::xattr_mode(flags as i32)?,
                    _ => XattrMode::SetWithoutSetGid,
                };
                fs.setxattr(&caller, node, name, value, mode)?;
            }
        }
        payload.clear();
        Ok(())
    }

    fn listing(&self, request: &Request<'_>, plus: bool, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let ReadIn { offset, size, .. } = request.argument()?;
        let size = size.min(MAX_WRITE);
        payload.clear();
        let mut take = |listed: &DirEntry<'_>| answer::dirent(payload, size, plus, listed);
        self.fs.readdir(request.node(), Cookie(offset), plus, &mut take)
    }

    /// Requests about a file's content, and those that we do not know.
    fn content(&self, request: &Request<'_>, payload: &mut Vec<u8>) -> Result<(), Errno> {
        let (fs, node) = (&*self.fs, request.node());
        match request.header.opcode {
            op::READ => {
                let ReadIn { offset, size, .. } = request.argument()?;
                payload.clear();
                fs.read(node, offset, size.min(MAX_WRITE) as usize, payload)?;
            }
            op::WRITE => {
                let WriteIn { offset, size, write_flags, .. } = request.argument()?;
                let bytes = payload.get(..size as usize).ok_or(Errno::Inval)?;
                let has = |bit: u32| write_flags & bit != 0;
                let kill_priv = has(write_flag::KILL_SUIDGID).then_some(request.header.gid);
                let flags = WriteFlags { kill_priv, from_cache: has(write_flag::CACHE) };
                let written = fs.write(node, offset, bytes, flags);
                self.modes.tell(fs);
                let size = written? as u32;
                put(payload, &WriteOut { size, ..WriteOut::default() });
            }
            op::READLINK => {
                let target = fs.readlink(node)?;
                payload.clear();
                payload.extend_from_slice(&target);
            }
            op::FSYNC | op::FSYNCDIR => {
                payload.clear();
                fs.sync(node)?;
            }
            op::FALLOCATE => {
                let FallocateIn { offset, length, mode, .. } = request.argument()?;
                payload.clear();
                let allocated = fs.fallocate(&request.caller(0), node, mode as i32, offset, length);
                self.modes.tell(fs);
                allocated?;
            }
            op::LSEEK => {
                let LseekIn { offset, whence, .. } = request.argument()?;
                // Negative, as the kernel counts.
                let beyond = i64::try_from(offset).is_err();
                let what = convert::seek(whence as i32)?;
                let offset = if beyond { return Err(Errno::NxIo) } else { fs.seek(node, offset, what)? };
                put(payload, &LseekOut { offset });
            }
            op::COPY_FILE_RANGE => {
                let CopyIn { off_in, nodeid_out, off_out, len, .. } = request.argument()?;
                let (caller, to) = (request.caller(0), Ino(nodeid_out));
                let copied = fs.copy_range(&caller, node, off_in, to, off_out, len.min(COPY_MAX));
                self.modes.tell(fs);
                put(payload, &WriteOut { size: copied? as u32, ..WriteOut::default() });
            }
            op::IOCTL => return Err(Errno::NotTty),
            // OPEN, OPENDIR, FLUSH among them: told once, the kernel does without.
            _ => return Err(Errno::NoSys),
        }
        Ok(())
    }
}
