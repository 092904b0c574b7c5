mod endpoints;
mod frontends;
mod health;
mod ranges;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use svc_common::table::Scope;

use super::*;
use crate::cluster::{Change, Event, Hints, Slice, SliceName, TargetPort};
use crate::desired::Protocol;

const EACH: [(FrontendKind, Scope); 7] = [
    (FrontendKind::ClusterIp, Scope::Internal),
    (FrontendKind::NodePort, Scope::Internal),
    (FrontendKind::NodePort, Scope::External),
    (FrontendKind::LoadBalancer, Scope::Internal),
    (FrontendKind::LoadBalancer, Scope::External),
    (FrontendKind::ExternalIp, Scope::Internal),
    (FrontendKind::ExternalIp, Scope::External),
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name() -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: "web".into(),
    }
}

fn facts() -> Facts {
    Facts {
        node_name: "here".into(),
        zone: Some("a".into()),
        node_port_addresses: vec![ip("172.18.0.11"), ip("fd00:18::11")],
        node_addresses: vec![ip("172.18.0.11"), ip("fd00:18::11")],
        external_cluster_ip: false,
        ..Facts::default()
    }
}

/// A LoadBalancer with every kind of frontend, in both families.
fn service() -> cluster::Service {
    cluster::Service {
        r#type: ServiceType::LoadBalancer,
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00:96::1")],
        external_ips: vec![ip("198.51.100.32"), ip("2001:db8::32")],
        load_balancer_ips: vec![ip("192.0.2.127"), ip("2001:db8::127")],
        ports: vec![port("", 80, 30080)],
        ..Default::default()
    }
}

fn port(name: &str, number: u16, node_port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port: number,
        target: TargetPort::Number(number),
        node_port,
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Ready,
    Leaving,
    Gone,
    Unready,
}

/// `10.0.0.N` on a node, in a state.
fn endpoint(n: u8, node: &str, state: State) -> cluster::Endpoint {
    cluster::Endpoint {
        ip: IpAddr::from([10, 0, 0, n]),
        ready: state == State::Ready,
        serving: matches!(state, State::Ready | State::Leaving),
        terminating: matches!(state, State::Leaving | State::Gone),
        node: Some(node.into()),
        hints: None,
        weight: 1,
    }
}

fn slice(endpoints: Vec<cluster::Endpoint>) -> Slice {
    Slice {
        service: name(),
        endpoints,
        ports: vec![("".into(), Protocol::Tcp, 8080)],
    }
}

fn cluster(service: cluster::Service, slices: Vec<Slice>) -> Cluster {
    let mut cluster = Cluster::new("here");
    cluster.apply(Event::Service(Change::All([(name(), service)].into())));
    let named = |(i, slice)| {
        (
            SliceName {
                namespace: "default".into(),
                name: format!("s{i}").into(),
            },
            slice,
        )
    };
    cluster.apply(Event::Slice(Change::All(
        (0..).zip(slices).map(named).collect(),
    )));
    cluster.apply(Event::Node(Change::All(BTreeMap::new())));
    cluster
}

fn compiled(
    service: cluster::Service,
    endpoints: Vec<cluster::Endpoint>,
) -> (desired::Service, Vec<String>) {
    let (service, refusals) = compile(&cluster(service, vec![slice(endpoints)]), &name(), &facts());
    (
        service,
        refusals.into_iter().map(|r| r.to_string()).collect(),
    )
}

/// The IPv4 frontend of a kind: last bytes of its endpoints, and whether it drops when there are none.
fn answer(service: &desired::Service, kind: FrontendKind, scope: Scope) -> Option<(Vec<u8>, bool)> {
    let port = &service.ports[0];
    let found = port
        .frontends
        .iter()
        .find(|(a, f)| f.kind == kind && a.scope == scope && a.ip.is_ipv4());
    let last = |e: &desired::Endpoint| match e.ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => panic!("another family"),
    };
    found.map(|(_, f)| {
        (
            port.runs[f.run].endpoints.iter().map(last).collect(),
            f.drop_when_empty,
        )
    })
}
