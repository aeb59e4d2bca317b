//! The model: a tree of plain structures that does what POSIX says in the most obvious way.

use std::collections::{BTreeMap, BTreeSet};

use sessionfs::base::Errno;

use super::op::Path;

const PIECE: u64 = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File { content: Vec<u8>, pieces: BTreeSet<u64> },
    Dir { names: BTreeMap<Vec<u8>, usize> },
    Symlink(Vec<u8>),
    Fifo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub links: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Open although it has no name.
    pub open: bool,
}

impl Node {
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { content, .. } => content.len() as u64,
            Kind::Dir { names } => names.keys().map(|name| name.len() as u64 + 24).sum(),
            Kind::Symlink(target) => target.len() as u64,
            Kind::Fifo => 0,
        }
    }

    /// The 4 KiB pieces charged, by the rules of docs/semantics.md.
    pub fn pieces(&self) -> u64 {
        let target = if let Kind::Symlink(target) = &self.kind { target.len() } else { 0 };
        let attached = target + self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let content = match &self.kind {
            Kind::File { pieces, .. } => pieces.len() as u64,
            Kind::Dir { .. } => self.size().div_ceil(PIECE),
            _ => 0,
        };
        content + (attached as u64).saturating_sub(256).div_ceil(PIECE)
    }
}

#[derive(Clone)]
pub struct Model {
    pub nodes: BTreeMap<usize, Node>,
    next: usize,
    pub bytes_limit: u64,
    pub inodes_limit: u64,
}

type Result<T> = std::result::Result<T, Errno>;

impl Model {
    pub fn new(bytes_limit: u64, inodes_limit: u64) -> Model {
        let root = Node {
            kind: Kind::Dir { names: BTreeMap::new() },
            mode: 0o755,
            links: 2,
            xattrs: BTreeMap::new(),
            open: false,
        };
        Model { nodes: BTreeMap::from([(0, root)]), next: 1, bytes_limit, inodes_limit }
    }

    pub fn pieces(&self) -> u64 {
        self.nodes.values().map(Node::pieces).sum()
    }

    fn room(&self, inodes: u64, pieces: u64) -> Result<()> {
        let inodes_fit = inodes == 0 || self.nodes.len() as u64 + inodes <= self.inodes_limit;
        let pieces_fit = pieces == 0 || self.pieces() + pieces <= self.bytes_limit / PIECE;
        if inodes_fit && pieces_fit { Ok(()) } else { Err(Errno::NoSpc) }
    }

    fn names(&self, dir: usize) -> Result<&BTreeMap<Vec<u8>, usize>> {
        match &self.nodes[&dir].kind {
            Kind::Dir { names } => Ok(names),
            _ => Err(Errno::NotDir),
        }
    }

    fn names_mut(&mut self, dir: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.nodes.get_mut(&dir).unwrap().kind {
            Kind::Dir { names } => names,
            _ => unreachable!(),
        }
    }

    pub fn is_dir(&self, node: usize) -> bool {
        matches!(self.nodes[&node].kind, Kind::Dir { .. })
    }

    pub fn is_file(&self, node: usize) -> bool {
        matches!(self.nodes[&node].kind, Kind::File { .. })
    }

    pub fn find(&self, path: &[Vec<u8>]) -> Result<usize> {
        path.iter().try_fold(0, |at, name| self.names(at)?.get(name).copied().ok_or(Errno::NoEnt))
    }

    fn parent<'p>(&self, path: &'p Path) -> Result<(usize, &'p Vec<u8>)> {
        let (name, dirs) = path.split_last().unwrap();
        let parent = self.find(dirs)?;
        self.names(parent)?;
        Ok((parent, name))
    }

    fn growth(&self, dir: usize, cost: u64) -> u64 {
        let size = self.nodes[&dir].size();
        (size + cost).div_ceil(PIECE) - size.div_ceil(PIECE)
    }

    pub fn create(&mut self, path: &Path, kind: Kind, mode: u32) -> Result<usize> {
        let (parent, name) = self.parent(path)?;
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::Exist);
        }
        let is_dir = matches!(kind, Kind::Dir { .. });
        let links = if is_dir { 2 } else { 1 };
        let mode = if is_dir { mode | self.nodes[&parent].mode & libc::S_ISGID } else { mode };
        let node = Node { kind, mode, links, xattrs: BTreeMap::new(), open: false };
        self.room(1, node.pieces() + self.growth(parent, 24 + name.len() as u64))?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.names_mut(parent).insert(name.clone(), id);
        self.nodes.get_mut(&parent).unwrap().links += u32::from(is_dir);
        Ok(id)
    }

    pub fn link(&mut self, from: &Path, to: &Path) -> Result<()> {
        let node = self.find(from)?;
        let (parent, name) = self.parent(to)?;
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::Exist);
        }
        if self.is_dir(node) {
            return Err(Errno::Perm);
        }
        self.room(0, self.growth(parent, 24 + name.len() as u64))?;
        self.names_mut(parent).insert(name.clone(), node);
        self.nodes.get_mut(&node).unwrap().links += 1;
        Ok(())
    }

    fn drop_links(&mut self, node: usize, links: u32) {
        let entry = self.nodes.get_mut(&node).unwrap();
        entry.links -= links;
        if entry.links == 0 && !entry.open {
            self.nodes.remove(&node);
        }
    }

    pub fn unlink(&mut self, path: &Path, open: bool) -> Result<usize> {
        let (parent, name) = self.parent(path)?;
        let node = *self.names(parent)?.get(name).ok_or(Errno::NoEnt)?;
        if self.is_dir(node) {
            return Err(Errno::IsDir);
        }
        self.names_mut(parent).remove(name);
        self.nodes.get_mut(&node).unwrap().open |= open;
        self.drop_links(node, 1);
        Ok(node)
    }

    pub fn rmdir(&mut self, path: &Path) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        let node = *self.names(parent)?.get(name).ok_or(Errno::NoEnt)?;
        if !self.names(node)?.is_empty() {
            return Err(Errno::NotEmpty);
        }
        self.names_mut(parent).remove(name);
        self.nodes.get_mut(&parent).unwrap().links -= 1;
        self.drop_links(node, 2);
        Ok(())
    }

    fn is_below(&self, node: usize, top: usize) -> bool {
        node == top || self.names(top).is_ok_and(|names| names.values().any(|&child| self.is_below(node, child)))
    }

    pub fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> Result<()> {
        let (old_parent, old_name) = self.parent(from)?;
        let (parent, name) = self.parent(to)?;
        let node = *self.names(old_parent)?.get(old_name).ok_or(Errno::NoEnt)?;
        let there = self.names(parent)?.get(name).copied();
        if self.is_dir(node) && self.is_below(parent, node) {
            return Err(Errno::Inval);
        }
        if there.is_some() && !replace {
            return Err(Errno::Exist);
        }
        if there == Some(node) {
            return Ok(());
        }
        match there {
            Some(there) => match (self.is_dir(node), self.is_dir(there)) {
                (true, false) => return Err(Errno::NotDir),
                (false, true) => return Err(Errno::IsDir),
                (true, true) if !self.names(there)?.is_empty() => return Err(Errno::NotEmpty),
                _ => {}
            },
            None => {
                let cost = 24 + name.len() as u64;
                let given = if parent == old_parent { 24 + old_name.len() as u64 } else { 0 };
                self.room(0, self.growth(parent, cost.saturating_sub(given)))?;
            }
        }
        self.names_mut(old_parent).remove(old_name);
        self.names_mut(parent).insert(name.clone(), node);
        if self.is_dir(node) {
            self.nodes.get_mut(&old_parent).unwrap().links -= 1;
            self.nodes.get_mut(&parent).unwrap().links += 1;
        }
        if let Some(there) = there {
            if self.is_dir(there) {
                self.nodes.get_mut(&parent).unwrap().links -= 1;
            }
            self.drop_links(there, if self.is_dir(there) { 2 } else { 1 });
        }
        Ok(())
    }

    pub fn exchange(&mut self, one: &Path, other: &Path) -> Result<()> {
        let (parent_a, name_a) = self.parent(one)?;
        let (parent_b, name_b) = self.parent(other)?;
        let a = *self.names(parent_a)?.get(name_a).ok_or(Errno::NoEnt)?;
        let b = self.names(parent_b)?.get(name_b).copied();
        if self.is_dir(a) && self.is_below(parent_b, a) {
            return Err(Errno::Inval);
        }
        let b = b.ok_or(Errno::NoEnt)?;
        if a == b {
            return Ok(());
        }
        if self.is_dir(b) && self.is_below(parent_a, b) {
            return Err(Errno::Inval);
        }
        self.names_mut(parent_a).insert(name_a.clone(), b);
        self.names_mut(parent_b).insert(name_b.clone(), a);
        let (dir_a, dir_b) = (u32::from(self.is_dir(a)), u32::from(self.is_dir(b)));
        for (parent, gone, come) in [(parent_a, dir_a, dir_b), (parent_b, dir_b, dir_a)] {
            let links = &mut self.nodes.get_mut(&parent).unwrap().links;
            *links = *links + come - gone;
        }
        Ok(())
    }

    fn file(&self, node: usize) -> Result<(&Vec<u8>, &BTreeSet<u64>)> {
        match &self.nodes[&node].kind {
            Kind::File { content, pieces } => Ok((content, pieces)),
            Kind::Dir { .. } => Err(Errno::IsDir),
            _ => Err(Errno::Inval),
        }
    }

    fn file_mut(&mut self, node: usize) -> (&mut Vec<u8>, &mut BTreeSet<u64>) {
        match &mut self.nodes.get_mut(&node).unwrap().kind {
            Kind::File { content, pieces } => (content, pieces),
            _ => unreachable!(),
        }
    }

    pub fn write(&mut self, node: usize, at: u64, bytes: &[u8]) -> Result<usize> {
        let mut free = (self.bytes_limit / PIECE).saturating_sub(self.pieces());
        let (_, pieces) = self.file(node)?;
        let mut until = at + bytes.len() as u64;
        for piece in at / PIECE..until.div_ceil(PIECE) {
            if !pieces.contains(&piece) {
                if free == 0 {
                    until = (piece * PIECE).max(at);
                    break;
                }
                free -= 1;
            }
        }
        if until == at {
            return Err(Errno::NoSpc);
        }
        let (content, pieces) = self.file_mut(node);
        if (content.len() as u64) < until {
            content.resize(until as usize, 0);
        }
        content[at as usize..until as usize].copy_from_slice(&bytes[..(until - at) as usize]);
        pieces.extend(at / PIECE..until.div_ceil(PIECE));
        Ok((until - at) as usize)
    }

    pub fn truncate(&mut self, node: usize, size: u64) -> Result<()> {
        self.file(node)?;
        let (content, pieces) = self.file_mut(node);
        if size <= content.len() as u64 {
            pieces.retain(|&piece| piece * PIECE < size);
        }
        content.resize(size as usize, 0);
        Ok(())
    }

    pub fn allocate(&mut self, node: usize, at: u64, len: u64, keep: bool) -> Result<()> {
        let (_, pieces) = self.file(node)?;
        let range = at / PIECE..(at + len).div_ceil(PIECE);
        self.room(0, range.clone().filter(|piece| !pieces.contains(piece)).count() as u64)?;
        let (content, pieces) = self.file_mut(node);
        pieces.extend(range);
        if !keep && (content.len() as u64) < at + len {
            content.resize((at + len) as usize, 0);
        }
        Ok(())
    }

    pub fn punch(&mut self, node: usize, at: u64, len: u64) -> Result<()> {
        self.file(node)?;
        let (content, pieces) = self.file_mut(node);
        let end = (at + len).min(content.len() as u64);
        if at < end {
            content[at as usize..end as usize].fill(0);
        }
        pieces.retain(|piece| !(at.div_ceil(PIECE)..(at + len) / PIECE).contains(piece));
        Ok(())
    }

    pub fn zero(&mut self, node: usize, at: u64, len: u64, keep: bool) -> Result<()> {
        self.allocate(node, at, len, keep)?;
        let (content, _) = self.file_mut(node);
        let end = (at + len).min(content.len() as u64);
        if at < end {
            content[at as usize..end as usize].fill(0);
        }
        Ok(())
    }

    pub fn set_xattr(&mut self, node: usize, name: &[u8], value: &[u8]) -> Result<()> {
        let mut changed = self.nodes[&node].clone();
        changed.xattrs.insert(name.to_vec(), value.to_vec());
        self.room(0, changed.pieces().saturating_sub(self.nodes[&node].pieces()))?;
        self.nodes.insert(node, changed);
        Ok(())
    }

    pub fn remove_xattr(&mut self, node: usize, name: &[u8]) -> Result<()> {
        self.nodes.get_mut(&node).unwrap().xattrs.remove(name).map(drop).ok_or(Errno::NoData)
    }

    /// Gives up the open files without a name.
    pub fn forget(&mut self) {
        for node in self.nodes.values_mut() {
            node.open = false;
        }
        self.nodes.retain(|_, node| node.links > 0);
    }
}
