//! `--map-uid` and `--map-gid`, with a kernel and the tools that show and set owners.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use super::support::{Bench, fuse, is_root, text};

/// Runs a tool on a path; what it says.
#[track_caller]
fn tool(program: &str, args: &[&str], at: &Path) -> String {
    let output = Command::new(program).args(args).arg(at).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn owner(path: &Path) -> (u32, u32) {
    let attr = std::fs::symlink_metadata(path).unwrap();
    (attr.uid(), attr.gid())
}

/// The owner that `ls --json` says, of what is at the root.
fn stored(bench: &Bench, name: &str) -> (u64, u64) {
    let list: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "ls", "demo:/"])).unwrap();
    let entry = list.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone();
    (entry["uid"].as_u64().unwrap(), entry["gid"].as_u64().unwrap())
}

#[test]
fn a_mapped_mount_shows_other_ids_and_stores_the_same() {
    if !fuse() || !is_root() {
        eprintln!("SKIPPED: only root can give files away");
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let maps = ["--map-uid", "1000:0,2000:3000:5", "--map-gid", "100:0"];
    let mount = |maps: &[&str]| {
        let args: Vec<&str> =
            ["mount", "--allow-other", "demo", at.to_str().unwrap()].iter().chain(maps).copied().collect();
        bench.ok(&args)
    };
    mount(&maps);
    let path = at.join("f");
    // The root of a new session belongs to who made it; seen through the map, and so does what they make.
    assert_eq!(owner(&at), (0, 0));
    std::fs::write(&path, b"x").unwrap();
    assert_eq!((owner(&path), stored(&bench, "f")), ((0, 0), (1000, 100)));
    for (given, kept) in [((1000, 100), (0, 0)), ((2004, 7), (3004, 7)), ((3001, 0), (2001, 100))] {
        chown(&path, Some(given.0), Some(given.1)).unwrap();
        assert_eq!((owner(&path), stored(&bench, "f")), (given, kept));
    }
    tool("setfacl", &["-m", "u:1000:rw,u:2001:r,g:100:rwx"], &path);
    let shown = tool("getfacl", &["-n", "-c", "-p"], &path);
    for line in ["user:1000:rw-", "user:2001:r--", "group:100:rwx"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in: {shown}");
    }
    std::fs::write(at.join("program"), b"x").unwrap();
    let capability = |root: u32| {
        let root: String = root.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("0x0100000300040000{}{root}", "00".repeat(12))
    };
    let set = capability(2003);
    tool("setfattr", &["-n", "security.capability", "-v", &set], &at.join("program"));
    let all = |path: &Path| tool("getfattr", &["-n", "security.capability", "-e", "hex", "--absolute-names"], path);
    assert!(all(&at.join("program")).contains(&set), "{}", all(&at.join("program")));
    bench.ok(&["umount", "demo"]);

    // Without the map: what is stored.
    mount(&[]);
    assert_eq!((owner(&path), owner(&at)), ((2001, 100), (1000, 100)));
    let shown = tool("getfacl", &["-n", "-c", "-p"], &path);
    for line in ["user:0:rw-", "user:3001:r--", "group:0:rwx"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in: {shown}");
    }
    assert!(all(&at.join("program")).contains(&capability(3003)), "{}", all(&at.join("program")));
    bench.ok(&["umount", "demo"]);
    bench.ok(&["check", "demo"]);
    // And with it again, what it was; the kernel checks by the ids that it is shown.
    mount(&maps);
    assert_eq!(owner(&path), (3001, 0));
    chown(&path, Some(1000), Some(100)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let cat = |uid: &str| {
        let setpriv = ["--reuid", uid, "--regid", "9999", "--clear-groups", "cat"];
        Command::new("setpriv").args(setpriv).arg(&path).output().unwrap().status.success()
    };
    std::fs::set_permissions(bench.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!((cat("1000"), cat("1001")), (true, false));
    bench.ok(&["umount", "demo"]);
}

#[test]
fn a_map_that_is_none_is_refused_before_anything_happens() {
    let bench = Bench::new();
    let at = bench.empty("m");
    let at = at.to_str().unwrap();
    for (maps, words) in [
        (&["--map-uid", "1:2", "--map-uid", "1:3"][..], "--map-uid: 1:2 and 1:3 both map host id 1"),
        (&["--map-gid", "1:2:10,5:100"][..], "--map-gid: 1:2:10 and 5:100 both map host id 5"),
        (&["--map-uid", "1:2,3:2"][..], "both map session id 2"),
    ] {
        let args: Vec<&str> = ["mount", "demo", at].iter().chain(maps).copied().collect();
        bench.fails(&args, 2, &[words]);
        let args: Vec<&str> =
            ["run", "--mount", at].iter().chain(maps).chain(&["demo", "--", "true"]).copied().collect();
        bench.fails(&args, 125, &[words]);
    }
    for bad in ["1000", "1000:root", "0:1:0", "4294967295:0"] {
        let output = bench.call(&["mount", "--map-uid", bad, "demo", at]);
        assert_eq!(output.status.code(), Some(2), "{bad}");
        assert!(text(&output.stderr).contains("is no map of ids"), "{}", text(&output.stderr));
    }
    assert!(!bench.store().join("demo").exists());
}
