//! The session database by itself: no kernel, no `fs`. Transactions are built by a small stand-in for it.

#![allow(clippy::unwrap_used)] // A test that meets an error shall end there.

mod commits;
mod concurrency;
mod damages;
mod housekeeping;
mod lifecycle;
mod session;
