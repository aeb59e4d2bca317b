//! Where segments lie in the journal's file.

use std::ops::Range;

use crate::base::limits::{JOURNAL_FIRST_SEGMENT, JOURNAL_KEEP, JOURNAL_MAX, JOURNAL_SEGMENT};

/// The first append after a sync begins at a multiple of this, so that what was synced is never written again.
pub(super) const SYNC_UNIT: u64 = 4096;

/// The most segments a journal has.
pub(super) const SEGMENTS_MAX: usize = 1 + ((JOURNAL_MAX - JOURNAL_FIRST_SEGMENT) / JOURNAL_SEGMENT) as usize;

/// Those it keeps when it could do with fewer.
pub(super) const SEGMENTS_KEPT: usize = 1 + ((JOURNAL_KEEP - JOURNAL_FIRST_SEGMENT) / JOURNAL_SEGMENT) as usize;

/// The bytes of the file that a segment occupies.
pub(super) fn place(segment: usize) -> Range<u64> {
    match segment as u64 {
        0 => 0..JOURNAL_FIRST_SEGMENT,
        n => {
            let start = JOURNAL_FIRST_SEGMENT + (n - 1) * JOURNAL_SEGMENT;
            start..start + JOURNAL_SEGMENT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_each_other_up_to_the_limit() {
        for segment in 1..SEGMENTS_MAX {
            assert_eq!(place(segment - 1).end, place(segment).start);
        }
        assert!(place(SEGMENTS_MAX - 1).end <= JOURNAL_MAX);
        assert!(place(SEGMENTS_MAX).end > JOURNAL_MAX);
    }
}
