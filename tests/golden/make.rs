//! Makes the golden files: a session with something of everything, some of it committed and some only in the journal.

use std::path::Path;

use rusqlite::Connection;
use sessionfs::base::Ino;
use sessionfs::fs::{Caller, Fs, RenameMode, SetAttr, SetTime, WriteFlags, XattrMode};
use sessionfs::store::{CreateOptions, Store};

use crate::listing;
use crate::support::start;

const CALLER: Caller = Caller { uid: 1000, gid: 100, umask: 0o022 };
const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

pub fn bless(to: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("session.db");
    let options = CreateOptions { bytes_limit: 64 << 20, inodes_limit: 1000, uid: 1000, gid: 100 };
    Store::create(&database, &options).unwrap();
    let fs = start(&database).unwrap();
    committed(&fs);
    fs.stop().unwrap();
    let fs = start(&database).unwrap();
    journaled(&fs);
    let listing = listing::of(&fs);
    fs.abandon();
    drop(fs);

    let sql = Connection::open(&database).unwrap();
    sql.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(sql);
    // What was never written is left out; a reader takes the end of the file for it.
    let journal = std::fs::read(database.with_extension("journal")).unwrap();
    let used = journal.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(&database, to.join("session.db")).unwrap();
    std::fs::write(to.join("session.journal"), &journal[..used.next_multiple_of(4096)]).unwrap();
    std::fs::write(to.join("listing.txt"), listing).unwrap();
}

fn file(fs: &Fs, parent: Ino, name: &[u8], content: &[u8]) -> Ino {
    let ino = fs.mknod(&CALLER, parent, name, libc::S_IFREG | 0o664, 0).unwrap().ino;
    if !content.is_empty() {
        fs.write(ino, 0, content, WriteFlags::default()).unwrap();
    }
    ino
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 9u64;
    let byte = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..len).map(byte).collect()
}

fn committed(fs: &Fs) {
    let src = fs.mkdir(&CALLER, Ino::ROOT, b"src", 0o2775).unwrap().ino;
    let main = file(fs, src, b"main.rs", b"fn main() {}\n");
    file(fs, src, &[b'n'; 255], b"a long name");
    let odd = file(fs, Ino::ROOT, b"\xff\n odd", &noise(20_000));
    fs.link(main, Ino::ROOT, b"linked").unwrap();
    fs.symlink(&CALLER, src, b"link", b"../linked").unwrap();
    fs.mknod(&CALLER, Ino::ROOT, b"fifo", libc::S_IFIFO | 0o600, 0).unwrap();
    fs.mknod(&ROOT_USER, Ino::ROOT, b"device", libc::S_IFCHR | 0o600, 0x103).unwrap();
    fs.setxattr(&CALLER, odd, b"user.note", b"kept", XattrMode::Set).unwrap();
    let sparse = file(fs, Ino::ROOT, b"sparse", b"");
    fs.write(sparse, 100_000, &noise(5_000), WriteFlags::default()).unwrap();
    fs.fallocate(&CALLER, sparse, 0, 40_000, 10_000).unwrap();
    file(fs, Ino::ROOT, b"goes", b"not for long");
    let times = SetAttr {
        atime: Some(SetTime::To(sessionfs::base::Timestamp::new(-1, 999_999_999))),
        mtime: Some(SetTime::To(sessionfs::base::Timestamp::new(4_102_444_800, 1))),
        ..SetAttr::default()
    };
    fs.setattr(&CALLER, main, &times).unwrap();
}

fn journaled(fs: &Fs) {
    let ino = |parent, name: &[u8]| fs.lookup(parent, name).unwrap().ino;
    let (src, odd) = (ino(Ino::ROOT, b"src"), ino(Ino::ROOT, b"\xff\n odd"));
    let sparse = ino(Ino::ROOT, b"sparse");
    fs.write(odd, 10_000, b"overwritten", WriteFlags::default()).unwrap();
    fs.write(odd, 30_000, &noise(3_000), WriteFlags::default()).unwrap();
    let copy = file(fs, src, b"copy", b"");
    fs.copy_range(&CALLER, odd, 0, copy, 0, 33_000).unwrap();
    fs.fallocate(&CALLER, sparse, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 101_000, 4_000).unwrap();
    fs.setattr(&CALLER, sparse, &SetAttr { size: Some(200_001), ..SetAttr::default() }).unwrap();
    fs.setattr(&CALLER, src, &SetAttr { mode: Some(0o750), uid: None, ..SetAttr::default() }).unwrap();
    fs.setxattr(&CALLER, odd, b"user.big", &noise(9_000), XattrMode::Create).unwrap();
    fs.removexattr(&CALLER, odd, b"user.note").unwrap();
    fs.rename(Ino::ROOT, b"linked", src, b"link", RenameMode::Exchange).unwrap();
    fs.rename(src, b"main.rs", Ino::ROOT, b"main", RenameMode::Replace).unwrap();
    fs.unlink(Ino::ROOT, b"goes").unwrap();
    let empty = fs.mkdir(&CALLER, src, b"empty", 0o700).unwrap().ino;
    fs.mkdir(&CALLER, empty, b"inner", 0o700).unwrap();
    fs.fsync().unwrap();
    file(fs, empty, b"last", b"behind the fsync");
}
