//! Whether what SQLite would open is fit to be opened: looked at before it is.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StoreError;
use super::open::beside;
use crate::base::open_ordinary;

/// Refuses links, FIFOs and the like in the place of the database and of what SQLite opens beside it, and a rollback
/// journal that is also about other files. Where the directory is, behind a link or not, is its owner's choice.
pub(super) fn ordinary(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = beside(path, suffix);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(StoreError::NotOrdinary(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::from_io(&path, &error)),
        }
    }
    let journal = beside(path, "-journal");
    match names_super_journal(&journal) {
        Ok(true) => Err(StoreError::Leads(journal)),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::from_io(&journal, &error)),
    }
}

/// Whether a rollback journal ends in the name of a super-journal (<https://www.sqlite.org/fileformat.html>, 3): one that
/// several databases have in common. SQLite removes it once none of them needs it, whatever file it is, and a session has
/// one database.
fn names_super_journal(journal: &Path) -> io::Result<bool> {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let file = open_ordinary(fs::OpenOptions::new().read(true), journal)?;
    let mut end = [0; 8];
    let Some(at) = file.metadata()?.len().checked_sub(end.len() as u64).filter(|at| *at > 0) else { return Ok(false) };
    file.read_exact_at(&mut end, at)?;
    Ok(end == MAGIC)
}
