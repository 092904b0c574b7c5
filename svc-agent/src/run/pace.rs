//! When a failed write is repeated, and when what a batch gave up may be used again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{COALESCE, RETRY};
use crate::plan::Generation;

/// No packet still reads a run of slots that was given up so long ago: a program runs for microseconds.
const GRACE: Duration = Duration::from_millis(100);
/// How much later it is asked for by itself: where changes follow each other, the next one finds it on its way.
const LEISURE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Pace {
    leaving: VecDeque<(Instant, Generation)>,
    retry: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    /// When there is something to do by itself.
    pub(super) fn due(&self) -> Option<Instant> {
        let free = self.leaving.front().map(|(when, _)| *when + LEISURE);
        self.retry.or(free)
    }

    /// Whether a write has failed, and was not made up for yet.
    pub(super) fn has_failed(&self) -> bool {
        self.retry.is_some()
    }

    /// Whether it is too early to make up for it.
    pub(super) fn must_wait(&self, now: Instant) -> bool {
        self.retry.is_some_and(|when| when > now)
    }

    /// A write has failed: what was given up is found out again with all the rest.
    pub(super) fn failed(&mut self, now: Instant) {
        self.leaving.clear();
        self.retry = Some(now + RETRY);
    }

    /// The maps were read anew.
    pub(super) fn recovered(&mut self) {
        self.retry = None;
    }

    /// Until when more is to be waited for, before what has come is planned: a change that comes alone is not kept.
    pub(super) fn storm_until(&self, now: Instant) -> Instant {
        match self.last {
            Some(last) if now.duration_since(last) < COALESCE => now + COALESCE,
            Some(_) | None => now,
        }
    }

    /// A batch was written.
    pub(super) fn wrote(&mut self, batch: Generation, now: Instant) {
        self.last = Some(now);
        self.leaving.push_back((now + GRACE, batch));
    }

    /// A batch whose grace is over, each once.
    pub(super) fn next_free(&mut self, now: Instant) -> Option<Generation> {
        let (_, batch) = self.leaving.pop_front_if(|(when, _)| *when <= now)?;
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Capacities, Planner};

    #[test]
    fn a_batch_is_free_after_its_grace_and_once() {
        let mut planner = Planner::empty(Capacities::default());
        let (mut pace, now) = (Pace::default(), Instant::now());
        let batch = planner.close_generation();
        pace.wrote(batch, now);
        assert_eq!(pace.due(), Some(now + GRACE + LEISURE));
        assert_eq!(pace.next_free(now), None);
        assert_eq!(pace.next_free(now + GRACE), Some(batch));
        assert_eq!((pace.next_free(now + GRACE), pace.due()), (None, None));
    }

    #[test]
    fn a_change_that_comes_alone_goes_at_once_and_a_storm_is_gathered() {
        let mut planner = Planner::empty(Capacities::default());
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.storm_until(now), now);
        pace.wrote(planner.close_generation(), now);
        let soon = now + COALESCE / 2;
        assert_eq!(pace.storm_until(soon), soon + COALESCE);
        assert_eq!(pace.storm_until(now + COALESCE), now + COALESCE);
    }

    #[test]
    fn while_a_failed_write_waits_nothing_else_is_due() {
        let mut planner = Planner::empty(Capacities::default());
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.wrote(planner.close_generation(), now);
        pace.failed(now);
        let later = now + GRACE * 2;
        assert!(pace.has_failed() && pace.must_wait(later));
        assert!(
            pace.due().is_some_and(|when| when > later),
            "or the agent would turn round and round until then"
        );
        assert!(!pace.must_wait(now + RETRY));
        pace.recovered();
        assert!(!pace.has_failed() && pace.due().is_none());
    }
}
