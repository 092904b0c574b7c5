//! Frontends (semantics C1–C12): on which addresses a service port is asked for, from where, and under which policy.

use std::net::IpAddr;

use svc_common::table::Scope;

use super::{Facts, Refused};
use crate::cluster::{Service, ServicePort, ServiceType, TrafficPolicy};
use crate::config::{Cidr, NodePortAddresses};
use crate::desired::{Algorithm, Fault, FrontendKind};

/// One way to be asked.
pub(super) struct Ask {
    pub(super) scope: Scope,
    pub(super) policy: TrafficPolicy,
    /// Unless the Service asks for another one.
    pub(super) algorithm: Algorithm,
}

/// From where a frontend of this kind is asked, and who answers there.
pub(super) fn asks(kind: FrontendKind, service: &Service, facts: &Facts) -> Vec<Ask> {
    let inside = |policy| Ask {
        scope: Scope::Internal,
        policy,
        algorithm: Algorithm::Random,
    };
    // A flow entry that was evicted must be made again with the same backend, hence a consistent hash (B12).
    let outside = |policy| Ask {
        scope: Scope::External,
        policy,
        algorithm: Algorithm::Maglev,
    };
    match kind {
        FrontendKind::ClusterIp if facts.external_cluster_ip => {
            vec![
                inside(service.internal_policy),
                outside(service.internal_policy),
            ]
        }
        FrontendKind::ClusterIp => vec![inside(service.internal_policy)],
        // Pods and the node itself take the short way to the whole cluster, whatever the external policy (B7).
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            vec![
                inside(TrafficPolicy::Cluster),
                outside(service.external_policy),
            ]
        }
    }
}

/// Kind, address and port number of every frontend of a service port, in both families.
pub(super) fn addresses(
    service: &Service,
    port: &ServicePort,
    facts: &Facts,
    refused: &mut Refused,
) -> Vec<(FrontendKind, IpAddr, u16)> {
    let at = |kind, number: u16| move |&ip: &IpAddr| (kind, ip, number);
    let mut all: Vec<_> = service
        .cluster_ips
        .iter()
        .map(at(FrontendKind::ClusterIp, port.port))
        .collect();
    if has_node_port(service, port, refused) {
        all.extend(
            facts
                .node_port_addresses
                .iter()
                .map(at(FrontendKind::NodePort, port.node_port)),
        );
    }
    all.extend(
        load_balancer_ips(service)
            .iter()
            .map(at(FrontendKind::LoadBalancer, port.port)),
    );
    all.extend(
        service
            .external_ips
            .iter()
            .map(at(FrontendKind::ExternalIp, port.port)),
    );
    all.retain(|(kind, ip, _)| match objection(*kind, *ip, facts) {
        Some((fault, why)) => {
            refused.add(fault, format!("{} {ip} is {why}", kind.field()));
            false
        }
        None => true,
    });
    all
}

/// Why an address is not served, whoever asks for it.
fn objection(kind: FrontendKind, ip: IpAddr, facts: &Facts) -> Option<(Fault, String)> {
    let link_local = matches!(ip, IpAddr::V4(ip) if ip.is_link_local()) && kind.is_external();
    if let Some(what) = nonsense(ip).or(link_local.then_some("a link-local address")) {
        let why = format!("{what}: no traffic can come to it; write another address");
        return Some((Fault::InvalidField, why));
    }
    let (allowed, flag) = match kind {
        FrontendKind::ExternalIp => (&facts.external_ips, "--service-external-ip-range"),
        FrontendKind::LoadBalancer => (&facts.load_balancer_ips, "--loadbalancer-ip-range"),
        FrontendKind::ClusterIp | FrontendKind::NodePort => return None,
    };
    let why = || format!("not in {flag}: write another address, or have it added there");
    (!allowed.allows(ip)).then(|| (Fault::AddressNotAllowed, why()))
}

fn has_node_port(service: &Service, port: &ServicePort, refused: &mut Refused) -> bool {
    match service.r#type {
        ServiceType::NodePort if port.node_port == 0 => {
            refused.because(format!(
                "port {} has no nodePort; none is invented here: write spec.ports[].nodePort",
                port.port
            ));
            false
        }
        // Without one, allocateLoadBalancerNodePorts was false (C12).
        ServiceType::NodePort | ServiceType::LoadBalancer => port.node_port != 0,
        ServiceType::ClusterIp | ServiceType::ExternalName => {
            if port.node_port != 0 {
                refused.because(format!(
                    "nodePort {} needs type NodePort or LoadBalancer",
                    port.node_port
                ));
            }
            false
        }
    }
}

fn load_balancer_ips(service: &Service) -> &[IpAddr] {
    match service.r#type {
        ServiceType::LoadBalancer => &service.load_balancer_ips,
        ServiceType::ClusterIp | ServiceType::NodePort | ServiceType::ExternalName => &[],
    }
}

/// Why no client outside this host could ever ask for such an address.
fn nonsense(ip: IpAddr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("unspecified"),
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The addresses that NodePorts are served on (C4). `node_ips` are the node's own in order of preference, `--node-ip`
/// or the Node object's; `local` is what its devices have. With a list of ranges, a family that no range is of has all
/// of its local addresses.
pub fn node_port_addresses(
    setting: &NodePortAddresses,
    node_ips: &[IpAddr],
    local: &[IpAddr],
) -> Vec<IpAddr> {
    let first = |v4: bool| node_ips.iter().find(move |ip| ip.is_ipv4() == v4);
    let mut addresses: Vec<IpAddr> = match setting {
        NodePortAddresses::Primary => first(true)
            .into_iter()
            .chain(first(false))
            .copied()
            .collect(),
        NodePortAddresses::In(ranges) => {
            let wanted = |ip: &IpAddr| {
                let mut of_family = ranges
                    .iter()
                    .filter(|r| r.is_ipv4() == ip.is_ipv4())
                    .peekable();
                of_family.peek().is_none() || of_family.any(|range: &Cidr| range.contains(*ip))
            };
            local
                .iter()
                .filter(|ip| nonsense(**ip).is_none() && wanted(ip))
                .copied()
                .collect()
        }
    };
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
