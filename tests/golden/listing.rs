//! A tree as text, one line for each path: all that a program could see of it.

use std::fmt::Write;

use sessionfs::base::{Cookie, FileKind, Ino, Timestamp};
use sessionfs::format::content_hash;
use sessionfs::fs::{Caller, Fs, Seek};

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

pub fn of(fs: &Fs) -> String {
    let usage = fs.usage();
    let mut lines = vec![format!("{} inodes, {} bytes", usage.inodes, usage.bytes)];
    add(fs, Ino::ROOT, "", &mut lines);
    lines[1..].sort();
    lines.join("\n") + "\n"
}

fn add(fs: &Fs, ino: Ino, path: &str, lines: &mut Vec<String>) {
    let attr = fs.getattr(ino).unwrap();
    let mut line = format!(
        "{path}/ {ino} {:o} {}:{} links {} rdev {} size {} pieces {}",
        attr.mode, attr.uid, attr.gid, attr.nlink, attr.rdev, attr.size, attr.pieces
    );
    for (what, time) in [("mtime", attr.mtime), ("ctime", attr.ctime), ("atime", attr.atime), ("btime", attr.btime)] {
        let Timestamp { secs, nanos } = time;
        write!(line, " {what} {secs}.{nanos:09}").unwrap();
    }
    for name in fs.listxattr(&ROOT_USER, ino).unwrap().split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let value = fs.getxattr(ino, name).unwrap();
        write!(line, " {}={:016x}", name.escape_ascii(), content_hash(&value)).unwrap();
    }
    match attr.kind {
        FileKind::Regular => {
            let mut content = Vec::new();
            fs.read(ino, 0, attr.size as usize, &mut content).unwrap();
            write!(line, " content {:016x} data at {:?}", content_hash(&content), data(fs, ino)).unwrap();
        }
        FileKind::Symlink => write!(line, " -> {}", fs.readlink(ino).unwrap().escape_ascii()).unwrap(),
        FileKind::Directory => {
            for (name, child) in entries(fs, ino) {
                add(fs, child, &format!("{path}/{}", name.escape_ascii()), lines);
            }
        }
        _ => {}
    }
    lines.push(line);
}

/// The ranges that are no holes.
fn data(fs: &Fs, ino: Ino) -> Vec<(u64, u64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(from) = fs.seek(ino, at, Seek::Data) {
        at = fs.seek(ino, from, Seek::Hole).unwrap();
        found.push((from, at));
    }
    found
}

fn entries(fs: &Fs, ino: Ino) -> Vec<(Vec<u8>, Ino)> {
    let mut found = Vec::new();
    fs.readdir(ino, Cookie(0), false, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            found.push((entry.name.to_vec(), entry.ino));
        }
        true
    })
    .unwrap();
    found
}
