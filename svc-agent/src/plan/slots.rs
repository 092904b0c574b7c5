//! Which slots are free. Runs are contiguous; a freed run rests in quarantine until nobody can still be reading it.

use std::collections::{BTreeMap, BTreeSet};

use super::Generation;

/// The free extents of one SLOTS table, and those that wait to become free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    capacity: u32,
    free: u32,
    /// First slot → length. Neighbours are always joined.
    by_first: BTreeMap<u32, u32>,
    /// The same extents by length: the smallest that fits is taken, the lowest of these first.
    by_len: BTreeSet<(u32, u32)>,
    quarantine: BTreeMap<Generation, Vec<(u32, u32)>>,
}

impl Slots {
    pub fn new(capacity: u32) -> Self {
        let mut slots = Self {
            capacity,
            free: 0,
            by_first: BTreeMap::new(),
            by_len: BTreeSet::new(),
            quarantine: BTreeMap::new(),
        };
        slots.insert(0, capacity);
        slots
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Slots that can be allocated now.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// The longest run that can be allocated now.
    pub fn longest(&self) -> u32 {
        self.by_len.last().map_or(0, |&(len, _)| len)
    }

    /// Takes a run of `len` slots.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let &(extent, first) = self.by_len.range((len, 0)..).next()?;
        self.remove(first, extent);
        self.insert(first + len, extent - len);
        Some(first)
    }

    /// Takes exactly this run, as found in the map at start-up. `false`: a part of it is taken or out of range, and
    /// nothing changed.
    pub fn claim(&mut self, first: u32, len: u32) -> bool {
        let Some((&start, &extent)) = self.by_first.range(..=first).next_back() else {
            return false;
        };
        let (end, extent_end) = (
            u64::from(first) + u64::from(len),
            u64::from(start) + u64::from(extent),
        );
        if end > extent_end {
            return false;
        }
        self.remove(start, extent);
        self.insert(start, first - start);
        self.insert(first + len, start + extent - first - len);
        true
    }

    /// Gives back a run that was never shown to anybody.
    pub fn put_back(&mut self, first: u32, len: u32) {
        let (mut first, mut len) = (first, len);
        if let Some((&before, &extent)) = self.by_first.range(..first).next_back()
            && before + extent == first
        {
            self.remove(before, extent);
            (first, len) = (before, len + extent);
        }
        if let Some(&after) = self.by_first.get(&(first + len)) {
            self.remove(first + len, after);
            len += after;
        }
        self.insert(first, len);
    }

    /// Gives back a run that packets may still be reading: free once `generation` is released.
    pub fn retire(&mut self, first: u32, len: u32, generation: Generation) {
        self.quarantine
            .entry(generation)
            .or_default()
            .push((first, len));
    }

    /// Frees what was retired up to and including `upto`. Whether there was anything.
    pub fn release(&mut self, upto: Generation) -> bool {
        let later = self.quarantine.split_off(&Generation(upto.0 + 1));
        let released = std::mem::replace(&mut self.quarantine, later);
        for &(first, len) in released.values().flatten() {
            self.put_back(first, len);
        }
        !released.is_empty()
    }

    fn insert(&mut self, first: u32, len: u32) {
        if len > 0 {
            self.free += len;
            self.by_first.insert(first, len);
            self.by_len.insert((len, first));
        }
    }

    fn remove(&mut self, first: u32, len: u32) {
        self.free -= len;
        self.by_first.remove(&first);
        self.by_len.remove(&(len, first));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Generation = Generation(1);

    #[test]
    fn a_retired_run_is_not_given_out_before_its_release() {
        let mut slots = Slots::new(4);
        assert_eq!(slots.take(4), Some(0));
        slots.retire(0, 4, NOW);
        assert_eq!(slots.take(1), None);
        assert!(!slots.release(Generation(0)));
        assert_eq!(slots.take(1), None);
        assert!(slots.release(NOW));
        assert_eq!(slots.take(4), Some(0));
    }

    #[test]
    fn the_smallest_hole_that_fits_is_filled_first() {
        let mut slots = Slots::new(10);
        assert!(slots.claim(3, 1));
        assert!(slots.claim(6, 1));
        assert_eq!(slots.take(2), Some(4));
        assert_eq!(slots.take(3), Some(0));
        assert_eq!(slots.longest(), 3);
    }

    #[test]
    fn a_run_that_overlaps_or_leaves_the_table_is_not_claimed() {
        let mut slots = Slots::new(10);
        assert!(slots.claim(2, 3));
        assert!(!slots.claim(4, 2));
        assert!(!slots.claim(8, 3));
        assert!(!slots.claim(8, u32::MAX));
        assert_eq!(slots.free(), 7);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(steps in prop::collection::vec((any::<bool>(), 1u32..20), 1..200)) {
            let mut slots = Slots::new(256);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (take, n) in steps {
                if take {
                    if let Some(first) = slots.take(n) {
                        prop_assert!(held.iter().all(|&(f, l)| first + n <= f || f + l <= first));
                        prop_assert!(first + n <= 256);
                        held.push((first, n));
                    } else {
                        prop_assert!(slots.longest() < n);
                    }
                } else if !held.is_empty() {
                    let (first, len) = held.swap_remove(n as usize % held.len());
                    slots.put_back(first, len);
                }
                prop_assert_eq!(slots.free() + held.iter().map(|&(_, l)| l).sum::<u32>(), 256);
            }
            for (first, len) in held {
                slots.put_back(first, len);
            }
            prop_assert_eq!(slots, Slots::new(256));
        }
    }
}
