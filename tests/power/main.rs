//! What survives a power cut, and what an I/O error does.
//!
//! A session lives on a disk that writes down what is done to it ([`disk`], [`vfs`], [`tape`]). From the tape comes every
//! disk that a power cut at some place could have left ([`cut`]); each is recovered, and the state has to be one that the
//! session really passed through, with everything in it that was said to be durable ([`sweep`]). The same disk can fail
//! any call ([`faults`], [`errors`]). [`controls`] shows that all this finds what it looks for.
//!
//! `scripts/power-cuts` runs it for as long as one likes. In the environment:
//!
//! | | |
//! | --- | --- |
//! | `POWER_SEED=n` | begins with this seed; 1 |
//! | `POWER_SEEDS=n` | so many seeds; 1 |
//! | `POWER_OPS=n` | random operations in a script; 50 |
//! | `POWER_STRIDE=n` | makes one call in so many fail; as many as take some seconds. 1: every call, in every way, and more cuts |
//!
//! A violation names its seed, the place on the tape and what was kept. The committer has a clock, so the same seed gives
//! the same operations, and almost the same tape.

#![allow(clippy::unwrap_used)] // A test that meets an error shall end there.

mod caps;
mod controls;
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
#[path = "../model/snapshot.rs"]
mod snapshot;
mod survive;
mod sweep;
mod tape;
mod vfs;
mod watchdog;
mod workload;
