//! The floor that the journal is measured against: the same mount with the same kernel flags, whose journal keeps nothing.
//!
//! `floor DIR MOUNTPOINT` serves a new session in DIR until standard input ends. `scripts/bench` runs it.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use sessionfs::fs::Fs;
use sessionfs::fuse::{MountOptions, Mounted, Transport};
use sessionfs::store::{CreateOptions, HostDisk, Omit, Store};

fn serve(dir: &Path, mountpoint: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let database = dir.join("session.db");
    let options = CreateOptions { bytes_limit: 8 << 30, inodes_limit: 1 << 24, uid: 0, gid: 0 };
    Store::create(&database, &options)?;
    let omit = Omit { append: true, ..Omit::default() };
    let fs = Fs::start(Store::recover(&HostDisk::shared(), &database, &dir.join("session.journal"), omit)?)?;
    let transport = std::env::var("SESSIONFS_TRANSPORT").map_or(Ok(Transport::Auto), |name| name.parse())?;
    let options = MountOptions { allow_other: true, fsname: "floor".into(), transport };
    let mounted = Mounted::start(Arc::clone(&fs), mountpoint, &options)?;
    println!("mounted");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(mounted);
    fs.stop()?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // `cargo bench` calls it without a directory.
    let [_, dir, mountpoint] = arguments.as_slice() else { return ExitCode::SUCCESS };
    match serve(dir.as_ref(), mountpoint.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}
