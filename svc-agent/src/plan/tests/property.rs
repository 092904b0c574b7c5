//! Promises that hold over any history of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use svc_common::table::Scope;

use super::world::World;
use super::{name, port_name};
use crate::config::Cidr;
use crate::desired::{
    Algorithm, Endpoint, Frontend, FrontendAddr, FrontendKind, Listed, Port, Protocol, Run,
    Service, ServiceName,
};
use crate::plan::{Capacities, Changes, Planner};

/// Room for a few Maglev runs only, so that histories run into full tables as well.
const SMALL: Capacities = Capacities {
    frontends: 24,
    addresses: 12,
    slots: 1100,
    services: 9,
    backends: 60,
    ranges: 24,
};

fn ip(v6: bool, n: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
    } else {
        Ipv4Addr::new(10, 0, 0, n).into()
    }
}

/// Runs 0..3 are IPv4 (random, Maglev, another random), 3..6 the same for IPv6.
fn port() -> impl Strategy<Value = (u8, Protocol, Port)> {
    let frontend = (
        any::<bool>(),
        0u8..5,
        0u16..4,
        any::<bool>(),
        0usize..3,
        0u8..4,
        any::<[bool; 3]>(),
    );
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let endpoints = prop::collection::vec(prop::collection::btree_set(1u8..6, 0..4), 6);
    let parts = (
        0u8..3,
        protocol,
        prop::collection::vec(frontend, 0..6),
        endpoints,
        0u32..2,
        prop::collection::btree_map((any::<bool>(), 1u8..8), any::<[bool; 2]>(), 0..4),
        prop::collection::btree_set((any::<bool>(), 1u8..4, 100u8..129), 0..3),
    );
    parts.prop_map(
        |(n, protocol, frontends, endpoints, affinity, others, ranges)| {
            let runs: Vec<Run> = endpoints
                .into_iter()
                .enumerate()
                .map(|(i, set)| Run {
                    algorithm: if i % 3 == 1 {
                        Algorithm::Maglev
                    } else {
                        Algorithm::Random
                    },
                    endpoints: set
                        .iter()
                        .map(|&e| Endpoint {
                            ip: ip(i >= 3, 100 + e),
                            port: 8080,
                            local: e % 2 == 0,
                            weight: u16::from(e % 3 + 1),
                        })
                        .collect(),
                })
                .collect();
            let usable = runs
                .iter()
                .flat_map(|run| &run.endpoints)
                .map(super::listed);
            let others = others.into_iter().map(|((v6, e), [serving, in_set])| {
                let listed = Listed {
                    serving,
                    in_cluster_set: serving && in_set,
                    in_local_set: false,
                    local: false,
                    remote: false,
                    weight: 0,
                };
                ((ip(v6, 100 + e), 8080), listed)
            });
            let listed = others.chain(usable).collect();
            let ranges: BTreeSet<Cidr> = ranges
                .into_iter()
                .map(|(v6, n, length)| {
                    Cidr::new(ip(v6, n), if v6 { length } else { length - 98 }).unwrap()
                })
                .collect();
            let has_ranges = |v6: bool| ranges.iter().any(|range| range.is_ipv4() != v6);
            let frontends: BTreeMap<_, _> = frontends
                .into_iter()
                .map(
                    |(
                        v6,
                        addr,
                        port,
                        outside,
                        run,
                        kind,
                        [drop_when_empty, local_set, restricted],
                    )| {
                        let scope = if outside {
                            Scope::External
                        } else {
                            Scope::Internal
                        };
                        let kind = match kind {
                            0 => FrontendKind::ClusterIp,
                            1 => FrontendKind::NodePort,
                            2 => FrontendKind::LoadBalancer,
                            _ => FrontendKind::ExternalIp,
                        };
                        let at = FrontendAddr {
                            ip: ip(v6, addr),
                            port,
                            protocol,
                            scope,
                        };
                        (
                            at,
                            Frontend {
                                kind,
                                run: run + if v6 { 3 } else { 0 },
                                drop_when_empty,
                                local_set,
                                restricted: restricted && has_ranges(v6),
                            },
                        )
                    },
                )
                .collect();
            let port = Port {
                name: port_name("", ""),
                affinity,
                runs,
                frontends,
                listed,
                ranges,
            };
            (n, protocol, port)
        },
    )
}

fn service(n: u8) -> impl Strategy<Value = Option<Service>> {
    prop::option::weighted(0.75, prop::collection::vec(port(), 0..3)).prop_map(move |ports| {
        let named = |(p, _, port): (u8, Protocol, Port)| Port {
            name: port_name(&format!("s{n}"), &format!("p{p}")),
            ..port
        };
        ports.map(|ports| Service {
            ports: ports.into_iter().map(named).collect(),
        })
    })
}

#[derive(Clone, Debug)]
enum Step {
    Plan(u8, Option<Service>),
    Nodes(BTreeSet<u8>),
    /// Write what was planned.
    Apply,
    /// Let the grace of all that is written pass.
    Release,
    /// Another agent reads the maps; what was planned and not written is lost.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let plan = (0u8..5).prop_flat_map(|n| service(n).prop_map(move |s| Step::Plan(n, s)));
    let nodes = prop::collection::btree_set(0u8..5, 0..3).prop_map(Step::Nodes);
    prop_oneof![8 => plan, 1 => nodes, 5 => Just(Step::Apply), 2 => Just(Step::Release), 1 => Just(Step::Restart)]
}

/// An agent, its maps and what it was told.
struct Agent {
    world: World,
    planner: Planner,
    pending: Changes,
    told: BTreeMap<ServiceName, Option<Service>>,
    nodes: BTreeSet<IpAddr>,
}

impl Agent {
    fn new() -> Self {
        Self {
            world: World::default(),
            planner: Planner::empty(SMALL),
            pending: Changes::default(),
            told: BTreeMap::new(),
            nodes: BTreeSet::new(),
        }
    }

    fn play(steps: Vec<Step>) -> Self {
        let mut agent = Self::new();
        steps.into_iter().for_each(|step| agent.step(step));
        agent.apply();
        agent
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Plan(n, service) => {
                let name = name(&format!("s{n}"));
                self.pending
                    .merge(self.planner.plan(&name, service.as_ref()).0);
                self.told.insert(name, service);
            }
            Step::Nodes(nodes) => {
                self.nodes = nodes
                    .into_iter()
                    .flat_map(|n| [ip(false, n), ip(true, n)])
                    .collect();
                self.pending
                    .merge(self.planner.set_node_addresses(&self.nodes));
            }
            Step::Apply => self.apply(),
            Step::Release => {
                self.apply();
                let closed = self.planner.close_generation();
                self.planner.release(closed);
            }
            Step::Restart => {
                self.pending = Changes::default();
                self.planner = self.world.restart(SMALL);
                self.world.assert_mirrored_by(&self.planner);
                self.sync();
            }
        }
    }

    fn apply(&mut self) {
        self.world.apply(&std::mem::take(&mut self.pending));
        self.planner.close_generation();
        self.world.assert_mirrored_by(&self.planner);
    }

    /// What an agent does after its first full sync.
    fn sync(&mut self) {
        self.pending
            .merge(self.planner.set_node_addresses(&self.nodes));
        let known = self
            .told
            .iter()
            .filter(|(_, s)| s.is_some())
            .map(|(n, _)| n.clone())
            .collect();
        self.pending.merge(self.planner.retain(&known));
        for (name, service) in &self.told {
            self.pending
                .merge(self.planner.plan(name, service.as_ref()).0);
        }
    }

    /// Releases and retries until nothing moves.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.step(Step::Release);
            let retries = self.planner.take_retries();
            for name in &retries {
                self.pending
                    .merge(self.planner.plan(name, self.told[name].as_ref()).0);
            }
            if retries.is_empty() {
                return;
            }
        }
        panic!("retries never end");
    }
}

/// Keys of all frontends of a Service, as text.
fn owned_by(planner: &Planner, name: &ServiceName) -> BTreeSet<String> {
    let prefix = format!("{name}:");
    let mine = |id: &u32| planner.labels()[id].starts_with(&prefix);
    let v4 = planner
        .v4()
        .frontends
        .iter()
        .filter(|(_, f)| mine(&f.service))
        .map(|(k, _)| format!("{k:?}"));
    let v6 = planner
        .v6()
        .frontends
        .iter()
        .filter(|(_, f)| mine(&f.service))
        .map(|(k, _)| format!("{k:?}"));
    v4.chain(v6).collect()
}

/// Entries that a Service has or asks for: frontends, their addresses, labels, what it lists, and the slots of every
/// run.
fn weight(planner: &Planner, name: &ServiceName) -> usize {
    let prefix = format!("{name}:");
    let mine = |id: &u32| planner.labels()[id].starts_with(&prefix);
    let v4 = planner
        .v4()
        .frontends
        .values()
        .filter(|f| mine(&f.service))
        .map(|f| 2 + f.count as usize);
    let v6 = planner
        .v6()
        .frontends
        .values()
        .filter(|f| mine(&f.service))
        .map(|f| 2 + f.count as usize);
    let listed = |planner: &Planner| {
        let (v4, v6) = (planner.v4(), planner.v6());
        let backends = v4.backends.keys().map(|key| key.service);
        let backends6 = v6.backends.keys().map(|key| key.service);
        let ranges = v4.ranges.iter().map(|(source, _)| source.service);
        let ranges6 = v6.ranges.iter().map(|(source, _)| source.service);
        let all = backends.chain(backends6).chain(ranges).chain(ranges6);
        all.filter(mine).count()
    };
    v4.chain(v6).sum::<usize>()
        + listed(planner)
        + planner
            .labels()
            .values()
            .filter(|l| l.starts_with(&prefix))
            .count()
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..40)
}

proptest! {
    #[test]
    fn nothing_points_at_what_is_not_there_at_any_moment(steps in history()) {
        // World::apply asserts it after every single write.
        Agent::play(steps);
    }

    #[test]
    fn applying_twice_changes_nothing(steps in history()) {
        let mut agent = Agent::play(steps);
        agent.settle();
        for (name, service) in agent.told.clone() {
            let (changes, _) = agent.planner.plan(&name, service.as_ref());
            prop_assert!(changes.is_empty(), "{name}: {changes:?}");
        }
        let changes = agent.planner.set_node_addresses(&agent.nodes);
        prop_assert!(changes.is_empty());
        agent.sync();
        prop_assert!(agent.pending.is_empty());
    }

    #[test]
    fn writing_the_same_changes_again_leaves_the_same_maps(steps in history(), n in 0u8..5, s in service(0)) {
        let mut agent = Agent::play(steps);
        let (changes, _) = agent.planner.plan(&name(&format!("s{n}")), s.as_ref());
        agent.world.apply(&changes);
        let once = agent.world.clone();
        agent.world.apply(&changes);
        // Ending an epoch twice costs flows a look, no more.
        (agent.world.v4.epoch, agent.world.v6.epoch) = (once.v4.epoch, once.v6.epoch);
        prop_assert_eq!(once, agent.world);
    }

    #[test]
    fn a_restart_changes_nothing(steps in history()) {
        let mut agent = Agent::play(steps);
        agent.settle();
        let refused: BTreeSet<ServiceName> = agent.planner.refused().keys().cloned().collect();
        let free = agent.planner.free_slots();
        agent.planner = agent.world.restart(SMALL);
        agent.world.assert_mirrored_by(&agent.planner);
        prop_assert_eq!(agent.planner.free_slots(), free);
        agent.pending.merge(agent.planner.set_node_addresses(&agent.nodes));
        let known = agent.told.iter().filter(|(_, s)| s.is_some()).map(|(n, _)| n.clone()).collect();
        agent.pending.merge(agent.planner.retain(&known));
        for (name, service) in agent.told.iter().filter(|(n, _)| !refused.contains(n)) {
            agent.pending.merge(agent.planner.plan(name, service.as_ref()).0);
        }
        prop_assert!(agent.pending.is_empty(), "{:?}", agent.pending);
    }

    #[test]
    fn one_changed_service_costs_one_service(steps in history(), s in service(0)) {
        let mut agent = Agent::play(steps);
        let changed = name("s0");
        let others: BTreeSet<String> =
            (1..5).flat_map(|n| owned_by(&agent.planner, &name(&format!("s{n}")))).collect();
        let before = agent.planner.clone();
        let (changes, _) = agent.planner.plan(&changed, s.as_ref());
        let keys = changes.v4.frontends_in.keys().chain(&changes.v4.frontends_out).map(|k| format!("{k:?}"));
        let keys6 = changes.v6.frontends_in.keys().chain(&changes.v6.frontends_out).map(|k| format!("{k:?}"));
        for key in keys.chain(keys6) {
            prop_assert!(!others.contains(&key), "{key} belongs to another Service");
        }
        for n in 1..5 {
            let name = name(&format!("s{n}"));
            prop_assert_eq!(owned_by(&before, &name), owned_by(&agent.planner, &name));
        }
        let bound = weight(&before, &changed) + weight(&agent.planner, &changed);
        prop_assert!(changes.len() <= bound, "{} writes for a Service of {bound} entries", changes.len());
    }

    #[test]
    fn no_slot_leaks(steps in history()) {
        let mut agent = Agent::play(steps);
        for n in 0..5 {
            agent.step(Step::Plan(n, None));
        }
        agent.step(Step::Nodes(BTreeSet::new()));
        agent.settle();
        prop_assert_eq!(agent.planner.free_slots(), [SMALL.slots, SMALL.slots]);
        let mut world = agent.world;
        (world.v4.slots, world.v6.slots) = (BTreeMap::new(), BTreeMap::new());
        (world.v4.epoch, world.v6.epoch) = (0, 0);
        prop_assert_eq!(world, World::default());
        prop_assert!(agent.planner.refused().is_empty());
    }
}
