//! Services: their types, ports and addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::bool::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::slice::{DrawnSlice, Hints, PLACES, Place, Readiness, hints, place, readiness, slice};
use crate::model::objects::*;
use crate::random::world;

/// A Service and its slices, before they have a name.
#[derive(Clone, Debug)]
pub(super) struct DrawnService {
    pub(super) service: Service,
    families: Vec<bool>,
    slices: Vec<DrawnSlice>,
    pub(super) places: Vec<Place>,
    pub(super) hints: Hints,
    pub(super) readiness: Readiness,
    pub(super) weighs: bool,
}

pub(super) fn service() -> impl Strategy<Value = DrawnService> {
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

impl DrawnService {
    /// As number `i` of a cluster.
    pub(super) fn into_cluster(mut self, i: usize, cluster: &mut Cluster) {
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
    prop::option::weighted(0.4, named)
}
