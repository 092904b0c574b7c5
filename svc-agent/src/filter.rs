//! What the filter in front of ADDRESSES ([`svc_common::filter`]) holds, and for whom: a bit goes with the last address
//! that it stands for. Pure; the writes are told.

use std::collections::BTreeSet;

use svc_common::family::Addr;
use svc_common::filter::{Bit, Line};

/// The addresses, by the bit that stands for each.
#[derive(Clone, Debug)]
pub struct Filter<A: Addr> {
    addrs: BTreeSet<(Bit, A)>,
}

/// A line to be written: its index and its content.
pub type Entry = (u32, Line);

impl<A: Addr> Filter<A> {
    /// Before the address goes into ADDRESSES. None: its bit is set already.
    pub fn insert(&mut self, addr: A) -> Option<Entry> {
        let bit = Bit::of(&addr);
        let was_set = self.is_set(bit);
        self.addrs.insert((bit, addr));
        (!was_set).then(|| self.entry(bit.line()))
    }

    /// After the address has left ADDRESSES. None: others have the same bit, or it was not here.
    pub fn remove(&mut self, addr: A) -> Option<Entry> {
        let bit = Bit::of(&addr);
        let was_here = self.addrs.remove(&(bit, addr));
        (was_here && !self.is_set(bit)).then(|| self.entry(bit.line()))
    }

    /// What a line should be.
    pub fn line(&self, index: u32) -> Line {
        let (first, end) = (Bit::first_of(index), Bit::first_of(index + 1));
        let mut line = Line::default();
        for (bit, _) in self
            .addrs
            .range((first, A::UNSPECIFIED)..(end, A::UNSPECIFIED))
        {
            bit.set_in(&mut line);
        }
        line
    }

    fn entry(&self, index: u32) -> Entry {
        (index, self.line(index))
    }

    fn is_set(&self, bit: Bit) -> bool {
        self.addrs
            .range((bit, A::UNSPECIFIED)..)
            .next()
            .is_some_and(|(first, _)| *first == bit)
    }
}

impl<A: Addr> Default for Filter<A> {
    fn default() -> Self {
        Self {
            addrs: BTreeSet::new(),
        }
    }
}

impl<A: Addr> FromIterator<A> for Filter<A> {
    fn from_iter<I: IntoIterator<Item = A>>(addrs: I) -> Self {
        let addrs = addrs.into_iter().map(|addr| (Bit::of(&addr), addr));
        Self {
            addrs: addrs.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use svc_common::family::{Family, Ip, V4, V6};

    use super::*;

    /// Addresses of which several share a bit, as few do in truth.
    fn addrs<F: Family>() -> Vec<F::Addr> {
        let mut by_bit: BTreeMap<Bit, Vec<F::Addr>> = BTreeMap::new();
        for i in 0..40_000_u32 {
            let ip = if F::VERSION == 4 {
                std::net::Ipv4Addr::from(0x0a00_0000 + i * 77).into()
            } else {
                std::net::Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(i) * 77).into()
            };
            let addr = F::addr_from_std(ip).expect("of the family");
            by_bit.entry(Bit::of(&addr)).or_default().push(addr);
        }
        let shared = by_bit.into_values().filter(|addrs| addrs.len() > 1);
        let addrs: Vec<F::Addr> = shared.flatten().take(12).collect();
        assert_eq!(addrs.len(), 12, "40,000 of a million bits: about 760 pairs");
        addrs
    }

    static ADDRS_V4: LazyLock<Vec<Ip<2>>> = LazyLock::new(addrs::<V4>);
    static ADDRS_V6: LazyLock<Vec<Ip<8>>> = LazyLock::new(addrs::<V6>);

    /// The map as it is after each write, with ADDRESSES beside it.
    fn keeps<F: Family>(addrs: &[F::Addr], steps: &[(bool, usize, bool)]) {
        let (mut filter, mut table) = (Filter::<F::Addr>::default(), BTreeSet::new());
        let mut lines = BTreeMap::new();
        let check = |lines: &BTreeMap<u32, Line>, table: &BTreeSet<F::Addr>| {
            for addr in table {
                let bit = Bit::of(addr);
                let line = lines.get(&bit.line());
                let is_set = line.is_some_and(|line| bit.is_set_in(line));
                assert!(is_set, "{addr:?} would be nobody's");
            }
        };
        for &(add, i, restart) in steps {
            if add {
                lines.extend(filter.insert(addrs[i]));
                table.insert(addrs[i]);
                check(&lines, &table);
            } else {
                table.remove(&addrs[i]);
                lines.extend(filter.remove(addrs[i]));
                check(&lines, &table);
            }
            if restart {
                filter = table.iter().copied().collect();
            }
            for (&index, line) in &lines {
                assert_eq!(*line, filter.line(index));
            }
        }
        for addr in table {
            lines.extend(filter.remove(addr));
        }
        assert!(lines.values().all(|line| *line == Line::default()));
    }

    proptest! {
        #[test]
        fn an_address_in_the_table_is_never_without_its_bit(
            steps in prop::collection::vec((any::<bool>(), 0_usize..12, prop::bool::weighted(0.1)), 0..60),
        ) {
            keeps::<V4>(&ADDRS_V4, &steps);
            keeps::<V6>(&ADDRS_V6, &steps);
        }
    }

    #[test]
    fn the_lines_of_all_addresses_are_those_of_one_after_the_other() {
        let addrs: Vec<Ip<2>> = addrs::<V4>();
        let mut one_by_one = Filter::default();
        let lines: BTreeMap<u32, Line> = addrs
            .iter()
            .filter_map(|addr| one_by_one.insert(*addr))
            .collect();
        let together: Filter<Ip<2>> = addrs.into_iter().collect();
        assert!(
            lines
                .iter()
                .all(|(index, line)| together.line(*index) == *line)
        );
    }
}
