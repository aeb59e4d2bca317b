//! What the facts mean: a pure function from [`Facts`] to checks.

use serde::Serialize;

use super::facts::{Facts, Place};
use crate::base::limits::JOURNAL_MAX;
use crate::cli::failure::Failure;
use crate::cli::fixes::{self, Fix};
use crate::cli::output::human_bytes;
use crate::fuse::{KERNEL_MIN, Transport};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and could be faster or neater.
    Advice,
    /// It works, and something will go wrong one day, or part of it does not work.
    Warning,
    /// A mount does not work.
    Failure,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// How it came out.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

impl Check {
    fn ok(check: &'static str, text: impl Into<String>) -> Check {
        Check { check, level: Level::Ok, text: text.into(), fix: None }
    }

    fn not(check: &'static str, level: Level, text: impl Into<String>, fix: Fix) -> Check {
        Check { check, level, text: text.into(), fix: Some(fix) }
    }
}

/// Slower than this, a disk makes every `fsync` felt: 20 ms.
const SYNC_SLOW_MICROS: u64 = 20_000;
/// Less than this and not even a small session can be made.
const BYTES_LEAST: u64 = 16 << 20;
/// A session is about ten files.
const INODES_LEAST: u64 = 10;
const INODES_FEW: u64 = 1000;
/// A clock before 2026-01-01 or after 2100-01-01 is wrong: sessionfs is not older, and nothing lasts that long.
const CLOCK: std::ops::Range<i64> = 1_767_225_600..4_102_444_800;

/// Every check, in the order in which they are shown.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let checks: [fn(&Facts) -> Check; 14] = [
        kernel,
        device,
        permission,
        helper,
        transport,
        container,
        store,
        file_system,
        space,
        disk,
        processors,
        clock,
        versions,
        mount,
    ];
    checks.iter().map(|check| check(facts)).collect()
}

/// Whether a mount works here.
pub fn works(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.level < Level::Failure)
}

fn kernel(facts: &Facts) -> Check {
    let (major, minor) = KERNEL_MIN;
    match facts.kernel_version {
        Some(version) if version < KERNEL_MIN => {
            let text = format!("Linux {}: {major}.{minor} or later is needed", facts.kernel);
            Check::not(
                "kernel",
                if facts.mount.is_ok() { Level::Warning } else { Level::Failure },
                text,
                fixes::kernel(),
            )
        }
        _ => Check::ok("kernel", format!("Linux {}", facts.kernel)),
    }
}

fn device(facts: &Facts) -> Check {
    let Some(errno) = facts.device else { return Check::ok("device", "/dev/fuse can be opened") };
    let text = fixes::no_device(&std::io::Error::from_raw_os_error(errno));
    Check::not("device", Level::Failure, text, fixes::device(Some(errno)))
}

fn permission(facts: &Facts) -> Check {
    let Some(refused) = &facts.namespace_refused else {
        let how = if facts.cap_sys_admin { "with CAP_SYS_ADMIN" } else { "in a user namespace" };
        return Check::ok("permission", format!("a private mount namespace can be had, {how}"));
    };
    let switches: Vec<String> = facts.switches.iter().map(|(name, value)| format!("{name} is {value}")).collect();
    let mut why = vec![refused.clone()];
    why.extend(switches);
    if facts.seccomp {
        why.push("a seccomp filter is in force".to_owned());
    }
    let text = format!("{}; `run` needs one, `mount` does not", why.join("; "));
    let errno = facts.switches.iter().any(|(name, _)| *name == super::facts::MAX_NAMESPACES).then_some(libc::ENOSPC);
    // `mount` alone is a mount that works.
    let level = if facts.mount.is_ok() { Level::Warning } else { Level::Failure };
    Check::not("permission", level, text, fixes::namespace(errno))
}

fn helper(facts: &Facts) -> Check {
    if facts.cap_sys_admin {
        return Check::ok("helper", "fusermount3 is not needed: CAP_SYS_ADMIN is there");
    }
    match &facts.helper {
        None => {
            let text = "there is no fusermount3: an ordinary user has `run`, but not `mount`";
            Check::not("helper", Level::Warning, text, fixes::helper())
        }
        Some((path, false)) => {
            let text = format!("{path} is not setuid root: an ordinary user has `run`, but not `mount`");
            Check::not("helper", Level::Warning, text, fixes::helper_mode(path))
        }
        Some(_) if facts.allow_other && !facts.user_allow_other => {
            let text = "allow_other is set, and /etc/fuse.conf does not have user_allow_other: `mount` is refused";
            Check::not("helper", Level::Warning, text, fixes::allow_other())
        }
        Some((path, true)) => Check::ok("helper", path),
    }
}

fn transport(facts: &Facts) -> Check {
    match (&facts.mount, &facts.uring_refused) {
        (Ok(worked), _) if worked.transport == "uring" => Check::ok("transport", "io_uring"),
        (Ok(_), _) if facts.transport_wanted == Transport::Device => Check::ok("transport", "/dev/fuse, as set"),
        (Ok(_), why) => {
            let why = why.as_deref().unwrap_or("the kernel did not agree to it");
            let text = format!("/dev/fuse, which is slower than io_uring: {why}");
            Check::not("transport", Level::Advice, text, fixes::uring())
        }
        (Err(_), Some(why)) if facts.transport_wanted == Transport::Uring => {
            Check::not("transport", Level::Failure, format!("io_uring is asked for: {why}"), fixes::uring())
        }
        (Err(_), Some(why)) => Check::not("transport", Level::Advice, format!("no io_uring: {why}"), fixes::uring()),
        (Err(_), None) => Check::ok("transport", "io_uring can be had"),
    }
}

fn container(facts: &Facts) -> Check {
    Check::ok("container", facts.container.clone().unwrap_or_else(|| "none that shows".to_owned()))
}

fn store(facts: &Facts) -> Check {
    let store = &facts.store;
    let path = &store.path;
    match &store.place {
        Place::Unusable(why) => Check::not("store", Level::Failure, format!("{path}: {why}"), fixes::store()),
        Place::Missing => Check::ok("store", format!("{path} is not there yet, and can be made")),
        Place::There { owner, .. } if *owner != facts.uid => {
            let text = format!("{path} belongs to user {owner}, and this is user {}", facts.uid);
            Check::not("store", Level::Warning, text, fixes::store())
        }
        Place::There { mode, .. } if mode & 0o022 != 0 => {
            let text = format!("{path} may be written by others (mode {mode:04o}), who can take sessions away");
            Check::not("store", Level::Warning, text, own_mode(path))
        }
        Place::There { mode, .. } if mode & 0o077 != 0 => {
            let text = format!("{path} shows the names of sessions to others (mode {mode:04o})");
            Check::not("store", Level::Advice, text, own_mode(path))
        }
        Place::There { .. } => Check::ok("store", path),
    }
}

fn own_mode(path: &str) -> Fix {
    let host = format!("chmod 700 {path}");
    Fix::new(format!("docker exec CONTAINER {host}"), format!("kubectl exec POD -- {host}"), host)
}

fn file_system(facts: &Facts) -> Check {
    let kind = &facts.store.kind;
    let text = match kind.as_str() {
        "tmpfs" | "ramfs" => "memory: sessions are gone when the host or the container stops",
        "overlay" => "a container's own layer: sessions go with the container, and each write costs more",
        "nfs" | "smb" => "a network: a lock may be lost or held by another host, and every sync waits for it",
        "fuse" => "served by another program: what is synced is as safe as that program makes it",
        "9p" | "vboxsf" => "shared with a host outside: locks and syncs may not mean what they say",
        _ => return Check::ok("file system", format!("{kind}, under {}", facts.store.path)),
    };
    Check::not("file system", Level::Warning, format!("{kind}: {text}"), fixes::store())
}

fn space(facts: &Facts) -> Check {
    let store = &facts.store;
    let (bytes, inodes) = (store.bytes_free, store.inodes_free.unwrap_or(u64::MAX));
    let mut text = format!("{} free", human_bytes(bytes));
    if let Some(inodes) = store.inodes_free {
        text += &format!(", {inodes} inodes");
    }
    let level = match () {
        () if bytes < BYTES_LEAST || inodes < INODES_LEAST => Level::Failure,
        () if bytes < JOURNAL_MAX || inodes < INODES_FEW => Level::Warning,
        () => return Check::ok("space", text),
    };
    let least = human_bytes(JOURNAL_MAX);
    let text = format!("{text}: a session under load takes up to {least} for its journal alone");
    Check::not("space", level, text, fixes::space(&store.path))
}

fn disk(facts: &Facts) -> Check {
    let store = &facts.store;
    match (&store.locks, &store.sync_micros) {
        (Some(why), _) => {
            let text = format!("locks of open file descriptions do not work: {why}");
            Check::not("disk", Level::Failure, text, fixes::store())
        }
        (_, Err(why)) => {
            Check::not("disk", Level::Failure, format!("a file cannot be written and synced: {why}"), fixes::store())
        }
        (None, Ok(micros)) => {
            let text = format!("locks work; fdatasync takes {}.{:03} ms", micros / 1000, micros % 1000);
            if *micros <= SYNC_SLOW_MICROS {
                return Check::ok("disk", text);
            }
            Check::not("disk", Level::Advice, format!("{text}, and each fsync waits for one"), fixes::store())
        }
    }
}

fn processors(facts: &Facts) -> Check {
    match facts.halt_poll {
        Some(0) => {
            let text = "a virtual machine whose idle processors halt at once: each request may wait 30 us for one";
            Check::not("processors", Level::Advice, text, fixes::halt_poll())
        }
        Some(nanos) => Check::ok("processors", format!("idle ones poll for {} us before they halt", nanos / 1000)),
        None => Check::ok("processors", "no halt polling to set"),
    }
}

fn clock(facts: &Facts) -> Check {
    let now = facts.now;
    if !CLOCK.contains(&now) {
        let text = format!("it is {} by the clock, which cannot be", super::facts::date(now));
        return Check::not("clock", Level::Warning, text, fixes::clock());
    }
    match &facts.newest {
        Some((session, last)) if *last > now => {
            let (last, now) = (super::facts::date(*last), super::facts::date(now));
            let text =
                format!("it is {now}, and session {session} was used at {last}: the clock is behind, or was ahead");
            Check::not("clock", Level::Warning, text, fixes::clock())
        }
        _ => Check::ok("clock", super::facts::date(now)),
    }
}

fn versions(facts: &Facts) -> Check {
    if facts.newer.is_empty() {
        return Check::ok("versions", &facts.versions);
    }
    let text = format!("{}; a later one has written {}", facts.versions, facts.newer.join(", "));
    Check::not("versions", Level::Warning, text, fixes::version())
}

fn mount(facts: &Facts) -> Check {
    match &facts.mount {
        Ok(worked) => {
            let lacks = if worked.lacks.is_empty() {
                String::new()
            } else {
                format!("; the kernel lacks {}, which costs speed or precision", worked.lacks.join(", "))
            };
            let place = if worked.private { "in a private namespace" } else { "in place" };
            let text = format!(
                "a session was made, mounted {place}, written, synced, read and stopped in {} ms (FUSE {}){lacks}",
                worked.millis, worked.fuse
            );
            Check::ok("mount", text)
        }
        Err(Failure { message, hint, .. }) => {
            let fix = facts.device.map_or_else(
                || Fix { host: hint.clone().unwrap_or_else(|| fixes::helper().host), ..fixes::helper() },
                |errno| fixes::device(Some(errno)),
            );
            Check::not("mount", Level::Failure, message, fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{MAX_NAMESPACES, StoreFacts};
    use super::*;
    use crate::cli::exit::Exit;
    use crate::cli::process::Worked;

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
                f.switches = vec![(MAX_NAMESPACES, "0".into())];
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
                f.switches = vec![("kernel.apparmor_restrict_unprivileged_userns", "1".into())];
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
}
