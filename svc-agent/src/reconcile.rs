//! The user side's line in one place: events into the Cluster, what became dirty through `compile`, claims and `plan`.
//! Pure; reads no clock, writes no map.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use svc_common::table::Scope;

use crate::claims::Claims;
use crate::cluster::{Cluster, Event};
use crate::compile::{Facts, compile, health_check};
use crate::config::Cidr;
use crate::desired::{HealthCheck, Refusal, Service, ServiceName};
use crate::plan::{Changes, Planner};

/// The Cluster, the mirror of the maps, and what lies between them.
pub struct Reconciler {
    pub cluster: Cluster,
    pub planner: Planner,
    claims: Claims,
    facts: Facts,
    node_addresses: BTreeSet<IpAddr>,
    cluster_ranges: BTreeSet<Cidr>,
    dirty: BTreeSet<ServiceName>,
    /// Their claims are known, they are still to be planned. Of many, only the first are kept as compiled.
    compiled: BTreeMap<ServiceName, Option<Compiled>>,
    restored: bool,
    /// The planner knows all addresses of nodes, and the cluster's ranges.
    places_told: bool,
    /// Of the Services that have any, see [`Self::no_local_endpoints`].
    without_local: BTreeMap<ServiceName, [[usize; 2]; 2]>,
}

type Compiled = (Service, Vec<Refusal>);

/// How many Services a round plans at most: what it leads to is held in memory until it is written.
const AT_ONCE: usize = 512;

/// What one round leads to.
#[derive(Default)]
pub struct Round {
    pub changes: Changes,
    /// Of every Service that was looked at, what is refused of it now; nothing, when all is well.
    pub refusals: BTreeMap<ServiceName, Vec<Refusal>>,
    /// And what load balancers are told of it.
    pub health_checks: BTreeMap<ServiceName, Option<HealthCheck>>,
    /// There were too many Services for one round: another one is to follow, once the changes of this one are written.
    pub more: bool,
}

impl Reconciler {
    /// Sees the cluster from this node; `planner` knows what is in the maps.
    pub fn new(cluster: Cluster, planner: Planner) -> Self {
        Self {
            cluster,
            planner,
            claims: Claims::default(),
            facts: Facts::default(),
            node_addresses: BTreeSet::new(),
            cluster_ranges: BTreeSet::new(),
            dirty: BTreeSet::new(),
            compiled: BTreeMap::new(),
            restored: false,
            places_told: false,
            without_local: BTreeMap::new(),
        }
    }

    /// Takes in an event; whether it is news for any Service.
    pub fn apply(&mut self, event: Event) -> bool {
        self.places_told &= !matches!(event, Event::Node(_));
        let dirty = self.cluster.apply(event);
        let news = !dirty.is_empty();
        self.dirty.extend(dirty);
        news
    }

    /// How many service ports of policy Local have endpoints, and none on this node: by family, and of the internal and
    /// the external policy.
    pub fn no_local_endpoints(&self) -> [[usize; 2]; 2] {
        self.without_local.values().fold([[0; 2]; 2], |sum, more| {
            [0, 1].map(|family| [0, 1].map(|policy| sum[family][policy] + more[family][policy]))
        })
    }

    /// Takes in what is known of the node; a change concerns every Service.
    pub fn set_facts(&mut self, facts: Facts, node_addresses: BTreeSet<IpAddr>) {
        if facts != self.facts {
            self.facts = facts;
            self.dirty_all();
        }
        self.places_told &= node_addresses == self.node_addresses;
        self.node_addresses = node_addresses;
    }

    /// From where the cluster's pods ask (`--cluster-cidr`).
    pub fn set_cluster_ranges(&mut self, ranges: impl IntoIterator<Item = Cidr>) {
        self.cluster_ranges = ranges.into_iter().collect();
        self.places_told = false;
    }

    /// Starts over with what is really in the maps, after a write has failed.
    pub fn restart(&mut self, planner: Planner) {
        self.planner = planner;
        self.restored = false;
        self.places_told = false;
        self.compiled.clear();
        self.dirty_all();
    }

    /// Takes as little memory as it can; worth the while after much was planned.
    pub fn pack(&mut self) {
        self.cluster.pack();
        self.planner.pack();
        self.claims.pack();
    }

    fn dirty_all(&mut self) {
        self.dirty
            .extend(self.cluster.services().map(|(name, _)| name.clone()));
    }

    /// Plans what is dirty. Nothing, before the first full sync (A11).
    pub fn round(&mut self) -> Round {
        let mut round = Round::default();
        if !self.cluster.synced() {
            return round;
        }
        if !std::mem::replace(&mut self.places_told, true) {
            self.tell_places(&mut round.changes);
        }
        if !self.restored {
            self.restored = true;
            let known = self
                .cluster
                .services()
                .map(|(name, _)| name.clone())
                .collect();
            round.changes.merge(self.planner.retain(&known));
            self.dirty_all();
        }
        // What one Service gives up another may have been refused for.
        let mut left = AT_ONCE;
        loop {
            // All claims first: nobody is given for a moment what is another's.
            self.compile_dirty();
            while let Some((name, compiled)) = self.compiled.pop_first() {
                let (desired, refusals) =
                    compiled.unwrap_or_else(|| compile(&self.cluster, &name, &self.facts));
                self.plan(name, desired, refusals, &mut round);
                left -= 1;
                if left == 0 {
                    round.more = true;
                    return round;
                }
            }
            self.dirty.extend(self.planner.take_retries());
            if self.dirty.is_empty() {
                return round;
            }
        }
    }

    fn tell_places(&mut self, changes: &mut Changes) {
        changes.merge(self.planner.set_node_addresses(&self.node_addresses));
        changes.merge(self.planner.set_cluster_ranges(&self.cluster_ranges));
        let peers = self.cluster.peer_addresses().collect();
        changes.merge(self.planner.set_peer_addresses(&peers));
    }

    /// Compiles what is dirty, and what becomes so by its claims.
    fn compile_dirty(&mut self) {
        let mut seen = BTreeSet::new();
        while let Some(name) = self.dirty.pop_first() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let (desired, refusals) = compile(&self.cluster, &name, &self.facts);
            let created = self.cluster.service(&name).and_then(|s| s.created.as_ref());
            self.dirty
                .extend(self.claims.update(&name, created, &desired));
            let few = self.compiled.len() < AT_ONCE;
            self.compiled
                .insert(name, few.then_some((desired, refusals)));
        }
    }

    fn plan(
        &mut self,
        name: ServiceName,
        desired: Service,
        mut refusals: Vec<Refusal>,
        round: &mut Round,
    ) {
        let (desired, lost) = self.claims.award(&name, desired);
        refusals.extend(lost);
        match without_local(&desired) {
            [[0, 0], [0, 0]] => self.without_local.remove(&name),
            some => self.without_local.insert(name.clone(), some),
        };
        let exists = self.cluster.service(&name).is_some();
        let (changes, unfit) = self.planner.plan(&name, exists.then_some(&desired));
        refusals.extend(unfit);
        round.changes.merge(changes);
        let check = health_check(&self.cluster, &name, &self.facts);
        round.health_checks.insert(name.clone(), check);
        round.refusals.insert(name, refusals);
    }
}

/// By family and policy, the ports that drop what policy Local would send to an endpoint here.
fn without_local(service: &Service) -> [[usize; 2]; 2] {
    let mut counts = [[0; 2]; 2];
    for port in &service.ports {
        let dropped = port.frontends.iter().filter(|(_, frontend)| {
            let run = port.runs.get(frontend.run);
            frontend.drop_when_empty && run.is_none_or(|run| run.endpoints.is_empty())
        });
        let kinds: BTreeSet<(usize, usize)> = dropped
            .map(|(at, _)| {
                let external = at.scope == Scope::External;
                (usize::from(at.ip.is_ipv6()), usize::from(external))
            })
            .collect();
        for (family, policy) in kinds {
            counts[family][policy] += 1;
        }
    }
    counts
}
