//! Each thing that can be missing, put into the facts of a host that lacks nothing.

use super::facts::{Facts, Place, StoreFacts};
use super::judge::{Level, judge, works};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::fixes::SWITCHES;
use crate::cli::process::Worked;
use crate::fuse::Transport;

/// A host on which nothing is missing.
fn healthy() -> Facts {
    Facts {
        kernel: "6.18.1".into(),
        kernel_version: Some((6, 18)),
        device: None,
        uid: 1000,
        cap_sys_admin: false,
        seccomp: false,
        namespace_refused: None,
        switches: Vec::new(),
        helper: Some(("/usr/bin/fusermount3".into(), true)),
        user_allow_other: false,
        allow_other: false,
        transport_wanted: Transport::Auto,
        uring_refused: None,
        container: None,
        store: StoreFacts {
            path: "/s".into(),
            place: Place::There { owner: 1000, mode: 0o700 },
            kind: "ext4".into(),
            bytes_free: 1 << 40,
            inodes_free: Some(1 << 20),
            locks: None,
            sync_micros: Ok(900),
        },
        halt_poll: None,
        now: 1_800_000_000,
        newest: Some(("a".into(), 1_799_999_999)),
        versions: "sessionfs 1".into(),
        newer: Vec::new(),
        mount: Ok(Worked { transport: "uring".into(), fuse: "7.45".into(), private: true, ..Worked::default() }),
    }
}

fn not_mounted(facts: &mut Facts) {
    facts.mount = Err(Failure::new(Exit::MountNotPermitted, "not permitted").hint("this"));
}

#[test]
fn where_nothing_is_missing_everything_is_ok() {
    let checks = judge(&healthy());
    assert!(checks.iter().all(|check| check.level == Level::Ok && check.fix.is_none()), "{checks:#?}");
    assert!(works(&checks));
}

/// What is changed, the check that sees it, how it judges, a word of what it says, and one of the fix on a host.
type Case = (fn(&mut Facts), &'static str, Level, &'static str, &'static str);

const CASES: &[Case] = &[
    (|f| f.kernel_version = Some((5, 8)), "kernel", Level::Warning, "5.9 or later", "later kernel"),
    (
        |f| {
            f.kernel_version = Some((4, 19));
            not_mounted(f);
        },
        "kernel",
        Level::Failure,
        "5.9 or later",
        "later kernel",
    ),
    (|f| f.device = Some(libc::ENOENT), "device", Level::Failure, "there is no /dev/fuse", "modprobe fuse"),
    (|f| f.device = Some(libc::ENODEV), "device", Level::Failure, "kernel has no FUSE", "modprobe fuse"),
    (|f| f.device = Some(libc::EACCES), "device", Level::Failure, "may not be opened", "chmod 0666 /dev/fuse"),
    (|f| f.device = Some(libc::EPERM), "device", Level::Failure, "does not allow the device", "chmod 0666"),
    (
        |f| {
            f.namespace_refused = Some("refused".into());
            f.switches = vec![SWITCHES[0]];
            not_mounted(f);
        },
        "permission",
        Level::Failure,
        "user.max_user_namespaces is 0",
        "max_user_namespaces=15000",
    ),
    (
        |f| {
            f.namespace_refused = Some("refused".into());
            f.switches = vec![SWITCHES[2]];
            f.seccomp = true;
        },
        "permission",
        Level::Warning,
        "seccomp filter",
        "apparmor_restrict_unprivileged_userns=0",
    ),
    (|f| f.helper = None, "helper", Level::Warning, "no fusermount3", "apt-get install fuse3"),
    (
        |f| f.helper = Some(("/bin/fusermount3".into(), false)),
        "helper",
        Level::Warning,
        "not setuid",
        "chmod u+s /bin/fusermount3",
    ),
    (|f| f.allow_other = true, "helper", Level::Warning, "user_allow_other", "/etc/fuse.conf"),
    (
        |f| {
            f.mount = Ok(Worked { transport: "device".into(), ..Worked::default() });
            f.uring_refused = Some("it is switched off".into());
        },
        "transport",
        Level::Advice,
        "switched off",
        "enable_uring",
    ),
    (
        |f| {
            f.transport_wanted = Transport::Uring;
            f.uring_refused = Some("Operation not permitted".into());
            not_mounted(f);
        },
        "transport",
        Level::Failure,
        "is asked for",
        "enable_uring",
    ),
    (
        |f| f.store.place = Place::Unusable("Permission denied".into()),
        "store",
        Level::Failure,
        "Permission denied",
        "--store DIR",
    ),
    (
        |f| f.store.place = Place::There { owner: 7, mode: 0o700 },
        "store",
        Level::Warning,
        "belongs to user 7",
        "--store DIR",
    ),
    (
        |f| f.store.place = Place::There { owner: 1000, mode: 0o777 },
        "store",
        Level::Warning,
        "written by others",
        "chmod 700 /s",
    ),
    (
        |f| f.store.place = Place::There { owner: 1000, mode: 0o755 },
        "store",
        Level::Advice,
        "names of sessions",
        "chmod 700 /s",
    ),
    (|f| f.store.kind = "tmpfs".into(), "file system", Level::Warning, "memory", "--store DIR"),
    (|f| f.store.kind = "overlay".into(), "file system", Level::Warning, "container", "--store DIR"),
    (|f| f.store.kind = "nfs".into(), "file system", Level::Warning, "network", "--store DIR"),
    (|f| f.store.bytes_free = 1 << 20, "space", Level::Failure, "1.0 MiB free", "df -h /s"),
    (|f| f.store.bytes_free = 1 << 30, "space", Level::Warning, "1.0 GiB free", "df -h /s"),
    (|f| f.store.inodes_free = Some(3), "space", Level::Failure, "3 inodes", "df -i /s"),
    (|f| f.store.inodes_free = Some(300), "space", Level::Warning, "300 inodes", "df -i /s"),
    (|f| f.store.locks = Some("ENOLCK".into()), "disk", Level::Failure, "locks", "--store DIR"),
    (|f| f.store.sync_micros = Err("EIO".into()), "disk", Level::Failure, "synced: EIO", "--store DIR"),
    (|f| f.store.sync_micros = Ok(45_006), "disk", Level::Advice, "45.006 ms", "--store DIR"),
    (|f| f.halt_poll = Some(0), "processors", Level::Advice, "halt", "sessionfs-guest.conf"),
    (|f| f.now = 3, "clock", Level::Warning, "1970-01-01", "set-ntp"),
    (|f| f.newest = Some(("b".into(), 1_800_000_100)), "clock", Level::Warning, "session b", "set-ntp"),
    (|f| f.newer = vec!["c".into()], "versions", Level::Warning, "written c", "sessionfs --version"),
    (not_mounted, "mount", Level::Failure, "not permitted", "this"),
];

#[test]
fn whatever_is_missing_is_found_and_has_its_fix_everywhere() {
    for (change, name, level, says, host) in CASES {
        let mut facts = healthy();
        change(&mut facts);
        let checks = judge(&facts);
        let check = checks.iter().find(|check| check.check == *name).unwrap();
        let fix = check.fix.as_ref().unwrap_or_else(|| panic!("{check:?} has no fix"));
        assert_eq!(check.level, *level, "{check:?}");
        assert!(check.text.contains(says), "{says:?} is not in {check:?}");
        assert!(fix.host.contains(host), "{host:?} is not in {check:?}");
        assert!(!fix.docker.is_empty() && !fix.kubernetes.is_empty(), "{check:?}");
        assert_eq!(works(&checks), *level < Level::Failure && facts.mount.is_ok(), "{check:?}");
        // What failed is not the fault of the others.
        let others = checks.iter().filter(|other| other.check != *name && other.check != "mount");
        assert!(others.clone().all(|other| other.level == Level::Ok || facts.mount.is_err()), "{checks:#?}");
    }
}

#[test]
fn what_is_as_set_is_no_advice() {
    let mut facts = healthy();
    facts.transport_wanted = Transport::Device;
    facts.mount = Ok(Worked { transport: "device".into(), lacks: vec!["FUSE_X".into()], ..Worked::default() });
    facts.uring_refused = Some("off".into());
    facts.store.place = Place::Missing;
    facts.store.inodes_free = None;
    facts.halt_poll = Some(200_000);
    let checks = judge(&facts);
    assert!(checks.iter().all(|check| check.level == Level::Ok), "{checks:#?}");
    assert!(checks.iter().any(|check| check.text.contains("lacks FUSE_X")));
}
