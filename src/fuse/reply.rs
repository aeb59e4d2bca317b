//! From results to replies.

use fuser::{ReplyAttr, ReplyEmpty, ReplyEntry, ReplyWrite, ReplyXattr};

use super::convert::{FOR_EVER, GENERATION, errno, file_attr};
use crate::base::Errno;
use crate::fs::Attr;

pub(super) fn entry(reply: ReplyEntry, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&FOR_EVER, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn attributes(reply: ReplyAttr, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&FOR_EVER, &file_attr(&attr)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn written(reply: ReplyWrite, result: Result<usize, Errno>) {
    match result {
        Ok(bytes) => reply.written(bytes as u32),
        Err(error) => reply.error(errno(error)),
    }
}

/// The protocol of getxattr and listxattr: size 0 asks for the size, a size too small is ERANGE.
pub(super) fn sized(reply: ReplyXattr, size: u32, result: Result<impl AsRef<[u8]>, Errno>) {
    match result {
        Err(error) => reply.error(errno(error)),
        Ok(value) if size == 0 => reply.size(value.as_ref().len() as u32),
        Ok(value) if value.as_ref().len() > size as usize => reply.error(errno(Errno::Range)),
        Ok(value) => reply.data(value.as_ref()),
    }
}
