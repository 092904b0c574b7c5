//! What is asked for: from an address, port and protocol to the service port behind it. Rows A1–A3, A12, A13 and C2–C12.

use std::net::{IpAddr, SocketAddr};

use super::objects::{Cluster, Node, Protocol, Service, ServicePort, Type};

/// How a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ClusterIp,
    NodePort,
    /// A LoadBalancer's address, or an external IP. `firewalled`: source ranges are asked (C11).
    External {
        firewalled: bool,
    },
}

/// A service port, by one of its frontends.
#[derive(Clone, Copy, Debug)]
pub struct Frontend<'a> {
    pub service: &'a Service,
    pub port: &'a ServicePort,
    pub kind: Kind,
}

/// The frontend that a packet asks for. A13: of several that whose address is hardest to come by, then the oldest Service's,
/// then the first by name.
pub fn find<'a>(
    cluster: &'a Cluster,
    node: &Node,
    to: SocketAddr,
    protocol: Protocol,
) -> Option<Frontend<'a>> {
    let claims = proxied(cluster).filter_map(|service| of_service(service, node, to, protocol));
    let allowed = claims.filter(|frontend| !is_captured(cluster, frontend, to.ip()));
    allowed.min_by_key(|frontend| {
        let Service { created, name, .. } = frontend.service;
        (rank(frontend.kind), *created, name)
    })
}

/// CVE-2020-8554: ClusterIPs and node ports are given out by the API server, addresses of load balancers by their
/// controllers; external IPs are whatever the Service says.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::ClusterIp => 0,
        Kind::NodePort => 1,
        Kind::External { firewalled: true } => 2,
        Kind::External { firewalled: false } => 3,
    }
}

/// CVE-2020-8554: nobody has another Service's ClusterIP from outside, not even ports that it does not use.
fn is_captured(cluster: &Cluster, frontend: &Frontend, ip: IpAddr) -> bool {
    matches!(frontend.kind, Kind::External { .. })
        && proxied(cluster)
            .any(|other| other.name != frontend.service.name && other.cluster_ips.contains(&ip))
}

/// A1: not those of other proxies, nor those without an address. A2: not headless ones. A3: no ExternalNames.
pub fn proxied(cluster: &Cluster) -> impl Iterator<Item = &Service> {
    cluster.services.iter().filter(|service| {
        !service.other_proxy
            && service.r#type != Type::ExternalName
            && !service.headless
            && !service.cluster_ips.is_empty()
    })
}

/// C16: the protocol is part of what is asked for.
fn of_service<'a>(
    service: &'a Service,
    node: &Node,
    to: SocketAddr,
    protocol: Protocol,
) -> Option<Frontend<'a>> {
    let ports = || service.ports.iter().filter(|p| p.protocol == protocol);
    let by_port = || ports().find(|p| p.port == to.port());
    let by_node_port = || ports().find(|p| p.node_port == Some(to.port()));
    let found = |port, kind| Frontend {
        service,
        port,
        kind,
    };
    if !has_family(service, to.ip()) {
        return None;
    }
    if service.cluster_ips.contains(&to.ip()) {
        return Some(found(by_port()?, Kind::ClusterIp));
    }
    let is_external = service.external_ips.contains(&to.ip());
    let is_load_balancer = load_balancer_ips(service).any(|ip| ip == to.ip());
    if (is_external || is_load_balancer)
        && let Some(port) = by_port()
    {
        let firewalled = is_load_balancer;
        return Some(found(port, Kind::External { firewalled }));
    }
    if serves_node_ports(node, to.ip()) {
        return Some(found(by_node_port()?, Kind::NodePort));
    }
    None
}

/// C2: all ports of a ClusterIP are the Service's.
pub fn is_cluster_ip(cluster: &Cluster, ip: IpAddr) -> bool {
    proxied(cluster).any(|service| service.cluster_ips.contains(&ip))
}

/// Whether some Service is reached at an address that is not a node's.
pub fn is_virtual(cluster: &Cluster, ip: IpAddr) -> bool {
    is_cluster_ip(cluster, ip)
        || proxied(cluster).any(|service| {
            has_family(service, ip)
                && (service.external_ips.contains(&ip)
                    || load_balancer_ips(service).any(|vip| vip == ip))
        })
}

/// A12: a Service is served in the families in which it has a ClusterIP, whatever else it has of others (KEP-563).
pub fn has_family(service: &Service, ip: IpAddr) -> bool {
    let mut own = service.cluster_ips.iter();
    own.any(|own| own.is_ipv6() == ip.is_ipv6())
}

/// C8: the addresses that packets really arrive for. C9: an ingress of mode Proxy ends connections itself (KEP-1860).
fn load_balancer_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let vips = service
        .ingress
        .iter()
        .filter(|i| i.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    vips.map(|i| i.ip)
}

/// C4: `primary` is the first address of each family of the Node object; else those of the node's addresses that are in
/// a range, where a family without a range has all of them.
fn serves_node_ports(node: &Node, ip: IpAddr) -> bool {
    let Some(ranges) = &node.nodeport_addresses else {
        return primary(node, ip.is_ipv6()) == Some(ip);
    };
    let mut of_family = ranges.iter().filter(|r| is_of_family(r, ip)).peekable();
    node.addresses.contains(&ip)
        && (of_family.peek().is_none() || of_family.any(|r| contains(r, ip)))
}

/// The address that the node is known by.
pub fn primary(node: &Node, v6: bool) -> Option<IpAddr> {
    node.ips.iter().copied().find(|ip| ip.is_ipv6() == v6)
}

/// C11: whom the LoadBalancer's addresses answer (`loadBalancerSourceRanges`). Ranges of the other family say nothing;
/// with none of this family, or with one that holds everything, all may come.
pub fn admits(service: &Service, node: &Node, client: IpAddr, vip: IpAddr) -> bool {
    let mut ranges = service
        .source_ranges
        .iter()
        .map(|r| r.trim())
        .filter(|r| is_of_family(r, vip))
        .peekable();
    if ranges.peek().is_none() {
        return true;
    }
    let ranges: Vec<&str> = ranges.collect();
    let within = |ip| ranges.iter().any(|r| contains(r, ip));
    // A node that has such an address on one of its devices sends from it: where the node may come, so may they.
    let node_is_within = primary(node, vip.is_ipv6()).is_some_and(within);
    within(client) || (node_is_within && load_balancer_ips(service).any(|ip| ip == client))
}

fn is_of_family(range: &str, ip: IpAddr) -> bool {
    parse(range).is_some_and(|(network, _)| network.is_ipv6() == ip.is_ipv6())
}

/// Whether a CIDR holds an address.
pub fn contains(range: &str, ip: IpAddr) -> bool {
    let bits = |ip| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    parse(range).is_some_and(|(network, length)| {
        let different = bits(network) ^ bits(ip);
        network.is_ipv6() == ip.is_ipv6() && different.leading_zeros() >= length
    })
}

fn parse(range: &str) -> Option<(IpAddr, u32)> {
    let (network, length) = range.split_once('/')?;
    Some((network.parse().ok()?, length.parse().ok()?))
}
