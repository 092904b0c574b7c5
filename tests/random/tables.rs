//! Objects in, maps out: the agent's own line (source, Cluster, compile, claims, plan), with its maps as [`Memory`].

use std::collections::BTreeMap;

use svc_agent::cluster::{Change, Cluster as Known, Event};
use svc_agent::compile::{Facts, node_port_addresses};
use svc_agent::config::NodePortAddresses;
use svc_agent::plan::{Actual, Capacities, Planner};
use svc_agent::reconcile::Reconciler;
use svc_agent::source::convert;
use svc_common::family::{Family, V4, V6};
use svc_common::memory::Memory;
use svc_common::table::{NodeConfig, backend_state, node_flags};

use super::objects;
use super::world::{self, addr};
use crate::model::objects::{Cluster, Node};

/// SNAT ports: enough for every packet of a scenario.
pub const SNAT_MIN: u16 = 50_000;
pub const SNAT_MAX: u16 = 65_535;
/// Cookie of the node's own network namespace.
pub const NETNS: u64 = 7;

/// Both families' tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub v4: Memory<V4>,
    pub v6: Memory<V6>,
}

/// An agent, whose maps are what its planner says.
pub struct Agent {
    node: Node,
    reconciler: Reconciler,
    known: Cluster,
}

impl Agent {
    pub fn new(node: &Node) -> Self {
        let known = Known::new(node.name.clone());
        let mut reconciler = Reconciler::new(known, Planner::empty(Capacities::default()));
        let object = convert::node(&objects::node(node));
        let nodes = BTreeMap::from([(object.key, object.value.expect("a Node is a Node"))]);
        reconciler.apply(Event::Node(Change::All(nodes)));
        let ranges = node
            .cluster_cidr
            .iter()
            .map(|r| r.parse().expect("drawn as CIDRs"));
        reconciler.set_cluster_ranges(ranges);
        let mut agent = Self {
            node: node.clone(),
            reconciler,
            known: Cluster::default(),
        };
        agent.learn_facts();
        agent
    }

    fn learn_facts(&mut self) {
        let node = &self.node;
        let seen = self.reconciler.cluster.node().expect("just told");
        let setting = node.nodeport_addresses.as_ref().map_or_else(
            || NodePortAddresses::Primary,
            |ranges| ranges.join(",").parse().expect("drawn as CIDRs"),
        );
        let facts = Facts {
            node_name: node.name.clone(),
            zone: seen.zone().map(str::to_owned),
            node_addresses: seen.addresses.clone(),
            node_port_addresses: node_port_addresses(&setting, &seen.addresses, &node.addresses),
            external_cluster_ip: node.external_cluster_ip,
            ..Facts::default()
        };
        let own = node.addresses.iter().chain(&node.ips).copied();
        self.reconciler.set_facts(facts, own.collect());
    }

    /// Hears that the cluster is now this one: all at once, as after a list, or object by object.
    pub fn hear(&mut self, cluster: &Cluster, all_at_once: bool) {
        let services = cluster.services.iter().map(|s| {
            let converted = convert::service(&objects::service(s));
            (converted.key, converted.value)
        });
        let slices = cluster.slices.iter().map(|s| {
            let converted = convert::slice(&objects::slice(s));
            (converted.key, converted.value)
        });
        if all_at_once {
            let services = services.filter_map(|(key, value)| Some((key, value?)));
            let slices = slices.filter_map(|(key, value)| Some((key, value?)));
            let events = [
                Event::Service(Change::All(services.collect())),
                Event::Slice(Change::All(slices.collect())),
            ];
            for event in events {
                self.reconciler.apply(event);
            }
        } else {
            if self.known == Cluster::default() {
                self.reconciler
                    .apply(Event::Service(Change::All(BTreeMap::new())));
                self.reconciler
                    .apply(Event::Slice(Change::All(BTreeMap::new())));
            }
            let mut events: Vec<Event> = self.gone(cluster);
            events.extend(slices.map(|(key, value)| Event::Slice(applied(key, value))));
            events.extend(services.map(|(key, value)| Event::Service(applied(key, value))));
            // Every event by itself, as they may well come.
            for event in events {
                self.reconciler.apply(event);
                self.settle();
            }
        }
        self.settle();
        self.known = cluster.clone();
    }

    fn gone(&self, cluster: &Cluster) -> Vec<Event> {
        let mut events = Vec::new();
        for old in &self.known.services {
            if cluster.services.iter().all(|new| new.name != old.name) {
                let key = convert::service(&objects::service(old)).key;
                events.push(Event::Service(Change::Deleted(key)));
            }
        }
        for old in &self.known.slices {
            if cluster.slices.iter().all(|new| new.name != old.name) {
                let key = convert::slice(&objects::slice(old)).key;
                events.push(Event::Slice(Change::Deleted(key)));
            }
        }
        events
    }

    /// The agent's loop, with graces that are over at once.
    fn settle(&mut self) {
        while !self.reconciler.round().changes.is_empty() {
            let planner = &mut self.reconciler.planner;
            let generation = planner.close_generation();
            planner.release(generation);
        }
    }

    /// Makes the tables what the agent wants them to be. What the programs keep in them stays.
    pub fn fill(&self, tables: &mut Tables) {
        let planner = &self.reconciler.planner;
        fill(&self.node, planner.v4(), &mut tables.v4);
        fill(&self.node, planner.v6(), &mut tables.v6);
    }
}

fn applied<K, V>(key: K, value: Option<V>) -> Change<K, V> {
    match value {
        Some(value) => Change::Applied(key, value),
        None => Change::Deleted(key),
    }
}

fn fill<F: Family>(node: &Node, actual: &Actual<F>, tables: &mut Memory<F>) {
    tables.addresses = actual.addresses.clone();
    tables.frontends = actual.frontends.clone();
    let runs = actual.slots.iter();
    tables.slots = runs
        .flat_map(|(first, run)| (*first..).zip(run.iter().copied()))
        .collect();
    tables.ranges = actual.ranges.clone();
    fill_backends(actual, tables);
    tables.config = Some(config(node));
    let primary = node.ips.iter().find(|ip| ip.is_ipv6() == (F::VERSION == 6));
    tables.node_address = primary.and_then(|ip| F::addr_from_std(*ip));
    tables.routes = world::hosts()
        .into_iter()
        .map(|(net, host)| {
            let leaves = world::address_towards(net);
            (addr::<F>(net, host), addr::<F>(leaves.0, leaves.1))
        })
        .collect();
}

/// The counts of connections are the programs'. What leaves, or serves no more, ends the epoch.
fn fill_backends<F: Family>(actual: &Actual<F>, tables: &Memory<F>) {
    let old = tables.backends.replace(actual.backends.clone());
    let mut new = tables.backends.borrow_mut();
    let mut lost = false;
    for (key, before) in old {
        let now = new.get_mut(&key);
        lost |= before.flags & !now.as_ref().map_or(0, |now| now.flags) & backend_state::SERVING
            != 0
            || now.is_none();
        if let Some(now) = now {
            now.connections = before.connections;
        }
    }
    if lost {
        tables.epoch.set(tables.epoch.get().wrapping_add(1));
    }
}

fn config(node: &Node) -> NodeConfig {
    let mut flags = 0;
    for (set, flag) in [
        (node.external_cluster_ip, node_flags::EXTERNAL_CLUSTER_IP),
        (node.masquerade_all, node_flags::MASQUERADE_ALL),
        (!node.cluster_cidr.is_empty(), node_flags::CLUSTER_CIDR),
    ] {
        flags |= if set { flag } else { 0 };
    }
    NodeConfig {
        netns_cookie: NETNS,
        flags,
        snat_min: SNAT_MIN,
        snat_max: SNAT_MAX,
        ..NodeConfig::default()
    }
}
