//! Maps without room for more. A B-tree that grew one by one, in the order of its keys, is half empty.

use std::collections::{BTreeMap, BTreeSet};

/// Makes a map again, as tightly as it goes.
pub fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

/// Makes a set again, as tightly as it goes.
pub fn pack_set<T: Ord>(set: &mut BTreeSet<T>) {
    *set = std::mem::take(set).into_iter().collect();
}
