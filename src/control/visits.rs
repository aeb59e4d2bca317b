//! Who is in the workspace. A mount that was made for one command ends with the last of those who came in meanwhile.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;

use super::frames::{receive, send};
use super::message::{Fault, Reply, Request};
use super::server::{Ending, Shared, Stopping, refuse};
use crate::session::Changed;

/// The visits there are.
#[derive(Debug, Default)]
pub(super) struct Visits {
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    visits: usize,
    /// The last has left a mount that was for visits: nobody may come any more.
    closed: bool,
}

impl Visits {
    fn enter(&self) -> bool {
        let mut now = self.now.lock();
        now.visits += usize::from(!now.closed);
        !now.closed
    }

    /// Whether that was the last of a mount that is for visits.
    fn leave(&self, for_visits: bool) -> bool {
        let mut now = self.now.lock();
        now.visits -= 1;
        now.closed = for_visits && now.visits == 0;
        now.closed
    }

    /// Lets nobody in any more, if nobody is there.
    pub fn close(&self) -> bool {
        let mut now = self.now.lock();
        now.closed |= now.visits == 0;
        now.closed
    }
}

impl Shared {
    /// Serves a visit to its end: by a word, or by the end of the connection, as a command that is killed leaves it.
    pub(super) fn visit(&self, stream: &UnixStream, input: &mut BufReader<&UnixStream>) -> io::Result<()> {
        let mut out = stream;
        if !self.visits.enter() {
            return send(&mut out, &refuse("the session is just being stopped", libc::EAGAIN));
        }
        let observation = self.fs.observe();
        let said = self.converse(&mut out, input);
        let (files, bytes) = self.fs.observed(observation).unwrap_or_default();
        let changed = Changed { files, bytes };
        if self.visits.leave(self.hooks.for_visits) {
            // This process ends behind the answer, so its connection stays open until then.
            let answering = stream.try_clone()?;
            (self.hooks.stop)(Stopping { how: Ending::Deserted, answer: answer(answering, changed) });
            return Ok(());
        }
        if said? { send(&mut out, &Reply::Left(changed)) } else { Ok(()) }
    }

    /// Whether there was a word of leaving.
    fn converse(&self, out: &mut dyn Write, input: &mut BufReader<&UnixStream>) -> io::Result<bool> {
        loop {
            send(out, &Reply::Welcome { mountpoint: (self.hooks.mountpoint)() })?;
            match receive(input) {
                Ok(Request::Leave) => return Ok(true),
                Ok(Request::Visit) => {}
                Ok(other) => {
                    return send(out, &refuse(&format!("not on a visit: {other:?}"), libc::EINVAL)).map(|()| false);
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

type Answer = Box<dyn FnOnce(Result<crate::session::StopReport, Fault>) + Send>;

fn answer(mut to: UnixStream, changed: Changed) -> Answer {
    Box::new(move |stopped| {
        let reply = stopped.map_or_else(Reply::Fault, |safe| Reply::LeftLast { changed, safe });
        // One that was killed does not hear it.
        let _ = send(&mut to, &reply);
        std::mem::forget(to);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_visit_closes_a_mount_that_is_for_visits() {
        let visits = Visits::default();
        assert!(visits.enter() && visits.enter());
        assert!(!visits.leave(true) && !visits.close());
        assert!(visits.leave(true) && !visits.enter());
        let visits = Visits::default();
        assert!(visits.enter() && !visits.leave(false) && visits.enter());
        assert!(!visits.leave(false) && visits.close() && !visits.enter());
    }
}
