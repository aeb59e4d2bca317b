//! What is in a worker's part of the session: the model, and in the same form what is found there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::op::Op;
use crate::rng::fill;

/// The identity of a file: the inode number once it has been seen, before that a number above all of them.
pub type Id = u64;
const FIRST_UNSEEN: Id = 1 << 60;

/// Names (from the root of the mount, with slashes) and what they name. Several names of one file have one id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tree {
    pub names: BTreeMap<String, Id>,
    pub nodes: BTreeMap<Id, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The mtime when it was last seen: it may not go backwards.
    pub mtime: Option<(i64, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    File(Content),
    Dir,
    Symlink(String),
}

/// A file's bytes, shared until they are changed. Written down it is only their number: a worker plans by sizes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Content(pub Arc<Vec<u8>>);

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.0.len() as u64).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Content, D::Error> {
        Ok(Content(Arc::new(vec![0; u64::deserialize(from)? as usize])))
    }
}

impl Content {
    fn edit(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.0)
    }

    /// Puts bytes at an offset, behind a hole if it lies behind the end.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        let content = self.edit();
        if !bytes.is_empty() && content.len() < to {
            content.resize(to, 0);
        }
        if !bytes.is_empty() {
            content[from..to].copy_from_slice(bytes);
        }
    }
}

impl Node {
    pub fn new(kind: Kind, mode: u32) -> Node {
        Node { kind, mode, xattrs: BTreeMap::new(), mtime: None }
    }
}

impl Tree {
    /// A worker's part at its beginning: its directory.
    pub fn rooted(dir: &str) -> Tree {
        let mut tree = Tree::default();
        tree.add(dir, Node::new(Kind::Dir, 0o755));
        tree
    }

    /// Whether an id is one that the file system gave.
    pub fn is_inode_number(id: Id) -> bool {
        id < FIRST_UNSEEN
    }

    pub fn add(&mut self, name: &str, node: Node) {
        let id = self.nodes.last_key_value().map_or(FIRST_UNSEEN, |(last, _)| (last + 1).max(FIRST_UNSEEN));
        self.nodes.insert(id, node);
        let before = self.names.insert(name.to_owned(), id);
        assert!(before.is_none(), "{name} is there already");
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(self.names.get(name)?)
    }

    fn node_mut(&mut self, name: &str) -> &mut Node {
        let id = self.names.get(name).unwrap_or_else(|| panic!("{name} is not there"));
        self.nodes.get_mut(id).unwrap()
    }

    pub fn content(&self, name: &str) -> Option<&Content> {
        match &self.node(name)?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    pub fn content_mut(&mut self, name: &str) -> &mut Content {
        match &mut self.node_mut(name).kind {
            Kind::File(content) => content,
            other => panic!("{name} is no file: {other:?}"),
        }
    }

    pub fn size(&self, name: &str) -> u64 {
        self.content(name).map_or(0, |content| content.0.len() as u64)
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |node: &Node| if let Kind::File(content) = &node.kind { content.0.len() as u64 } else { 0 };
        self.nodes.values().map(size).sum()
    }

    pub fn is_dir(&self, name: &str) -> bool {
        self.node(name).is_some_and(|node| node.kind == Kind::Dir)
    }

    /// Whether nothing lies below this name.
    pub fn is_empty_dir(&self, name: &str) -> bool {
        self.is_dir(name) && self.below(name).next().is_none()
    }

    fn below<'a>(&'a self, dir: &str) -> impl Iterator<Item = &'a String> {
        let prefix = format!("{dir}/");
        self.names.range(prefix.clone()..).map(|(name, _)| name).take_while(move |name| name.starts_with(&prefix))
    }

    pub fn links(&self, id: Id) -> usize {
        self.names.values().filter(|other| **other == id).count()
    }

    fn remove(&mut self, name: &str) -> Id {
        let id = self.names.remove(name).unwrap_or_else(|| panic!("{name} is not there"));
        if self.links(id) == 0 {
            self.nodes.remove(&id);
        }
        id
    }

    fn rename(&mut self, from: &str, to: &str) {
        if self.names.get(to) == self.names.get(from) {
            return; // Two names of one file: it does nothing and succeeds.
        }
        if self.names.contains_key(to) {
            self.remove(to);
        }
        let moved: Vec<String> = self.below(from).cloned().collect();
        for name in std::iter::once(from.to_owned()).chain(moved) {
            let id = self.names.remove(&name).unwrap();
            self.names.insert(format!("{to}{}", &name[from.len()..]), id);
        }
    }

    /// What the operation does. `done` is how many bytes of a write were accepted.
    pub fn apply(&mut self, op: &Op, done: u64) {
        match op {
            Op::Create { path, mode } => self.add(path, Node::new(Kind::File(Content::default()), *mode)),
            Op::Mkdir { path, mode } => self.add(path, Node::new(Kind::Dir, *mode)),
            Op::Symlink { path, target } => self.add(path, Node::new(Kind::Symlink(target.clone()), 0o777)),
            Op::Write { path, offset, seed, length } => {
                self.content_mut(path).put(*offset, &fill(*seed, *length)[..done as usize]);
            }
            Op::Append { path, seed, length } => {
                let end = self.size(path);
                self.content_mut(path).put(end, &fill(*seed, *length)[..done as usize]);
            }
            Op::Store { path, offset, seed, length, .. } => {
                self.content_mut(path).put(*offset, &fill(*seed, *length));
            }
            Op::Truncate { path, size } => self.content_mut(path).edit().resize(*size as usize, 0),
            Op::Punch { path, offset, length } => {
                let content = self.content_mut(path).edit();
                let end = content.len().min((*offset + *length) as usize);
                let from = end.min(*offset as usize);
                content[from..end].fill(0);
            }
            Op::Rename { from, to } => self.rename(from, to),
            Op::Exchange { one, other } => {
                let (a, b) = (self.names[one], self.names[other]);
                self.names.insert(one.clone(), b);
                self.names.insert(other.clone(), a);
            }
            Op::Link { from, to } => {
                let id = self.names[from];
                self.names.insert(to.clone(), id);
            }
            Op::Unlink { path, .. } | Op::Rmdir { path } => {
                self.remove(path);
            }
            Op::Chmod { path, mode } => self.node_mut(path).mode = *mode,
            Op::SetXattr { path, name, seed, length } => {
                self.node_mut(path).xattrs.insert(name.clone(), fill(*seed, *length));
            }
            Op::RemoveXattr { path, name } => {
                self.node_mut(path).xattrs.remove(name);
            }
            // Nothing that has a name changes.
            Op::Sync { .. } | Op::WriteOrphan { .. } | Op::TruncateOrphan { .. } => {}
        }
    }
}
