//! `check`

use serde::Serialize;

use crate::base::{FileKind, Ino};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, Progress};
use crate::session::SessionError;
use crate::store::{Store, StoreError};

#[derive(Serialize)]
struct Answer {
    session: String,
    ok: bool,
    txid: u64,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    code: String,
    text: String,
}

/// Beside a running server it checks the state of the last commit.
pub fn check(context: &Context, session: &str) -> Result<u8, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let failed = |source| SessionError::Database { id: dir.id().clone(), dir: dir.path().to_owned(), source };
    let database = Store::open_read_only(&dir.database()).map_err(failed)?;
    let mut progress = Progress::new(context, "checking", false);
    let findings = verify(&database, &mut |done, total| progress.at(done, total)).map_err(failed)?;
    drop(progress);
    let txid = database.superblock().map_err(failed)?.txid.0;
    let answer = Answer { session: session.to_owned(), ok: findings.is_empty(), txid, findings };
    context.answer(&answer, |out| {
        answer.findings.iter().try_for_each(|found| writeln!(out, "{}: {}", found.code, found.text))?;
        match answer.findings.len() {
            0 if context.quiet => Ok(()),
            0 => writeln!(out, "{session}: clean at transaction {txid}"),
            1 => writeln!(out, "{session}: 1 finding"),
            many => writeln!(out, "{session}: {many} findings"),
        }
    })?;
    Ok(if answer.ok { 0 } else { Exit::Findings.code() })
}

/// Reads everything that is reachable, which verifies every checksum on the way.
fn verify(store: &Store, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Found>, StoreError> {
    let total = store.superblock()?.counts.inodes;
    let (mut found, mut done) = (Vec::new(), 0);
    let mut directories = vec![Ino::ROOT];
    while let Some(directory) = directories.pop() {
        let names = match store.directory(directory) {
            Ok(names) => names,
            Err(error) => {
                found.push(Found { code: "unreadable-directory".into(), text: format!("inode {directory}: {error}") });
                continue;
            }
        };
        for (name, inode) in names {
            done += 1;
            progress(done, total);
            if inode.is_dir() {
                directories.push(name.ino);
            }
            let checked = match inode.kind() {
                FileKind::Regular => store
                    .blocks(name.ino)
                    .and_then(|blocks| blocks.iter().try_for_each(|block| store.data(block.data).map(drop))),
                _ => Ok(()),
            };
            if let Err(error) = checked.and_then(|()| store.xattrs(name.ino).map(drop)) {
                let shown = crate::session::tree::Shown(&name.name);
                found.push(Found {
                    code: "unreadable-file".into(),
                    text: format!("inode {} ({shown}): {error}", name.ino),
                });
            }
        }
    }
    Ok(found)
}
