//! `du`

use std::io::{self, Write};

use super::sync;
use crate::cli::access::{split_target, target};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, Progress, grouped, human_bytes, table};
use crate::session::tree::Shown;
use crate::session::{Du, DuOptions, Share, Sums};

/// What takes the space of a session, or of a directory of it.
pub fn du(context: &Context, text: &str, depth: usize, top: usize) -> Result<u8, Failure> {
    let (id, path) = match split_target(text.as_bytes()) {
        Some(_) => target(context, text.as_bytes())?,
        None => (context.session(text)?, Vec::new()),
    };
    let dir = context.store.existing(&id)?;
    // What is not committed is not counted: without room for that, the state before is still worth seeing.
    match sync::safe(context, &dir) {
        Err(failure) if failure.exit == Exit::StoreFull => {
            context.warn(&format!("{}: as of the last commit", failure.message))
        }
        other => drop(other?),
    }
    let mut progress = Progress::new(context, "reading names", false);
    let options = DuOptions { path, depth, top };
    let found = Du::of(&dir, &options, &mut |names| progress.at(names, 0))?;
    drop(progress);
    let Some(du) = found else {
        let text = format!("{}: no such directory in session {id}", Shown(&options.path));
        return Err(Failure::new(Exit::NoSuchPath, text).hint(format!("sessionfs ls {id}:/")));
    };
    context.answer(&du, |out| print(out, &du))?;
    Ok(0)
}

fn print(out: &mut dyn Write, du: &Du) -> io::Result<()> {
    let Sums { charged, apparent, files, directories } = du.all;
    let percent = (charged + du.orphans.charged).saturating_mul(100).checked_div(du.bytes_limit).unwrap_or(100);
    writeln!(
        out,
        "{}:{}  {} charged ({percent}% of the cap), {} long, {} files, {} directories",
        du.session,
        du.path,
        human_bytes(charged),
        human_bytes(apparent),
        grouped(files),
        grouped(directories)
    )?;
    if du.orphans.files + du.orphans.directories > 0 {
        let open = grouped(du.orphans.files + du.orphans.directories);
        writeln!(out, "and {} of {open} files without a name that are open", human_bytes(du.orphans.charged))?;
    }
    if !du.ephemeral.is_empty() {
        writeln!(out, "not charged, and not counted here: what is in {}", du.ephemeral.join(" "))?;
    }
    for (what, shares) in
        [("DIRECTORY", &du.by_directory), ("EXTENSION", &du.by_extension), ("LARGEST FILE", &du.largest)]
    {
        if shares.is_empty() {
            continue;
        }
        writeln!(out)?;
        let head = ["CHARGED", "LENGTH", "FILES", what].map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(shares.iter().map(row)).collect();
        table(out, &rows, &[true, true, true, false])?;
    }
    Ok(())
}

fn row(share: &Share) -> Vec<String> {
    let Share { name, sums } = share;
    let name = if name.is_empty() { "(none)".to_owned() } else { name.clone() };
    vec![human_bytes(sums.charged), human_bytes(sums.apparent), grouped(sums.files), name]
}
