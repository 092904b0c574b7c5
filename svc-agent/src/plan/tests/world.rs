//! Maps made of ordinary memory: changes are applied write by write, with a look at everything after each.

use std::collections::BTreeMap;
use std::convert::Infallible;

use svc_common::family::{Family, V4, V6};
use svc_common::table::{Backend, Frontend, FrontendKey};

use crate::plan::{Actual, Capacities, Changes, FamilyChanges, Planner, Write};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyMaps<F: Family> {
    pub frontends: BTreeMap<FrontendKey<F>, Frontend>,
    pub addresses: BTreeMap<F::Addr, u32>,
    pub slots: BTreeMap<u32, Backend<F>>,
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
        }
    }
}

impl<F: Family> FamilyMaps<F> {
    pub fn write(&mut self, write: &Write<'_, F>) {
        match *write {
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
                let service = self.frontends[&key].service;
                assert!(
                    services.contains_key(&service),
                    "{key:?} has no service {service}"
                );
            }
        }
    }

    fn read(&self) -> Actual<F> {
        let slot = |i| Ok::<_, Infallible>(self.slots.get(&i).copied());
        Actual::read(self.frontends.clone(), self.addresses.clone(), slot).expect("infallible")
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
