//! Sessions: where they live, who has them open, how they begin, end and go away.
//!
//! A session is a directory of the store. Whoever works on one first takes its lock ([`StoreDir::lock`] gives a
//! [`LockedSession`]), then opens it ([`LockedSession::open`] gives a [`Session`]), and stops it ([`Session::stop`]).

mod commands;
mod du;
mod error;
mod events;
mod figures;
mod gc;
mod layout;
mod lines;
mod lock;
mod open;
mod receipt;
mod registry;
mod remove;
mod retention;
mod running;
mod setup;
mod soft_limits;
mod stats;
mod status;
mod trace;
pub mod tree;
mod verify;
mod version;

pub use commands::{Changed, CommandRecord, CommandStatus};
pub use du::{Du, DuOptions, Share, Sums};
pub use error::SessionError;
pub use events::{Event, SetUpReason, What};
pub use figures::{Figures, OperationFigures, Times};
pub use gc::{Collect, Collected, Collection, Left};
pub use layout::{SessionDir, StoreDir};
pub use lock::{Holder, Lock};
pub use open::{LockedSession, OpenOptions};
pub use receipt::{How, Lacks, Receipt, Resume, StopReport, Witness};
pub use registry::{Entry, Settings};
pub use retention::{ClockJump, Reason, Rules};
pub use running::Session;
pub use setup::{StepDone, key_of};
pub use soft_limits::{Passed, Resource, SoftLimits, reached};
pub use stats::{Cold, History};
pub use status::{Replayed, Status, rfc3339};
pub use trace::{Hot, HotFile, Told, TraceFilter, TraceFilterError, Traced, hot, trace};
pub use verify::{Verification, Verified, Verifier};
pub use version::{Policy, Switching, VersionChange};
