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
    let mut why = vec![refused.clone()];
    why.extend(facts.switches.iter().map(|switch| format!("{} is {}", switch.name, switch.forbids)));
    if facts.seccomp {
        why.push("a seccomp filter is in force".to_owned());
    }
    let text = format!("{}; `run` needs one, `mount` does not", why.join("; "));
    let fix = if facts.switches.is_empty() { fixes::namespace(None) } else { fixes::namespace_by(&facts.switches) };
    // `mount` alone is a mount that works.
    let level = if facts.mount.is_ok() { Level::Warning } else { Level::Failure };
    Check::not("permission", level, text, fix)
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
