//! `resize`

use crate::cli::access::{Access, cap_below_use, finish, reach};
use crate::cli::args::Size;
use crate::cli::failure::Failure;
use crate::cli::output::{Context, human_bytes};
use crate::session::{OpenOptions, Status};

pub fn resize(context: &Context, session: &str, size: Option<Size>, inodes: Option<u64>) -> Result<u8, Failure> {
    let dir = context.store.existing(&context.session(session)?)?;
    let caps = OpenOptions { bytes_limit: size.map(|size| size.0), inodes_limit: inodes, ..OpenOptions::default() };
    // The server looks, too, but its answer has no exit code.
    caps.validate()?;
    let status = match reach(context, dir.id(), "resize", None)? {
        Access::Served(client) => client.resize(&caps).map_err(|error| Failure::of_control(session, error))?,
        Access::Ours(session) => {
            let resized = session.resize(&caps).map_err(Failure::from);
            finish(&session, resized)?;
            Status::read(&dir)?
        }
    };
    cap_below_use(dir.id(), &caps, status.bytes_used, status.inodes_used).iter().for_each(|text| context.warn(text));
    context.report(&status, || {
        let (used, limit) = (human_bytes(status.bytes_used), human_bytes(status.bytes_limit));
        format!("{session}: {used} of {limit}, {} of {} inodes", status.inodes_used, status.inodes_limit)
    })?;
    Ok(0)
}
