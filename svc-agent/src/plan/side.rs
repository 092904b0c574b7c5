//! The planner of one family: a draft is made of what a Service needs, and either taken back or committed.

mod addresses;
mod draft;
mod listed;

use std::collections::{BTreeMap, BTreeSet};

use svc_common::family::{Addr, Family, Port};
use svc_common::table::{Backend, Frontend, FrontendKey};

use super::slots::Slots;
use super::{Actual, Capacities, FamilyChanges, Generation};
use crate::packed::{pack, pack_set};
use draft::Draft;

/// One family's maps as they will be once every planned change is applied, with what is needed to plan the next one.
#[derive(Clone, Debug)]
pub(super) struct Side<F: Family> {
    pub(super) actual: Actual<F>,
    slots: Slots,
    /// First slot of a run → how many frontends point at it.
    users: BTreeMap<u32, u32>,
    /// Runs that a damaged frontend overlapped at start-up: their slots are not used again before the next start.
    pinned: BTreeSet<u32>,
    /// By service id, those of one side by side: a set for each would make room for eleven.
    by_service: BTreeSet<(u32, FrontendKey<F>)>,
    /// What each frontend asks of its address: bits of `address_flags`.
    flags: BTreeMap<FrontendKey<F>, u32>,
    /// How many frontends ask for each of the three bits.
    holders: BTreeMap<F::Addr, [u32; 3]>,
    /// This node's own; None until the planner was told.
    nodes: Option<BTreeSet<F::Addr>>,
    /// Other nodes; None until the planner was told.
    peers: Option<BTreeSet<F::Addr>>,
    capacities: Capacities,
    /// Entries removed per generation: they may still take room while a batch is being written.
    leaving: BTreeMap<Generation, Leaving>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leaving {
    frontends: usize,
    addresses: usize,
    backends: usize,
    ranges: usize,
}

/// Frontends with what each asks of its address.
type Frontends<F> = BTreeMap<FrontendKey<F>, (Frontend, u32)>;

impl<F: Family> Side<F> {
    pub(super) fn restore(mut actual: Actual<F>, capacities: Capacities) -> Self {
        let mut slots = Slots::new(capacities.slots);
        for state in actual.backends.values_mut() {
            state.connections = 0;
        }
        actual.slots.retain(|&first, run| {
            u32::try_from(run.len()).is_ok_and(|len| slots.claim(first, len))
        });
        let mut side = Self {
            actual: Actual::default(),
            slots,
            users: BTreeMap::new(),
            pinned: BTreeSet::new(),
            by_service: BTreeSet::new(),
            flags: BTreeMap::new(),
            holders: BTreeMap::new(),
            nodes: None,
            peers: None,
            capacities,
            leaving: BTreeMap::new(),
        };
        for (key, frontend) in &actual.frontends {
            side.by_service.insert((frontend.service, *key));
            // The kind is not in the map: hold whatever the address is now until the Service is planned.
            side.hold(*key, actual.addresses.get(&key.addr).copied().unwrap_or(0));
            if actual.run(frontend).is_some() {
                *side.users.entry(frontend.first).or_default() += 1;
            } else if frontend.count > 0 {
                side.pin(frontend, &actual);
            }
        }
        for (&first, run) in &actual.slots {
            if !side.users.contains_key(&first) && !side.pinned.contains(&first) {
                side.slots.put_back(first, len(run));
            }
        }
        actual
            .slots
            .retain(|first, _| side.users.contains_key(first));
        side.actual = actual;
        side
    }

    /// Keeps the slots of a damaged frontend from being used for anything else. One that leaves the table is not worth
    /// it: nothing true can be behind it.
    fn pin(&mut self, frontend: &Frontend, actual: &Actual<F>) {
        let Some(end) = frontend.first.checked_add(frontend.count) else {
            return;
        };
        if end > self.capacities.slots {
            return;
        }
        for slot in frontend.first..end {
            self.slots.claim(slot, 1);
        }
        for (&first, run) in actual.slots.range(..end) {
            if first + len(run) > frontend.first {
                self.pinned.insert(first);
            }
        }
    }

    /// Makes the draft the only thing that `mine` has, and says what to write for it.
    pub(super) fn commit(
        &mut self,
        mine: &BTreeSet<u32>,
        draft: Draft<F>,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let mut changes = FamilyChanges {
            slots_in: draft.runs,
            ..FamilyChanges::default()
        };
        self.actual.slots.extend(
            changes
                .slots_in
                .iter()
                .map(|(&first, run)| (first, run.clone())),
        );
        let had: BTreeSet<FrontendKey<F>> = mine
            .iter()
            .flat_map(|&id| self.frontends_of(id))
            .copied()
            .collect();
        let addrs: BTreeSet<F::Addr> = had
            .iter()
            .chain(draft.frontends.keys())
            .map(|key| key.addr)
            .collect();
        let mut olds = Vec::new();
        for (key, (value, flags)) in &draft.frontends {
            self.hold(*key, *flags);
            if self.actual.frontends.get(key) == Some(value) {
                continue;
            }
            if value.count > 0 {
                *self.users.entry(value.first).or_default() += 1;
            }
            olds.extend(
                self.actual
                    .frontends
                    .insert(*key, *value)
                    .map(|old| (*key, old)),
            );
            changes.frontends_in.insert(*key, *value);
        }
        for key in had.iter().filter(|key| !draft.frontends.contains_key(key)) {
            olds.extend(self.actual.frontends.remove(key).map(|old| (*key, old)));
            self.hold(*key, 0);
            self.flags.remove(key);
            self.leaving.entry(generation).or_default().frontends += 1;
            changes.frontends_out.insert(*key);
        }
        // Only now: a run may have changed hands between two frontends of the Service.
        for (key, old) in olds {
            self.unuse(&old, generation);
            self.by_service.remove(&(old.service, key));
        }
        for (key, (value, _)) in &draft.frontends {
            self.by_service.insert((value.service, *key));
        }
        self.settle(addrs, &mut changes, generation);
        self.list_backends(mine, &draft.backends, &mut changes, generation);
        self.list_ranges(mine, &draft.ranges, &mut changes, generation);
        changes
    }

    /// Takes away one user of a frontend's run, and retires the run with the last one.
    fn unuse(&mut self, frontend: &Frontend, generation: Generation) {
        if self.actual.run(frontend).is_none() {
            return;
        }
        let Some(users) = self.users.get_mut(&frontend.first) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            self.users.remove(&frontend.first);
            self.actual.slots.remove(&frontend.first);
            if !self.pinned.contains(&frontend.first) {
                self.slots
                    .retire(frontend.first, frontend.count, generation);
            }
        }
    }

    fn frontends_of(&self, service: u32) -> impl Iterator<Item = &FrontendKey<F>> {
        let first = FrontendKey {
            addr: F::Addr::UNSPECIFIED,
            port: Port::new(0),
            proto: 0,
            scope: 0,
        };
        self.by_service
            .range((service, first)..)
            .take_while(move |(id, _)| *id == service)
            .map(|(_, key)| key)
    }

    /// Takes as little memory as it can.
    pub(super) fn pack(&mut self) {
        pack(&mut self.actual.frontends);
        pack(&mut self.actual.addresses);
        pack(&mut self.actual.slots);
        pack(&mut self.actual.backends);
        pack_set(&mut self.actual.ranges);
        pack(&mut self.users);
        pack_set(&mut self.by_service);
        pack(&mut self.flags);
        pack(&mut self.holders);
    }

    /// Removes what was found in the maps and is nobody's: frontends of ids without a Service, addresses without use.
    pub(super) fn sweep(
        &mut self,
        owned: impl Fn(u32) -> bool,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let orphans: BTreeSet<u32> = self
            .by_service
            .iter()
            .map(|(id, _)| *id)
            .chain(self.listing())
            .filter(|&id| !owned(id))
            .collect();
        let mut changes = self.commit(&orphans, Draft::default(), generation);
        let addrs: Vec<F::Addr> = self.actual.addresses.keys().copied().collect();
        self.settle(addrs, &mut changes, generation);
        changes
    }

    pub(super) fn release(&mut self, upto: Generation) -> bool {
        let later = self.leaving.split_off(&Generation(upto.0 + 1));
        let left = std::mem::replace(&mut self.leaving, later);
        self.slots.release(upto) | !left.is_empty()
    }

    /// Slots that can be allocated now.
    pub(super) fn free_slots(&self) -> u32 {
        self.slots.free()
    }
}

fn len<F: Family>(run: &[Backend<F>]) -> u32 {
    u32::try_from(run.len())
        .expect("a run has at most as many slots as the table, which u32 counts")
}
