//! How `mount` and `run` open a session: from their options.

use crate::base::{IdMap, IdMaps, IdRange};
use crate::cli::access::caller;
use crate::cli::args::Opening;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::fs::Globs;
use crate::session::{OpenOptions, SessionError};

/// The maps of ids, if they are maps.
pub fn id_maps(opening: &Opening) -> Result<IdMaps, Failure> {
    let map = |option: &str, ranges: &[IdRange]| {
        IdMap::new(ranges).map_err(|error| Failure::new(Exit::Usage, format!("{option}: {error}")))
    };
    Ok(IdMaps { users: map("--map-uid", &opening.map_uid)?, groups: map("--map-gid", &opening.map_gid)? })
}

/// The patterns of what is not kept, where they are given; checked.
pub fn ephemeral(opening: &Opening) -> Result<Option<Vec<String>>, Failure> {
    match opening.ephemeral.as_slice() {
        [] => Ok(None),
        [none] if none == "none" => Ok(Some(Vec::new())),
        given => {
            Globs::parse(given).map_err(SessionError::from)?;
            Ok(Some(given.to_vec()))
        }
    }
}

/// What the session is opened with. A new one belongs to who asks for it, seen through the maps.
pub fn open_options(opening: &Opening, ids: &IdMaps) -> OpenOptions {
    let caller = caller();
    OpenOptions {
        bytes_limit: opening.size.map(|size| size.0),
        inodes_limit: opening.inodes,
        owner: Some((ids.users.stored(caller.uid), ids.groups.stored(caller.gid))),
        ..OpenOptions::default()
    }
}
