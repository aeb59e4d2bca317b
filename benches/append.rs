//! What writing a record costs: by `pwrite` and into a mapped window, into written and into only allocated space. `cargo bench --bench append`;
//! a directory as its argument says on which disk (default: the current one).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sessionfs::store::{Disk, HostDisk};

const SPACE: u64 = 64 << 20;
const CALLS: usize = 15_000;

/// Microseconds of each call, sorted.
fn measure(path: &Path, record: usize, written: bool, mapped: bool) -> io::Result<Vec<f64>> {
    let file = HostDisk.create(path)?;
    file.allocate(0, SPACE)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..SPACE).step_by(zeros.len()).filter(|_| written) {
        file.write_at(&zeros, at)?;
    }
    file.sync_data()?;
    if mapped {
        file.will_write(0..SPACE);
    }
    let bytes = vec![7; record];
    let calls = CALLS.min(SPACE as usize / record);
    let mut times = Vec::with_capacity(calls);
    for call in 0..calls {
        let started = Instant::now();
        file.write_at(&bytes, (call * record) as u64)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    HostDisk.remove(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn main() -> io::Result<()> {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let path = PathBuf::from(named.unwrap_or_else(|| ".".to_owned())).join("append.bench");
    println!("{:40} {:>8} {:>8} {:>8}", "microseconds a record", "p50", "p99", "mean");
    for record in [200, 4272, 64 << 10, 1 << 20] {
        for (how, written, mapped) in [
            ("pwrite, written space", true, false),
            ("mapped, written space", true, true),
            ("pwrite, allocated space", false, false),
            ("mapped, allocated space", false, true),
        ] {
            let times = measure(&path, record, written, mapped)?;
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            println!("{record:7} bytes, {how:24} {p50:8.2} {p99:8.2} {mean:8.2}");
        }
    }
    Ok(())
}
