//! Processes: the server of a mount, and the supervisor of `run`.
//!
//! Whoever forks does so before it has a second thread. The server alone holds the FUSE descriptor and the session's
//! lock; it never returns into the code that forked it.

mod children;
mod enter;
mod exec;
mod fork;
mod messages;
mod mount;
mod mountpoint;
pub mod mounts;
mod namespace;
mod opening;
mod preflight;
mod run;
mod server;
mod setup;
mod signals;
mod stay;
mod streams;
mod trial;
mod user;
mod workspace;
mod writeback;

pub use exec::exec;
pub use mount::mount;
pub use run::run;
pub use setup::setup;
pub use trial::{Attempt, MOUNTPOINT, Worked, attempt};
