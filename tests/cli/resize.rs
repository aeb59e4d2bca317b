//! `resize`, and that everyone who tells of space tells the same.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use super::support::{Bench, alive, eventually, fuse, kill, text};

/// The numbers in the last line that a command prints.
fn numbers(program: &str, args: &[&str], at: &Path) -> Vec<u64> {
    let output = Command::new(program).args(args).arg(at).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    let out = text(&output.stdout);
    let last = out.lines().last().unwrap_or_default();
    last.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Asks `df`, `df -i`, `du` and `status`, compares what they say, and returns the bytes and inodes in use.
#[track_caller]
fn agreed(bench: &Bench, at: &Path) -> (u64, u64) {
    let status = bench.status("demo");
    let [bytes, bytes_limit, inodes, inodes_limit] =
        ["bytes_used", "bytes_limit", "inodes_used", "inodes_limit"].map(|field| status[field].as_u64().unwrap());
    let free = |limit: u64, used: u64| limit.saturating_sub(used);
    let (size, used, avail) =
        (bytes_limit / 4096, (bytes / 4096).min(bytes_limit / 4096), free(bytes_limit, bytes) / 4096);
    assert_eq!(numbers("df", &["-B4096", "--output=size,used,avail"], at), [size, used, avail], "df beside {status}");
    let (used, avail) = (inodes.min(inodes_limit), free(inodes_limit, inodes));
    let df = numbers("df", &["--output=itotal,iused,iavail"], at);
    assert_eq!(df, [inodes_limit, used, avail], "df, inodes, beside {status}");
    assert_eq!(numbers("du", &["-s", "-B4096"], at)[0] * 4096, bytes, "du beside {status}");
    assert_eq!(numbers("du", &["-s", "--inodes"], at)[0], inodes, "du --inodes beside {status}");
    (bytes, inodes)
}

#[test]
fn df_du_and_status_agree_to_the_block() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    bench.ok(&["mount", "--size", "8M", "--inodes", "60", "demo", at.to_str().unwrap()]);
    assert_eq!(agreed(&bench, &at), (0, 1));
    std::fs::write(at.join("one"), b"x").unwrap();
    assert_eq!(agreed(&bench, &at), (2 * 4096, 2));
    std::fs::write(at.join("odd"), vec![1; 100_001]).unwrap();
    std::fs::hard_link(at.join("odd"), at.join("link")).unwrap();
    symlink("t".repeat(1000), at.join("symlink")).unwrap();
    for i in 0..20 {
        std::fs::create_dir(at.join(format!("{i}-{}", "d".repeat(240)))).unwrap();
    }
    let sparse = std::fs::File::create(at.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"here", 1 << 35).unwrap();
    let (bytes, inodes) = agreed(&bench, &at);
    let blocks = |name: &str| std::fs::symlink_metadata(at.join(name)).unwrap().blocks() * 512;
    assert_eq!((blocks("odd"), blocks("symlink"), blocks("sparse")), (25 * 4096, 4096, 4096));
    // Full, to the last block and the last inode.
    let rest = (8 << 20) - bytes;
    std::fs::write(at.join("filler"), vec![2; rest as usize]).unwrap();
    assert_eq!(agreed(&bench, &at), (8 << 20, inodes + 1));
    let made = (0..).take_while(|i| std::fs::File::create(at.join(format!("e{i}"))).is_ok()).count() as u64;
    assert_eq!(agreed(&bench, &at), (8 << 20, (inodes + 1 + made)));
    assert_eq!(inodes + 1 + made, 60);

    // Lowered below what is in use: none free, and what is there stays.
    let output = bench.call(&["resize", "--size", "2M", "--inodes", "10", "demo"]);
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("nothing new fits"), "{}", text(&output.stderr));
    assert_eq!(agreed(&bench, &at), (8 << 20, 60));
    let full = |result: std::io::Result<()>| result.unwrap_err().raw_os_error() == Some(libc::ENOSPC);
    assert!(full(std::fs::File::create(at.join("new")).map(drop)));
    assert!(full(std::fs::write(at.join("e0"), b"x")));
    let one = std::fs::File::options().write(true).open(at.join("one")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&one, b"y", 0).unwrap();
    std::fs::remove_file(at.join("filler")).unwrap();
    for i in 0..made {
        std::fs::remove_file(at.join(format!("e{i}"))).unwrap();
    }
    eventually("the kernel has given them back", || bench.status("demo")["inodes_used"] == inodes);
    assert_eq!(agreed(&bench, &at), (bytes, inodes));
    bench.ok(&["resize", "--inodes", &(inodes + 1).to_string(), "demo"]);
    std::fs::write(at.join("new"), b"x").unwrap();
    assert!(full(std::fs::File::create(at.join("newer")).map(drop)));
    agreed(&bench, &at);
    drop((sparse, one));
    bench.ok(&["umount", "demo"]);
    bench.ok(&["check", "demo"]);
}

#[test]
fn a_new_cap_holds_at_once_and_outlives_a_kill() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let at = bench.empty("m");
    let caps = || {
        let status = bench.status("demo");
        (status["bytes_limit"].as_u64().unwrap(), status["inodes_limit"].as_u64().unwrap())
    };
    bench.ok(&["mount", "--size", "1M", "demo", at.to_str().unwrap()]);
    for (size, bytes) in [("8M", 8 << 20), ("4M", 4 << 20), ("16M", 16 << 20)] {
        std::fs::write(at.join("f"), size).unwrap();
        let answer: serde_json::Value =
            serde_json::from_str(&bench.ok(&["--json", "resize", "--size", size, "demo"])).unwrap();
        assert_eq!((answer["bytes_limit"].as_u64(), answer["mounted"].as_bool()), (Some(bytes), Some(true)));
        let pid = bench.pid("demo");
        kill(pid, libc::SIGKILL);
        eventually("the server is dead", || !alive(pid));
        assert_eq!(caps(), (bytes, 1_000_000));
        bench.ok(&["mount", "demo", at.to_str().unwrap()]);
        assert_eq!(caps(), (bytes, 1_000_000));
        assert_eq!(std::fs::read_to_string(at.join("f")).unwrap(), size);
    }
    // More than it could hold at first.
    std::fs::write(at.join("large"), vec![1; 12 << 20]).unwrap();
    bench.ok(&["umount", "demo"]);

    // Not mounted: the same command.
    assert!(bench.ok(&["resize", "--inodes", "77", "demo"]).contains("of 77 inodes"));
    assert_eq!(caps(), (16 << 20, 77));
    bench.fails(&["resize", "--size", "1K", "demo"], 2, &["needs at least 65536 bytes"]);
    bench.fails(&["resize", "--inodes", "1", "demo"], 2, &["needs at least 2 inodes"]);
    bench.fails(&["resize", "--size", "1M", "none"], 4, &["no session none"]);
    assert_eq!(bench.call(&["resize", "demo"]).status.code(), Some(2), "nothing to change");
    assert_eq!(caps(), (16 << 20, 77));
}
