//! What several test targets need.

use std::path::Path;
use std::sync::Arc;

use sessionfs::fs::Fs;
use sessionfs::store::{HostDisk, Omit, Store, StoreError};

/// Starts the file system on a session database, its journal beside it.
pub fn start(database: &Path) -> Result<Arc<Fs>, StoreError> {
    let journal = database.with_extension("journal");
    Fs::start(Store::recover(&HostDisk::shared(), database, &journal, Omit::default())?)
}
