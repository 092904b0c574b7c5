//! Maps made of ordinary memory: changes are applied write by write, with a look at everything after each.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use svc_common::family::{Addr, Family, V4, V6};
use svc_common::table::{
    Backend, BackendKey, BackendState, Frontend, FrontendKey, backend_state, frontend_flags,
};

use crate::plan::{Actual, Capacities, Changes, FamilyChanges, Planner, Range, Write};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyMaps<F: Family> {
    pub frontends: BTreeMap<FrontendKey<F>, Frontend>,
    pub addresses: BTreeMap<F::Addr, u32>,
    pub slots: BTreeMap<u32, Backend<F>>,
    pub backends: BTreeMap<BackendKey<F>, BackendState>,
    pub ranges: BTreeSet<Range<F>>,
    pub epoch: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct World {
    pub v4: FamilyMaps<V4>,
    pub v6: FamilyMaps<V6>,
    pub services: BTreeMap<u32, String>,
}

impl<F: Family> Default for FamilyMaps<F> {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            addresses: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            ranges: BTreeSet::new(),
            epoch: 0,
        }
    }
}

impl<F: Family> FamilyMaps<F> {
    pub fn write(&mut self, write: &Write<'_, F>) {
        match *write {
            Write::NewBackend { key, state } | Write::Backend { key, state } => {
                self.backends.insert(key, state);
            }
            Write::RemoveBackend { key } => drop(self.backends.remove(&key)),
            Write::Range(range) => drop(self.ranges.insert(range)),
            Write::RemoveRange(range) => drop(self.ranges.remove(&range)),
            Write::Epoch => self.epoch += 1,
            Write::Slots { first, backends } => {
                self.slots.extend((first..).zip(backends.iter().copied()))
            }
            Write::Address { addr, flags } => drop(self.addresses.insert(addr, flags)),
            Write::RemoveAddress { addr } => drop(self.addresses.remove(&addr)),
            Write::Frontend { key, value } => drop(self.frontends.insert(key, value)),
            Write::RemoveFrontend { key } => drop(self.frontends.remove(&key)),
        }
    }

    /// What a client of each frontend can reach.
    pub fn reachable(&self) -> BTreeMap<FrontendKey<F>, Vec<Backend<F>>> {
        let run = |f: &Frontend| {
            let slot = |i| {
                *self
                    .slots
                    .get(&i)
                    .expect("a frontend points at a slot that is not there")
            };
            (f.first..f.first + f.count).map(slot).collect()
        };
        self.frontends.iter().map(|(k, f)| (*k, run(f))).collect()
    }

    fn apply(&mut self, changes: &FamilyChanges<F>, services: &BTreeMap<u32, String>) {
        let before = self.reachable();
        let mut serving = self.serving();
        let mut end = self.clone();
        changes.writes().for_each(|write| end.write(&write));
        let after = end.reachable();
        for write in changes.writes() {
            self.write(&write);
            for (key, run) in self.reachable() {
                assert!(
                    before.get(&key) == Some(&run) || after.get(&key) == Some(&run),
                    "{key:?} leads to {run:?}, which it never should, after {write:?}"
                );
                assert!(
                    self.addresses.contains_key(&key.addr),
                    "{key:?} has no address"
                );
                self.assert_lists(&key, &run);
                let service = self.frontends[&key].service;
                assert!(
                    services.contains_key(&service),
                    "{key:?} has no service {service}"
                );
            }
            let now = self.serving();
            match write {
                Write::Epoch => serving = now,
                _ => serving.extend(now),
            }
        }
        assert_eq!(serving, self.serving(), "an epoch that should have ended");
        self.assert_sentinels();
    }

    /// Endpoints that flows may believe in.
    fn serving(&self) -> BTreeSet<BackendKey<F>> {
        let serves = |state: &BackendState| state.flags & backend_state::SERVING != 0;
        self.backends
            .iter()
            .filter(|(_, state)| serves(state))
            .map(|(key, _)| *key)
            .collect()
    }

    /// Whatever a frontend leads to is in BACKENDS, and a restricted one has ranges.
    fn assert_lists(&self, key: &FrontendKey<F>, run: &[Backend<F>]) {
        let frontend = self.frontends[key];
        let listed = |addr, port| BackendKey {
            service: frontend.service,
            addr,
            port,
            _pad: 0,
        };
        for backend in run {
            let listed = listed(backend.addr, backend.port);
            assert!(
                self.backends.contains_key(&listed),
                "{key:?} leads to {listed:?}, which is not in BACKENDS"
            );
        }
        let ranges = |(source, _): &Range<F>| source.service == frontend.service;
        assert!(
            frontend.flags & frontend_flags::SOURCE_RANGES == 0 || self.ranges.iter().any(ranges),
            "{key:?} is restricted to nobody"
        );
    }

    /// The unspecified address stands in BACKENDS for as long as anything serves.
    fn assert_sentinels(&self) {
        let is_sentinel = |key: &&BackendKey<F>| key.addr == F::Addr::UNSPECIFIED;
        let serving = self.serving();
        let (sentinels, endpoints): (Vec<_>, Vec<_>) = serving.iter().partition(is_sentinel);
        let services = |keys: Vec<&BackendKey<F>>| -> BTreeSet<u32> {
            keys.into_iter().map(|key| key.service).collect()
        };
        assert_eq!(services(sentinels), services(endpoints));
    }

    fn read(&self) -> Actual<F> {
        let slot = |i| Ok::<_, Infallible>(self.slots.get(&i).copied());
        Actual::read(
            self.frontends.clone(),
            self.addresses.clone(),
            self.backends.clone(),
            self.ranges.clone(),
            slot,
        )
        .expect("infallible")
    }
}

impl World {
    /// Writes the changes and checks after each write that nothing points at what is not there.
    pub fn apply(&mut self, changes: &Changes) {
        self.services.extend(changes.services_in.clone());
        self.v4.apply(&changes.v4, &self.services);
        self.v6.apply(&changes.v6, &self.services);
        for id in &changes.services_out {
            self.services.remove(id);
        }
        for (key, service) in self
            .v4
            .frontends
            .iter()
            .map(|(k, f)| (format!("{k:?}"), f.service))
            .chain(
                self.v6
                    .frontends
                    .iter()
                    .map(|(k, f)| (format!("{k:?}"), f.service)),
            )
        {
            assert!(
                self.services.contains_key(&service),
                "{key} lost its service"
            );
        }
    }

    /// A planner as a new agent would make it from these maps.
    pub fn restart(&self, capacities: Capacities) -> Planner {
        Planner::from_actual(
            self.v4.read(),
            self.v6.read(),
            self.services.clone(),
            capacities,
        )
    }

    /// The planner believes what is true.
    pub fn assert_mirrored_by(&self, planner: &Planner) {
        assert_eq!(*planner.v4(), self.v4.read());
        assert_eq!(*planner.v6(), self.v6.read());
        assert_eq!(*planner.labels(), self.services);
    }
}
