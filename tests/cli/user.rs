//! As an ordinary user. Root becomes one, with a /dev/fuse of its own that everybody may open.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use super::doctor::check;
use super::support::{BINARY, Bench, fuse, is_root, text};

const NOBODY: &str = "65534";

/// Runs a script as an ordinary user in a mount namespace of its own; `device` is the mode of its /dev/fuse. None when
/// this machine does not let ordinary users have namespaces.
fn as_user(bench: &Bench, device: &str, script: &str) -> Option<Output> {
    as_user_in(bench, device, "exec", script)
}

/// The same in another root directory, from which nobody gets namespaces: user_namespaces(7).
fn as_user_without_namespaces(bench: &Bench, script: &str) -> Option<Output> {
    bench.empty("root");
    as_user_in(bench, "666", "mount --rbind / root && exec chroot root env -C $PWD", script)
}

fn as_user_in(bench: &Bench, device: &str, enter: &str, script: &str) -> Option<Output> {
    if !is_root() || !fuse() {
        eprintln!("SKIPPED: only root can become somebody else");
        return None;
    }
    std::fs::set_permissions(bench.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let binary = bench.path("sessionfs");
    if !binary.exists() {
        // The build's directory may be root's alone.
        std::fs::copy(BINARY, &binary).unwrap();
    }
    let setup = format!(
        "mknod fuse c 10 229 2>/dev/null; chmod {device} fuse && mount --bind fuse /dev/fuse && \
         mount -t tmpfs none /mnt && \
         {enter} setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups env -u SESSIONFS_STORE HOME=$PWD PATH=$PWD:$PATH \
         sh -c \"$0\""
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &setup, script])
        .current_dir(bench.dir.path())
        .output()
        .unwrap();
    if text(&output.stderr).contains("private mount namespace is not permitted") {
        eprintln!("SKIPPED: ordinary users may not have namespaces here");
        return None;
    }
    Some(output)
}

#[test]
fn run_works_in_a_user_namespace_and_keeps_the_owner() {
    let bench = Bench::new();
    let script = "mkdir -p w; sessionfs run --mount w demo -- sh -c 'id -u; echo x > f; stat -c %u:%g f; \
                  grep CapEff /proc/self/status' && sessionfs ls demo:/ && sessionfs run demo -- pwd && \
                  stat -c %a .local/share/sessionfs/demo/session.db";
    let Some(output) = as_user(&bench, "666", script) else { return };
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", text(&output.stderr));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], NOBODY);
    assert_eq!(lines[1], format!("{NOBODY}:{NOBODY}"));
    assert!(lines[2].ends_with("0000000000000000"), "the command has no capabilities: {}", lines[2]);
    assert!(lines[3].contains(NOBODY) && lines[3].ends_with('f'), "{}", lines[3]);
    // /mnt is empty and not theirs: the default mount point appears on a private tmpfs.
    assert_eq!(lines[4], "/mnt/workspace");
    assert_eq!(lines[5], "600");
}

/// In the user namespace of a `run`, as its owner and without its capabilities; by the owner, and by root.
#[test]
fn exec_enters_the_workspace_of_an_ordinary_user_as_that_user() {
    let bench = Bench::new();
    let look = "id -u; pwd; cat f; touch by-exec; grep CapEff /proc/self/status";
    let script = format!(
        "mkdir -p w; sessionfs run --mount w demo -- sh -c 'echo kept > f; touch ready; while ! [ -e end ]; do sleep 0.05; done' &
         until sessionfs ls demo:/ready >/dev/null 2>&1; do sleep 0.05; done
         sessionfs exec demo -- sh -c '{look}' </dev/null
         touch asked; while ! [ -e answered ]; do sleep 0.05; done
         sessionfs exec demo -- touch end; wait; sessionfs exec demo -- sh -c '{look}' && sessionfs --json ls demo:/"
    );
    let by_root = || {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !bench.path("asked").exists() {
            assert!(std::time::Instant::now() < until, "the user did not come so far");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let store = bench.path(".local/share/sessionfs").display().to_string();
        let output = bench.call(&["--store", &store, "exec", "demo", "--", "sh", "-c", look]);
        std::fs::write(bench.path("answered"), "").unwrap();
        output
    };
    if !is_root() || !fuse() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let (output, root) = std::thread::scope(|scope| {
        let root = scope.spawn(by_root);
        (as_user(&bench, "666", &script), root.join())
    });
    let Some(output) = output else { return };
    let root = root.unwrap();
    let seen = format!("{NOBODY}\n{}/w\nkept\nCapEff:\t0000000000000000\n", bench.dir.path().display());
    assert_eq!(text(&root.stdout), seen, "{}", text(&root.stderr));
    let stdout = text(&output.stdout);
    let rest = stdout.strip_prefix(&seen).unwrap_or_else(|| panic!("{stdout}{}", text(&output.stderr)));
    // Mounted for it alone: where the settings say.
    let alone = seen.replace(&format!("{}/w", bench.dir.path().display()), "/mnt/workspace");
    let list = rest.strip_prefix(&alone).unwrap_or_else(|| panic!("{rest}{}", text(&output.stderr)));
    let list: serde_json::Value = serde_json::from_str(list).unwrap();
    let owner: u64 = NOBODY.parse().unwrap();
    assert!(list.as_array().unwrap().iter().all(|entry| entry["uid"] == owner), "{list}");
}

#[test]
fn a_session_of_another_user_is_usable_through_a_map() {
    let bench = Bench::new();
    let store = bench.path(".local/share/sessionfs");
    if !is_root() || !fuse() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let tree = bench.empty("tree");
    std::fs::write(tree.join("theirs"), b"before").unwrap();
    for path in [&tree, &tree.join("theirs")] {
        std::os::unix::fs::chown(path, Some(1234), Some(1234)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    }
    // A session as one with the uid 1234 has left it, in a store that is somebody else's now.
    bench.ok(&["--store", store.to_str().unwrap(), "cp", tree.to_str().unwrap(), "demo:/"]);
    let given = Command::new("chown").args(["-R", NOBODY]).arg(bench.path(".local")).status().unwrap();
    assert!(given.success());
    let maps = format!("--map-uid {NOBODY}:1234 --map-gid {NOBODY}:1234");
    let script = format!(
        "mkdir -p w; sessionfs run --mount w demo -- cat tree/theirs 2>/dev/null && echo unexpected; \
         sessionfs run --mount w {maps} demo -- sh -c 'cat tree/theirs; echo after > tree/theirs; echo new > tree/new; \
         stat -c %u tree/theirs tree/new' && sessionfs cat demo:/tree/theirs && sessionfs --json ls demo:/tree"
    );
    let Some(output) = as_user(&bench, "666", &script) else { return };
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", text(&output.stderr));
    let rest = stdout.strip_prefix(&format!("before{NOBODY}\n{NOBODY}\nafter\n")).expect(&stdout);
    let list: serde_json::Value = serde_json::from_str(rest).unwrap();
    assert!(list.as_array().unwrap().iter().all(|entry| entry["uid"] == 1234 && entry["gid"] == 1234), "{list}");
}

#[test]
fn a_mount_point_that_cannot_be_made_is_explained() {
    let bench = Bench::new();
    let Some(output) = as_user(&bench, "666", "sessionfs run --mount /usr/none demo -- true") else { return };
    assert_eq!(output.status.code(), Some(125));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("/usr/none cannot be made") && stderr.contains("--mount"), "{stderr}");
}

#[test]
fn a_closed_dev_fuse_is_explained() {
    let bench = Bench::new();
    let Some(output) = as_user(&bench, "600", "mkdir -p w; sessionfs mount demo w") else { return };
    assert_eq!(output.status.code(), Some(14));
    assert!(text(&output.stderr).contains("chmod 0666 /dev/fuse"), "{}", text(&output.stderr));
}

#[test]
fn no_helper_and_no_right_to_mount_is_explained() {
    let bench = Bench::new();
    let Some(output) = as_user(&bench, "666", "mkdir -p w; PATH=$HOME sessionfs mount demo w") else { return };
    assert_eq!(output.status.code(), Some(15), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("not permitted") && stderr.contains("fuse3"), "{stderr}");
}

#[test]
fn mount_and_umount_work_through_the_helper() {
    if Command::new("fusermount3").arg("-V").output().is_err() {
        eprintln!("SKIPPED: fusermount3 is not installed");
        return;
    }
    let bench = Bench::new();
    let script = "mkdir -p w; sessionfs mount demo w && echo x > w/f && sessionfs umount w && sessionfs cat demo:/f";
    let Some(output) = as_user(&bench, "666", script) else { return };
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("x\n"));
}

#[test]
fn the_doctor_knows_what_an_ordinary_user_has() {
    let bench = Bench::new();
    let Some(output) = as_user(&bench, "666", "sessionfs doctor --json") else { return };
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    if check(&report, "permission")["level"] != "ok" {
        eprintln!("SKIPPED: ordinary users may not have namespaces here");
        return;
    }
    assert!(check(&report, "permission")["text"].as_str().unwrap().contains("user namespace"), "{report:#}");
    assert_eq!((report["works"].as_bool(), output.status.code()), (Some(true), Some(0)), "{report:#}");
    let Some(output) = as_user(&bench, "600", "PATH=$HOME sessionfs doctor --json") else { return };
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(check(&report, "device")["fix"]["host"], "chmod 0666 /dev/fuse   # as root");
    assert_eq!(check(&report, "helper")["level"], "warning", "{report:#}");
    let left = std::fs::read_dir(bench.path(".local")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "it makes no store");
}

#[test]
fn the_doctor_tries_a_mount_in_place_where_namespaces_are_refused() {
    let bench = Bench::new();
    let Some(output) =
        as_user_without_namespaces(&bench, "sessionfs doctor --json; grep -c $HOME/.s /proc/self/mounts")
    else {
        return;
    };
    let mut answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<serde_json::Value>();
    let report = answers.next().unwrap().unwrap();
    let permission = check(&report, "permission");
    assert!(permission["text"].as_str().unwrap().contains("not permitted"), "{report:#}");
    assert_eq!(answers.next().unwrap().unwrap(), 0, "no mount is left");
    let helped = Command::new("fusermount3").arg("-V").output().is_ok();
    assert_eq!(permission["level"], if helped { "warning" } else { "failure" }, "{report:#}");
    assert_eq!(report["works"], helped, "{report:#}");
    if helped {
        assert!(check(&report, "mount")["text"].as_str().unwrap().contains("mounted in place"), "{report:#}");
    }
}
