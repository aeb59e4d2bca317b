//! Ephemeral directories, through the kernel and the commands.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Bench, alive, eventually, kill};
use crate::harness::{can_mount, can_mount_as_root};
use crate::sys::{self, errno};

const MIB: usize = 1 << 20;

/// A session of 4 MiB with ephemeral directories, mounted.
fn mounted(bench: &Bench, globs: &[&str]) -> PathBuf {
    let at = bench.empty("m");
    let mut args = vec!["mount", "--size", "4M"];
    args.extend(globs.iter().flat_map(|glob| ["--ephemeral", glob]));
    args.extend(["demo", at.to_str().unwrap()]);
    bench.ok(&args);
    at
}

fn used(at: &Path) -> u64 {
    let space = sys::statvfs(at).unwrap();
    space.f_blocks - space.f_bfree
}

fn names(at: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn ephemeral_directories_cost_nothing_and_come_back_empty() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let at = mounted(&bench, &["target/", "**/.cache/"]);
    fs::create_dir_all(at.join("crate/target")).unwrap();
    fs::create_dir_all(at.join("home/.cache")).unwrap();
    fs::write(at.join("crate/kept"), b"kept").unwrap();
    fs::set_permissions(at.join("crate/target"), PermissionsExt::from_mode(0o700)).unwrap();
    // The cap is there for the rest.
    let mut file = File::create(at.join("large")).unwrap();
    let full = (0..5).find_map(|_| file.write_all(&vec![3; MIB]).err()).unwrap();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    drop(file);
    fs::remove_file(at.join("large")).unwrap();
    bench.ok(&["sync", "demo"]);
    let (before, digest) = (used(&at), bench.status("demo")["digest"].clone());
    let big = vec![3; MIB];
    for i in 0..8 {
        fs::write(at.join(format!("crate/target/f{i}")), &big).unwrap();
    }
    fs::create_dir(at.join("home/.cache/deep")).unwrap();
    let file = File::create(at.join("home/.cache/deep/f")).unwrap();
    file.set_len(64).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(fs::read(at.join("crate/target/f7")).unwrap(), big);
    assert_eq!(used(&at), before);
    bench.ok(&["sync", "demo"]);
    let status = bench.status("demo");
    assert_eq!((&status["digest"], &status["ephemeral"]), (&digest, &serde_json::json!(["target/", "**/.cache/"])));
    // Commands on a mounted session see what is there.
    assert!(bench.ok(&["ls", "demo:/crate/target"]).contains("f7"));

    for killed in [false, true] {
        let ino = fs::metadata(at.join("crate/target")).unwrap().ino();
        fs::write(at.join("crate/target/last"), b"x").unwrap();
        if killed {
            let server = bench.pid("demo");
            kill(server, libc::SIGKILL);
            eventually("the server is gone", || !alive(server));
        } else {
            bench.ok(&["umount", "demo"]);
            assert!(!bench.store().join("demo/scratch").exists());
            // The patterns are the session's.
            assert_eq!(bench.status("demo")["ephemeral"][0], "target/");
        }
        bench.ok(&["mount", "demo", at.to_str().unwrap()]);
        assert_eq!(names(&at.join("crate/target")), [""; 0]);
        assert_eq!(names(&at.join("home/.cache")), [""; 0]);
        assert_eq!(fs::read(at.join("crate/kept")).unwrap(), b"kept");
        let root = fs::metadata(at.join("crate/target")).unwrap();
        assert_eq!((root.ino(), root.mode() & 0o7777, root.nlink()), (ino, 0o700, 2));
    }
    bench.ok(&["umount", "demo"]);
    let last = bench.status("demo");
    assert_eq!((&last["digest"], last["files"].as_u64()), (&digest, Some(1)));
    bench.ok(&["check", "demo"]);
}

#[test]
fn between_the_lanes_lies_what_lies_between_file_systems() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let at = mounted(&bench, &["target/"]);
    let [kept, lost] = ["kept", "target"].map(|name| at.join(name));
    for (dir, other) in [(&kept, &lost), (&lost, &kept)] {
        let _ = (fs::create_dir(dir), fs::create_dir(other));
        fs::write(dir.join("f"), b"content").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        assert_eq!(errno(fs::rename(dir.join("f"), other.join("g"))), libc::EXDEV);
        assert_eq!(errno(fs::rename(dir.join("d"), other.join("e"))), libc::EXDEV);
        assert_eq!(errno(fs::hard_link(dir.join("f"), other.join("g"))), libc::EXDEV);
        // The kernel copies by itself where a file system does not.
        let (from, to) = (File::open(dir.join("f")).unwrap(), File::create(other.join("copy")).unwrap());
        assert_eq!(sys::copy_range(&from, 0, &to, 0, 7).unwrap(), 7);
        assert_eq!(fs::read(other.join("copy")).unwrap(), b"content");
        assert!(Command::new("mv").arg(dir.join("f")).arg(other.join("moved")).status().unwrap().success());
        assert_eq!(fs::read(other.join("moved")).unwrap(), b"content");
    }
    assert_eq!(errno(fs::rename(&lost, at.join("other"))), libc::EXDEV);
    // As a build tool makes its files: under another name, linked, then renamed.
    fs::write(lost.join("out.tmp"), b"out").unwrap();
    fs::hard_link(lost.join("out.tmp"), lost.join("d/out")).unwrap();
    fs::rename(lost.join("out.tmp"), lost.join("out")).unwrap();
    assert_eq!(fs::metadata(lost.join("out")).unwrap().nlink(), 2);
    // `mv` of the whole copies it to where it is kept.
    assert!(Command::new("mv").arg(&lost).arg(at.join("other")).status().unwrap().success());
    assert!(!lost.exists());
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    assert_eq!(fs::read(at.join("other/d/out")).unwrap(), b"out");
    bench.ok(&["umount", "demo"]);
}

#[test]
fn programs_work_in_an_ephemeral_directory() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let at = mounted(&bench, &["/target/"]);
    let root = at.join("target");
    fs::create_dir_all(root.join("a/target/b")).unwrap();
    fs::create_dir_all(at.join("a/target")).unwrap();
    fs::copy("/bin/cat", root.join("cat")).unwrap();
    fs::write(root.join("input"), b"through it").unwrap();
    let output = Command::new(root.join("cat")).arg("input").current_dir(&root).output().unwrap();
    assert_eq!(output.stdout, b"through it");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(root.join("mapped")).unwrap();
    file.set_len(8192).unwrap();
    let map = sys::Map::of(&file, 8192).unwrap();
    file.write_all_at(b"written", 4096).unwrap();
    map.sync().unwrap();
    drop(map);
    assert_eq!(&fs::read(root.join("mapped")).unwrap()[4096..4103], b"written");
    file.try_lock().unwrap();
    assert!(File::open(root.join("mapped")).unwrap().try_lock().is_err(), "locked");
    let database = rusqlite::Connection::open(root.join("a/db")).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1);").unwrap();
    drop((database, file));
    // `getcwd`, and `..` on the way up.
    let shell =
        "cd target/a/target/b && test \"$(pwd -P)\" = \"$PWD\" && cd ../../../.. && test -d target && ls target";
    let output = Command::new("sh").args(["-c", shell]).current_dir(&at).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\ncat\ninput\nmapped\n");
    assert_eq!(errno(fs::remove_dir(&root)), libc::ENOTEMPTY);
    assert_eq!(fs::metadata(&at).unwrap().nlink(), 4);
    // Elsewhere the name is any other.
    fs::write(at.join("a/target/f"), b"kept").unwrap();
    fs::remove_dir_all(&root).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(root.join("again"), b"x").unwrap();
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    assert_eq!(names(&root), [""; 0]);
    assert_eq!(fs::read(at.join("a/target/f")).unwrap(), b"kept");
    bench.ok(&["umount", "demo"]);
}

#[test]
fn file_handles_lead_into_a_lane_until_it_ends() {
    if !can_mount_as_root() {
        return;
    }
    let bench = Bench::new();
    let at = mounted(&bench, &["target/"]);
    fs::create_dir_all(at.join("target/d")).unwrap();
    fs::write(at.join("target/d/f"), b"x").unwrap();
    let mut handles = ["target", "target/d", "target/d/f"].map(|name| sys::handle_of(&at.join(name)).unwrap());
    let open = |handle: &mut sys::Handle| File::open(&at).and_then(|mount| sys::open_by_handle(&mount, handle));
    for handle in &mut handles {
        open(handle).unwrap();
    }
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "demo", at.to_str().unwrap()]);
    fs::create_dir_all(at.join("target/d")).unwrap();
    fs::write(at.join("target/d/f"), b"other").unwrap();
    open(&mut handles[0]).unwrap();
    assert_eq!(errno(open(&mut handles[1])), libc::ESTALE);
    assert_eq!(errno(open(&mut handles[2])), libc::ESTALE);
    bench.ok(&["umount", "demo"]);
}

#[test]
fn patterns_are_the_sessions_until_it_is_told_others() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let mount = bench.empty("m");
    let at = mount.to_str().unwrap();
    bench.fails(&["mount", "--ephemeral", "a//b", "demo", at], 2, &["\"a//b\"", "between slashes", "try: "]);
    assert!(!bench.store().join("demo").exists());
    bench.ok(&["mount", "--ephemeral", "old/", "demo", at]);
    fs::create_dir_all(mount.join("old")).unwrap();
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "--ephemeral", "new/", "demo", at]);
    assert_eq!(bench.status("demo")["ephemeral"], serde_json::json!(["new/"]));
    fs::write(mount.join("old/f"), b"kept from now on").unwrap();
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "--ephemeral", "old/", "demo", at]);
    fs::write(mount.join("old/g"), b"beside what is kept").unwrap();
    bench.ok(&["umount", "demo"]);
    bench.ok(&["mount", "--ephemeral", "none", "demo", at]);
    assert_eq!(names(&mount.join("old")), ["f", "g"]);
    bench.ok(&["umount", "demo"]);
    assert_eq!(bench.status("demo")["ephemeral"], serde_json::json!([]));
    bench.ok(&["rm", "demo"]);
}
