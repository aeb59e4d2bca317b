//! `cp`, `cat`, `ls`, `export`: the same results on a session that is mounted and on one that is not.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{Bench, fuse, text};

/// A tree with something of everything.
fn sample(at: &Path) {
    std::fs::create_dir_all(at.join("sub/deep")).unwrap();
    std::fs::write(at.join("sub/file"), b"content\n").unwrap();
    std::fs::hard_link(at.join("sub/file"), at.join("hard")).unwrap();
    symlink("sub/file", at.join("soft")).unwrap();
    symlink("/nowhere", at.join("absolute")).unwrap();
    std::fs::write(at.join(std::ffi::OsStr::from_bytes(b"bad\xff\nname")), b"bytes").unwrap();
    std::fs::write(at.join("n".repeat(255)), b"long").unwrap();
    let sparse = std::fs::File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 30 << 20).unwrap();
    assert!(Command::new("mkfifo").arg(at.join("fifo")).status().unwrap().success());
    let touched =
        Command::new("touch").args(["-h", "-d", "2001-02-03 04:05:06.789012345"]).arg(at.join("sub")).status();
    assert!(touched.unwrap().success());
}

/// Everything that must survive, a line for each thing.
fn manifest(at: &Path) -> String {
    let found = Command::new("sh")
        .args([
            "-c",
            r#"cd "$0" && find . -printf '%p %y %m %s %T@ %n %l\n' | sort; find . -type f -exec sha256sum {} + | sort"#,
        ])
        .arg(at)
        .output()
        .unwrap();
    assert!(found.status.success());
    // The sizes of directories are the file system's own, their times are not.
    let lines = text(&found.stdout);
    let keep = |line: &str| match line.split(' ').nth(1) {
        Some("d") => line
            .split(' ')
            .enumerate()
            .filter(|(i, _)| *i != 3 && *i != 5)
            .map(|(_, f)| f)
            .collect::<Vec<_>>()
            .join(" "),
        _ => line.to_owned(),
    };
    lines.lines().map(keep).collect::<Vec<_>>().join("\n")
}

fn journey(bench: &Bench, label: &str) {
    let (from, to) = (bench.path("from"), bench.path(&format!("to-{label}")));
    bench.ok(&["cp", "from", &format!("demo:/{label}")]);
    bench.ok(&["cp", &format!("demo:/{label}"), to.to_str().unwrap()]);
    assert_eq!(manifest(&from), manifest(&to), "{label}");
    assert_eq!(bench.ok(&["cat", &format!("demo:/{label}/soft")]), "content\n");
    let list: serde_json::Value =
        serde_json::from_str(&bench.ok(&["--json", "ls", &format!("demo:/{label}")])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 8, "{list}");
    let again = bench.path(&format!("tar-{label}"));
    std::fs::create_dir(&again).unwrap();
    let mut export = bench.command(&["export", &format!("demo:/{label}")]).stdout(Stdio::piped()).spawn().unwrap();
    let archive = export.stdout.take().unwrap();
    let tar = Command::new("tar").arg("-xpf-").arg("-C").arg(&again).stdin(archive).status().unwrap();
    assert!(tar.success() && export.wait().unwrap().success());
    assert_eq!(manifest(&from), manifest(&again), "tar {label}");
    assert!(again.join("sparse").metadata().unwrap().blocks() < 1000, "holes stay holes");
}

#[test]
fn a_tree_survives_the_journey_mounted_or_not() {
    let bench = Bench::new();
    sample(&bench.path("from"));
    journey(&bench, "unmounted");
    if !fuse() {
        return;
    }
    let mount = bench.empty("m");
    bench.ok(&["mount", "demo", mount.to_str().unwrap()]);
    // The kernel is asked first, so that it knows that there is nothing: an import must make it forget that.
    assert!(!mount.join("mounted").exists());
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 1);
    journey(&bench, "mounted");
    assert_eq!(manifest(&bench.path("from")), manifest(&mount.join("mounted")));
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 2);
    std::fs::write(bench.path("new"), b"second").unwrap();
    assert_eq!(std::fs::read(mount.join("mounted/sub/file")).unwrap(), b"content\n");
    bench.ok(&["cp", "new", "demo:/mounted/sub/file"]);
    assert_eq!(std::fs::read(mount.join("mounted/sub/file")).unwrap(), b"second");
    assert_eq!(std::fs::read(mount.join("mounted/hard")).unwrap(), b"content\n", "replaced, not written through");
    bench.ok(&["umount", "demo"]);
    bench.ok(&["check", "demo"]);
}

#[test]
fn cp_goes_where_cp_goes() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), b"x").unwrap();
    std::fs::create_dir_all(bench.path("d/e")).unwrap();
    bench.ok(&["cp", "d", "demo:/"]);
    bench.ok(&["cp", "f", "demo:/d"]);
    bench.ok(&["cp", "f", "demo:/d/g"]);
    bench.ok(&["cp", ".", "other:/"]);
    assert_eq!(bench.ok(&["cat", "demo:/d/f"]), "x");
    assert_eq!(bench.ok(&["cat", "demo:d/g"]), "x");
    for (path, listed) in [("demo:/d/f", "f\n"), ("demo:/d/e", "./\n")] {
        let mut export = bench.command(&["export", path]).stdout(Stdio::piped()).spawn().unwrap();
        let tar = Command::new("tar").arg("-tf-").stdin(export.stdout.take().unwrap()).output().unwrap();
        assert!(export.wait().unwrap().success());
        assert_eq!(text(&tar.stdout), listed, "a file is called by its name, a directory by a dot");
    }
    assert_eq!(bench.ok(&["cat", "other:/f"]), "x");
    bench.empty("out");
    bench.ok(&["cp", "demo:/d/f", "out"]);
    assert!(bench.path("out/f").is_file());
    bench.ok(&["cp", "demo:/", "out"]);
    assert!(bench.path("out/d/e").is_dir());
    bench.fails(&["cp", "f", "demo:/none/f"], 19, &["no such file"]);
    bench.fails(&["cp", "f", "demo:/none/"], 19, &["no such file"]);
    bench.fails(&["cp", "none", "demo:/"], 19, &["none"]);
    bench.fails(&["cp", "demo:/none", "x"], 19, &["none"]);
    bench.fails(&["cp", "f", "g"], 2, &["neither side"]);
    bench.fails(&["cp", "demo:/a", "other:/b"], 2, &["both sides"]);
    bench.fails(&["cat", "f"], 2, &["not a path in a session"]);
}

#[test]
fn a_copy_that_passes_the_cap_says_so() {
    let bench = Bench::new();
    std::fs::write(bench.path("big"), vec![1; 3 << 20]).unwrap();
    bench.fails(&["cp", "--size", "1M", "big", "demo:/"], 18, &["no space left in the session"]);
    if fuse() {
        let mount = bench.empty("m");
        bench.ok(&["mount", "demo", mount.to_str().unwrap()]);
        bench.fails(&["cp", "big", "demo:/again"], 18, &["no space left in the session"]);
        bench.ok(&["umount", "demo"]);
    }
}

#[test]
fn a_copy_that_does_not_fit_leaves_what_it_would_replace() {
    let bench = Bench::new();
    std::fs::write(bench.path("old"), vec![1; 600 << 10]).unwrap();
    std::fs::write(bench.path("new"), vec![2; 600 << 10]).unwrap();
    std::fs::write(bench.path("small"), b"small").unwrap();
    symlink("small", bench.path("link")).unwrap();
    bench.ok(&["cp", "--size", "1M", "old", "bytes:/f"]);
    bench.ok(&["cp", "--inodes", "2", "small", "inodes:/f"]);
    let refused = |how: &str| {
        bench.fails(&["cp", "new", "bytes:/f"], 18, &["/f: no space left in the session"]);
        assert!(bench.call(&["cat", "bytes:/f"]).stdout == vec![1; 600 << 10], "{how}");
        for source in ["new", "link"] {
            bench.fails(&["cp", source, "inodes:/f"], 18, &["/f: no space left in the session"]);
            assert_eq!(bench.ok(&["cat", "inodes:/f"]), "small", "{how}");
        }
        for session in ["bytes:/", "inodes:/"] {
            let list: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "ls", session])).unwrap();
            assert_eq!(list.as_array().unwrap().len(), 1, "{how}: nothing temporary is left: {list}");
        }
    };
    refused("not mounted");
    if fuse() {
        for session in ["bytes", "inodes"] {
            let mount = bench.empty(session);
            bench.ok(&["mount", session, mount.to_str().unwrap()]);
        }
        refused("mounted");
        for session in ["bytes", "inodes"] {
            let names: Vec<_> =
                std::fs::read_dir(bench.path(session)).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["f"], "as the kernel sees it");
            bench.ok(&["umount", session]);
        }
    }
    // What replaces a name of the same file leaves that, too.
    std::fs::hard_link(bench.path("small"), bench.path("again")).unwrap();
    std::fs::create_dir(bench.path("d")).unwrap();
    std::fs::rename(bench.path("small"), bench.path("d/small")).unwrap();
    std::fs::rename(bench.path("again"), bench.path("d/again")).unwrap();
    for _ in 0..2 {
        bench.ok(&["cp", "d", "links:/"]);
    }
    assert_eq!(bench.ok(&["ls", "links:/d"]).lines().count(), 2);
    bench.ok(&["check", "links"]);
}

#[test]
fn tar_finds_the_acls_of_an_export() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("d")).unwrap();
    std::fs::write(bench.path("d/f"), b"x").unwrap();
    let set = |args: &[&str]| Command::new("setfacl").args(args).current_dir(bench.dir.path()).status();
    if !set(&["-m", "u:12345:rw", "d/f"]).is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no ACLs on the disk under the tests");
        return;
    }
    assert!(set(&["-d", "-m", "g:777:rx", "d"]).unwrap().success());
    bench.ok(&["cp", "d/.", "demo:/"]);
    std::fs::create_dir(bench.path("out")).unwrap();
    let mut export = bench.command(&["export", "demo"]).stdout(Stdio::piped()).spawn().unwrap();
    // Without --xattrs: tar looks at nothing but the records that are for ACLs.
    let mut tar = Command::new("tar");
    tar.args(["--acls", "-xpf-", "-C"]).arg(bench.path("out")).stdin(export.stdout.take().unwrap());
    assert!(tar.status().unwrap().success() && export.wait().unwrap().success());
    let acls = |at: &str| {
        let output = Command::new("getfacl").args(["-cpnR", "."]).current_dir(bench.path(at)).output().unwrap();
        text(&output.stdout)
    };
    assert!(acls("d").contains("user:12345:rw-") && acls("d").contains("default:group:777:r-x"), "{}", acls("d"));
    assert_eq!(acls("out"), acls("d"));
}

#[test]
fn a_full_disk_behind_standard_output_is_not_the_sessions_cap() {
    let bench = Bench::new();
    std::fs::write(bench.path("f"), vec![1; 1 << 20]).unwrap();
    bench.ok(&["cp", "f", "demo:/"]);
    let check = |how: &str| {
        for args in [["cat", "demo:/f"], ["export", "demo"]] {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            let output = bench.command(&args).stdout(full).stderr(Stdio::piped()).output().unwrap();
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{how} {args:?}: {stderr}");
            assert!(stderr.contains("standard output"), "{how} {args:?}: {stderr}");
        }
    };
    check("not mounted");
    if fuse() {
        bench.ok(&["mount", "demo", bench.empty("m").to_str().unwrap()]);
        check("mounted");
        bench.ok(&["umount", "demo"]);
    }
}

#[test]
fn a_copy_goes_on_after_what_cannot_be_copied() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("d/sub/inner")).unwrap();
    for name in ["d/first", "d/last", "d/sub/inner/f"] {
        std::fs::write(bench.path(name), name).unwrap();
    }
    std::fs::set_permissions(bench.path("d/sub"), std::os::unix::fs::PermissionsExt::from_mode(0o751)).unwrap();
    // In the way: directories where files are to be, and a file where a directory is to be.
    for name in ["way/first/x", "way/last/x"] {
        std::fs::create_dir_all(bench.path(name)).unwrap();
    }
    std::fs::create_dir_all(bench.path("way/sub")).unwrap();
    std::fs::write(bench.path("way/sub/inner"), b"").unwrap();
    let into = |how: &str| {
        let stderr = bench.fails(&["cp", "d/.", "demo:/"], 1, &["and 2 more could not be copied"]);
        assert!(stderr.contains("is a directory") || stderr.contains("not a directory"), "{how}: {stderr}");
        let list: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "ls", "demo:/"])).unwrap();
        let sub = list.as_array().unwrap().iter().find(|entry| entry["name"] == "sub").unwrap();
        assert_eq!(sub["mode"], 0o751, "{how}: what could be done is done");
    };
    bench.ok(&["cp", "way/.", "demo:/"]);
    into("not mounted");
    if fuse() {
        bench.ok(&["cp", "way/.", "demo:/"]);
        bench.ok(&["mount", "demo", bench.empty("m").to_str().unwrap()]);
        into("mounted");
        bench.ok(&["umount", "demo"]);
    }
    bench.ok(&["cp", "d/.", "clean:/"]);
    bench.fails(&["cp", "clean:/", "way"], 1, &["and 2 more could not be copied"]);
    assert_eq!(bench.path("way/sub").metadata().unwrap().mode() & 0o777, 0o751);
}

#[test]
fn a_reader_that_leaves_is_no_failure_to_shout_about() {
    let bench = Bench::new();
    std::fs::write(bench.path("big"), vec![1; 8 << 20]).unwrap();
    bench.ok(&["cp", "big", "demo:/"]);
    for args in [["cat", "demo:/big"], ["export", "demo"]] {
        let mut child = bench.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{args:?}");
        assert_eq!(text(&output.stderr), "");
    }
    std::io::stdout().flush().unwrap();
}
