//! The ground floor: identifiers, times, the error whose value is the errno, and every limit by name.

mod errno;
pub mod failpoint;
mod files;
mod histogram;
mod idmap;
mod ids;
pub mod limits;
pub mod memory;
mod time;

pub use errno::Errno;
pub use files::{is_not_ordinary, open_ordinary, read_ordinary};
pub use histogram::{Histogram, STEPS, Tally};
pub use idmap::{IdMap, IdMapError, IdMaps, IdRange};
pub use ids::{Cookie, DataId, FileKind, Ino, Name, PackId, Seq, SessionId, SessionIdError, Txid};
pub use time::Timestamp;

/// A hash map with a fast, seeded hash: the keys are ids and names that come from the workload itself.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
/// The set that goes with [`Map`].
pub type Set<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;
