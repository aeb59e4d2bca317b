//! The program as a black box: the built binary, its output, its exit codes, real processes and a real mount.

#![allow(clippy::unwrap_used)] // Outside of what clippy takes for a test: a panic is how a test fails.

mod bad_input;
mod config;
mod doctor;
mod exec;
mod gc;
mod ids;
mod life;
mod mount;
mod resize;
mod resume_refused;
mod run;
mod setup;
mod store;
mod support;
mod trees;
mod user;
