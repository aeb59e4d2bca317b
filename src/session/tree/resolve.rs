//! From a path to an inode, inside the session and nowhere else.

use std::collections::VecDeque;

use super::TreeError;
use crate::base::{FileKind, Ino};
use crate::fs::{Attr, Fs};

/// Links followed on one path, as the kernel has it.
const LINKS_MAX: usize = 40;

/// Whether a link at the very end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// What it leads to is meant (`cat`).
    Last,
    /// The link itself is meant (`ls -l`, `cp -a`).
    NotLast,
}

/// An inode that was looked up; gives its reference back when dropped.
#[derive(Debug)]
pub struct Node<'a> {
    fs: &'a Fs,
    attr: Attr,
}

impl<'a> Node<'a> {
    /// The root directory.
    pub fn root(fs: &'a Fs) -> Result<Node<'a>, TreeError> {
        Ok(Node { fs, attr: fs.getattr(Ino::ROOT).map_err(TreeError::at(b"/"))? })
    }

    /// Takes over the reference that came with these attributes.
    pub fn counted(fs: &'a Fs, attr: Attr) -> Node<'a> {
        Node { fs, attr }
    }

    /// Its attributes when it was looked up.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Its number.
    pub fn ino(&self) -> Ino {
        self.attr.ino
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // The root was never looked up, so there is nothing to give back.
        if self.attr.ino != Ino::ROOT {
            self.fs.forget(self.attr.ino, 1);
        }
    }
}

/// The components of a path; empty ones and `.` mean nothing.
pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// Looks a path up, from the root. `..` at the root stays there; a link that leads out of the session is an error,
/// because its target means something only where the session is mounted.
pub fn resolve<'a>(fs: &'a Fs, path: &[u8], follow: Follow) -> Result<Node<'a>, TreeError> {
    let mut todo: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
    let mut way = vec![Node::root(fs)?];
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == b".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        // `way` is never empty: the root is only popped when something is above it.
        let parent = way[way.len() - 1].ino();
        let attr = fs.lookup(parent, &part).map_err(TreeError::at(path))?;
        let node = Node::counted(fs, attr);
        if attr.kind != FileKind::Symlink || (todo.is_empty() && follow == Follow::NotLast) {
            way.push(node);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(TreeError::Loop(path.to_owned()));
        }
        let target = fs.readlink(attr.ino).map_err(TreeError::at(path))?;
        if target.first() == Some(&b'/') {
            return Err(TreeError::Outside { path: path.to_owned(), target: target.into() });
        }
        for part in components(&target).rev() {
            todo.push_front(part.to_vec());
        }
    }
    let node = way.pop();
    node.map_or_else(|| Node::root(fs), Ok)
}

/// Splits a path into its directory and its last name. `None` for the root, and for a path that ends in `..`.
pub(super) fn split_last(path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let parts: Vec<&[u8]> = components(path).collect();
    let (last, parents) = parts.split_last()?;
    (*last != b"..").then(|| (parents.join(&b'/'), last.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_their_last_name() {
        assert_eq!(split_last(b"/a//b/./c/"), Some((b"a/b".to_vec(), b"c".to_vec())));
        assert_eq!(split_last(b"x"), Some((b"".to_vec(), b"x".to_vec())));
        assert_eq!(split_last(b"/"), None);
        assert_eq!(split_last(b"a/.."), None);
    }
}
