//! The commands that need no mount of their own.

pub mod accept;
pub mod cat;
pub mod check;
pub mod config;
pub mod cp;
pub mod discard;
pub mod du;
pub mod events;
pub mod export;
pub mod gc;
pub mod log;
pub mod ls;
pub mod metrics;
pub mod resize;
pub mod retain;
pub mod rm;
pub mod shell;
pub mod stats;
pub mod status;
pub mod sync;
pub mod top;
pub mod trace;
pub mod umount;
