//! Backends → slots, by Maglev hashing (Eisenbud et al., NSDI 2016, §3.4): every backend gets an almost equal part of the
//! table, and when one comes or goes few other slots move. Pure, and the same on every node and after every restart.

use std::net::IpAddr;

/// Table sizes, all prime: a backend's walk through a table of prime size visits every slot.
const SIZES: [usize; 5] = [251, 1021, 4093, 16381, 65521];

/// Slots per backend that keep the shares within a few percent of each other.
const SLOTS_PER_BACKEND: usize = 20;

/// How large a table for so many backends is. More backends than the largest table holds get a slot each.
pub fn size(backends: usize) -> usize {
    match backends {
        0 | 1 => backends,
        n => {
            let wanted = n.saturating_mul(SLOTS_PER_BACKEND);
            let largest = SIZES[SIZES.len() - 1];
            SIZES
                .into_iter()
                .find(|&size| size >= wanted)
                .unwrap_or(largest)
                .max(n)
        }
    }
}

/// How large a table for backends of these weights is: room for the smallest share too, within reason.
pub fn size_for(weights: &[u16]) -> usize {
    let total: usize = weights.iter().copied().map(usize::from).sum();
    match (weights.len(), weights.iter().min()) {
        (n @ 2.., Some(&least)) => size((total / usize::from(least.max(1))).clamp(n, 8 * n)),
        (n, _) => size(n),
    }
}

/// What a backend is known by in the table: its address and port, not its place in a list.
pub fn key(ip: IpAddr, port: u16) -> [u8; 18] {
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut key = [0; 18];
    key[..16].copy_from_slice(&ip.octets());
    key[16..].copy_from_slice(&port.to_be_bytes());
    key
}

/// Fills a table of `size` slots with indices into `keys`, which are distinct. Does not depend on their order. A backend
/// gets a turn as often as its weight is part of the greatest one.
pub fn table<K: AsRef<[u8]> + Ord>(keys: &[K], weights: &[u16], size: usize) -> Vec<usize> {
    if keys.is_empty() {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|&a, &b| keys[a].cmp(&keys[b]));
    if size <= keys.len() {
        order.truncate(size);
        return order;
    }
    let mut walks: Vec<Walk> = order
        .iter()
        .map(|&i| Walk::new(keys[i].as_ref(), size))
        .collect();
    let greatest = u64::from(weights.iter().copied().max().unwrap_or(1).max(1));
    let mut turns = vec![0; keys.len()];
    let mut slots = vec![usize::MAX; size];
    let mut filled = 0;
    for round in 1_u64.. {
        for (walk, &backend) in walks.iter_mut().zip(&order) {
            // After `round` rounds it has had `round · weight / greatest` turns, and one in the first.
            if round * u64::from(weights[backend]) < turns[backend] {
                continue;
            }
            turns[backend] += greatest;
            let slot = walk.next_free(&slots);
            slots[slot] = backend;
            filled += 1;
            if filled == size {
                return slots;
            }
        }
    }
    slots
}

/// A backend's preference list: `offset, offset + skip, offset + 2·skip, …` modulo the size.
struct Walk {
    at: usize,
    skip: usize,
}

impl Walk {
    fn new(key: &[u8], size: usize) -> Self {
        Self {
            at: modulo(hash(key, 0), size),
            skip: modulo(hash(key, 1), size - 1) + 1,
        }
    }

    fn next_free(&mut self, slots: &[usize]) -> usize {
        loop {
            let slot = self.at;
            self.at = (self.at + self.skip) % slots.len();
            if slots[slot] == usize::MAX {
                return slot;
            }
        }
    }
}

fn modulo(hash: u64, size: usize) -> usize {
    (hash % size as u64) as usize
}

/// FNV-1a, then the finalizer of MurmurHash3, which spreads what FNV leaves in the low bits. Must never change: the tables
/// of all nodes and versions have to agree.
fn hash(key: &[u8], seed: u64) -> u64 {
    let seeded = seed.to_be_bytes();
    let fnv = seeded
        .iter()
        .chain(key)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn keys(n: usize, base: u32) -> Vec<[u8; 18]> {
        (0..n)
            .map(|i| key(IpAddr::V4((0x0af4_0000 + base + i as u32).into()), 8080))
            .collect()
    }

    /// The table with keys in the place of indices.
    fn by_key(keys: &[[u8; 18]], size: usize) -> Vec<[u8; 18]> {
        table(keys, &vec![1; keys.len()], size)
            .into_iter()
            .map(|i| keys[i])
            .collect()
    }

    #[test]
    fn sizes_follow_the_ladder() {
        let sizes = [0, 1, 2, 12, 13, 51, 52, 3276, 3277, 70_000].map(size);
        assert_eq!(
            sizes,
            [0, 1, 251, 251, 1021, 1021, 4093, 65521, 65521, 70_000]
        );
    }

    #[test]
    fn the_table_of_three_known_backends_stays_what_it_is() {
        assert_eq!(
            table(&keys(3, 0), &[1; 3], 251)[..12],
            [2, 2, 2, 2, 0, 0, 0, 0, 1, 0, 1, 0]
        );
    }

    #[test]
    fn shares_follow_the_weights() {
        let weights = [1, 2, 5, 100];
        let table = table(&keys(4, 0), &weights, size_for(&weights));
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for (i, weight) in weights.into_iter().enumerate() {
            let share = table.iter().filter(|b| **b == i).count() as f64 / table.len() as f64;
            let wanted = f64::from(weight) / total;
            assert!(
                (share - wanted).abs() < 0.005,
                "{share} instead of {wanted}"
            );
        }
    }

    #[test]
    fn even_the_smallest_weight_has_a_slot() {
        let weights = [1000, 1];
        assert!(table(&keys(2, 0), &weights, size_for(&weights)).contains(&1));
    }

    #[test]
    fn equal_weights_are_as_none() {
        assert_eq!(size_for(&[7; 13]), size(13));
        let keys = keys(13, 0);
        assert_eq!(table(&keys, &[7; 13], 1021), table(&keys, &[1; 13], 1021));
    }

    #[test]
    fn as_many_backends_as_slots_get_one_each() {
        let keys = keys(300, 0);
        let mut table = table(&keys, &[1; 300], 300);
        table.sort_unstable();
        assert_eq!(table, (0..300).collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn shares_differ_by_no_more_than_one_slot(n in 1usize..200, base in any::<u16>()) {
            let table = table(&keys(n, base.into()), &vec![7; n], size(n));
            prop_assert_eq!(table.len(), size(n));
            let mut shares = BTreeMap::new();
            for backend in table {
                *shares.entry(backend).or_insert(0) += 1;
            }
            prop_assert_eq!(shares.len(), n, "every backend is there");
            let (min, max) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            prop_assert!(max - min <= 1, "shares from {} to {}", min, max);
        }

        #[test]
        fn the_order_of_the_backends_does_not_matter(n in 1usize..50, base in any::<u16>(), turn in any::<prop::sample::Index>()) {
            let keys = keys(n, base.into());
            let mut turned = keys.clone();
            turned.rotate_left(turn.index(n));
            turned.reverse();
            prop_assert_eq!(by_key(&keys, size(n)), by_key(&turned, size(n)));
        }

        #[test]
        fn removing_a_backend_moves_few_slots_of_the_others(n in 3usize..50, base in any::<u16>(), gone in any::<prop::sample::Index>()) {
            let before = keys(n, base.into());
            let mut after = before.clone();
            let gone = after.remove(gone.index(n));
            let size = size(n);
            let pairs = by_key(&before, size).into_iter().zip(by_key(&after, size));
            let moved = pairs.filter(|(b, a)| *b != gone && b != a).count();
            prop_assert!(moved * 4 <= size, "{} of {} slots moved", moved, size);
        }
    }
}
