//! What comes back after a stop is what was there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::harness::{Session, can_mount, can_mount_as_root, is_root};
use crate::sys;

/// All that `lstat` and the like say of a file, and its content.
#[derive(Debug, PartialEq)]
struct Seen {
    numbers: [u64; 9],
    times: [(i64, i64); 2],
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Vec<u8>,
}

fn see(path: &Path) -> Seen {
    let attr = fs::symlink_metadata(path).unwrap();
    let xattrs = sys::list_xattrs(path).unwrap().into_iter().map(|name| {
        let value = sys::get_xattr(path, &std::ffi::CString::new(name.clone()).unwrap()).unwrap();
        (name, value)
    });
    let kind = attr.file_type();
    let content = if kind.is_file() {
        fs::read(path).unwrap()
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
    } else {
        Vec::new()
    };
    Seen {
        numbers: [
            attr.ino(),
            attr.mode().into(),
            attr.uid().into(),
            attr.gid().into(),
            attr.nlink(),
            attr.rdev(),
            attr.size(),
            attr.blocks(),
            attr.blksize(),
        ],
        times: [(attr.mtime(), attr.mtime_nsec()), (attr.ctime(), attr.ctime_nsec())],
        xattrs: xattrs.collect(),
        content,
    }
}

fn see_tree(top: &Path, seen: &mut BTreeMap<PathBuf, Seen>) {
    seen.insert(top.to_owned(), see(top));
    if fs::symlink_metadata(top).unwrap().is_dir() {
        for entry in fs::read_dir(top).unwrap() {
            see_tree(&entry.unwrap().path(), seen);
        }
    }
}

fn tree(session: &Session) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    see_tree(&session.root(), &mut seen);
    seen
}

#[test]
fn a_session_comes_back_as_it_was() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    for i in 0..40 {
        let dir = session.path(format!("dir{}", i % 7));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("file{i}"));
        fs::write(&path, vec![i as u8; i * 3571]).unwrap();
        sys::set_xattr(&path, c"user.number", &[i as u8], 0).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o400 + i as u32)).unwrap();
        sys::set_times(&path, (i as i64 - 20, 999), (i as i64 * 1_000_000_000 - 20_000_000_000, i as i64)).unwrap();
        if i % 5 == 0 {
            fs::hard_link(&path, session.path(format!("link{i}"))).unwrap();
            symlink(&path, session.path(format!("symlink{i}"))).unwrap();
        }
        if is_root() {
            std::os::unix::fs::lchown(&path, Some(i as u32), Some(1000 + i as u32)).unwrap();
        }
    }
    sys::mknod(&session.path("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    let sparse = File::create(session.path("sparse")).unwrap();
    sparse.write_all_at(b"x", 100 << 20).unwrap();
    sparse.set_len(5 << 30).unwrap();
    sparse.set_len(200 << 20).unwrap();
    drop(sparse);
    let before = tree(&session);
    assert!(before.len() > 60);
    session.remount();
    assert_eq!(tree(&session), before);
    session.remount();
    assert_eq!(tree(&session), before);
    // Numbers go on where they ended.
    let most = before.values().map(|seen| seen.numbers[0]).max().unwrap();
    File::create(session.path("later")).unwrap();
    assert!(fs::metadata(session.path("later")).unwrap().ino() > most);
}

#[test]
fn an_empty_session_comes_back_empty() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let before = tree(&session);
    session.remount();
    assert_eq!(tree(&session), before);
    assert_eq!(before.len(), 1);
}

#[test]
fn files_without_a_name_do_not_come_back() {
    if !can_mount() {
        return;
    }
    let mut session = Session::new();
    let free = sys::statvfs(&session.root()).unwrap().f_bfree;
    let file = File::create(session.path("f")).unwrap();
    file.write_all_at(&[1; 100_000], 0).unwrap();
    fs::remove_file(session.path("f")).unwrap();
    file.sync_all().unwrap();
    drop(file);
    session.remount();
    assert_eq!(sys::statvfs(&session.root()).unwrap().f_bfree, free);
    assert_eq!(fs::read_dir(session.root()).unwrap().count(), 0);
}

#[test]
fn file_handles_outlive_a_stop() {
    if !can_mount_as_root() {
        return;
    }
    let mut session = Session::new();
    fs::create_dir_all(session.path("a/b/c")).unwrap();
    fs::write(session.path("a/b/c/file"), "content").unwrap();
    fs::write(session.path("a/gone"), "").unwrap();
    let mut handles = ["a/b/c/file", "a/b", "a/gone"].map(|name| sys::handle_of(&session.path(name)).unwrap());
    fs::remove_file(session.path("a/gone")).unwrap();
    session.remount();
    // An ancestor that has moved since is found where it is now.
    fs::rename(session.path("a"), session.path("moved")).unwrap();
    let root = File::open(session.root()).unwrap();
    let [file, directory, gone] = &mut handles;
    let file = sys::open_by_handle(&root, file).unwrap();
    assert_eq!(std::io::read_to_string(&file).unwrap(), "content");
    let opened = sys::open_by_handle(&root, directory).unwrap().metadata().unwrap();
    assert_eq!(opened.ino(), fs::metadata(session.path("moved/b")).unwrap().ino());
    assert_eq!(sys::errno(sys::open_by_handle(&root, gone)), libc::ESTALE);
}
