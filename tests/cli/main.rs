//! The program as a black box: the built binary, its output, its exit codes, real processes and a real mount.

mod bad_input;
mod mount;
mod run;
mod store;
mod support;
mod trees;
mod user;
