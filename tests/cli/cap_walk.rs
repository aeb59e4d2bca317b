//! The cap, walked up to by every operation that takes space: what was accepted is there, before and after a stop, `df`,
//! `du`, `sessionfs du` and `status` agree, and each soft limit is told once. Also what `du` says.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::support::{Bench, fuse};
use super::sys;

const CAP: u64 = 4 << 20;
const PIECE: u64 = 4096;

/// What an operation was told that it had done.
enum Accepted {
    Content(PathBuf, Vec<u8>),
    Xattr(PathBuf, CString, Vec<u8>),
    Target(PathBuf, PathBuf),
    /// So many names in a directory.
    Names(PathBuf, usize),
}

/// Fills a workspace by one operation.
type Walk = fn(&Path) -> Vec<Accepted>;

impl Accepted {
    fn check(&self, how: &str) {
        match self {
            Accepted::Content(path, content) => {
                assert!(fs::read(path).unwrap() == *content, "{how}: {}", path.display());
            }
            Accepted::Xattr(path, name, value) => assert!(sys::get_xattr(path, name).unwrap() == *value, "{how}"),
            Accepted::Target(path, target) => assert_eq!(fs::read_link(path).unwrap(), *target, "{how}"),
            Accepted::Names(dir, count) => assert_eq!(fs::read_dir(dir).unwrap().count(), *count, "{how}"),
        }
    }
}

/// Does it again and again until there is no space; how often it was done.
#[track_caller]
fn fill(mut step: impl FnMut(usize) -> std::io::Result<()>) -> usize {
    for done in 0..100_000 {
        if let Err(error) = step(done) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "step {done}: {error}");
            return done;
        }
    }
    panic!("there is no cap");
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seed * 31 + at * 7 + at / 251) as u8).collect()
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

fn write(root: &Path) -> Vec<Accepted> {
    let path = root.join("written");
    let (mut file, mut content) = (create(&path), Vec::new());
    fill(|step| {
        let piece = bytes(step, 300_000);
        let done = file.write(&piece)?;
        content.extend_from_slice(&piece[..done]);
        Ok(())
    });
    vec![Accepted::Content(path, content)]
}

fn append(root: &Path) -> Vec<Accepted> {
    let path = root.join("appended");
    drop(create(&path));
    let mut content = Vec::new();
    fill(|step| {
        let piece = bytes(step, 1_000);
        let done = OpenOptions::new().append(true).open(&path)?.write(&piece)?;
        content.extend_from_slice(&piece[..done]);
        Ok(())
    });
    vec![Accepted::Content(path, content)]
}

/// A length costs nothing; what is written into the hole does.
fn truncate_up(root: &Path) -> Vec<Accepted> {
    let path = root.join("hollow");
    let file = create(&path);
    let mut content = vec![0; 64 << 20];
    file.set_len(content.len() as u64).unwrap();
    fill(|step| {
        let (at, piece) = (step * 10 * PIECE as usize, bytes(step, 100));
        file.write_all_at(&piece, at as u64)?;
        content[at..at + piece.len()].copy_from_slice(&piece);
        Ok(())
    });
    vec![Accepted::Content(path, content)]
}

fn fallocate(root: &Path) -> Vec<Accepted> {
    let path = root.join("allocated");
    let file = create(&path);
    let steps = fill(|step| sys::fallocate(&file, 0, (step * 100_000) as i64, 100_000));
    // What was allocated can be written, whatever else there is.
    let content = bytes(1, steps * 100_000);
    file.write_all_at(&content, 0).unwrap();
    vec![Accepted::Content(path, content)]
}

/// A file that another one takes the place of gives its space back, however often.
fn rename_over(root: &Path) -> Vec<Accepted> {
    let (path, new) = (root.join("replaced"), root.join("new"));
    let mut content = Vec::new();
    for step in 0..20 {
        content = bytes(step, 1_500_000);
        fs::write(&new, &content).unwrap();
        fs::rename(&new, &path).unwrap();
    }
    let mut all = write(root);
    let (small, small_content) = (root.join("small"), bytes(5, 200));
    // Without room for one file, one is replaced by what its own space is enough for.
    assert_eq!(sys::errno(fs::write(&small, &small_content)), libc::ENOSPC);
    fs::write(&path, &small_content).unwrap();
    fs::rename(&path, &small).unwrap();
    content.clear();
    all.push(Accepted::Content(small, small_content));
    let (rest, mut rest_content) = (root.join("rest"), Vec::new());
    let mut file = create(&rest);
    fill(|step| {
        let piece = bytes(step, 50_000);
        let done = file.write(&piece)?;
        rest_content.extend_from_slice(&piece[..done]);
        Ok(())
    });
    all.push(Accepted::Content(rest, rest_content));
    all
}

fn copy_range(root: &Path) -> Vec<Accepted> {
    let (from, to) = (root.join("from"), root.join("to"));
    let content = bytes(3, 150_000);
    fs::write(&from, &content).unwrap();
    let (source, target, mut copied) = (File::open(&from).unwrap(), create(&to), Vec::new());
    fill(|_| {
        let done = sys::copy_range(&source, 0, &target, copied.len() as i64, content.len())?;
        copied.extend_from_slice(&content[..done as usize]);
        Ok(())
    });
    vec![Accepted::Content(from, content), Accepted::Content(to, copied)]
}

fn xattrs(root: &Path) -> Vec<Accepted> {
    let mut all = Vec::new();
    fill(|step| {
        let (path, name) = (root.join(format!("f{}", step / 4)), CString::new(format!("user.x{}", step % 4)).unwrap());
        let value = bytes(step, 15_000);
        OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        sys::set_xattr(&path, &name, &value, 0)?;
        all.push(Accepted::Xattr(path, name, value));
        Ok(())
    });
    all
}

fn names(root: &Path) -> Vec<Accepted> {
    let dir = root.join("names");
    fs::create_dir(&dir).unwrap();
    let made = fill(|step| File::create_new(dir.join(format!("{step:0>255}"))).map(drop));
    vec![Accepted::Names(dir, made)]
}

fn links(root: &Path) -> Vec<Accepted> {
    let (dir, path) = (root.join("names"), root.join("file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&path, "linked").unwrap();
    let made = fill(|step| fs::hard_link(&path, dir.join(format!("{step:0>255}"))));
    vec![Accepted::Names(dir, made), Accepted::Content(path, b"linked".to_vec())]
}

fn symlinks(root: &Path) -> Vec<Accepted> {
    let mut all = Vec::new();
    fill(|step| {
        let (path, target) = (root.join(format!("l{step}")), PathBuf::from(format!("{step:0>4000}")));
        symlink(&target, &path)?;
        all.push(Accepted::Target(path, target));
        Ok(())
    });
    all
}

/// A page that does not fit is told by msync; those before are there.
fn mapped(root: &Path) -> Vec<Accepted> {
    let path = root.join("mapped");
    let file = create(&path);
    file.set_len(2 * CAP).unwrap();
    let mut map = sys::Map::of(&file, 2 * CAP as usize).unwrap();
    let stored = fill(|step| {
        let at = step * PIECE as usize;
        map[at..at + 100].copy_from_slice(&bytes(step, 100));
        map.sync()
    });
    let mut content = vec![0; stored * PIECE as usize];
    for step in 0..stored {
        content[step * PIECE as usize..][..100].copy_from_slice(&bytes(step, 100));
    }
    drop(map);
    // What was not taken is in the kernel's page for as long as that lasts.
    file.set_len(content.len() as u64).unwrap();
    vec![Accepted::Content(path, content)]
}

/// A file without a name is charged, and is free again with its descriptor.
fn unnamed(root: &Path) -> Vec<Accepted> {
    // The root then has a piece for names, and room in it for one more.
    drop(create(&root.join("first")));
    let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(root);
    let mut file = match open() {
        Ok(file) => file,
        // By /dev/fuse through fuser there is none.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return write(root),
        Err(error) => panic!("{error}"),
    };
    let mut content = Vec::new();
    let more = |file: &mut File, content: &mut Vec<u8>| {
        fill(|step| {
            let piece = bytes(step, 100_000);
            let done = file.write(&piece)?;
            content.extend_from_slice(&piece[..done]);
            Ok(())
        })
    };
    more(&mut file, &mut content);
    assert_eq!(sys::errno(fs::write(root.join("none"), [1; 5000])), libc::ENOSPC);
    drop(file);
    let mut file = open().unwrap();
    content.clear();
    more(&mut file, &mut content);
    sys::link_open(&file, &root.join("named")).unwrap();
    vec![Accepted::Content(root.join("named"), content)]
}

/// Bytes by st_blocks of every inode.
fn walked(root: &Path) -> u64 {
    fn of(path: &Path, seen: &mut std::collections::HashSet<u64>) -> u64 {
        let meta = fs::symlink_metadata(path).unwrap();
        let own = if seen.insert(meta.ino()) { meta.blocks() * 512 } else { 0 };
        let below = if meta.is_dir() {
            fs::read_dir(path).unwrap().map(|entry| of(&entry.unwrap().path(), seen)).sum()
        } else {
            0
        };
        own + below
    }
    of(root, &mut Default::default())
}

/// `df`, `du`, `sessionfs du` and `status` say the same; returns it.
fn used(bench: &Bench, root: &Path, how: &str) -> u64 {
    let df = sys::statvfs(root).unwrap();
    let by_df = (df.f_blocks - df.f_bfree) * df.f_frsize;
    assert_eq!(by_df, walked(root), "{how}");
    assert_eq!(by_df, bench.status("demo")["bytes_used"].as_u64().unwrap(), "{how}");
    let du: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "du", "demo"])).unwrap();
    assert_eq!(by_df, du["charged"].as_u64().unwrap() + du["orphans"]["charged"].as_u64().unwrap(), "{how}: {du}");
    by_df
}

#[test]
fn every_operation_fills_to_the_cap_and_nothing_accepted_is_lost() {
    if !fuse() {
        return;
    }
    let walks: [(&str, Walk); 12] = [
        ("write", write),
        ("append", append),
        ("truncate up", truncate_up),
        ("fallocate", fallocate),
        ("rename over", rename_over),
        ("copy_file_range", copy_range),
        ("xattr", xattrs),
        ("names", names),
        ("links", links),
        ("symlink", symlinks),
        ("mmap", mapped),
        ("O_TMPFILE", unnamed),
    ];
    for (how, walk) in walks {
        let bench = Bench::new();
        let root = bench.empty("mnt");
        let at = root.to_str().unwrap();
        bench.ok(&["mount", "--size", "4M", "demo", at]);
        let accepted = walk(&root);
        accepted.iter().for_each(|one| one.check(how));
        let full = used(&bench, &root, how);
        // No step of the walks takes more than 74 pieces, or what 16 MiB are copied by.
        assert!((CAP - 74 * PIECE..=CAP).contains(&full), "{how}: {full}");
        bench.ok(&["umount", "demo"]);

        let events: Vec<serde_json::Value> = serde_json::from_str(&bench.ok(&["--json", "events", "demo"])).unwrap();
        let told: Vec<u64> = events
            .iter()
            .filter(|event| event["event"] == "soft_limit" && event["resource"] == "bytes")
            .map(|event| event["percent"].as_u64().unwrap())
            .collect();
        let expected: Vec<u64> = [80, 90, 95].into_iter().filter(|percent| full * 100 >= CAP * percent).collect();
        assert_eq!(told, expected, "{how}");
        let status = bench.ok(&["status", "demo"]);
        assert!(status.contains("FILLS UP") && status.contains("% of the cap on space is passed"), "{how}: {status}");

        bench.ok(&["mount", "demo", at]);
        accepted.iter().for_each(|one| one.check(how));
        assert_eq!(used(&bench, &root, how), full, "{how}");
        let metrics = bench.ok(&["metrics", "demo"]);
        let percent = expected.last().unwrap();
        let line = format!("sessionfs_soft_limit_percent{{session=\"demo\",resource=\"bytes\"}} {percent}\n");
        assert!(metrics.contains(&line), "{how}");
        bench.ok(&["umount", "demo"]);
        bench.ok(&["check", "demo"]);
    }
}

#[test]
fn inodes_have_soft_limits_and_falling_below_rearms_them() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let root = bench.empty("mnt");
    bench.ok(&["mount", "--inodes", "100", "demo", root.to_str().unwrap()]);
    let told = || {
        let events: Vec<serde_json::Value> = serde_json::from_str(&bench.ok(&["--json", "events", "demo"])).unwrap();
        let soft = events.into_iter().filter(|event| event["event"] == "soft_limit");
        soft.map(|event| format!("{} {}", event["resource"].as_str().unwrap(), event["percent"])).collect::<Vec<_>>()
    };
    let name = |n: usize| root.join(format!("f{n}"));
    let make = |range: std::ops::Range<usize>| range.for_each(|n| drop(File::create_new(name(n)).unwrap()));
    // The event is written a moment after the commit.
    let sync = |expected: &[&str]| {
        bench.ok(&["sync", "demo"]);
        super::support::eventually("the events", || told() == expected);
    };
    make(1..80);
    sync(&["inodes 80"]);
    make(80..91);
    sync(&["inodes 80", "inodes 90"]);
    (80..91).for_each(|n| fs::remove_file(name(n)).unwrap());
    sync(&["inodes 80", "inodes 90"]);
    make(80..91);
    sync(&["inodes 80", "inodes 90", "inodes 90"]);
    bench.ok(&["resize", "--inodes", "1000", "demo"]);
    bench.ok(&["resize", "--inodes", "95", "demo"]);
    super::support::eventually("other caps are other limits", || told().len() == 6);
    bench.ok(&["umount", "demo"]);
}

#[test]
fn du_says_what_takes_the_space() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let root = bench.empty("mnt");
    bench.ok(&["mount", "demo", root.to_str().unwrap()]);
    fs::create_dir_all(root.join("a/deep/er")).unwrap();
    fs::create_dir(root.join("b")).unwrap();
    fs::write(root.join("a/deep/er/one.bin"), vec![1; 100_000]).unwrap();
    fs::write(root.join("a/two.rs"), vec![1; 5_000]).unwrap();
    fs::hard_link(root.join("a/deep/er/one.bin"), root.join("b/same.bin")).unwrap();
    fs::write(root.join("b").join(std::ffi::OsStr::from_bytes(b"\xff\n")), vec![1; 10]).unwrap();
    let du = |args: &[&str]| -> serde_json::Value {
        let args: Vec<&str> = ["--json", "du"].iter().chain(args).copied().collect();
        serde_json::from_str(&bench.ok(&args)).unwrap()
    };
    let sums = |value: &serde_json::Value| {
        let of = |name: &str| value[name].as_u64().unwrap();
        (of("charged"), of("apparent"), of("files"), of("directories"))
    };
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "--ephemeral", "target/", "demo", root.to_str().unwrap()]);
    fs::create_dir(root.join("target")).unwrap();
    fs::write(root.join("target/out"), vec![1; 50_000]).unwrap();
    fs::remove_dir_all(root.join("target")).unwrap();
    let look = || {
        let all = du(&["demo"]);
        assert_eq!(sums(&all), (walked_or(&bench, &root), 105_010, 3, 5), "{all}");
        let names = |list: &str| -> Vec<String> {
            all[list].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("by_directory"), ["/a", "/b"]);
        assert_eq!(names("by_extension"), [".bin", ".rs", ""]);
        let largest = names("largest");
        assert!(largest[0] == "/a/deep/er/one.bin" || largest[0] == "/b/same.bin", "{largest:?}");
        assert_eq!(&largest[1..], ["/a/two.rs", r"/b/\xff\n"]);
        assert_eq!(sums(&all["largest"][0]), (25 * PIECE, 100_000, 1, 0));
        // Below a directory: with one name there, it counts there.
        let below = du(&["demo:/b", "--depth", "3", "--top", "1"]);
        assert_eq!((below["path"].as_str(), sums(&below)), (Some("/b"), (27 * PIECE, 100_010, 2, 1)));
        assert_eq!(below["largest"].as_array().unwrap().len(), 1);
        let deep = du(&["demo:a//deep/", "--depth", "1"]);
        assert_eq!((&deep["path"], &deep["by_directory"][0]["name"]), (&"/a/deep".into(), &"/a/deep/er".into()));
    };
    look();
    let open = File::open(root.join("a/two.rs")).unwrap();
    fs::remove_file(root.join("a/two.rs")).unwrap();
    let all = du(&["demo"]);
    assert_eq!(sums(&all["orphans"]), (2 * PIECE, 5_000, 1, 0));
    assert!(bench.ok(&["du", "demo"]).contains("files without a name"));
    drop(open);
    fs::write(root.join("a/two.rs"), vec![1; 5_000]).unwrap();
    bench.ok(&["umount", "demo"]);
    look();
    bench.fails(&["du", "demo:/none"], 19, &["/none", "no such directory"]);
    bench.fails(&["du", "none"], 4, &["none"]);
    let text = bench.ok(&["du", "demo"]);
    assert!(text.starts_with("demo:/  ") && text.contains("LARGEST FILE\n"), "{text}");
}

/// By st_blocks where it is mounted, else by `status`.
fn walked_or(bench: &Bench, root: &Path) -> u64 {
    let status = bench.status("demo");
    if status["mounted"].as_bool().unwrap() { walked(root) } else { status["bytes_used"].as_u64().unwrap() }
}
