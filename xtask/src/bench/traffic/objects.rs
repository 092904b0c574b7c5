//! The objects of the cluster that is measured: two Services that carry the traffic, and others beside them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use xtask::load::Work;
use xtask::topology::{NODES, Topology};

const NAMESPACE: &str = "bench";
const PROTOCOLS: [(&str, u16); 5] = [
    ("TCP", 8080),
    ("TCP", 8081),
    ("TCP", 8082),
    ("UDP", 5353),
    ("UDP", 5354),
];
/// Where the ClusterIPs of the others begin.
const OTHERS: u16 = 256;

/// A Service that is measured: where its one backend is, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    Local,
    Remote,
}

impl Measured {
    const ALL: [Self; 2] = [Self::Local, Self::Remote];

    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }

    /// The place of its backend. The client inside is pod-a, and the one outside asks node1.
    pub fn place(self) -> &'static str {
        match self {
            Self::Local => "pod-b",
            Self::Remote => "pod-c",
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Local => 10,
            Self::Remote => 11,
        }
    }

    pub fn cluster_ip(self, v6: bool, work: Work) -> SocketAddr {
        (cluster_ip(self.number(), v6), work.port()).into()
    }

    pub fn node_port(self, work: Work) -> u16 {
        self.port_of(work.port())
    }

    fn port_of(self, port: u16) -> u16 {
        let index = PROTOCOLS.iter().position(|(_, known)| *known == port);
        let index = u16::try_from(index.unwrap_or_default()).unwrap_or_default();
        30_000 + 100 * self.number() + index
    }
}

fn cluster_ip(number: u16, v6: bool) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if v6 {
        Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number).into()
    } else {
        Ipv4Addr::new(10, 96, high, low).into()
    }
}

/// The last of the other Services: when it answers, all are there. It has pod-c behind it.
pub fn last(services: usize, v6: bool) -> Option<SocketAddr> {
    let others = u16::try_from(services.checked_sub(Measured::ALL.len() + 1)?).ok()?;
    Some((cluster_ip(OTHERS + others, v6), Work::TcpConnect.port()).into())
}

/// What a resource's path lists: one JSON text per object.
#[derive(Debug)]
pub struct Resource {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub items: Vec<String>,
}

/// Everything that a proxy lists and watches, by path.
pub type Objects = BTreeMap<&'static str, Resource>;

/// A cluster with so many Services, the two that are measured among them.
pub fn objects(topology: &Topology, services: usize) -> Objects {
    let mut list = Vec::new();
    let mut slices = Vec::new();
    for one in Measured::ALL {
        let ports: Vec<Value> = PROTOCOLS
            .iter()
            .map(|(protocol, number)| {
                let mut port = port(protocol, *number);
                port["targetPort"] = json!(number);
                port["nodePort"] = json!(one.port_of(*number));
                port
            })
            .collect();
        list.push(service(one.name(), one.number(), "NodePort", &ports));
        let place = topology.place(one.place());
        slices.extend(both_slices(
            one.name(),
            place.addresses(),
            place.node,
            &PROTOCOLS,
        ));
    }
    let others = services.saturating_sub(Measured::ALL.len());
    let backend = topology.place(Measured::Remote.place());
    for number in 0..u16::try_from(others).unwrap_or(u16::MAX - OTHERS) {
        let name = format!("other-{number}");
        let mut tcp = port("TCP", PROTOCOLS[0].1);
        tcp["targetPort"] = json!(PROTOCOLS[0].1);
        list.push(service(&name, OTHERS + number, "ClusterIP", &[tcp]));
        let [high, low] = number.to_be_bytes();
        let addresses = if usize::from(number) + 1 == others {
            backend.addresses()
        } else {
            [
                Ipv4Addr::new(10, 245, high, low).into(),
                Ipv6Addr::new(0xfd00, 0x245, 0, 0, 0, 0, 0, number).into(),
            ]
        };
        slices.extend(both_slices(&name, addresses, backend.node, &PROTOCOLS[..1]));
    }
    let resource = |api_version, kind, items| Resource {
        api_version,
        kind,
        items,
    };
    BTreeMap::from([
        ("/api/v1/services", resource("v1", "Service", list)),
        ("/api/v1/nodes", resource("v1", "Node", nodes(topology))),
        (
            "/apis/discovery.k8s.io/v1/endpointslices",
            resource("discovery.k8s.io/v1", "EndpointSlice", slices),
        ),
        (
            "/apis/networking.k8s.io/v1/servicecidrs",
            resource("networking.k8s.io/v1", "ServiceCIDR", Vec::new()),
        ),
    ])
}

fn port(protocol: &str, number: u16) -> Value {
    json!({"name": format!("p{number}"), "protocol": protocol, "port": number})
}

fn metadata(namespace: Option<&str>, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "uid": name,
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn service(name: &str, number: u16, kind: &str, ports: &[Value]) -> String {
    let ips = [cluster_ip(number, false), cluster_ip(number, true)];
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(Some(NAMESPACE), name),
        "spec": {
            "type": kind,
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": ports,
        },
        "status": {"loadBalancer": {}},
    });
    if kind == "NodePort" {
        service["spec"]["externalTrafficPolicy"] = json!("Cluster");
    }
    service.to_string()
}

fn both_slices(
    service: &str,
    addresses: [IpAddr; 2],
    node: Option<&str>,
    ports: &[(&str, u16)],
) -> [String; 2] {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, number)| port(protocol, *number))
        .collect();
    addresses.map(|address| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let name = format!("{service}-{}", family.to_lowercase());
        let mut metadata = metadata(Some(NAMESPACE), &name);
        metadata["labels"] = json!({"kubernetes.io/service-name": service});
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": family,
            "endpoints": [{
                "addresses": [address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node,
            }],
            "ports": ports,
        })
        .to_string()
    })
}

fn nodes(topology: &Topology) -> Vec<String> {
    let node = |(number, name): (u16, &str)| {
        let addresses: Vec<Value> = topology
            .place(name)
            .addresses()
            .iter()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        let cidrs = [
            format!("10.244.{number}.0/24"),
            format!("fd00:244:{number}::/64"),
        ];
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": metadata(None, name),
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            "status": {"addresses": addresses},
        })
        .to_string()
    };
    (1..).zip(NODES).map(node).collect()
}
