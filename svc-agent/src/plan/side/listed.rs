//! What a service port lists besides its frontends: endpoints (BACKENDS) and client ranges (RANGES).

use std::collections::{BTreeMap, BTreeSet};

use svc_common::family::{Addr, Family, Port};
use svc_common::table::{BackendKey, BackendState, Source, backend_state};

use super::Side;
use crate::config::Cidr;
use crate::desired;
use crate::plan::{Actual, FamilyChanges, Generation, Range};

/// The key under which RANGES has the cluster's pods.
const CLUSTER: u32 = 0;

/// The entry that is there as long as an endpoint of the service port serves.
pub(super) fn sentinel<F: Family>(service: u32) -> BackendKey<F> {
    BackendKey {
        service,
        addr: F::Addr::UNSPECIFIED,
        port: Port::new(0),
        _pad: 0,
    }
}

/// BACKENDS of one service port.
pub(super) fn backends<F: Family>(
    service: u32,
    port: &desired::Port,
) -> BTreeMap<BackendKey<F>, BackendState> {
    let entry = |(&(ip, number), listed): (&_, &desired::Listed)| {
        let key = BackendKey {
            service,
            addr: F::addr_from_std(ip)?,
            port: Port::new(number),
            _pad: 0,
        };
        let bit = |is: bool, bit| if is { bit } else { 0 };
        let state = BackendState {
            flags: bit(listed.serving, backend_state::SERVING)
                | bit(listed.in_cluster_set, backend_state::IN_CLUSTER_SET)
                | bit(listed.in_local_set, backend_state::IN_LOCAL_SET)
                | bit(listed.local, backend_state::LOCAL)
                | bit(listed.remote, backend_state::REMOTE),
            weight: listed.weight,
            ..BackendState::default()
        };
        Some((key, state))
    };
    let mut backends: BTreeMap<_, _> = port.listed.iter().filter_map(entry).collect();
    if backends
        .values()
        .any(|state| state.flags & backend_state::SERVING != 0)
    {
        let state = BackendState {
            flags: backend_state::SERVING,
            ..BackendState::default()
        };
        backends.insert(sentinel(service), state);
    }
    backends
}

/// The ranges of this family, as they are in RANGES.
pub(super) fn ranges<F: Family>(service: u32, ranges: &BTreeSet<Cidr>) -> BTreeSet<Range<F>> {
    let entry = |range: &Cidr| {
        let addr = F::addr_from_std(range.network())?;
        Some((Source { service, addr }, u32::from(range.length())))
    };
    ranges.iter().filter_map(entry).collect()
}

impl<F: Family> Actual<F> {
    fn backends_of(&self, service: u32) -> impl Iterator<Item = (&BackendKey<F>, &BackendState)> {
        self.backends
            .range(sentinel(service)..)
            .take_while(move |(key, _)| key.service == service)
    }

    fn ranges_of(&self, service: u32) -> impl Iterator<Item = &Range<F>> {
        let addr = F::Addr::UNSPECIFIED;
        self.ranges
            .range((Source { service, addr }, 0)..)
            .take_while(move |(source, _)| source.service == service)
    }
}

impl<F: Family> Side<F> {
    /// Makes these the only endpoints that `mine` list.
    pub(super) fn list_backends(
        &mut self,
        mine: &BTreeSet<u32>,
        wanted: &BTreeMap<BackendKey<F>, BackendState>,
        changes: &mut FamilyChanges<F>,
        generation: Generation,
    ) {
        let gone: Vec<(BackendKey<F>, BackendState)> = mine
            .iter()
            .flat_map(|&id| self.actual.backends_of(id))
            .filter(|(key, _)| !wanted.contains_key(key))
            .map(|(key, state)| (*key, *state))
            .collect();
        for (key, _) in gone {
            self.actual.backends.remove(&key);
            self.leaving.entry(generation).or_default().backends += 1;
            changes.backends_out.insert(key, None);
            changes.stale = true;
        }
        for (&key, &state) in wanted {
            let before = self.actual.backends.insert(key, state);
            let was = before.map_or(0, |before| before.flags);
            let other_weight = before.is_some_and(|before| before.weight != state.weight);
            if before.is_none() || state.flags & !was != 0 || other_weight {
                let flags = was | state.flags;
                if before.is_none() {
                    changes.backends_new.insert(key);
                }
                changes
                    .backends_in
                    .insert(key, BackendState { flags, ..state });
            }
            let lost = was & !state.flags;
            if lost != 0 {
                changes.backends_out.insert(key, Some(state));
                changes.stale |= lost & backend_state::SERVING != 0;
            }
        }
    }

    /// Makes these the only ranges that `mine` have.
    pub(super) fn list_ranges(
        &mut self,
        mine: &BTreeSet<u32>,
        wanted: &BTreeSet<Range<F>>,
        changes: &mut FamilyChanges<F>,
        generation: Generation,
    ) {
        let gone: Vec<Range<F>> = mine
            .iter()
            .flat_map(|&id| self.actual.ranges_of(id))
            .filter(|range| !wanted.contains(range))
            .copied()
            .collect();
        for range in gone {
            self.actual.ranges.remove(&range);
            self.leaving.entry(generation).or_default().ranges += 1;
            changes.ranges_out.insert(range);
        }
        for &range in wanted {
            if self.actual.ranges.insert(range) {
                changes.ranges_in.insert(range);
            }
        }
    }

    pub(in crate::plan) fn set_cluster_ranges(
        &mut self,
        wanted: &BTreeSet<Cidr>,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let mut changes = FamilyChanges::default();
        self.list_ranges(
            &BTreeSet::from([CLUSTER]),
            &ranges(CLUSTER, wanted),
            &mut changes,
            generation,
        );
        changes
    }

    /// The ids that list something here, the cluster's aside.
    pub(super) fn listing(&self) -> BTreeSet<u32> {
        let backends = self.actual.backends.keys().map(|key| key.service);
        let ranges = self.actual.ranges.iter().map(|(source, _)| source.service);
        backends.chain(ranges.filter(|id| *id != CLUSTER)).collect()
    }
}
