//! How `mount` and `run` open a session: from their options.

use std::os::unix::ffi::OsStrExt;

use crate::base::{IdMap, IdMaps, IdRange};
use crate::cli::access::caller;
use crate::cli::args::Opening;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::session::{OpenOptions, Policy};

/// The maps of ids, if they are maps.
pub fn id_maps(opening: &Opening) -> Result<IdMaps, Failure> {
    let map = |option: &str, ranges: &[IdRange]| {
        IdMap::new(ranges).map_err(|error| Failure::new(Exit::Usage, format!("{option}: {error}")))
    };
    Ok(IdMaps { users: map("--map-uid", &opening.map_uid)?, groups: map("--map-gid", &opening.map_gid)? })
}

/// What a resume has to prove before the mount serves, and for which runtime.
pub struct Resuming {
    /// Paths that have to be there.
    pub expect: Vec<Vec<u8>>,
    /// Whether all of it is read first.
    pub verify: bool,
    /// The version that was stated, and what another one does.
    pub version: Option<(String, Policy)>,
}

/// From the options; a version that is set to nothing, as a variable can be, is not stated.
pub fn resuming(opening: &Opening) -> Resuming {
    let version = opening.runtime_version.clone().filter(|version| !version.is_empty());
    Resuming {
        expect: opening.expect.iter().map(|path| path.as_bytes().to_vec()).collect(),
        verify: opening.verify,
        version: version.map(|version| (version, opening.on_version_change.unwrap_or_default())),
    }
}

/// What the session is opened with. A new one belongs to who asks for it, seen through the maps.
pub fn open_options(opening: &Opening, ids: &IdMaps) -> OpenOptions {
    let caller = caller();
    OpenOptions {
        bytes_limit: opening.size.map(|size| size.0),
        inodes_limit: opening.inodes,
        owner: Some((ids.users.stored(caller.uid), ids.groups.stored(caller.gid))),
    }
}
