//! Damaged bytes for every decoder: none may panic, loop, or take memory for lengths that it was merely told; and what
//! decodes encodes to the same.
//!
//! Each runs for `FUZZ_SECONDS` (3) on the inputs of `corpus/` and on what mutation makes of them, with the checksums
//! wrong and with the checksums made right again. `FUZZ_SEED=n` is the seed. An input that fails is kept in Cargo's
//! directory for temporary files; under a name that says what it is it belongs into the corpus. `FUZZ_BLESS=1` writes
//! the inputs that the corpus began with.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A panic is how a test fails.

mod alloc;
mod bless;
mod databases;
mod decoders;
mod harness;
mod journals;
mod mutate;
mod session;

#[path = "../model/op.rs"]
#[allow(dead_code)] // Only its generator of random numbers.
mod op;
#[path = "../golden/sums.rs"]
mod sums;
#[path = "../support/mod.rs"]
mod support;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;
