//! Memory that a start or a great change took, and that is free again, goes back to the kernel. glibc keeps it: a start
//! leaves tens of MiB behind in which nothing lives.

use std::time::{Duration, Instant};

/// Map entries that are written in a row before it is worth the while.
const MUCH: usize = 1_000;
/// It takes milliseconds, so it is done when nobody has written for so long.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Rest {
    written: usize,
    due: Option<Instant>,
}

impl Rest {
    /// The programs were loaded just now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            written: 0,
            due: Some(now + QUIET),
        }
    }

    /// When to call [`Self::is_due`] next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn wrote(&mut self, entries: usize, now: Instant) {
        self.written = self.written.saturating_add(entries);
        if self.due.is_some() || self.written >= MUCH {
            self.due = Some(now + QUIET);
        }
    }

    /// All Services were taken in, whatever of them was in the maps already.
    pub(super) fn synced(&mut self, now: Instant) {
        self.wrote(usize::MAX, now);
    }

    /// How many entries were written, if memory is to be given back now; says so once.
    pub(super) fn is_due(&mut self, now: Instant) -> Option<usize> {
        self.due.take_if(|due| *due <= now)?;
        Some(std::mem::take(&mut self.written))
    }
}

/// Gives free memory back to the kernel, where the C library would keep it.
pub(super) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_the_start_when_writing_is_over() {
        let start = Instant::now();
        let mut rest = Rest::new(start);
        let later = start + QUIET / 2;
        rest.wrote(MUCH * 10, later);
        assert!(
            rest.is_due(start + QUIET).is_none(),
            "it was written to meanwhile"
        );
        assert_eq!(rest.due(), Some(later + QUIET));
        assert_eq!(rest.is_due(later + QUIET), Some(MUCH * 10));
        assert!(rest.is_due(later + QUIET).is_none() && rest.due().is_none());
    }

    #[test]
    fn a_start_is_a_great_change_even_if_nothing_was_to_be_written() {
        let start = Instant::now();
        let mut rest = Rest::new(start);
        assert_eq!(rest.is_due(start + QUIET), Some(0));
        let later = start + QUIET * 2;
        rest.synced(later);
        rest.wrote(1, later);
        assert_eq!(rest.is_due(later + QUIET), Some(usize::MAX));
    }

    #[test]
    fn small_changes_count_together() {
        let start = Instant::now();
        let mut rest = Rest::new(start);
        assert_eq!(rest.is_due(start + QUIET), Some(0));
        rest.wrote(MUCH - 1, start);
        assert_eq!(rest.due(), None);
        rest.wrote(1, start);
        assert_eq!(rest.due(), Some(start + QUIET));
    }
}
