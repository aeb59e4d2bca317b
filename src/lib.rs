//! sessionfs: a workspace that comes back.
//!
//! The crate is built in floors; a module uses only the floors below it (`docs/architecture.md`).

pub mod base;
pub mod cli;
pub mod control;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod session;
pub mod store;
