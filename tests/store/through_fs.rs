//! What a mount makes of a damaged database: an error where something is wrong or missing, everything else as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sessionfs::base::limits::{BLOCK_SIZE, DB_PAGE_SIZE};
use sessionfs::base::{Cookie, Errno, FileKind, Ino, Timestamp};
use sessionfs::fs::{Attr, Caller, Fs, RenameMode, WriteFlags, XattrMode};
use sessionfs::store::Store;

use crate::session::{OPTIONS, Session, bytes, sql};
use crate::support::start;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// What of a file is looked at; an error is an answer too.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    attr: Result<Shown, Errno>,
    names: Option<Result<Vec<(String, FileKind)>, Errno>>,
    target: Option<Result<Box<[u8]>, Errno>>,
    content: Option<Result<Vec<u8>, Errno>>,
    xattrs: Result<Vec<u8>, Errno>,
    values: BTreeMap<String, Result<Box<[u8]>, Errno>>,
}

type Shown = (Ino, FileKind, u32, u32, u32, u32, u64, u64, Timestamp);

fn shown(attr: &Attr) -> Shown {
    let Attr { ino, kind, mode, uid, gid, nlink, size, pieces, mtime, .. } = *attr;
    (ino, kind, mode, uid, gid, nlink, size, pieces, mtime)
}

fn list(fs: &Fs, ino: Ino) -> Result<Vec<(String, FileKind)>, Errno> {
    let mut names = vec![];
    fs.readdir(ino, Cookie(0), false, &mut |entry| {
        names.push((String::from_utf8_lossy(entry.name).into_owned(), entry.kind));
        true
    })?;
    Ok(names.into_iter().skip(2).collect()) // `.` and `..`
}

fn read(fs: &Fs, ino: Ino, size: u64) -> Result<Vec<u8>, Errno> {
    let mut content = vec![];
    // In parts, as the kernel does, and on to the end.
    while (content.len() as u64) < size {
        fs.read(ino, content.len() as u64, 128 << 10, &mut content)?;
    }
    Ok(content)
}

/// The xattrs any file of these tests has.
const XATTRS: [&str; 3] = ["user.a", "user.b", "user.long"];

/// Looks at everything there is, by its path.
fn walk(fs: &Fs) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    look(fs, Path::new("/"), fs.getattr(Ino::ROOT), &mut all);
    all
}

fn look(fs: &Fs, path: &Path, attr: Result<Attr, Errno>, all: &mut BTreeMap<PathBuf, Seen>) {
    let of = |kind| attr.ok().filter(|attr| attr.kind == kind);
    let names = of(FileKind::Directory).map(|attr| list(fs, attr.ino));
    let get = |name: &&str| attr.and_then(|attr| fs.getxattr(attr.ino, name.as_bytes()));
    let seen = Seen {
        attr: attr.map(|attr| shown(&attr)),
        names: names.clone(),
        target: of(FileKind::Symlink).map(|attr| fs.readlink(attr.ino)),
        content: of(FileKind::Regular).map(|attr| read(fs, attr.ino, attr.size)),
        xattrs: attr.and_then(|attr| fs.listxattr(&CALLER, attr.ino)),
        values: XATTRS.iter().map(|name| (name.to_string(), get(name))).collect(),
    };
    all.insert(path.to_owned(), seen);
    let Some((Ok(names), Ok(parent))) = names.zip(Some(attr)) else { return };
    for (name, _) in names {
        let attr = fs.lookup(parent.ino, name.as_bytes());
        look(fs, &path.join(&name), attr, all);
    }
}

fn brief(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(200).collect()
}

/// Where `now` differs from `before`, each with the part of it; panics if a difference is anything but EIO.
fn failures(before: &BTreeMap<PathBuf, Seen>, now: &BTreeMap<PathBuf, Seen>, what: &str) -> Vec<String> {
    fn part<T: PartialEq + std::fmt::Debug>(
        was: &Result<T, Errno>,
        is: &Result<T, Errno>,
        wrong: &dyn Fn() -> String,
    ) -> bool {
        if was != is && !matches!(is, Err(Errno::Io)) {
            panic!("a wrong answer: {}: {}, not {}", wrong(), brief(is), brief(was));
        }
        was != is
    }
    let mut failed = vec![];
    for (path, is) in now {
        let was = before.get(path).unwrap_or_else(|| panic!("{what}: {} has never been there", path.display()));
        let mut compare = |name: &str, bad: &dyn Fn(&dyn Fn() -> String) -> bool| {
            if bad(&|| format!("{what}: {name} of {}", path.display())) {
                failed.push(format!("{name} {}", path.display()));
            }
        };
        compare("attr", &|wrong| part(&was.attr, &is.attr, wrong));
        if is.attr.is_err() {
            continue; // Then there is nothing to ask for the rest.
        }
        compare("names", &|wrong| was.names.as_ref().is_some_and(|was| part(was, is.names.as_ref().unwrap(), wrong)));
        compare("target", &|wrong| was.target.as_ref().is_some_and(|it| part(it, is.target.as_ref().unwrap(), wrong)));
        compare("content", &|wrong| {
            was.content.as_ref().is_some_and(|was| part(was, is.content.as_ref().unwrap(), wrong))
        });
        compare("xattrs", &|wrong| part(&was.xattrs, &is.xattrs, wrong));
        for (name, value) in &was.values {
            compare(name, &|wrong| part(value, &is.values[name], wrong));
        }
    }
    for path in before.keys().filter(|path| !now.contains_key(*path)) {
        // Not seen at all: only below a directory that said so.
        let mut above = path.ancestors().skip(1).filter_map(|above| now.get(above));
        let said = above.next().is_some_and(|dir| dir.attr.is_err() || dir.names.as_ref().is_none_or(Result::is_err));
        assert!(said, "{what}: {} is gone without an error", path.display());
    }
    failed
}

/// A closed session: 2 `dir` with 3 `dir/inner` (an xattr, a block), 4 `file` (three blocks, two xattrs), 5 `link`.
fn sample() -> (tempfile::TempDir, PathBuf) {
    let mut session = Session::new();
    let dir = session.dir(Ino::ROOT, "dir");
    let inner = session.file(dir, "inner");
    session.write(inner, 0, &bytes(1, 5_000));
    session.xattr(inner, "user.a", Some(b"inner's"), None);
    let file = session.file(Ino::ROOT, "file");
    for index in 0..3 {
        session.write(file, index, &bytes(index + 2, BLOCK_SIZE));
    }
    session.xattr(file, "user.a", Some(b"1"), None);
    session.xattr(file, "user.b", Some(b"22"), None);
    session.symlink(Ino::ROOT, "link", "dir/inner");
    let (dir, _) = session.close();
    let path = dir.path().join("session.db");
    (dir, path)
}

#[test]
fn a_changed_or_lost_row_is_an_error_and_everything_else_is_readable() {
    let damages: &[(&str, &[&str])] = &[
        // Lost.
        ("DELETE FROM block WHERE ino = 4 AND idx = 1", &["content /file"]),
        ("DELETE FROM block WHERE ino = 3", &["content /dir/inner"]),
        ("DELETE FROM dentry WHERE name = CAST('inner' AS BLOB)", &["names /dir"]),
        ("DELETE FROM dentry WHERE name = CAST('file' AS BLOB)", &["names /"]),
        (
            "DELETE FROM xattr WHERE ino = 4 AND name = CAST('user.b' AS BLOB)",
            &["user.a /file", "user.b /file", "user.long /file", "xattrs /file"],
        ),
        (
            "DELETE FROM xattr WHERE ino = 3",
            &["user.a /dir/inner", "user.b /dir/inner", "user.long /dir/inner", "xattrs /dir/inner"],
        ),
        ("DELETE FROM inode WHERE ino = 3", &["names /dir"]),
        ("DELETE FROM data WHERE id = 1", &["content /dir/inner"]),
        // Changed.
        ("UPDATE inode SET mode = mode | 2 WHERE ino = 3", &["names /dir"]),
        ("UPDATE inode SET size = size - 1 WHERE ino = 4", &["names /"]),
        ("UPDATE inode SET atime_s = 7 WHERE ino = 4", &["names /"]),
        ("UPDATE inode SET attached = 0 WHERE ino = 4", &["names /"]),
        ("UPDATE dentry SET name = CAST('outer' AS BLOB) WHERE ino = 3", &["names /dir"]),
        ("UPDATE dentry SET cookie = cookie + 10 WHERE ino = 3", &["names /dir"]),
        ("UPDATE dentry SET ino = 4 WHERE ino = 3", &["names /dir"]),
        ("UPDATE block SET idx = 7 WHERE ino = 4 AND idx = 1", &["content /file"]),
        ("UPDATE block SET data_id = 1 WHERE ino = 4 AND idx = 1", &["content /file"]),
        ("UPDATE block SET shared = 1 WHERE ino = 4 AND idx = 1", &["content /file"]),
        ("UPDATE block SET mask = 6 WHERE ino = 3", &["content /dir/inner"]),
        (
            "UPDATE xattr SET value = CAST('outer''s' AS BLOB) WHERE ino = 3",
            &["user.a /dir/inner", "user.b /dir/inner", "user.long /dir/inner", "xattrs /dir/inner"],
        ),
        // Content under another's id: the hash fits, the place does not.
        (
            "UPDATE data SET id = 99 WHERE id = 3; UPDATE data SET id = 3 WHERE id = 4;
            UPDATE data SET id = 4 WHERE id = 99",
            &["content /file"],
        ),
        // What has a name is no orphan, whatever the list says.
        ("INSERT INTO orphan VALUES (4)", &[]),
    ];
    let (dir, path) = sample();
    let hurt = dir.path().join("hurt.db");
    let fs = start(&path).unwrap();
    let before = walk(&fs);
    assert_eq!(before.len(), 5);
    assert!(before.values().all(|seen| seen.attr.is_ok() && seen.content.as_ref().is_none_or(Result::is_ok)));
    fs.stop().unwrap();
    for (damage, expected) in damages {
        std::fs::copy(&path, &hurt).unwrap();
        sql(&hurt, damage);
        let fs = start(&hurt).unwrap();
        let mut failed = failures(&before, &walk(&fs), damage);
        failed.sort();
        assert_eq!(failed, *expected, "{damage}");
        // The damage is still there after a close, and no worse: housekeeping must not hide it.
        let _ = fs.stop();
        let fs = start(&hurt).unwrap();
        assert_eq!(failures(&before, &walk(&fs), damage).len(), failed.len(), "{damage}: after a close");
        let _ = fs.stop();
    }
}

/// A closed session made through `Fs`: many small files, some long and sparse ones, links and xattrs; made in more than
/// one commit, so that there is something to be stale.
fn forest(path: &Path) {
    Store::create(path, &OPTIONS).unwrap();
    let fs = start(path).unwrap();
    let made = |attr: Result<Attr, Errno>| attr.unwrap().ino;
    let put = |ino, at: u64, content: &[u8]| {
        assert_eq!(fs.write(ino, at, content, WriteFlags::default()).unwrap(), content.len());
    };
    for d in 0..6u64 {
        let dir = made(fs.mkdir(&CALLER, Ino::ROOT, format!("dir-{d}").as_bytes(), 0o700 + d as u32));
        for f in 0..40u64 {
            let seed = d * 100 + f;
            let name = format!("file-{f:02}");
            let mode = libc::S_IFREG | [0o600, 0o644, 0o755][f as usize % 3];
            let file = made(fs.mknod(&CALLER, dir, name.as_bytes(), mode, 0));
            put(file, 0, &bytes(seed, (seed * 37 % 3_000) as usize + 1));
            if f % 2 == 0 {
                for (name, len) in XATTRS.iter().zip([1, 30, 200]) {
                    fs.setxattr(&CALLER, file, name.as_bytes(), &bytes(seed + 1, len), XattrMode::Set).unwrap();
                }
            }
            if f % 10 == 3 {
                fs.symlink(&CALLER, dir, format!("link-{f}").as_bytes(), format!("../dir-0/{name}").as_bytes())
                    .unwrap();
                fs.link(file, Ino::ROOT, format!("name-{seed}").as_bytes()).unwrap();
            }
        }
        fs.commit().unwrap();
    }
    let long = made(fs.mknod(&CALLER, Ino::ROOT, b"long", libc::S_IFREG | 0o600, 0));
    for index in 0..1_500 {
        put(long, index * BLOCK_SIZE as u64, &bytes(index, 60));
    }
    fs.mkdir(&CALLER, Ino::ROOT, b"empty", 0o755).unwrap();
    fs.stop().unwrap();
}

/// A different one in every run, unless `SESSIONFS_SEED` says which.
fn seed() -> u64 {
    let given = std::env::var("SESSIONFS_SEED").ok().map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64)
}

/// The forest in a database of its own, and what is seen of it.
fn planted() -> (tempfile::TempDir, PathBuf, BTreeMap<PathBuf, Seen>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    forest(&path);
    let fs = start(&path).unwrap();
    let before = walk(&fs);
    fs.stop().unwrap();
    (dir, path, before)
}

#[test]
fn random_flips_give_errors_or_right_answers() {
    let (dir, path, before) = planted();
    assert!(before.len() > 270);
    let whole = std::fs::read(&path).unwrap();
    let hurt = dir.path().join("hurt.db");
    let first = seed();
    println!("SESSIONFS_SEED={first}");
    let mut state = first;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let (mut refused, mut failing, mut untouched) = (0, 0, 0);
    for round in 0..60 {
        let mut bad = whole.clone();
        for _ in 0..1 << random(4) {
            let at = random(bad.len());
            bad[at] ^= 1 << random(8);
        }
        let _ = std::fs::remove_file(dir.path().join("hurt.db-wal"));
        let _ = std::fs::remove_file(dir.path().join("hurt.db-shm"));
        std::fs::write(&hurt, &bad).unwrap();
        // Twice, for what a close makes of it.
        for life in 1..=2 {
            let Ok(fs) = start(&hurt) else {
                refused += 1;
                break;
            };
            let failed = failures(&before, &walk(&fs), &format!("seed {first}, round {round}, life {life}"));
            *(if failed.is_empty() { &mut untouched } else { &mut failing }) += 1;
            let _ = fs.stop();
        }
    }
    println!("{} bytes: {refused} refused, {failing} with errors, {untouched} without", whole.len());
    assert!(failing > 10, "{refused} refused, {failing} with errors, {untouched} without");
}

/// One page of a table's b-tree that leads to others: its number, and where in it each child's number lies.
fn inner_page(path: &Path, whole: &[u8], table: &str) -> Vec<usize> {
    let root: usize = sql(path, &format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'")).parse().unwrap();
    let page = (root - 1) * DB_PAGE_SIZE as usize;
    let u16_at = |at: usize| usize::from(whole[at]) << 8 | usize::from(whole[at + 1]);
    assert!([2, 5].contains(&whole[page]), "{table} has one page only");
    let cells = (0..u16_at(page + 3)).map(|cell| page + u16_at(page + 12 + 2 * cell));
    // The last child stands in the page's header; each cell begins with its own.
    cells.chain([page + 8]).collect()
}

#[test]
fn a_page_that_is_led_to_twice_is_noticed() {
    let (dir, path, before) = planted();
    let whole = std::fs::read(&path).unwrap();
    let hurt = dir.path().join("hurt.db");
    for table in ["block", "dentry", "inode", "data", "sqlite_autoindex_xattr_1", "xattr"] {
        let children = inner_page(&path, &whole, table);
        for (at, pair) in children.windows(2).enumerate() {
            let (from, to) = if at % 2 == 0 { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
            let mut bad = whole.clone();
            bad.copy_within(from..from + 4, to);
            std::fs::write(&hurt, &bad).unwrap();
            let Ok(fs) = start(&hurt) else { continue }; // The root is what is lost.
            assert!(!failures(&before, &walk(&fs), table).is_empty(), "{table}: nothing noticed");
            fs.abandon();
        }
    }
}

#[test]
fn an_inode_with_fewer_links_than_names_is_an_error_and_not_a_panic() {
    let mut session = Session::new();
    let file = session.file(Ino::ROOT, "one");
    session.link(file, Ino::ROOT, "two");
    session.link(file, Ino::ROOT, "three");
    let dir = session.dir(Ino::ROOT, "dir");
    session.file(Ino::ROOT, "plain");
    session.dir(Ino::ROOT, "empty");
    // Written wrong, with sums that fit.
    session.change(file, |row| row.nlink = 1);
    session.change(dir, |row| row.nlink = 1);
    session.commit();
    let path = session.path();
    session.writer.close().unwrap();
    let fs = start(&path).unwrap();
    // Referred to, as by a program that has it open: it stays in memory without a link.
    fs.lookup(Ino::ROOT, b"two").unwrap();
    fs.unlink(Ino::ROOT, b"one").unwrap();
    assert_eq!(fs.unlink(Ino::ROOT, b"two"), Err(Errno::Io));
    let replace = |from: &[u8], to: &[u8]| fs.rename(Ino::ROOT, from, Ino::ROOT, to, RenameMode::Replace);
    assert_eq!(replace(b"plain", b"three"), Err(Errno::Io));
    assert_eq!(fs.rmdir(Ino::ROOT, b"dir"), Err(Errno::Io));
    assert_eq!(replace(b"empty", b"dir"), Err(Errno::Io));
    // What was refused has changed nothing, and everything else goes on.
    fs.lookup(Ino::ROOT, b"two").unwrap();
    fs.lookup(Ino::ROOT, b"plain").unwrap();
    fs.unlink(Ino::ROOT, b"plain").unwrap();
    fs.rmdir(Ino::ROOT, b"empty").unwrap();
    fs.stop().unwrap();
}
