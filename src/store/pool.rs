//! Read-only connections, lent to one thread at a time.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::schema;
use super::{Disk, StoreError};

/// Idle connections that are kept; more threads than that read at once only in a burst.
const IDLE_KEPT: usize = 4;

/// The connections of one store.
#[derive(Debug)]
pub(super) struct Pool {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    lent: usize,
    closed: bool,
}

/// A connection on loan; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Reader<'p> {
    pool: &'p Pool,
    /// `None` only inside `drop`.
    sql: Option<Connection>,
}

impl Pool {
    /// A pool that opens `path` when it is first asked for a connection.
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Pool {
        Pool { disk, path, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Puts a connection in that was opened elsewhere.
    pub fn put(&self, sql: Connection) {
        self.state.lock().idle.push(sql);
    }

    /// Lends a connection.
    pub fn get(&self) -> Result<Reader<'_>, StoreError> {
        let idle = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(StoreError::Io("closed".to_owned()));
            }
            state.lent += 1;
            state.idle.pop()
        };
        // From here on the loan is counted, so it has to be given back whatever happens.
        let mut reader = Reader { pool: self, sql: idle };
        if reader.sql.is_none() {
            let sql = schema::connect_reader(self.disk.as_ref(), &self.path);
            reader.sql = Some(sql.map_err(|error| StoreError::opening(&self.path, error))?);
        }
        Ok(reader)
    }

    /// Closes every connection, waiting up to `patience` for those on loan: SQLite leaves WAL mode only when the
    /// writer is alone. Whoever asks after this gets an error.
    pub fn close(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        state.closed = true;
        state.idle.clear();
        while state.lent > 0 {
            if self.returned.wait_until(&mut state, until).timed_out() {
                log::warn!("{} readers still hold the session database", state.lent);
                break;
            }
        }
    }
}

impl Deref for Reader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.sql {
            Some(sql) => sql,
            None => unreachable!("a reader has its connection until it is dropped"),
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.lent -= 1;
        let sql = self.sql.take();
        if !state.closed && state.idle.len() < IDLE_KEPT {
            state.idle.extend(sql);
        } else {
            // Closed while the count is held down, so that `close` finds nobody left when it returns.
            drop(sql);
        }
        self.pool.returned.notify_all();
    }
}
