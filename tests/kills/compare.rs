//! Two trees: whether they are the same, and if not, what differs, in words.

use std::collections::BTreeMap;

use crate::tree::{Content, Id, Kind, Node, Tree};

/// What is found other than expected; empty when all is as it should be.
pub fn differences(expected: &Tree, found: &Tree) -> Vec<String> {
    let mut out = Vec::new();
    for name in expected.names.keys().filter(|name| !found.names.contains_key(*name)) {
        out.push(format!("{name}: missing"));
    }
    for name in found.names.keys().filter(|name| !expected.names.contains_key(*name)) {
        out.push(format!("{name}: should not be there"));
    }
    let mut there: BTreeMap<Id, (Id, &str)> = BTreeMap::new();
    let mut back: BTreeMap<Id, (Id, &str)> = BTreeMap::new();
    for (name, id) in &expected.names {
        let Some(other) = found.names.get(name) else { continue };
        // Which names are one file, told from both sides.
        let (known, first) = *there.entry(*id).or_insert((*other, name));
        let (known_back, first_back) = *back.entry(*other).or_insert((*id, name));
        if known != *other {
            out.push(format!("{name}: no longer the same file as {first}"));
        } else if known_back != *id {
            out.push(format!("{name}: has become the same file as {first_back}"));
        }
        if Tree::is_inode_number(*id) && id != other {
            out.push(format!("{name}: inode {id} has become {other}"));
        }
        if first == name || known != *other {
            of_node(name, &expected.nodes[id], &found.nodes[other], &mut out);
        }
    }
    out
}

/// The same question without the words, at the least cost.
pub fn same(expected: &Tree, found: &Tree) -> bool {
    let size = |tree: &Tree, name: &str| tree.content(name).map(|content| content.0.len());
    expected.names.len() == found.names.len()
        && expected.names.keys().eq(found.names.keys())
        && expected.names.keys().all(|name| size(expected, name) == size(found, name))
        && differences(expected, found).is_empty()
}

fn of_node(name: &str, expected: &Node, found: &Node, out: &mut Vec<String>) {
    match (&expected.kind, &found.kind) {
        (Kind::File(expected), Kind::File(found)) => of_content(name, expected, found, out),
        (Kind::Dir, Kind::Dir) => {}
        (Kind::Symlink(expected), Kind::Symlink(found)) if expected == found => {}
        (expected, found) => out.push(format!("{name}: {} instead of {}", in_words(found), in_words(expected))),
    }
    if expected.mode != found.mode {
        out.push(format!("{name}: mode {:o} instead of {:o}", found.mode, expected.mode));
    }
    for key in expected.xattrs.keys().chain(found.xattrs.keys().filter(|key| !expected.xattrs.contains_key(*key))) {
        let (wanted, there) = (expected.xattrs.get(key), found.xattrs.get(key));
        if wanted != there {
            let length = |value: Option<&Vec<u8>>| value.map_or("nothing".into(), |v| format!("{} bytes", v.len()));
            out.push(format!("{name}: xattr {key} is {} instead of {}", length(there), length(wanted)));
        }
    }
    if expected.mtime.is_some_and(|before| found.mtime.is_some_and(|now| now < before)) {
        out.push(format!("{name}: mtime {:?} is before {:?}", found.mtime, expected.mtime));
    }
}

fn in_words(kind: &Kind) -> String {
    match kind {
        Kind::File(content) => format!("a file of {} bytes", content.0.len()),
        Kind::Dir => "a directory".to_owned(),
        Kind::Symlink(target) => format!("a symbolic link to {target}"),
    }
}

fn of_content(name: &str, expected: &Content, found: &Content, out: &mut Vec<String>) {
    if expected == found {
        return;
    }
    let (wanted, there) = (&expected.0, &found.0);
    if wanted.len() != there.len() {
        out.push(format!("{name}: {} bytes instead of {}", there.len(), wanted.len()));
    }
    let differ: Vec<usize> =
        wanted.iter().zip(there.iter()).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
    if let (Some(first), Some(last)) = (differ.first(), differ.last()) {
        let zeros = differ.iter().filter(|at| there[**at] == 0).count();
        out.push(format!("{name}: {} bytes differ, from {first} to {last}, {zeros} of them zero", differ.len()));
    }
}
