//! Time as a file system keeps it.

/// A point in time: seconds since 1970 (negative before it) and the nanoseconds after that second. Packed to 12 bytes,
/// for every inode in memory has four of them; `{ time.secs }` where a reference is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(4))]
pub struct Timestamp {
    /// Whole seconds since the epoch, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999, counted forward also before 1970.
    pub nanos: u32,
}

impl Timestamp {
    /// A timestamp from its parts.
    pub fn new(secs: i64, nanos: u32) -> Self {
        debug_assert!(nanos < 1_000_000_000);
        Timestamp { secs, nanos }
    }

    /// The wall clock now (`CLOCK_REALTIME`).
    pub fn now() -> Self {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `ts` is a valid timespec for the call to fill; CLOCK_REALTIME always exists.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut ts) };
        Timestamp { secs: ts.tv_sec, nanos: ts.tv_nsec as u32 }
    }
}
