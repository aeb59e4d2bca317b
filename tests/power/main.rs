//! Power cuts and I/O errors.

#![allow(clippy::unwrap_used)] // A test that meets an error shall end there.

mod cut;
mod cuts;
mod disk;
mod errors;
mod faults;
mod life;
#[path = "../model/op.rs"]
mod op;
#[path = "../model/perform.rs"]
mod perform;
#[path = "../model/reference.rs"]
mod reference;
mod room;
mod script;
mod settings;
mod snapshot;
mod survive;
mod sweep;
mod tape;
mod vfs;
mod watchdog;
mod workload;
