//! What a mount's operations come to: how many of each kind, how long they took, how they failed.
//!
//! Counting is two relaxed additions beside two looks at the clock. Threads that serve count in different places, so
//! that they do not take each other's cache lines.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::base::{Errno, Histogram, Tally};

/// Places to count in.
const SHARDS: usize = 8;

thread_local! {
    /// Which of them is this thread's.
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Declares the kinds with their names.
macro_rules! kinds {
    ($($kind:ident = $name:literal,)*) => {
        /// What an operation does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // Each is the request of the kernel that is called so.
        pub enum OpKind {
            $($kind,)*
        }

        impl OpKind {
            /// All there are, in their order.
            pub const ALL: &[OpKind] = &[$(OpKind::$kind),*];

            /// What it is called in figures.
            pub fn name(self) -> &'static str {
                match self {
                    $(OpKind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    Lookup = "lookup",
    Getattr = "getattr",
    Setattr = "setattr",
    Readlink = "readlink",
    Create = "create",
    Mknod = "mknod",
    Mkdir = "mkdir",
    Symlink = "symlink",
    Link = "link",
    Tmpfile = "tmpfile",
    Unlink = "unlink",
    Rmdir = "rmdir",
    Rename = "rename",
    Read = "read",
    Write = "write",
    Fsync = "fsync",
    Fallocate = "fallocate",
    Seek = "lseek",
    CopyRange = "copy_file_range",
    Readdir = "readdir",
    Getxattr = "getxattr",
    Setxattr = "setxattr",
    Listxattr = "listxattr",
    Removexattr = "removexattr",
}

impl OpKind {
    /// Whether it reads or changes what is there. What is only looked at may be looked at by whoever passes by.
    fn is_use(self) -> bool {
        use OpKind::{Getattr, Getxattr, Listxattr, Lookup, Readlink};
        !matches!(self, Lookup | Getattr | Getxattr | Listxattr | Readlink)
    }
}

const KINDS: usize = OpKind::ALL.len();
const ERRNOS: usize = Errno::ALL.len();

/// Where some of the threads count.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    took: [Histogram; KINDS],
    read: AtomicU64,
    written: AtomicU64,
}

/// The operations of a mount.
#[derive(Debug)]
pub(super) struct Operations {
    shards: Box<[Shard]>,
    /// By kind and errno.
    errors: Box<[[AtomicU64; ERRNOS]]>,
    threads: AtomicUsize,
    /// When the first began that was a use.
    first_used: OnceLock<Instant>,
}

/// What the operations of one kind have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindCounts {
    /// Which.
    pub kind: OpKind,
    /// How long they took in the file system.
    pub took: Tally,
    /// How many failed, and how.
    pub errors: Vec<(Errno, u64)>,
}

/// What the operations of a mount have come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Those that there were.
    pub kinds: Vec<KindCounts>,
    /// Bytes given to readers, beyond what the kernel had cached.
    pub bytes_read: u64,
    /// Bytes taken from writers.
    pub bytes_written: u64,
}

impl Default for Operations {
    fn default() -> Operations {
        Operations {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            errors: (0..KINDS).map(|_| [const { AtomicU64::new(0) }; ERRNOS]).collect(),
            threads: AtomicUsize::new(0),
            first_used: OnceLock::new(),
        }
    }
}

impl Operations {
    /// Counts one that has ended just now; how long it took.
    pub fn count(&self, kind: OpKind, begun: Instant, error: Option<Errno>) -> Duration {
        let took = begun.elapsed();
        if self.first_used.get().is_none() && kind.is_use() {
            // Of two at once, either is the first.
            let _ = self.first_used.set(begun);
        }
        self.shard().took[kind as usize].record(took);
        let of = |error| Errno::ALL.iter().position(|&one| one == error);
        if let Some(at) = error.and_then(of) {
            self.errors[kind as usize][at].fetch_add(1, Ordering::Relaxed);
        }
        took
    }

    /// When the first began that read or changed something.
    pub fn first_used(&self) -> Option<Instant> {
        self.first_used.get().copied()
    }

    pub fn read(&self, bytes: usize) {
        self.shard().read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn written(&self, bytes: u64) {
        self.shard().written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn counts(&self) -> OperationCounts {
        let sum = |of: fn(&Shard) -> &AtomicU64| self.shards.iter().map(|one| of(one).load(Ordering::Relaxed)).sum();
        let kind = |&kind: &OpKind| {
            let mut took = Tally::default();
            self.shards.iter().for_each(|shard| shard.took[kind as usize].add_to(&mut took));
            let errors = Errno::ALL.iter().zip(&self.errors[kind as usize]);
            let errors = errors.map(|(&error, count)| (error, count.load(Ordering::Relaxed)));
            KindCounts { kind, took, errors: errors.filter(|&(_, count)| count > 0).collect() }
        };
        OperationCounts {
            kinds: OpKind::ALL.iter().map(kind).filter(|of| of.took.count() > 0).collect(),
            bytes_read: sum(|shard| &shard.read),
            bytes_written: sum(|shard| &shard.written),
        }
    }

    fn shard(&self) -> &Shard {
        let mut at = SHARD.get();
        if at == usize::MAX {
            at = self.threads.fetch_add(1, Ordering::Relaxed) % SHARDS;
            SHARD.set(at);
        }
        &self.shards[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_threads_count_is_added_up() {
        let operations = Operations::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    let now = Instant::now();
                    operations.count(OpKind::Lookup, now, Some(Errno::NoEnt));
                    operations.count(OpKind::Write, now, None);
                    operations.written(7);
                });
            }
        });
        let all = 2 * SHARDS as u64;
        let counts = operations.counts();
        let seen: Vec<_> = counts.kinds.iter().map(|of| (of.kind, of.took.count(), &of.errors[..])).collect();
        assert_eq!(seen, [(OpKind::Lookup, all, &[(Errno::NoEnt, all)][..]), (OpKind::Write, all, &[][..])]);
        assert_eq!((counts.bytes_read, counts.bytes_written), (0, 7 * all));
    }

    #[test]
    fn kinds_stand_at_their_own_place() {
        assert!(OpKind::ALL.iter().enumerate().all(|(at, &kind)| kind as usize == at));
    }
}
