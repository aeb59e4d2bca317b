//! What writing a record into written space costs: by `pwrite`, and into a mapped window. `cargo bench --bench append`;
//! a directory as its argument says on which disk (default: the current one).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sessionfs::store::{Disk, HostDisk};

const SPACE: u64 = 64 << 20;
const CALLS: usize = 15_000;

/// Microseconds of each call, sorted.
fn measure(path: &Path, record: usize, mapped: bool) -> io::Result<Vec<f64>> {
    let file = HostDisk.create(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..SPACE).step_by(zeros.len()) {
        file.write_at(&zeros, at)?;
    }
    file.sync_data()?;
    if mapped {
        file.will_write(0..SPACE);
    }
    let bytes = vec![7; record];
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..CALLS {
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
    println!("microseconds a record     p50     p99    mean");
    for record in [200, 4272] {
        for (how, mapped) in [("pwrite", false), ("mapped", true)] {
            let times = measure(&path, record, mapped)?;
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            println!("{record:5} bytes, {how}   {p50:8.2} {p99:7.2} {mean:7.2}");
        }
    }
    Ok(())
}
