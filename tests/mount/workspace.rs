//! A session of the binary, mounted at a directory: for tests of what its other commands say of it, and of its death.

use std::path::PathBuf;

use crate::bench::{Bench, alive, eventually, kill};

pub const MIB: usize = 1 << 20;

/// Bytes that hardly compress, different for each seed, none of them zero: zeros are what must not come back.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed << 32;
    let mut eight = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31) | 0x0101_0101_0101_0101).to_ne_bytes()
    };
    let mut bytes = vec![0; length];
    bytes.chunks_mut(8).for_each(|part| part.copy_from_slice(&eight()[..part.len()]));
    bytes
}

/// A session of the binary, mounted.
pub struct Workspace {
    pub bench: Bench,
    pub at: PathBuf,
}

impl Workspace {
    pub fn new() -> Workspace {
        Workspace::on(Bench::new())
    }

    pub fn on(bench: Bench) -> Workspace {
        let workspace = Workspace { at: bench.empty("m"), bench };
        workspace.mount();
        workspace
    }

    pub fn mount(&self) {
        self.bench.ok(&["mount", "demo", self.at.to_str().unwrap()]);
    }

    pub fn umount(&self) {
        // The last close of a file is the kernel's to pass on, so the mount may be busy for a moment.
        eventually("it is unmounted", || self.bench.call(&["umount", "demo"]).status.success());
    }

    pub fn kill(&self) {
        let pid = self.bench.pid("demo");
        kill(pid, libc::SIGKILL);
        eventually("the server is dead", || !alive(pid));
    }

    /// Has everything committed to the database.
    pub fn sync(&self) {
        self.bench.ok(&["sync", "demo"]);
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.bench.status("demo")[name].as_u64().unwrap()
    }

    /// Ends the mount in order, and expects a session without a fault.
    pub fn end(self) {
        self.umount();
        self.bench.ok(&["check", "demo"]);
    }
}
