//! The cluster whose Services are in the maps: as many plain ones as wanted, and those that the measured packets go to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use svc_agent::cluster::{
    Change, Cluster, Endpoint, Event, Node, Service, ServicePort, ServiceType, Slice, SliceName,
    TargetPort,
};
use svc_agent::compile::Facts;
use svc_agent::desired::{Protocol, ServiceName};
use svc_agent::plan::{Capacities, Changes, Planner};
use svc_agent::reconcile::Reconciler;

const HERE: &str = "here";
const THERE: &str = "there";
/// Ports of the special Services; the plain ones have the first.
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
/// Endpoints of the Service whose clients are masqueraded: each lends as many SNAT ports as there are.
const FAR_ENDPOINTS: u32 = 64;

/// Host `n` of a network: 10.net.0.0 + n, or fd00:net::n.
#[derive(Clone, Copy)]
pub(crate) struct Net(u8, u16);

pub(crate) const NODE: Net = Net(0, 0);
pub(crate) const PODS: Net = Net(1, 1);
pub(crate) const FAR: Net = Net(2, 2);
/// ClusterIPs of the plain Services; large enough for a million.
pub(crate) const PLAIN: Net = Net(96, 0x96);
/// Addresses of the others.
pub(crate) const VIPS: Net = Net(111, 0x111);
pub(crate) const OUTSIDE: Net = Net(192, 9);

impl Net {
    pub(crate) fn at(self, v6: bool, n: u32) -> IpAddr {
        if v6 {
            let net = u128::from(self.1) << 96;
            Ipv6Addr::from(0xfd00_u128 << 112 | net | u128::from(n)).into()
        } else {
            Ipv4Addr::from(10 << 24 | u32::from(self.0) << 16 | n).into()
        }
    }
}

/// Numbers of the special Services; number + 100 is its load balancer's.
pub(crate) const NEAR: u32 = 1;
pub(crate) const REMOTE: u32 = 2;
pub(crate) const EMPTY: u32 = 3;
pub(crate) const INGRESS: u32 = 100;
pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8_080;

fn both(net: Net, n: u32) -> Vec<IpAddr> {
    vec![net.at(false, n), net.at(true, n)]
}

/// What the agent would write for it.
pub(crate) fn changes(plain: u32, capacities: Capacities) -> Changes {
    let mut cluster = Cluster::new(HERE);
    let mut services = std::collections::BTreeMap::new();
    let mut slices = std::collections::BTreeMap::new();
    let mut add = |name: String,
                   protocols: &[(&str, Protocol)],
                   ips: Vec<IpAddr>,
                   ingress: Vec<IpAddr>,
                   endpoints: Vec<(Net, u32)>| {
        let name = ServiceName {
            namespace: "bench".into(),
            name: name.into(),
        };
        for v6 in [false, true] {
            let of = |(net, n): &(Net, u32)| endpoint(net.at(v6, *n), net.0 == PODS.0);
            let slice = Slice {
                service: name.clone(),
                endpoints: endpoints.iter().map(of).collect(),
                ports: protocols
                    .iter()
                    .map(|(name, protocol)| ((*name).into(), *protocol, TARGET))
                    .collect(),
            };
            let id = SliceName {
                namespace: "bench".into(),
                name: format!("{}-{}", name.name, if v6 { "v6" } else { "v4" }).into(),
            };
            slices.insert(id, slice);
        }
        services.insert(name, service(protocols, ips, ingress));
    };
    for n in 0..plain {
        // One endpoint here, one elsewhere, as many different ones as a node and its peers have.
        let endpoints = vec![(PODS, 1_000 + n % 250), (FAR, 1_000 + n % 32_768)];
        let name = format!("plain-{n}");
        add(name, &PROTOCOLS[..1], both(PLAIN, n), Vec::new(), endpoints);
    }
    let far = (1..=FAR_ENDPOINTS).map(|n| (FAR, n)).collect();
    for (number, name, endpoints) in [
        (NEAR, "near", vec![(PODS, 2)]),
        (REMOTE, "far", far),
        (EMPTY, "empty", Vec::new()),
    ] {
        let ingress = both(VIPS, number + INGRESS);
        add(
            name.into(),
            &PROTOCOLS,
            both(VIPS, number),
            ingress,
            endpoints,
        );
    }
    let node = Node {
        addresses: both(NODE, 1),
        ..Node::default()
    };
    cluster.apply(Event::Node(Change::All([(HERE.into(), node)].into())));
    cluster.apply(Event::Service(Change::All(services)));
    cluster.apply(Event::Slice(Change::All(slices)));
    let mut reconciler = Reconciler::new(cluster, Planner::empty(capacities));
    let facts = Facts {
        node_name: HERE.into(),
        node_addresses: both(NODE, 1),
        ..Facts::default()
    };
    reconciler.set_facts(facts, BTreeSet::from_iter(both(NODE, 1)));
    let mut changes = Changes::default();
    loop {
        let round = reconciler.round();
        changes.merge(round.changes);
        if !round.more {
            return changes;
        }
    }
}

fn endpoint(ip: IpAddr, here: bool) -> Endpoint {
    Endpoint {
        ip,
        ready: true,
        serving: true,
        terminating: false,
        node: Some(if here { HERE } else { THERE }.into()),
        hints: None,
        weight: 1,
    }
}

fn service(
    protocols: &[(&str, Protocol)],
    cluster_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
) -> Service {
    Service {
        r#type: if load_balancer_ips.is_empty() {
            ServiceType::ClusterIp
        } else {
            ServiceType::LoadBalancer
        },
        cluster_ips,
        load_balancer_ips,
        ports: protocols
            .iter()
            .map(|(name, protocol)| ServicePort {
                name: (*name).into(),
                protocol: *protocol,
                port: PORT,
                target: TargetPort::Number(TARGET),
                node_port: 0,
            })
            .collect(),
        ..Service::default()
    }
}
