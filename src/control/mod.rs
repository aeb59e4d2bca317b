//! The control socket of a mounted session: `<session>/control.sock`, for the owner's and the superuser's commands.
//!
//! One connection carries one request, or a visit, which is two: a line of JSON. The answer is a line of JSON ([`Reply`]), for a stream with
//! frames behind it ([`frames`]): a line that announces so many bytes and then the bytes, until a line says that it is
//! complete, or what went wrong. So a stream that breaks off is never taken for a whole one.

mod client;
pub mod frames;
mod message;
mod server;
mod socket;
mod visits;

pub use client::{Client, ControlError, Visit};
pub use message::{Fault, PathBytes, Reply, Request};
pub use server::{Ending, Hooks, Server, Stopping};
