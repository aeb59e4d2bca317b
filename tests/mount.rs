//! A session mounted for real, and used by system calls.

#![allow(clippy::unwrap_used)] // What fails here is meant to panic.

#[path = "support/acl.rs"]
mod acl;
#[path = "mount/attributes.rs"]
mod attributes;
#[allow(dead_code)] // Shared with the tests of the commands, which need more of it.
#[path = "cli/support.rs"]
mod bench;
#[path = "mount/exerciser.rs"]
mod exerciser;
#[path = "mount/extremes.rs"]
mod extremes;
#[path = "mount/fanotify.rs"]
mod fanotify;
#[path = "mount/files.rs"]
mod files;
#[path = "mount/harness.rs"]
mod harness;
#[path = "mount/lanes.rs"]
mod lanes;
#[path = "mount/lifecycle.rs"]
mod lifecycle;
#[path = "mount/locks.rs"]
mod locks;
#[path = "mount/mapping.rs"]
mod mapping;
#[path = "mount/names.rs"]
mod names;
#[path = "mount/outages.rs"]
mod outages;
#[path = "mount/peers.rs"]
mod peers;
#[path = "mount/privileges.rs"]
mod privileges;
#[path = "mount/process.rs"]
mod process;
#[path = "mount/programs.rs"]
mod programs;
#[path = "mount/requests.rs"]
mod requests;
#[path = "mount/resume.rs"]
mod resume;
#[path = "mount/space.rs"]
mod space;
mod support;
#[path = "mount/sys.rs"]
mod sys;
#[path = "mount/times.rs"]
mod times;
#[path = "mount/transport.rs"]
mod transport;
#[path = "mount/watch.rs"]
mod watch;
#[path = "mount/workspace.rs"]
mod workspace;
