//! What this host, container and user have, as far as a mount asks for it. Gathered once; nothing here judges.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::scratch::Scratch;
use crate::base::Timestamp;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::fixes::{SWITCHES, Switch};
use crate::cli::output::Context;
use crate::cli::process::{Attempt, Worked, attempt};
use crate::fuse::{self, Transport};
use crate::session::rfc3339;
use crate::store::{Store, StoreError};

/// Of <linux/capability.h>.
const CAP_SYS_ADMIN: u32 = 21;

/// What there is.
#[derive(Debug)]
pub struct Facts {
    /// The kernel's release, and its first two numbers.
    pub kernel: String,
    pub kernel_version: Option<(u32, u32)>,
    /// The errno of opening `/dev/fuse`.
    pub device: Option<i32>,
    pub uid: u32,
    pub cap_sys_admin: bool,
    pub seccomp: bool,
    /// Why there is no private mount namespace, and the switches that forbid one.
    pub namespace_refused: Option<String>,
    pub switches: Vec<Switch>,
    /// `fusermount3`, and whether it is setuid root.
    pub helper: Option<(String, bool)>,
    pub user_allow_other: bool,
    /// As the settings have them.
    pub allow_other: bool,
    pub transport_wanted: Transport,
    /// Why requests cannot come by io_uring.
    pub uring_refused: Option<String>,
    pub container: Option<String>,
    pub store: StoreFacts,
    /// Nanoseconds, where this is a virtual machine with that driver.
    pub halt_poll: Option<u64>,
    /// Seconds since 1970; and the session that was used last, and when.
    pub now: i64,
    pub newest: Option<(String, i64)>,
    pub versions: String,
    /// Sessions that a later version has written.
    pub newer: Vec<String>,
    /// What came of a real mount.
    pub mount: Result<Worked, Failure>,
}

/// What the store has.
#[derive(Debug)]
pub struct StoreFacts {
    pub path: String,
    pub place: Place,
    /// The kind of its file system.
    pub kind: String,
    pub bytes_free: u64,
    /// `None` where they are not counted.
    pub inodes_free: Option<u64>,
    /// Why locks do not work.
    pub locks: Option<String>,
    /// Microseconds of one `fdatasync`, the median.
    pub sync_micros: Result<u64, String>,
}

/// Whether there is a store.
#[derive(Debug)]
pub enum Place {
    /// A directory that can be written.
    There { owner: u32, mode: u32 },
    /// It can be made.
    Missing,
    /// It cannot be used, and why.
    Unusable(String),
}

impl Facts {
    /// Gathers them. What is written goes into a directory of its own, which is removed.
    pub fn gather(context: &Context) -> Facts {
        let config = context.config();
        let scratch = Scratch::below(context.store.path());
        let store = store_facts(context.store.path(), &scratch);
        let (newest, newer) = sessions(context);
        let Attempt { namespace, mount } = match &scratch {
            Ok(scratch) => attempt(context, scratch.path()),
            Err(error) => nowhere(error),
        };
        let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default();
        // SAFETY: geteuid cannot fail and touches no memory.
        let uid = unsafe { libc::geteuid() };
        Facts {
            kernel_version: version(&kernel),
            kernel,
            device: OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .err()
                .map(|error| error.raw_os_error().unwrap_or(libc::EIO)),
            uid,
            cap_sys_admin: status_field("CapEff")
                .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
                .is_some_and(|set| set & (1 << CAP_SYS_ADMIN) != 0),
            seccomp: status_field("Seccomp").is_some_and(|mode| mode != "0"),
            namespace_refused: namespace.err().map(|failure| failure.message),
            switches: switches(),
            helper: helper(),
            user_allow_other: fs::read_to_string("/etc/fuse.conf")
                .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other")),
            allow_other: config.allow_other,
            transport_wanted: config.transport,
            // Last: it starts threads, and who forks has none.
            uring_refused: fuse::uring_refused(),
            container: container(),
            store,
            halt_poll: read("/sys/module/haltpoll/parameters/guest_halt_poll_ns").and_then(|text| text.parse().ok()),
            now: Timestamp::now().secs,
            newest,
            versions: format!(
                "sessionfs {}, format {}, SQLite {}, zstd {}",
                env!("CARGO_PKG_VERSION"),
                crate::store::FORMAT_VERSION,
                crate::store::sqlite_version(),
                crate::format::zstd_version()
            ),
            newer,
            mount,
        }
    }
}

/// Nothing can be mounted for want of a place for the session. Namespaces are then not what is missing.
fn nowhere(error: &io::Error) -> Attempt {
    let mount =
        Err(Failure::new(Exit::StoreUnusable, format!("nothing was tried: the store cannot be written: {error}")));
    Attempt { namespace: Ok(()), mount }
}

/// A time for people.
pub fn date(secs: i64) -> String {
    rfc3339(Timestamp::new(secs, 0))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The switches that forbid namespaces here.
fn switches() -> Vec<Switch> {
    let value = |name: &str| read(&format!("/proc/sys/{}", name.replace('.', "/")));
    SWITCHES.into_iter().filter(|switch| value(switch.name).as_deref() == Some(switch.forbids)).collect()
}

/// `fusermount3` where a shell would find it.
fn helper() -> Option<(String, bool)> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(fuse::HELPER)).find(|path| path.is_file())?;
    let setuid = fs::metadata(&found).is_ok_and(|meta| meta.uid() == 0 && meta.mode() & libc::S_ISUID != 0);
    Some((found.display().to_string(), setuid))
}

/// What says that this is a container, if something does.
fn container() -> Option<String> {
    let there = |path: &str| Path::new(path).exists();
    // systemd's convention: https://systemd.io/CONTAINER_INTERFACE
    let named = read("/run/systemd/container").or_else(|| std::env::var("container").ok());
    let kind = match () {
        () if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => Some("kubernetes".to_owned()),
        () if there("/.dockerenv") => Some("docker".to_owned()),
        () if there("/run/.containerenv") => Some("podman".to_owned()),
        () => named.filter(|name| !name.is_empty()),
    };
    // Outside of any, every user is mapped to itself.
    let ids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = ids.split_whitespace().eq(["0", "0", "4294967295"]);
    match (kind, all || ids.is_empty()) {
        (Some(kind), true) => Some(kind),
        (Some(kind), false) => Some(format!("{kind}, in a user namespace")),
        (None, false) => Some("none that shows, but in a user namespace".to_owned()),
        (None, true) => None,
    }
}

/// The session used last, and those that a later version has written. What else is wrong with one is for `check`.
fn sessions(context: &Context) -> (Option<(String, i64)>, Vec<String>) {
    let (mut newest, mut newer) = (None::<(String, i64)>, Vec::new());
    for dir in context.store.sessions().unwrap_or_default() {
        let id = dir.id().to_string();
        match Store::open_read_only(&dir.database()).and_then(|store| store.superblock()) {
            Ok(superblock) => {
                let last = superblock.last_active.secs;
                if newest.as_ref().is_none_or(|(_, newest)| *newest < last) {
                    newest = Some((id, last));
                }
            }
            Err(StoreError::Newer { .. } | StoreError::Features { .. }) => newer.push(id),
            Err(error) => log::debug!("{id}: {error}"),
        }
    }
    (newest, newer)
}

fn store_facts(path: &Path, scratch: &io::Result<Scratch>) -> StoreFacts {
    let there = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let place = match (fs::metadata(path), scratch) {
        (Ok(meta), _) if !meta.is_dir() => Place::Unusable("it is no directory".to_owned()),
        (_, Err(error)) => Place::Unusable(format!("nothing can be written there: {error}")),
        (Ok(meta), Ok(_)) => Place::There { owner: meta.uid(), mode: meta.permissions().mode() & 0o7777 },
        (Err(_), Ok(_)) => Place::Missing,
    };
    let (kind, bytes_free, inodes_free) = file_system(there).unwrap_or((String::from("unknown"), u64::MAX, None));
    let unknown = || "the store cannot be written".to_owned();
    let (locks, sync_micros) = match scratch {
        Ok(scratch) => (
            scratch.locks().err().map(|error| error.to_string()),
            scratch.sync_micros().map_err(|error| error.to_string()),
        ),
        Err(_) => (None, Err(unknown())),
    };
    StoreFacts { path: path.display().to_string(), place, kind, bytes_free, inodes_free, locks, sync_micros }
}

/// The kind of the file system at a path, and what is free on it for this user.
fn file_system(path: &Path) -> io::Result<(String, u64, Option<u64>)> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `target` ends in NUL, and `found` has room for what the kernel fills in when it succeeds.
    let found = unsafe {
        if libc::statfs(target.as_ptr(), found.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        found.assume_init()
    };
    // Of <linux/magic.h>.
    let kind = match found.f_type as u64 & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "smb",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x786f_4256 => "vboxsf",
        other => return Ok((format!("type {other:#x}"), free_bytes(&found), free_inodes(&found))),
    };
    Ok((kind.to_owned(), free_bytes(&found), free_inodes(&found)))
}

fn free_bytes(found: &libc::statfs) -> u64 {
    found.f_bavail.saturating_mul(found.f_frsize as u64)
}

/// btrfs and the like make inodes as they need them, and count none.
fn free_inodes(found: &libc::statfs) -> Option<u64> {
    (found.f_files > 0).then_some(found.f_ffree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, found) in
            [("6.18.44-fc-v445", Some((6, 18))), ("5.9.0", Some((5, 9))), ("4.19", Some((4, 19))), ("next", None)]
        {
            assert_eq!(version(release), found, "{release}");
        }
    }

    #[test]
    fn this_host_has_a_file_system() {
        let (kind, bytes, _) = file_system(Path::new("/proc/self")).unwrap();
        assert_eq!((kind.as_str(), bytes), ("type 0x9fa0", 0));
    }
}
