//! The session database by itself: no kernel, and no `fs` but where a damaged database is read through it. Transactions
//! are built by a small stand-in.

#![allow(clippy::unwrap_used)] // A test that meets an error shall end there.

mod commits;
mod concurrency;
mod damages;
mod foreign;
mod housekeeping;
mod lifecycle;
mod session;
#[path = "../support/mod.rs"]
mod support;
mod through_fs;
