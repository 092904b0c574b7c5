//! Memory that a start or a great change took, and that is free again, goes back to the kernel. glibc keeps it: a start
//! leaves tens of MiB behind in which nothing lives.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::dataplane;

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

/// Gives free memory back to the kernel, where the C library would keep it, and what of the program's file nobody reads.
pub(super) fn give_memory_back() {
    if let Err(error) = let_go_of_program() {
        tracing::debug!("the program's file stays in memory: {error}");
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Most of the code is for starts and for other verbs, and is here because the kernel brings in what lies around; the
/// eBPF object is loaded. What is used all the same comes back from the page cache within microseconds.
fn let_go_of_program() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let codes = maps.lines().filter_map(|line| code(line, &program));
    for (start, end) in codes.chain(pages(dataplane::OBJECT)) {
        // SAFETY: constants or code in a private mapping of a file, which nobody can write to, so the pages are those of
        // the file, from which they are read again.
        let done = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(start),
                end - start,
                libc::MADV_DONTNEED,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The whole pages that bytes take, whatever size pages have here.
fn pages(bytes: &[u8]) -> Option<(usize, usize)> {
    const LARGEST: usize = 1 << 16;
    let range = bytes.as_ptr_range();
    let start = range.start.addr().next_multiple_of(LARGEST);
    let end = range.end.addr() / LARGEST * LARGEST;
    (start < end).then_some((start, end))
}

/// From where to where code of the program is mapped, by a line of `/proc/self/maps`.
fn code(line: &str, program: &Path) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let (rights, rest) = rest.split_once(' ')?;
    // Offset, device, inode, path.
    let path = rest.splitn(4, ' ').nth(3)?.trim_start();
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (rights == "r-xp" && Path::new(path) == program).then_some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_mapped_of_the_program_to_be_run_and_not_written() {
        let program = Path::new("/usr/bin/svc-agent");
        let line = |rights: &str, path: &str| {
            format!("55d0-7000 {rights} 00001000 fe:01 1234                       {path}")
        };
        let code = |rights, path| code(&line(rights, path), program);
        assert_eq!(code("r-xp", "/usr/bin/svc-agent"), Some((0x55d0, 0x7000)));
        assert_eq!(code("r--p", "/usr/bin/svc-agent"), None);
        assert_eq!(code("rwxp", "/usr/bin/svc-agent"), None);
        assert_eq!(code("r-xp", "/usr/lib/libc.so.6"), None);
    }

    #[test]
    fn a_program_goes_on_without_its_code_in_memory_and_its_constants_are_what_they_were() {
        let sum = || dataplane::OBJECT.iter().map(|b| u64::from(*b)).sum::<u64>();
        let before = sum();
        let_go_of_program().unwrap();
        assert_eq!(sum(), before);
    }

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
