//! Bytes and rows: what a session is made of, as the journal, the session database and a replica keep it.
//!
//! `docs/format.md` is normative; this module is its implementation.

mod change;
mod digest;
mod fingerprint;
pub mod journal;
mod pack;
mod rows;
mod transaction;

pub use change::Change;
pub use digest::{Canonical, Digest, RowSum, content_hash, content_len};
pub use fingerprint::Fingerprint;
pub use pack::{Codec, Pack, PackBuilder, PackError, zstd_version};
pub use rows::{BlockRow, Counts, DentryRow, InodeRow, XattrRow};
pub use transaction::{FileChanges, SealedTransaction, Transaction};
