//! Desired + what is in the maps → [`Changes`]. Pure: it plans one Service at a time against a mirror of the maps, and
//! promises that no prefix of the writes leaves anything pointing at what is not there. Ids are not state: they are
//! found again in SERVICES by label.
//!
//! The applier's part: plan a batch, [`Planner::close_generation`], write the changes in order, and after a grace in
//! which every running packet program has ended, [`Planner::release`].

mod actual;
mod changes;
mod expand;
pub mod label;
mod service;
mod side;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use svc_common::family::{Family, V4, V6};
use svc_common::table;

pub use actual::{Actual, Range};
pub use changes::{Changes, FamilyChanges, Write};
pub use label::Label;

use crate::config::Cidr;
use crate::desired::{Fault, Refusal, Service, ServiceName};
use crate::packed::{pack, pack_set};
use side::Side;

/// The ids of one Service: mostly one, and a set would make room for eleven.
type Ids = Vec<u32>;

/// A batch of plans. What one batch frees is not used again before the batch is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// How many entries the maps were made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    pub frontends: u32,
    pub addresses: u32,
    pub slots: u32,
    pub services: u32,
    pub backends: u32,
    pub ranges: u32,
}

/// How many ranges `--cluster-cidr` can name.
pub const MAX_CLUSTER_RANGES: u32 = 256;

impl Default for Capacities {
    fn default() -> Self {
        Self {
            frontends: table::MAX_FRONTENDS,
            addresses: table::MAX_ADDRESSES,
            slots: table::MAX_SLOTS,
            services: table::MAX_SERVICES,
            backends: table::MAX_BACKENDS,
            // The cluster's own are always let in: those of before a restart and those of after it.
            ranges: table::MAX_RANGES - 2 * MAX_CLUSTER_RANGES,
        }
    }
}

/// The maps as they will be once all planned changes are applied, and who owns what in them.
#[derive(Clone, Debug)]
pub struct Planner {
    v4: Side<V4>,
    v6: Side<V6>,
    /// Mirror of SERVICES.
    labels: BTreeMap<u32, String>,
    /// The ids of every Service that has something in the maps.
    services: BTreeMap<ServiceName, Ids>,
    /// The ids in `services`.
    owned: BTreeSet<u32>,
    /// Labels removed per generation.
    leaving: BTreeMap<Generation, usize>,
    next_id: u32,
    capacities: Capacities,
    generation: Generation,
    refused: BTreeMap<ServiceName, Vec<Refusal>>,
    /// Something became free since the last [`Planner::take_retries`].
    freed: bool,
}

impl Planner {
    /// A planner for maps with this content. What it finds stays until its Service is planned or [`Planner::retain`]
    /// is called.
    pub fn from_actual(
        v4: Actual<V4>,
        v6: Actual<V6>,
        labels: BTreeMap<u32, String>,
        capacities: Capacities,
    ) -> Self {
        let mut services: BTreeMap<ServiceName, Ids> = BTreeMap::new();
        let mut owned = BTreeSet::new();
        for (&id, text) in &labels {
            let Some(label) = Label::parse(text) else {
                continue;
            };
            let ids = services.entry(label.port.service.clone()).or_default();
            if ids.iter().all(|known| labels.get(known) != Some(text)) {
                ids.push(id);
                owned.insert(id);
            }
        }
        Self {
            v4: Side::restore(v4, capacities),
            v6: Side::restore(v6, capacities),
            next_id: labels
                .last_key_value()
                .map_or(1, |(id, _)| id.wrapping_add(1)),
            labels,
            services,
            owned,
            leaving: BTreeMap::new(),
            capacities,
            generation: Generation(0),
            refused: BTreeMap::new(),
            freed: false,
        }
    }

    /// A planner for empty maps.
    pub fn empty(capacities: Capacities) -> Self {
        Self::from_actual(
            Actual::default(),
            Actual::default(),
            BTreeMap::new(),
            capacities,
        )
    }

    /// Plans one Service: `None` when it is gone. Touches only what this Service owns. A Service that does not fit
    /// keeps what it had; one whose frontend belongs to another gets its other frontends.
    pub fn plan(
        &mut self,
        name: &ServiceName,
        desired: Option<&Service>,
    ) -> (Changes, Vec<Refusal>) {
        let object = format!("Service {name}");
        let mut refusals = Vec::new();
        let had = self.services.get(name).cloned().unwrap_or_default();
        let (ids, ports) = self.assign_ids(&had, desired, &object, &mut refusals);
        let mine: BTreeSet<u32> = had.iter().chain(ids.keys()).copied().collect();

        let changes = match self.try_plan(name, &had, ids, &ports, &mine, &object, &mut refusals) {
            Ok(changes) => changes,
            Err(full) => {
                let why = format!(
                    "{full}; what the Service had before stays, the rest is tried again when there is room"
                );
                refusals.push(Refusal::new(Fault::TableFull, object, why));
                Changes::default()
            }
        };
        if refusals.is_empty() {
            self.refused.remove(name);
        } else {
            self.refused.insert(name.clone(), refusals.clone());
        }
        (changes, refusals)
    }

    /// Says which addresses are the node's own.
    pub fn set_node_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Changes {
        Changes {
            v4: self
                .v4
                .set_nodes(of_family::<V4>(addresses), self.generation),
            v6: self
                .v6
                .set_nodes(of_family::<V6>(addresses), self.generation),
            ..Changes::default()
        }
    }

    /// Says from where the cluster's pods ask.
    pub fn set_cluster_ranges(&mut self, ranges: &BTreeSet<Cidr>) -> Changes {
        Changes {
            v4: self.v4.set_cluster_ranges(ranges, self.generation),
            v6: self.v6.set_cluster_ranges(ranges, self.generation),
            ..Changes::default()
        }
    }

    /// Says which addresses are other nodes'.
    pub fn set_peer_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Changes {
        Changes {
            v4: self
                .v4
                .set_peers(of_family::<V4>(addresses), self.generation),
            v6: self
                .v6
                .set_peers(of_family::<V6>(addresses), self.generation),
            ..Changes::default()
        }
    }

    /// Removes everything of Services that are not `known`, and what was found in the maps and is nobody's. To be
    /// called after the first full sync, after [`Planner::set_node_addresses`] and before the known Services are
    /// planned: what it frees is then theirs to take.
    pub fn retain(&mut self, known: &BTreeSet<ServiceName>) -> Changes {
        let gone: Vec<ServiceName> = self
            .services
            .keys()
            .filter(|name| !known.contains(name))
            .cloned()
            .collect();
        let mut changes = Changes::default();
        for name in gone {
            changes.merge(self.plan(&name, None).0);
        }
        self.refused.retain(|name, _| known.contains(name));
        let owned = &self.owned;
        let mut rest = Changes {
            v4: self.v4.sweep(|id| owned.contains(&id), self.generation),
            v6: self.v6.sweep(|id| owned.contains(&id), self.generation),
            ..Changes::default()
        };
        rest.services_out = self
            .labels
            .keys()
            .copied()
            .filter(|id| !owned.contains(id))
            .collect();
        for id in &rest.services_out {
            self.labels.remove(id);
            *self.leaving.entry(self.generation).or_default() += 1;
        }
        changes.merge(rest);
        self.freed |= !changes.is_empty();
        changes
    }

    /// Ends a batch. What it freed may be used again after `release` of the returned generation.
    pub fn close_generation(&mut self) -> Generation {
        let closed = self.generation;
        self.generation = Generation(closed.0 + 1);
        closed
    }

    /// Frees what the batches up to and including `upto` gave up. To be called when their changes are written and no
    /// packet can still be reading the old runs.
    pub fn release(&mut self, upto: Generation) {
        let later = self.leaving.split_off(&Generation(upto.0 + 1));
        let left = std::mem::replace(&mut self.leaving, later);
        let freed = self.v4.release(upto) | self.v6.release(upto) | !left.is_empty();
        self.freed |= freed;
    }

    /// Takes as little memory as it can; for when nothing is to be planned.
    pub fn pack(&mut self) {
        self.v4.pack();
        self.v6.pack();
        pack(&mut self.labels);
        pack(&mut self.services);
        pack_set(&mut self.owned);
    }

    /// The Services that did not get all they asked for, and why.
    pub fn refused(&self) -> &BTreeMap<ServiceName, Vec<Refusal>> {
        &self.refused
    }

    /// The refused Services that are worth planning again: all of them, if something became free since the last call.
    pub fn take_retries(&mut self) -> Vec<ServiceName> {
        if std::mem::take(&mut self.freed) {
            self.refused.keys().cloned().collect()
        } else {
            Vec::new()
        }
    }

    pub fn v4(&self) -> &Actual<V4> {
        &self.v4.actual
    }

    pub fn v6(&self) -> &Actual<V6> {
        &self.v6.actual
    }

    /// Mirror of SERVICES: id → label.
    pub fn labels(&self) -> &BTreeMap<u32, String> {
        &self.labels
    }

    pub fn capacities(&self) -> Capacities {
        self.capacities
    }

    /// Slots that can be allocated now, of IPv4 and IPv6.
    pub fn free_slots(&self) -> [u32; 2] {
        [self.v4.free_slots(), self.v6.free_slots()]
    }
}

fn of_family<F: Family>(addresses: &BTreeSet<IpAddr>) -> BTreeSet<F::Addr> {
    addresses
        .iter()
        .filter_map(|&addr| F::addr_from_std(addr))
        .collect()
}
