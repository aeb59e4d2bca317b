//! What an operation of a mount costs that nobody watches, and one that somebody does, without the kernel. `cargo bench --bench watch`; a
//! directory as its argument says on which disk (default: the current one).

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use sessionfs::base::{IdMaps, Ino};
use sessionfs::fs::{Caller, Filter, Fs};
use sessionfs::store::{CreateOptions, HostDisk, Omit, Store};

const CALLS: u32 = 300_000;
const ROUNDS: usize = 7;

/// The least nanoseconds of a call.
fn measure(mut call: impl FnMut()) -> f64 {
    let round = || {
        let started = Instant::now();
        (0..CALLS).for_each(|_| call());
        started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    std::iter::repeat_with(round).take(ROUNDS).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Box<dyn Error>> {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let dir =
        PathBuf::from(named.unwrap_or_else(|| ".".to_owned())).join(format!("watch.bench.{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let database = dir.join("session.db");
    Store::create(&database, &CreateOptions { bytes_limit: 1 << 30, inodes_limit: 1 << 20, uid: 0, gid: 0 })?;
    let opened = Store::recover(&HostDisk::shared(), &database, &dir.join("session.journal"), Omit::default())?;
    let alone = Fs::start(opened)?;
    let mount = alone.mapped(IdMaps::default());
    let caller = Caller { uid: 0, gid: 0, umask: 0 };
    let file = mount.mknod(&caller, Ino::ROOT, b"file", libc::S_IFREG | 0o600, 0)?.ino;

    println!("{:34} {:>8} {:>8}", "nanoseconds", "getattr", "lookup");
    let line = |name: &str, fs: &Fs| {
        let getattr = measure(|| assert!(fs.getattr(file).is_ok()));
        let lookup = measure(|| assert!(fs.lookup(Ino::ROOT, b"file").is_ok()));
        println!("{name:34} {getattr:8.1} {lookup:8.1}");
    };
    line("not counted (no mount)", &alone);
    line("counted, nobody watches", &mount);
    let deaf = mount.watch(Filter::default())?;
    line("one watches and does not read", &mount);
    drop(deaf);
    let reading = mount.watch(Filter::default())?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| while reading.next().is_some() {});
        line("one watches and reads", &mount);
        reading.end();
        let _ = reader.join();
    });
    line("counted, nobody watches any more", &mount);
    drop((mount, reading));
    alone.stop()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
