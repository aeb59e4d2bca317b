//! The session database by itself: no kernel, no `fs`. Transactions are built by a small stand-in for it.

mod commits;
mod housekeeping;
mod lifecycle;
mod session;
