//! What is really there, read through the mount.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::plan::{SHARED, home, shared_prefix};
use crate::sys;
use crate::tree::{Content, Kind, Node, Tree};

/// What was found: each worker's part, and what is wrong whatever the workers did.
#[derive(Default)]
pub struct Found {
    pub parts: Vec<Tree>,
    pub wrong: Vec<String>,
    /// Inodes, the root's and the shared directory's among them.
    pub inodes: u64,
    /// The sum of `st_blocks` of them all, in bytes.
    pub allocated: u64,
}

/// Reads everything.
pub fn scan(root: &Path, workers: usize) -> io::Result<Found> {
    let mut found = Found { parts: vec![Tree::default(); workers], ..Found::default() };
    found.account(&fs::symlink_metadata(root)?);
    let mut tops = Vec::new();
    for name in names(root)? {
        let whose = (0..workers).find(|worker| home(*worker) == name);
        match whose {
            Some(worker) => found.enter(root, &name, worker)?,
            None if name == SHARED => found.shared(root, workers)?,
            None => found.wrong.push(format!("{name}: nobody made it")),
        }
        tops.push(name);
    }
    for expected in (0..workers).map(home).chain([SHARED.to_owned()]).filter(|name| !tops.contains(name)) {
        found.wrong.push(format!("{expected}: missing"));
    }
    found.count_links(root)?;
    Ok(found)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

impl Found {
    fn account(&mut self, meta: &Metadata) {
        self.inodes += 1;
        self.allocated += meta.blocks() * 512;
    }

    fn shared(&mut self, root: &Path, workers: usize) -> io::Result<()> {
        self.account(&fs::symlink_metadata(root.join(SHARED))?);
        for name in names(&root.join(SHARED))? {
            let path = format!("{SHARED}/{name}");
            match (0..workers).find(|worker| path.starts_with(&shared_prefix(*worker))) {
                Some(worker) => self.enter(root, &path, worker)?,
                None => self.wrong.push(format!("{path}: nobody made it")),
            }
        }
        Ok(())
    }

    /// Adds a name, and everything below it, to a worker's part.
    fn enter(&mut self, root: &Path, name: &str, worker: usize) -> io::Result<()> {
        let path = root.join(name);
        let meta = fs::symlink_metadata(&path)?;
        let tree = &mut self.parts[worker];
        tree.names.insert(name.to_owned(), meta.ino());
        if tree.nodes.contains_key(&meta.ino()) {
            return Ok(());
        }
        tree.nodes.insert(meta.ino(), node(&path, &meta)?);
        self.account(&meta);
        if meta.is_dir() {
            for below in names(&path)? {
                self.enter(root, &format!("{name}/{below}"), worker)?;
            }
        }
        Ok(())
    }

    /// The link counts of what was found, against the names that were found.
    fn count_links(&mut self, root: &Path) -> io::Result<()> {
        for tree in &self.parts {
            for (name, id) in &tree.names {
                let meta = fs::symlink_metadata(root.join(name))?;
                let subdirs = || {
                    let child = |other: &&String| other.strip_prefix(name.as_str()).is_some_and(is_child);
                    tree.names.keys().filter(child).filter(|other| tree.is_dir(other)).count()
                };
                let expected = if meta.is_dir() { 2 + subdirs() } else { tree.links(*id) };
                if meta.nlink() != expected as u64 {
                    self.wrong.push(format!("{name}: {} links, and {expected} are there", meta.nlink()));
                }
            }
        }
        Ok(())
    }
}

fn is_child(rest: &str) -> bool {
    rest.strip_prefix('/').is_some_and(|name| !name.contains('/'))
}

fn node(path: &Path, meta: &Metadata) -> io::Result<Node> {
    let kind = if meta.is_dir() {
        Kind::Dir
    } else if meta.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.to_string_lossy().into_owned())
    } else {
        let content = fs::read(path)?;
        if content.len() as u64 != meta.len() {
            let text = format!("{}: {} bytes read of {}", path.display(), content.len(), meta.len());
            return Err(io::Error::other(text));
        }
        Kind::File(Content(Arc::new(content)))
    };
    let mut node = Node::new(kind, meta.mode() & 0o7777);
    node.mtime = Some((meta.mtime(), meta.mtime_nsec()));
    for name in sys::list_xattrs(path)? {
        let text = String::from_utf8_lossy(&name).into_owned();
        let value = sys::get_xattr(path, &std::ffi::CString::new(name)?)?;
        node.xattrs.insert(text, value);
    }
    Ok(node)
}
