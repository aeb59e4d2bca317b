//! Whether all of a session database's file is there.

use std::fs;
use std::io::Read;
use std::path::Path;

use rusqlite::Connection;

use super::StoreError;
use super::open::beside;
use crate::base::open_ordinary;

/// Refuses a file that is shorter than the database in it. SQLite notices missing pages, but not a cut last one, nor
/// one that it never reads.
pub(super) fn whole(sql: &Connection, path: &Path) -> Result<(), StoreError> {
    // As long as this lasts nobody can copy a WAL back and remove it.
    let snapshot = sql.unchecked_transaction()?;
    let pragma = |name| snapshot.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let expected = u64::try_from(pragma("page_count")? * pragma("page_size")?).unwrap_or(0);
    if fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0) {
        return Ok(()); // What is missing in the file may be there.
    }
    let found = fs::metadata(path).map_err(|error| StoreError::from_io(path, &error))?.len();
    if found < expected {
        return Err(StoreError::Cut { path: path.to_owned(), found, expected: Some(expected) });
    }
    Ok(())
}

/// The beginning of every SQLite file, and how long its header is (<https://www.sqlite.org/fileformat.html>, 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER: usize = 100;

/// Whether a file that cannot be opened is one that ends too early, by what its own first bytes say.
pub(super) fn cut(path: &Path) -> Option<StoreError> {
    let file = open_ordinary(fs::OpenOptions::new().read(true), path).ok()?;
    let found = file.metadata().ok()?.len();
    let mut head = Vec::new();
    file.take(HEADER as u64).read_to_end(&mut head).ok()?;
    let known = head.len().min(MAGIC.len());
    if head[..known] != MAGIC[..known] {
        return None;
    }
    let expected = (head.len() == HEADER).then(|| {
        // A page size of 65,536 is written as 1.
        let page = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 1 << 16,
            size => u64::from(size),
        };
        page * u64::from(u32::from_be_bytes([head[28], head[29], head[30], head[31]]))
    });
    let is_cut = expected.is_none_or(|expected| found < expected);
    is_cut.then(|| StoreError::Cut { path: path.to_owned(), found, expected })
}
