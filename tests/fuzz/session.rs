//! Whole sessions with damage in them: they are refused, found out, or served, and nothing worse.

use std::fs;
use std::path::{Path, PathBuf};

use sessionfs::base::{Cookie, Errno, FileKind, Ino};
use sessionfs::fs::{Caller, Fs, Seek, SetAttr, WriteFlags};
use sessionfs::store::{Store, StoreError, check};
use tempfile::TempDir;

use crate::bless::golden;
use crate::support::start;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// A session made of these bytes.
pub fn session(database: &[u8], journal: Option<&[u8]>) -> (TempDir, PathBuf) {
    // In memory where that is possible: there are many, and none has to survive anything.
    let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let path = dir.path().join("session.db");
    fs::write(&path, database).unwrap();
    if let Some(journal) = journal {
        fs::write(path.with_extension("journal"), journal).unwrap();
    }
    (dir, path)
}

/// The golden session, recovered and stopped: one file.
pub fn recovered() -> Vec<u8> {
    let (_dir, path) = session(&golden("session.db"), Some(&golden("session.journal")));
    start(&path).unwrap().stop().unwrap();
    fs::read(path).unwrap()
}

/// Checks it, mounts it, reads and changes all there is, stops it. Returns whether it was served.
pub fn use_all(path: &Path) -> bool {
    if let Ok(store) = Store::open_read_only(path) {
        let _ = check(&store, &mut |_, _| {});
    }
    let Ok(fs) = start(path) else { return false };
    let mut seen = Vec::new();
    let _ = walk(&fs, Ino::ROOT, 0, &mut seen);
    for &ino in &seen {
        let _ = change(&fs, ino);
    }
    let _ = fs.mkdir(&CALLER, Ino::ROOT, b"made", 0o755);
    let _ = fs.commit();
    match fs.stop() {
        Err(StoreError::Io(why)) if why.contains("panicked") => panic!("{why}"),
        _ => true,
    }
}

/// Everything below a directory that can be read.
fn walk(fs: &Fs, ino: Ino, depth: usize, seen: &mut Vec<Ino>) -> Result<(), Errno> {
    // Damage may have made a ring of directories.
    if depth > 8 || seen.len() > 200 {
        return Ok(());
    }
    seen.push(ino);
    let attr = fs.getattr(ino)?;
    let _ = fs.listxattr(&CALLER, ino);
    let _ = fs.getxattr(ino, b"user.big");
    match attr.kind {
        FileKind::Regular => {
            for at in [0, 30_000, attr.size.saturating_sub(100)] {
                let _ = fs.read(ino, at, 1 << 20, &mut Vec::new());
            }
            let _ = fs.seek(ino, 0, Seek::Hole);
        }
        FileKind::Symlink => drop(fs.readlink(ino)),
        FileKind::Directory => {
            let mut names = Vec::new();
            fs.readdir(ino, Cookie(0), false, &mut |entry| {
                if entry.name != b"." && entry.name != b".." {
                    names.push(entry.name.to_vec());
                }
                names.len() < 100
            })?;
            for name in names {
                if let Ok(child) = fs.lookup(ino, &name) {
                    let _ = walk(fs, child.ino, depth + 1, seen);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn change(fs: &Fs, ino: Ino) -> Result<(), Errno> {
    fs.setattr(&CALLER, ino, &SetAttr { mode: Some(0o700), ..SetAttr::default() })?;
    let _ = fs.setxattr(&CALLER, ino, b"user.more", b"value", sessionfs::fs::XattrMode::Set);
    if fs.getattr(ino)?.kind == FileKind::Regular {
        let _ = fs.write(ino, 5_000, b"changed", WriteFlags::default());
        let _ = fs.fallocate(&CALLER, ino, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 20_000);
        let _ = fs.setattr(&CALLER, ino, &SetAttr { size: Some(40_000), ..SetAttr::default() });
    }
    Ok(())
}
