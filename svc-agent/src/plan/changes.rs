//! What has to be written, in an order of which every prefix is safe: first what is pointed at, then what points at
//! it, then removals the other way round. A frontend moves to its new run in one update.

use std::collections::{BTreeMap, BTreeSet};

use svc_common::family::{Family, V4, V6};
use svc_common::table::{Backend, BackendKey, BackendState, Frontend, FrontendKey};

use super::Range;

/// The writes to one family's maps. Fields are phases and stand in the order of writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyChanges<F: Family> {
    /// Endpoints that are new, gain flags or have another weight. The count of connections is not theirs to write.
    pub backends_in: BTreeMap<BackendKey<F>, BackendState>,
    /// Which of these are not in the map yet: they have no count that would have to be left.
    pub backends_new: BTreeSet<BackendKey<F>>,
    pub ranges_in: BTreeSet<Range<F>>,
    /// First slot → content of a run that nothing points at yet.
    pub slots_in: BTreeMap<u32, Vec<Backend<F>>>,
    /// Addresses that are new or gain flags.
    pub addresses_in: BTreeMap<F::Addr, u32>,
    pub frontends_in: BTreeMap<FrontendKey<F>, Frontend>,
    pub frontends_out: BTreeSet<FrontendKey<F>>,
    /// Addresses that lose flags, with those that remain; with none the entry goes.
    pub addresses_out: BTreeMap<F::Addr, u32>,
    /// Endpoints that lose flags, or (None) go.
    pub backends_out: BTreeMap<BackendKey<F>, Option<BackendState>>,
    pub ranges_out: BTreeSet<Range<F>>,
    /// An endpoint goes or stops serving: what flows know of theirs may be old, the epoch ends.
    pub stale: bool,
}

/// The writes to all maps: `services_in`, then both families, then `services_out`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Changes {
    pub services_in: BTreeMap<u32, String>,
    pub v4: FamilyChanges<V4>,
    pub v6: FamilyChanges<V6>,
    pub services_out: BTreeSet<u32>,
}

/// One write to one family's maps. Removing what is not there is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write<'a, F: Family> {
    /// Nobody has counted its connections.
    NewBackend {
        key: BackendKey<F>,
        state: BackendState,
    },
    /// Leaves the count of connections as it is.
    Backend {
        key: BackendKey<F>,
        state: BackendState,
    },
    RemoveBackend {
        key: BackendKey<F>,
    },
    Range(Range<F>),
    RemoveRange(Range<F>),
    /// Adds one to EPOCH.
    Epoch,
    Slots {
        first: u32,
        backends: &'a [Backend<F>],
    },
    Address {
        addr: F::Addr,
        flags: u32,
    },
    RemoveAddress {
        addr: F::Addr,
    },
    Frontend {
        key: FrontendKey<F>,
        value: Frontend,
    },
    RemoveFrontend {
        key: FrontendKey<F>,
    },
}

impl<F: Family> Default for FamilyChanges<F> {
    fn default() -> Self {
        Self {
            backends_in: BTreeMap::new(),
            backends_new: BTreeSet::new(),
            ranges_in: BTreeSet::new(),
            slots_in: BTreeMap::new(),
            addresses_in: BTreeMap::new(),
            frontends_in: BTreeMap::new(),
            frontends_out: BTreeSet::new(),
            addresses_out: BTreeMap::new(),
            backends_out: BTreeMap::new(),
            ranges_out: BTreeSet::new(),
            stale: false,
        }
    }
}

impl<F: Family> FamilyChanges<F> {
    /// Every write, in the order in which it must be done.
    pub fn writes(&self) -> impl Iterator<Item = Write<'_, F>> {
        let is_new = |key: &BackendKey<F>| self.backends_new.contains(key);
        let listed = self.backends_in.iter();
        let new = listed
            .clone()
            .filter(move |(key, _)| is_new(key))
            .map(|(&key, &state)| Write::NewBackend { key, state });
        let other = listed
            .filter(move |(key, _)| !is_new(key))
            .map(|(&key, &state)| Write::Backend { key, state });
        let allowed = self.ranges_in.iter().map(|&range| Write::Range(range));
        let slots = self
            .slots_in
            .iter()
            .map(|(&first, backends)| Write::Slots { first, backends });
        let addresses = self
            .addresses_in
            .iter()
            .map(|(&addr, &flags)| Write::Address { addr, flags });
        let frontends = self
            .frontends_in
            .iter()
            .map(|(&key, &value)| Write::Frontend { key, value });
        let gone = self
            .frontends_out
            .iter()
            .map(|&key| Write::RemoveFrontend { key });
        let lost = self
            .addresses_out
            .iter()
            .map(|(&addr, &flags)| match flags {
                0 => Write::RemoveAddress { addr },
                flags => Write::Address { addr, flags },
            });
        let unlisted = self.backends_out.iter().map(|(&key, &state)| match state {
            None => Write::RemoveBackend { key },
            Some(state) => Write::Backend { key, state },
        });
        let denied = self
            .ranges_out
            .iter()
            .map(|&range| Write::RemoveRange(range));
        new.chain(other)
            .chain(allowed)
            .chain(slots)
            .chain(addresses)
            .chain(frontends)
            .chain(gone)
            .chain(lost)
            .chain(unlisted)
            .chain(denied)
            .chain(self.stale.then_some(Write::Epoch))
    }

    /// How many map entries are written or removed.
    pub fn len(&self) -> usize {
        self.backends_in.len()
            + self.ranges_in.len()
            + self.slots_in.values().map(Vec::len).sum::<usize>()
            + self.addresses_in.len()
            + self.frontends_in.len()
            + self.frontends_out.len()
            + self.addresses_out.len()
            + self.backends_out.len()
            + self.ranges_out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn merge(&mut self, later: Self) {
        if self.is_empty() {
            let stale = self.stale | later.stale;
            *self = Self { stale, ..later };
            return;
        }
        self.slots_in.extend(later.slots_in);
        for (addr, flags) in later.addresses_in {
            self.addresses_out.remove(&addr);
            self.addresses_in.insert(addr, flags);
        }
        for (key, value) in later.frontends_in {
            self.frontends_out.remove(&key);
            self.frontends_in.insert(key, value);
        }
        for key in later.frontends_out {
            self.frontends_in.remove(&key);
            self.frontends_out.insert(key);
        }
        self.addresses_out.extend(later.addresses_out);
        for (key, state) in later.backends_in {
            self.backends_out.remove(&key);
            self.backends_in.insert(key, state);
        }
        self.backends_new.extend(later.backends_new);
        for (key, state) in later.backends_out {
            if state.is_none() {
                self.backends_in.remove(&key);
                self.backends_new.remove(&key);
            }
            self.backends_out.insert(key, state);
        }
        for range in later.ranges_in {
            self.ranges_out.remove(&range);
            self.ranges_in.insert(range);
        }
        for range in later.ranges_out {
            self.ranges_in.remove(&range);
            self.ranges_out.insert(range);
        }
        self.stale |= later.stale;
    }
}

impl Changes {
    /// How many map entries are written or removed.
    pub fn len(&self) -> usize {
        self.services_in.len() + self.v4.len() + self.v6.len() + self.services_out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds changes that were planned after these. The result leads to the same maps as one after the other, in fewer
    /// writes and with every prefix as safe; that needs that no quarantine was released in between.
    pub fn merge(&mut self, later: Changes) {
        for (id, label) in later.services_in {
            self.services_out.remove(&id);
            self.services_in.insert(id, label);
        }
        self.v4.merge(later.v4);
        self.v6.merge(later.v6);
        for id in later.services_out {
            self.services_in.remove(&id);
            self.services_out.insert(id);
        }
    }
}
