//! What the programs count by service port, as people are told it. Pure: `dataplane` reads the maps.

use std::collections::{BTreeMap, BTreeSet};

use svc_common::table::Traffic;

/// Of one service port, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub connections: u64,
    /// None: packets are not counted.
    pub traffic: Option<Traffic>,
}

/// By service id.
pub type Counts = BTreeMap<u32, Count>;

impl Count {
    /// This much more.
    fn add(&mut self, more: Self) {
        self.connections = self.connections.wrapping_add(more.connections);
        if let Some(more) = more.traffic {
            self.traffic.get_or_insert_default().add(&more);
        }
    }
}

/// Which service ports have series of their own: as many as there may be, those that were there first. One that has been
/// counted among the others stays there, and what was counted of one that is gone stays in their sum: a counter never
/// goes back.
#[derive(Clone, Debug, Default)]
pub struct Series {
    limit: usize,
    own: BTreeSet<u32>,
    /// The others, as they were last seen.
    others: Counts,
    /// Of those of the others that are gone.
    gone: Count,
}

impl Series {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Takes in what is counted now: the ids with series of their own, and the sum of the others, if there ever were any.
    pub fn split(&mut self, counts: &Counts) -> (Counts, Option<Count>) {
        self.own.retain(|id| counts.contains_key(id));
        for (id, last) in std::mem::take(&mut self.others) {
            match counts.get(&id) {
                Some(now) => drop(self.others.insert(id, *now)),
                None => self.gone.add(last),
            }
        }
        for (id, count) in counts {
            if self.own.contains(id) || self.others.contains_key(id) {
                continue;
            }
            if self.own.len() < self.limit {
                self.own.insert(*id);
            } else {
                self.others.insert(*id, *count);
            }
        }
        let own = counts.iter().filter(|(id, _)| self.own.contains(id));
        let own = own.map(|(id, count)| (*id, *count)).collect();
        let mut sum = self.gone;
        self.others.values().for_each(|count| sum.add(*count));
        let any = !self.others.is_empty() || self.gone != Count::default();
        (own, any.then_some(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(connections: &[(u32, u64)]) -> Counts {
        let count = |connections| Count {
            connections,
            traffic: Some(Traffic {
                packets_in: 10 * connections,
                ..Traffic::default()
            }),
        };
        let all = connections.iter().map(|(id, n)| (*id, count(*n)));
        all.collect()
    }

    #[test]
    fn the_first_have_series_of_their_own_and_the_rest_one_sum() {
        let mut series = Series::new(2);
        let (own, other) = series.split(&counts(&[(1, 5), (2, 6)]));
        assert_eq!((own, other), (counts(&[(1, 5), (2, 6)]), None));
        let (own, other) = series.split(&counts(&[(1, 5), (2, 6), (3, 7), (4, 1)]));
        assert_eq!(own, counts(&[(1, 5), (2, 6)]));
        assert_eq!(other, Some(counts(&[(0, 8)])[&0]));
    }

    #[test]
    fn the_sum_of_the_others_never_goes_back() {
        let mut series = Series::new(1);
        series.split(&counts(&[(1, 5), (2, 6), (3, 7)]));
        // 1 and 2 go: 4 has room for its own series, 3 stays where it was counted.
        let (own, other) = series.split(&counts(&[(3, 8), (4, 9)]));
        assert_eq!(own, counts(&[(4, 9)]));
        assert_eq!(other, Some(counts(&[(0, 14)])[&0]));
        let (own, other) = series.split(&counts(&[]));
        assert_eq!((own.len(), other), (0, Some(counts(&[(0, 14)])[&0])));
    }

    #[test]
    fn without_room_all_are_others() {
        let (own, other) = Series::new(0).split(&counts(&[(7, 2)]));
        assert_eq!((own.len(), other), (0, Some(counts(&[(0, 2)])[&0])));
    }
}
