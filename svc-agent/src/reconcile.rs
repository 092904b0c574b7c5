//! The user side's line in one place: events into the Cluster, what became dirty through `compile`, claims and `plan`.
//! Pure, but for what it is given to ask where the node's processes listen; reads no clock, writes no map.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use svc_common::table::Scope;

use crate::claims::Claims;
use crate::cluster::{Cluster, Event};
use crate::compile::{Facts, compile, health_check};
use crate::config::Cidr;
use crate::desired::{HealthCheck, Protocol, Refusal, Service, ServiceName};
use crate::guard::{self, Held, Holder, Listener, Place};
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
    listening: Listening,
    /// External addresses that are the node's.
    asked_of_node: BTreeSet<Place>,
    /// Those of them that processes listen on, and did when last looked at: one that starts again keeps its port.
    processes: [BTreeSet<Place>; 2],
    /// The node has other addresses since.
    moved: bool,
}

/// Where processes of the node listen.
pub type Listening = fn() -> Vec<Listener>;

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
            listening: Vec::new,
            asked_of_node: BTreeSet::new(),
            processes: Default::default(),
            moved: false,
        }
    }

    /// Whom to ask what the node's own processes listen on, which external addresses may not take.
    #[must_use]
    pub fn with_listening(mut self, listening: Listening) -> Self {
        self.listening = listening;
        self
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
        self.moved = true;
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
            self.hold();
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

    /// Whether an external address is one of the node's: what its processes listen on is to be looked at now and then.
    pub fn asks_of_node(&self) -> bool {
        !self.asked_of_node.is_empty()
    }

    /// Looks again; the next round follows.
    pub fn look_at_listeners(&mut self) {
        let now = self.listened_on();
        let [processes, before] = &mut self.processes;
        *before = std::mem::replace(processes, now);
    }

    fn listened_on(&self) -> BTreeSet<Place> {
        if self.asked_of_node.is_empty() {
            return BTreeSet::new();
        }
        let listeners = (self.listening)();
        guard::of_processes(&self.asked_of_node, &listeners, &self.facts.node_addresses)
    }

    /// Tells the claims what no external address may be; before anything of that is planned.
    fn hold(&mut self) {
        if self.claims.take_news_from_outside() | std::mem::take(&mut self.moved) {
            let addresses = self.node_addresses.iter();
            let asked = addresses.flat_map(|ip| self.claims.from_outside_at(*ip));
            self.asked_of_node = asked.map(|(place, _)| place).collect();
            let now = self.listened_on();
            let [processes, before] = &mut self.processes;
            processes.extend(now);
            processes.retain(|place| self.asked_of_node.contains(place));
            before.retain(|place| self.asked_of_node.contains(place));
        }
        let by_process = self.processes.iter().flatten();
        let mut held: Held = by_process.map(|place| (*place, Holder::Process)).collect();
        let api = guard::api_servers(&self.cluster).into_iter();
        let api = api.chain(self.facts.api_server);
        held.extend(api.map(|at| ((at, Protocol::Tcp), Holder::ApiServer)));
        let node_name = self.cluster.node_name();
        self.dirty.extend(self.claims.hold(held, node_name));
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

#[cfg(test)]
mod tests;
