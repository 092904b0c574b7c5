//! When to list anew although a watch could go on. One whose API server has come back with an etcd that was restored from a
//! backup is taken up at a resource version that is still to come there: it is silent until then, and nothing says so.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Errors of a row are no further apart: the wait before a try, the try, and the next wait.
const ROW: Duration = Duration::from_secs(15);
/// Nobody restores an etcd faster than this.
const SHORT: Duration = Duration::from_secs(3);
/// Without another error for so long, it is over.
const OVER: Duration = Duration::from_secs(11);
/// All nodes have seen the same outage, and are not to list at once: so much of time for each object, at most.
const SPREAD: Duration = Duration::from_millis(3);

/// What is known of one watch.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// The first error of a row, and the last.
    row: Option<(Instant, Instant)>,
    /// Of the last list; None while there is none, or another one is under way.
    objects: Option<u32>,
    relist: Option<Instant>,
}

impl Outage {
    /// Whatever happened before, a list is under way.
    pub(super) fn lists(&mut self) {
        self.objects = None;
        self.relist = None;
    }

    pub(super) fn listed(&mut self, objects: usize) {
        *self = Self {
            objects: Some(u32::try_from(objects).unwrap_or(u32::MAX)),
            ..Self::default()
        };
    }

    pub(super) fn failed(&mut self, now: Instant) {
        let first = match self.row {
            Some((first, last)) if now - last < ROW => first,
            _ => now,
        };
        self.row = Some((first, now));
        if let Some(objects) = self.objects
            && (now - first >= SHORT || self.relist.is_some())
        {
            self.relist = Some(now + OVER + (SPREAD * objects).mul_f64(part()));
        }
    }

    /// When to list anew.
    pub(super) fn relist(&self) -> Option<Instant> {
        self.relist
    }
}

/// Somewhere between 0 and 1.
fn part() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, errors: &[u64]) -> Outage {
        let mut outage = Outage::default();
        outage.listed(1000);
        for seconds in errors {
            outage.failed(start + Duration::from_secs(*seconds));
        }
        outage
    }

    #[test]
    fn an_api_server_that_was_away_is_listed_anew_once_it_is_back() {
        let start = Instant::now();
        let relist = after(start, &[0, 1, 2, 4, 9, 14])
            .relist()
            .expect("listed anew");
        let last = start + Duration::from_secs(14);
        assert!(relist >= last + OVER && relist <= last + OVER + SPREAD * 1000);
    }

    #[test]
    fn a_watch_that_is_cut_now_and_then_is_not() {
        let start = Instant::now();
        assert_eq!(after(start, &[0, 1, 2]).relist(), None);
        assert_eq!(after(start, &[0, 60, 120, 180]).relist(), None);
    }

    #[test]
    fn a_list_that_comes_first_is_enough() {
        let start = Instant::now();
        let mut outage = after(start, &[0, 5]);
        assert!(outage.relist().is_some());
        outage.lists();
        assert_eq!(outage.relist(), None);
        outage.failed(start + Duration::from_secs(9));
        assert_eq!(outage.relist(), None, "what is not listed yet");
    }
}
