//! The program as a black box: the built binary, its output, its exit codes, real processes and a real mount.

#![allow(clippy::unwrap_used)] // Outside of what clippy takes for a test: a panic is how a test fails.

mod bad_input;
mod cap_walk;
mod config;
mod doctor;
mod exec;
mod gc;
mod hostile;
mod ids;
mod life;
mod mount;
mod resize;
mod resume_refused;
mod run;
mod setup;
mod store;
mod story;
mod strangers;
#[path = "../golden/sums.rs"]
mod sums;
mod support;
#[allow(dead_code)] // Half of it is for the tests of the mount.
#[path = "../mount/sys.rs"]
mod sys;
mod trees;
mod user;
