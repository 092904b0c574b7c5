//! Random scenarios: small clusters in which the rules meet often, and packets to whatever in them could be asked for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::bool::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::scenario::{Scenario, Stage};
use super::{ask, world};
use crate::model::objects::*;

const SERVICES: usize = 4;
/// Every kind of place that an endpoint can be at: pods here and elsewhere, and three nodes' own addresses.
const PLACES: [(u8, u8); 9] = [
    (1, 1),
    (1, 2),
    (1, 3),
    (2, 1),
    (2, 2),
    (4, 1),
    world::NODE,
    (0, 2),
    (3, 2),
];

pub fn scenario() -> impl Strategy<Value = Scenario> {
    let stage = (
        cluster(),
        any::<bool>(),
        prop::collection::vec(any::<u64>(), 1..60),
    );
    let keep = prop::collection::vec(any::<bool>(), SERVICES);
    (node(), prop::collection::vec((stage, keep), 1..4)).prop_map(|(node, drawn)| {
        let mut stages: Vec<Stage> = Vec::new();
        for ((mut cluster, all_at_once, numbers), keep) in drawn {
            if let Some(before) = stages.last() {
                keep_some(&mut cluster, &before.cluster, &keep);
            }
            let steps = ask::steps(&cluster, &node, &numbers);
            stages.push(Stage {
                cluster,
                all_at_once,
                steps,
            });
        }
        Scenario { node, stages }
    })
}

/// Leaves some Services and their slices as they were.
fn keep_some(cluster: &mut Cluster, before: &Cluster, keep: &[bool]) {
    for (i, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
        let prefix = format!("service-{i}");
        cluster.services.retain(|s| s.name != prefix);
        cluster.slices.retain(|s| !s.name.starts_with(&prefix));
        let services = before.services.iter().filter(|s| s.name == prefix);
        cluster.services.extend(services.cloned());
        let slices = before.slices.iter().filter(|s| s.name.starts_with(&prefix));
        cluster.slices.extend(slices.cloned());
    }
}

fn node() -> impl Strategy<Value = Node> {
    let both = |host| [world::at(false, host), world::at(true, host)];
    let cidrs = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let nodeport_addresses = prop_oneof![
        3 => Just(None),
        1 => Just(Some(cidrs(&["10.3.0.0/16"]))),
        1 => Just(Some(cidrs(&["10.0.0.0/8", "fd00::/64"]))),
        1 => Just(Some(cidrs(&["192.0.2.0/24", "fd00:3::1/128"]))),
    ];
    let cluster_cidr = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(cidrs(&["10.1.0.0/16", "10.2.0.0/16", "fd00:2::/32"])),
        1 => Just(cidrs(&["fd00::/13"])),
        1 => Just(cidrs(&["10.2.0.2/32"])),
    ];
    (
        weighted(0.8),
        nodeport_addresses,
        weighted(0.2),
        cluster_cidr,
        weighted(0.15),
    )
        .prop_map(
            move |(
                has_zone,
                nodeport_addresses,
                external_cluster_ip,
                cluster_cidr,
                masquerade_all,
            )| Node {
                name: "node1".into(),
                zone: has_zone.then(|| "zone-a".into()),
                ips: both(world::NODE).into(),
                addresses: [both(world::NODE), both(world::NODE_SECOND)].concat(),
                nodeport_addresses,
                external_cluster_ip,
                cluster_cidr,
                masquerade_all,
            },
        )
}

fn cluster() -> impl Strategy<Value = Cluster> {
    prop::collection::vec(option(0.9, service()), SERVICES).prop_map(|drawn| {
        let mut cluster = Cluster::default();
        for (i, service) in drawn.into_iter().enumerate() {
            if let Some(drawn) = service {
                drawn.into_cluster(i, &mut cluster);
            }
        }
        cluster
    })
}

fn option<T: std::fmt::Debug + Clone>(
    some: f64,
    strategy: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(some, strategy)
}

/// A Service and its slices, before they have a name.
#[derive(Clone, Debug)]
struct DrawnService {
    service: Service,
    families: Vec<bool>,
    slices: Vec<DrawnSlice>,
    places: Vec<Place>,
    hints: Hints,
    readiness: Readiness,
    weighs: bool,
}

fn service() -> impl Strategy<Value = DrawnService> {
    let r#type = prop_oneof![
        3 => Just(Type::ClusterIp),
        3 => Just(Type::NodePort),
        5 => Just(Type::LoadBalancer),
    ];
    let both = vec![false, true];
    let families = select(vec![
        both.clone(),
        both.clone(),
        both,
        vec![false],
        vec![true],
    ]);
    let misfit = prop_oneof![20 => Just(0_u8), 1 => 1_u8..5];
    let policy = || prop_oneof![2 => Just(Policy::Cluster), 1 => Just(Policy::Local)];
    (
        (r#type, families, misfit, policy(), policy(), 0_u32..3),
        (ports(), externals(), ingress(), source_ranges()),
        algorithm(),
        prop::collection::vec(slice(), 0..6),
        prop::collection::vec(place(), PLACES.len() * 2),
        (hints(), readiness(), weighted(0.3)),
        select(vec![None, None, None, Some(20), Some(300)]),
    )
        .prop_map(
            |(
                head,
                (ports, externals, ingress, source_ranges),
                algorithm,
                slices,
                places,
                (hints, readiness, weighs),
                affinity,
            )| {
                let (r#type, families, misfit, internal, external, created) = head;
                let mut service = Service {
                    name: String::new(),
                    created,
                    other_proxy: misfit == 1,
                    r#type,
                    headless: misfit == 2,
                    cluster_ips: Vec::new(),
                    external_ips: externals,
                    ingress: if r#type == Type::LoadBalancer {
                        ingress
                    } else {
                        Vec::new()
                    },
                    source_ranges: if r#type == Type::LoadBalancer {
                        source_ranges
                    } else {
                        Vec::new()
                    },
                    ports,
                    internal,
                    external,
                    affinity,
                    algorithm,
                };
                if misfit == 3 {
                    service.r#type = Type::ExternalName;
                }
                for port in &mut service.ports {
                    let possible = matches!(r#type, Type::NodePort | Type::LoadBalancer);
                    port.node_port = port.node_port.filter(|_| possible);
                }
                DrawnService {
                    // 4: a Service that has not been given its address yet.
                    families: if misfit == 4 { Vec::new() } else { families },
                    service,
                    slices,
                    places,
                    hints,
                    readiness,
                    weighs,
                }
            },
        )
}

/// Ports in several protocols under one number, with node ports that other Services may want too.
fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let known = vec![
        ("http", Protocol::Tcp, 80),
        ("web", Protocol::Tcp, 443),
        ("dns", Protocol::Udp, 80),
        ("log", Protocol::Udp, 514),
        ("m3ua", Protocol::Sctp, 80),
    ];
    let named = subsequence(known, 1..=3);
    (named, any::<bool>(), 0_u16..4, weighted(0.9)).prop_map(
        |(ports, unnamed, first, node_ports)| {
            let single = ports.len() == 1 && unnamed;
            let ports = ports.into_iter().zip(30_000 + first..);
            ports
                .map(|((name, protocol, port), node_port)| ServicePort {
                    name: if single { String::new() } else { name.into() },
                    protocol,
                    port,
                    // C12: allocateLoadBalancerNodePorts=false.
                    node_port: node_ports.then_some(node_port),
                })
                .collect()
        },
    )
}

fn externals() -> impl Strategy<Value = Vec<IpAddr>> {
    let hosts =
        prop_oneof![4 => (1_u8..4).prop_map(|h| (world::EXTERNAL_IPS, h)), 1 => Just(world::NODE)];
    let ip = (any::<bool>(), hosts).prop_map(|(v6, host)| world::at(v6, host));
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(ip, 1..3)]
}

fn ingress() -> impl Strategy<Value = Vec<Ingress>> {
    let mode = select(vec![None, None, Some("VIP"), Some("Proxy")]);
    let ip = (any::<bool>(), 2_u8..5, mode).prop_map(|(v6, host, mode)| Ingress {
        ip: world::at(v6, (world::EXTERNAL_IPS, host)),
        ip_mode: mode.map(str::to_owned),
    });
    prop::collection::vec(ip, 0..4)
}

fn source_ranges() -> impl Strategy<Value = Vec<String>> {
    let ranges = [
        "10.9.0.0/24",
        " 10.9.0.1/32",
        "10.0.0.0/30 ",
        "10.1.0.0/16",
        "10.3.0.0/16",
        "0.0.0.0/0",
        "fd00:9::/64",
        "fd00:9::2/128",
        "fd00::/32",
        "::/0",
    ];
    let ranges = ranges.map(str::to_owned).to_vec();
    prop_oneof![1 => Just(Vec::new()), 1 => subsequence(ranges, 1..4)]
}

fn algorithm() -> impl Strategy<Value = Option<Algorithm>> {
    use Algorithm::{LeastConnections, Maglev, Random, RoundRobin};
    let named = select(vec![Random, RoundRobin, Maglev, LeastConnections]);
    option(0.4, named)
}

/// One of the Service's slices, by numbers of its ports and places.
#[derive(Clone, Debug)]
struct DrawnSlice {
    v6: bool,
    misfit: u8,
    weight: Option<u16>,
    /// Per service port, in its order.
    numbers: Vec<Option<u16>>,
    /// Place, and whether it is leaving.
    endpoints: Vec<(usize, bool)>,
}

fn slice() -> impl Strategy<Value = DrawnSlice> {
    let misfit = prop_oneof![20 => Just(0_u8), 1 => 1_u8..5];
    let number = select(vec![
        Some(8_080),
        Some(8_080),
        Some(8_081),
        Some(8_080),
        Some(8_080),
        Some(9_090),
        Some(0),
        None,
    ]);
    let endpoints = prop::collection::vec((0..PLACES.len(), weighted(0.25)), 0..6);
    (
        any::<bool>(),
        misfit,
        prop::collection::vec(number, 3),
        endpoints,
        option(0.3, select(vec![0, 0, 1, 2, 5])),
    )
        .prop_map(|(v6, misfit, numbers, endpoints, weight)| DrawnSlice {
            v6,
            misfit,
            weight,
            numbers,
            endpoints,
        })
}

/// What the API says of an endpoint, while it runs and while it terminates.
#[derive(Clone, Debug)]
struct Place {
    ready: [Option<bool>; 2],
    serving: [Option<bool>; 2],
    node_known: bool,
    second_address: bool,
    zones: Vec<String>,
    nodes: Vec<String>,
    hinted: bool,
}

fn place() -> impl Strategy<Value = Place> {
    let maybe = || select(vec![None, Some(true), Some(true), Some(false)]);
    let names = |names: [&str; 2]| subsequence(names.map(str::to_owned).to_vec(), 1..=2);
    (
        [maybe(), maybe()],
        [maybe(), maybe()],
        weighted(0.95),
        weighted(0.2),
        (names(["zone-a", "zone-b"]), names(["node1", "node2"])),
        weighted(0.8),
    )
        .prop_map(
            |(ready, serving, node_known, second_address, (zones, nodes), hinted)| Place {
                ready,
                serving,
                node_known,
                second_address,
                zones,
                nodes,
                hinted,
            },
        )
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hints {
    None,
    Zones,
    Nodes,
    Both,
    /// Some have both, some have nothing.
    Patchy,
}

fn hints() -> impl Strategy<Value = Hints> {
    use Hints::{Both, Nodes, None, Patchy, Zones};
    select(vec![None, None, Zones, Nodes, Both, Patchy])
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Readiness {
    All,
    Mixed,
    None,
}

fn readiness() -> impl Strategy<Value = Readiness> {
    select(vec![
        Readiness::All,
        Readiness::All,
        Readiness::Mixed,
        Readiness::Mixed,
        Readiness::Mixed,
        Readiness::None,
    ])
}

impl DrawnService {
    /// As number `i` of a cluster.
    fn into_cluster(mut self, i: usize, cluster: &mut Cluster) {
        self.service.name = format!("service-{i}");
        let host = (world::CLUSTER_IPS, i as u8 + 1);
        if !self.service.headless {
            let ips = self.families.iter().map(|v6| world::at(*v6, host));
            self.service.cluster_ips = ips.collect();
        }
        let mut seen = BTreeSet::new();
        for (number, drawn) in self.slices.iter().enumerate() {
            let mut slice = self.slice(drawn);
            slice.name = format!("service-{i}-{number}");
            // Which of two equal copies gives the weight is nowhere said.
            slice.endpoints.retain(|e| {
                !self.weighs || seen.insert((e.addresses[0].clone(), e.terminating == Some(true)))
            });
            cluster.slices.push(slice);
        }
        cluster.services.push(self.service);
    }

    fn slice(&self, drawn: &DrawnSlice) -> Slice {
        let mut ports = Vec::new();
        for (port, number) in self.service.ports.iter().zip(&drawn.numbers) {
            ports.push(SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: *number,
            });
        }
        // A port that the Service does not have.
        ports.push(SlicePort {
            name: "metrics".into(),
            protocol: Protocol::Tcp,
            port: Some(9_100),
        });
        let family = if drawn.v6 { "IPv6" } else { "IPv4" };
        let endpoints = drawn.endpoints.iter();
        Slice {
            name: String::new(),
            service: match drawn.misfit {
                1 => None,
                2 => Some("somebody-else".into()),
                _ => Some(self.service.name.clone()),
            },
            headless: drawn.misfit == 3,
            address_type: if drawn.misfit == 4 { "FQDN" } else { family }.into(),
            ports,
            endpoints: endpoints
                .map(|(place, leaving)| self.endpoint(*place, drawn.v6, *leaving))
                .collect(),
            weight: drawn.weight.filter(|_| self.weighs),
        }
    }

    fn endpoint(&self, place: usize, v6: bool, leaving: bool) -> Endpoint {
        let drawn = &self.places[place * 2 + usize::from(v6)];
        let at = PLACES[place];
        let mut addresses = vec![world::at(v6, at).to_string()];
        if drawn.second_address {
            addresses.push(world::at(v6, (2, 9)).to_string());
        }
        let hinted = self.hints != Hints::Patchy || drawn.hinted;
        let only = |names: &[String], with: &[Hints]| {
            let kept = hinted && with.contains(&self.hints);
            names.iter().filter(|_| kept).cloned().collect::<Vec<_>>()
        };
        let ready = match self.readiness {
            // publishNotReadyAddresses: ready even while terminating (A10).
            Readiness::All => Some(true),
            Readiness::Mixed => drawn.ready[usize::from(leaving)],
            Readiness::None => Some(false),
        };
        Endpoint {
            addresses,
            ready,
            serving: drawn.serving[usize::from(leaving)],
            terminating: if leaving {
                Some(true)
            } else {
                ready.filter(|ready| !ready)
            },
            node_name: drawn.node_known.then(|| node_of(at).to_owned()),
            for_zones: only(&drawn.zones, &[Hints::Zones, Hints::Both, Hints::Patchy]),
            for_nodes: only(&drawn.nodes, &[Hints::Nodes, Hints::Both, Hints::Patchy]),
        }
    }
}

fn node_of(place: (u8, u8)) -> &'static str {
    match place {
        (2, _) | (0, 2) => "node2",
        (4, _) | (3, 2) => "node3",
        _ => "node1",
    }
}
