//! How `mount` and `run` open a session: from their options.

use std::os::unix::ffi::OsStrExt;

use crate::base::{IdMap, IdMaps, IdRange};
use crate::cli::access::caller;
use crate::cli::args::Opening;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Context;
use crate::fs::Globs;
use crate::session::{LockedSession, OpenOptions, Policy, Session, SessionError};

/// The maps of ids, if they are maps; those of the settings where none are given.
pub fn id_maps(context: &Context, opening: &Opening) -> Result<IdMaps, Failure> {
    let config = context.config();
    let map = |option: &str, given: &[IdRange], set: &[IdRange]| {
        IdMap::new(if given.is_empty() { set } else { given })
            .map_err(|error| Failure::new(Exit::Usage, format!("{option}: {error}")))
    };
    let users = map("--map-uid", &opening.map_uid, &config.map_uid)?;
    let groups = map("--map-gid", &opening.map_gid, &config.map_gid)?;
    Ok(IdMaps { users, groups })
}

/// What a resume has to prove before the mount serves, and for which runtime.
#[derive(Clone, Default)]
pub struct Resuming {
    /// Paths that have to be there.
    pub expect: Vec<Vec<u8>>,
    /// Whether all of it is read first.
    pub verify: bool,
    /// The version that was stated, and what another one does.
    pub version: Option<(String, Policy)>,
}

impl Resuming {
    /// Opens the session for the runtime that will work in it.
    pub fn open(&self, mut locked: LockedSession, options: &OpenOptions) -> Result<Session, SessionError> {
        if let Some((version, policy)) = &self.version {
            locked.state_version(version, *policy)?;
        }
        locked.open(options)
    }

    /// Has the session show what was asked for.
    pub fn prove(&self, session: &Session) -> Result<(), Failure> {
        session.expect(&self.expect)?;
        if self.verify {
            session.verify()?;
        }
        Ok(())
    }
}

/// From the options; a version that is set to nothing, as a variable can be, is not stated.
pub fn resuming(context: &Context, opening: &Opening) -> Resuming {
    let version = opening.runtime_version.clone().filter(|version| !version.is_empty());
    Resuming {
        expect: opening.expect.iter().map(|path| path.as_bytes().to_vec()).collect(),
        verify: opening.verify,
        version: version
            .map(|version| (version, opening.on_version_change.unwrap_or(context.config().runtime_version.policy))),
    }
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
pub fn open_options(context: &Context, opening: &Opening, ids: &IdMaps) -> OpenOptions {
    let caller = caller();
    let owner = Some((ids.users.stored(caller.uid), ids.groups.stored(caller.gid)));
    OpenOptions { owner, ..context.open_options(opening.size, opening.inodes) }
}
