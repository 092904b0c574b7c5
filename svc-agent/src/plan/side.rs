//! The planner of one family: a draft is made of what a Service needs, and either taken back or committed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use svc_common::family::Family;
use svc_common::table::{Backend, Frontend, FrontendKey, address_flags, frontend_flags};

use super::slots::Slots;
use super::{Actual, Capacities, FamilyChanges, Generation, expand};
use crate::desired::{Algorithm, FrontendAddr, Port};

/// One family's maps as they will be once every planned change is applied, with what is needed to plan the next one.
#[derive(Clone, Debug)]
pub(super) struct Side<F: Family> {
    pub(super) actual: Actual<F>,
    slots: Slots,
    /// First slot of a run → how many frontends point at it.
    users: BTreeMap<u32, usize>,
    /// Runs that a damaged frontend overlapped at start-up: their slots are not used again before the next start.
    pinned: BTreeSet<u32>,
    by_service: BTreeMap<u32, BTreeSet<FrontendKey<F>>>,
    /// What each frontend asks of its address: bits of `address_flags`.
    flags: BTreeMap<FrontendKey<F>, u32>,
    /// How many frontends ask for each of the three bits.
    holders: BTreeMap<F::Addr, [usize; 3]>,
    nodes: BTreeSet<F::Addr>,
    capacities: Capacities,
    /// Entries removed per generation: they may still take room while a batch is being written.
    leaving: BTreeMap<Generation, Leaving>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leaving {
    frontends: usize,
    addresses: usize,
}

/// Frontends with what each asks of its address.
type Frontends<F> = BTreeMap<FrontendKey<F>, (Frontend, u32)>;

/// What one Service should have in this family. Its new runs are taken from the free slots already.
#[derive(Debug)]
pub(super) struct Draft<F: Family> {
    frontends: Frontends<F>,
    runs: BTreeMap<u32, Vec<Backend<F>>>,
    /// Frontends that somebody else has.
    pub(super) taken: Vec<FrontendAddr>,
}

impl<F: Family> Draft<F> {
    /// The ids that have at least one frontend.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.frontends
            .values()
            .map(|(frontend, _)| frontend.service)
    }
}

/// A table that a Service does not fit into.
#[derive(Debug)]
pub(super) struct Full {
    table: String,
    needed: usize,
    room: usize,
    capacity: u32,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            needed,
            room,
            capacity,
        } = self;
        write!(
            f,
            "table {table} is full: {needed} more entries needed, room for {room} of {capacity}"
        )
    }
}

impl<F: Family> Side<F> {
    pub(super) fn restore(mut actual: Actual<F>, capacities: Capacities) -> Self {
        let mut slots = Slots::new(capacities.slots);
        actual.slots.retain(|&first, run| {
            u32::try_from(run.len()).is_ok_and(|len| slots.claim(first, len))
        });
        let mut side = Self {
            actual: Actual::default(),
            slots,
            users: BTreeMap::new(),
            pinned: BTreeSet::new(),
            by_service: BTreeMap::new(),
            flags: BTreeMap::new(),
            holders: BTreeMap::new(),
            nodes: BTreeSet::new(),
            capacities,
            leaving: BTreeMap::new(),
        };
        for (key, frontend) in &actual.frontends {
            side.by_service
                .entry(frontend.service)
                .or_default()
                .insert(*key);
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

    /// Drafts the ports of one Service, whose ids before and after are `mine`. `owned` tells whether an id is some
    /// Service's at all.
    pub(super) fn draft(
        &mut self,
        ports: &[(u32, &Port)],
        mine: &BTreeSet<u32>,
        owned: impl Fn(u32) -> bool,
    ) -> Result<Draft<F>, Full> {
        let mut draft = Draft {
            frontends: BTreeMap::new(),
            runs: BTreeMap::new(),
            taken: Vec::new(),
        };
        for &(id, port) in ports {
            if let Err(full) = self.draft_port(id, port, mine, &owned, &mut draft) {
                self.undo(draft);
                return Err(full);
            }
        }
        if let Err(full) = self.check_room(&draft) {
            self.undo(draft);
            return Err(full);
        }
        Ok(draft)
    }

    fn draft_port(
        &mut self,
        id: u32,
        port: &Port,
        mine: &BTreeSet<u32>,
        owned: &impl Fn(u32) -> bool,
        draft: &mut Draft<F>,
    ) -> Result<(), Full> {
        let mut expanded: BTreeMap<usize, Vec<Backend<F>>> = BTreeMap::new();
        let mut placed: BTreeMap<Vec<Backend<F>>, u32> = BTreeMap::new();
        for key in self.by_service.get(&id).into_iter().flatten() {
            let frontend = &self.actual.frontends[key];
            if let Some(run) = self.actual.run(frontend) {
                placed.entry(run.to_vec()).or_insert(frontend.first);
            }
        }
        for (at, frontend) in &port.frontends {
            let Some(key) = expand::key::<F>(at) else {
                continue;
            };
            let holder = self.actual.frontends.get(&key).map(|f| f.service);
            if draft.frontends.contains_key(&key)
                || holder.is_some_and(|h| !mine.contains(&h) && owned(h))
            {
                draft.taken.push(*at);
                continue;
            }
            let run = &port.runs[frontend.run];
            let content = expanded
                .entry(frontend.run)
                .or_insert_with(|| expand::run(run));
            let first = match placed.get(content) {
                _ if content.is_empty() => 0,
                Some(&first) => first,
                None => {
                    let first = self.slots.take(len(content)).ok_or_else(|| Full {
                        table: table::<F>("SLOTS"),
                        needed: content.len(),
                        room: self.slots.longest() as usize,
                        capacity: self.slots.capacity(),
                    })?;
                    placed.insert(content.clone(), first);
                    draft.runs.insert(first, content.clone());
                    first
                }
            };
            let maglev = if run.algorithm == Algorithm::Maglev {
                frontend_flags::MAGLEV
            } else {
                0
            };
            let drop = if frontend.drop_when_empty {
                frontend_flags::DROP_WHEN_EMPTY
            } else {
                0
            };
            let value = Frontend {
                first,
                count: len(content),
                service: id,
                flags: maglev | drop,
                affinity: port.affinity,
            };
            draft
                .frontends
                .insert(key, (value, expand::flags(frontend.kind)));
        }
        Ok(())
    }

    fn check_room(&self, draft: &Draft<F>) -> Result<(), Full> {
        let new = draft
            .frontends
            .keys()
            .filter(|key| !self.actual.frontends.contains_key(key))
            .count();
        let leaving = self.leaving.values().map(|l| l.frontends).sum::<usize>();
        fits(
            table::<F>("FRONTENDS"),
            new,
            self.actual.frontends.len() + leaving,
            self.capacities.frontends,
        )?;
        let addrs: BTreeSet<_> = draft.frontends.keys().map(|key| key.addr).collect();
        let new = addrs
            .iter()
            .filter(|addr| !self.actual.addresses.contains_key(addr))
            .count();
        let leaving = self.leaving.values().map(|l| l.addresses).sum::<usize>();
        fits(
            table::<F>("ADDRESSES"),
            new,
            self.actual.addresses.len() + leaving,
            self.capacities.addresses,
        )
    }

    /// Takes a draft back; nothing was planned.
    pub(super) fn undo(&mut self, draft: Draft<F>) {
        for (first, run) in draft.runs {
            self.slots.put_back(first, len(&run));
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
            .filter_map(|id| self.by_service.get(id))
            .flatten()
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
            self.unindex(&key, old.service);
        }
        for (key, (value, _)) in &draft.frontends {
            self.by_service
                .entry(value.service)
                .or_default()
                .insert(*key);
        }
        self.settle(addrs, &mut changes, generation);
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

    fn unindex(&mut self, key: &FrontendKey<F>, service: u32) {
        if let Some(keys) = self.by_service.get_mut(&service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&service);
            }
        }
    }

    /// Sets what a frontend asks of its address.
    fn hold(&mut self, key: FrontendKey<F>, flags: u32) {
        let before = self.flags.insert(key, flags).unwrap_or(0);
        if before == flags {
            return;
        }
        let holders = self.holders.entry(key.addr).or_default();
        for (bit, n) in holders.iter_mut().enumerate() {
            *n = *n + usize::from(flags >> bit & 1 == 1) - usize::from(before >> bit & 1 == 1);
        }
        if *holders == [0; 3] {
            self.holders.remove(&key.addr);
        }
    }

    /// What an address should be, by its frontends and the node.
    fn wanted(&self, addr: &F::Addr) -> u32 {
        let node = if self.nodes.contains(addr) {
            address_flags::NODE
        } else {
            0
        };
        let holders = self.holders.get(addr).copied().unwrap_or_default();
        holders
            .iter()
            .enumerate()
            .filter(|&(_, &n)| n > 0)
            .fold(node, |flags, (bit, _)| flags | 1 << bit)
    }

    fn settle(
        &mut self,
        addrs: impl IntoIterator<Item = F::Addr>,
        changes: &mut FamilyChanges<F>,
        generation: Generation,
    ) {
        for addr in addrs {
            let (before, after) = (
                self.actual.addresses.get(&addr).copied(),
                self.wanted(&addr),
            );
            let was = before.unwrap_or(0);
            if after & !was != 0 {
                changes.addresses_in.insert(addr, was | after);
            }
            if was & !after != 0 || (before == Some(0) && after == 0) {
                changes.addresses_out.insert(addr, after);
            }
            if after != 0 {
                self.actual.addresses.insert(addr, after);
            } else if self.actual.addresses.remove(&addr).is_some() {
                self.leaving.entry(generation).or_default().addresses += 1;
            }
        }
    }

    pub(super) fn set_nodes(
        &mut self,
        nodes: BTreeSet<F::Addr>,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let mut changes = FamilyChanges::default();
        let mut addrs: BTreeSet<F::Addr> = nodes.clone();
        addrs.extend(
            self.actual
                .addresses
                .iter()
                .filter(|(_, f)| **f & address_flags::NODE != 0)
                .map(|(a, _)| *a),
        );
        self.nodes = nodes;
        self.settle(addrs, &mut changes, generation);
        changes
    }

    /// Removes what was found in the maps and is nobody's: frontends of ids without a Service, addresses without use.
    pub(super) fn sweep(
        &mut self,
        owned: impl Fn(u32) -> bool,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let orphans: BTreeSet<u32> = self
            .by_service
            .keys()
            .copied()
            .filter(|&id| !owned(id))
            .collect();
        let nothing = Draft {
            frontends: BTreeMap::new(),
            runs: BTreeMap::new(),
            taken: Vec::new(),
        };
        let mut changes = self.commit(&orphans, nothing, generation);
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

fn fits(table: String, needed: usize, used: usize, capacity: u32) -> Result<(), Full> {
    let room = (capacity as usize).saturating_sub(used);
    if needed <= room {
        Ok(())
    } else {
        Err(Full {
            table,
            needed,
            room,
            capacity,
        })
    }
}

fn table<F: Family>(name: &str) -> String {
    format!("{name}_V{}", F::VERSION)
}

fn len<F: Family>(run: &[Backend<F>]) -> u32 {
    u32::try_from(run.len())
        .expect("a run has at most as many slots as the table, which u32 counts")
}
