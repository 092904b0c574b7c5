//! Who may answer: from EndpointSlices to the endpoints of one service port, and the sets that the traffic policies
//! choose from. Rows A4–A8 and B1–B3, B9–B13.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::objects::{self, Cluster, Node, Service, ServicePort, Slice};

/// One endpoint of a service port, with nothing left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub at: SocketAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// It runs on this node.
    pub local: bool,
    pub weight: u16,
    for_this_node: bool,
    for_this_zone: bool,
    has_node_hint: bool,
    has_zone_hint: bool,
}

/// The endpoints that a service port has for new connections in one family. B13 (svcplane): one of weight 0 is not there.
pub fn endpoints(
    cluster: &Cluster,
    node: &Node,
    service: &Service,
    port: &ServicePort,
    v6: bool,
) -> Vec<Endpoint> {
    let mut all = listed(cluster, node, service, port, v6);
    all.retain(|e| e.weight > 0);
    all
}

/// All endpoints of a service port in one family: of all slices, each address and port once (A5).
pub fn listed(
    cluster: &Cluster,
    node: &Node,
    service: &Service,
    port: &ServicePort,
    v6: bool,
) -> Vec<Endpoint> {
    let mut all: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in slices_of(cluster, service, v6) {
        for number in numbers(slice, port) {
            for endpoint in slice.endpoints.iter().filter_map(|e| {
                let at = SocketAddr::new(address(e)?, number);
                Some(complete(e, at, node, slice.weight))
            }) {
                merge(&mut all, endpoint);
            }
        }
    }
    all.into_values().collect()
}

/// A4: by label, not by owner, so slices written by hand count. A2: not those of headless Services. A7: those of the
/// family; slices of names are for whoever resolves them.
fn slices_of<'a>(
    cluster: &'a Cluster,
    service: &'a Service,
    v6: bool,
) -> impl Iterator<Item = &'a Slice> {
    let family = if v6 { "IPv6" } else { "IPv4" };
    cluster.slices.iter().filter(move |slice| {
        slice.service.as_ref() == Some(&service.name)
            && !slice.headless
            && slice.address_type == family
    })
}

/// A7: only the first address counts ("consumers must only use the first", discovery/v1).
fn address(endpoint: &objects::Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

/// A8: slices and Services meet by the port's name and protocol; the number is the slice's. KEP-752.
fn numbers(slice: &Slice, port: &ServicePort) -> impl Iterator<Item = u16> {
    let same = |p: &&objects::SlicePort| p.name == port.name && p.protocol == port.protocol;
    let ports = slice.ports.iter().filter(same);
    ports
        .filter_map(|p| p.port)
        .filter(|number| *number != 0)
        .collect::<Vec<_>>()
        .into_iter()
}

/// A6: what is not said of ready is true, of serving true, of terminating false (discovery/v1 EndpointConditions).
fn complete(
    endpoint: &objects::Endpoint,
    at: SocketAddr,
    node: &Node,
    weight: Option<u16>,
) -> Endpoint {
    Endpoint {
        at,
        ready: endpoint.ready.unwrap_or(true),
        serving: endpoint.serving.unwrap_or(true),
        terminating: endpoint.terminating.unwrap_or(false),
        local: endpoint.node_name.as_ref() == Some(&node.name),
        weight: weight.unwrap_or(1),
        for_this_node: endpoint.for_nodes.contains(&node.name),
        for_this_zone: node
            .zone
            .as_ref()
            .is_some_and(|zone| endpoint.for_zones.contains(zone)),
        has_node_hint: !endpoint.for_nodes.is_empty(),
        has_zone_hint: !endpoint.for_zones.is_empty(),
    }
}

/// A5: an endpoint on its way from one slice to another is in both for a while; a pod that runs has its address sooner
/// than the pod that leaves it has given it up. What does not terminate wins.
fn merge(all: &mut BTreeMap<SocketAddr, Endpoint>, endpoint: Endpoint) {
    let known = all.get(&endpoint.at);
    if known.is_none_or(|known| known.terminating && !endpoint.terminating) {
        all.insert(endpoint.at, endpoint);
    }
}

/// B1, B2: the ready ones that topology leaves; when none is ready anywhere, all that still serve while they terminate,
/// wherever they are (KEP-1669).
pub fn cluster_set(endpoints: &[Endpoint]) -> Vec<&Endpoint> {
    let ready: Vec<&Endpoint> = endpoints.iter().filter(|e| e.ready).collect();
    if ready.is_empty() {
        endpoints.iter().filter(|e| leaving(e)).collect()
    } else {
        near(ready)
    }
}

/// B3: the ready ones of this node; when it has none, its own that still serve while they terminate (KEP-1669). B11:
/// hints do not matter.
pub fn local_set(endpoints: &[Endpoint]) -> Vec<&Endpoint> {
    let here = || endpoints.iter().filter(|e| e.local);
    if here().any(|e| e.ready) {
        here().filter(|e| e.ready).collect()
    } else {
        here().filter(|e| leaving(e)).collect()
    }
}

/// Whether a Service of any policy could use one of them somewhere (B4 against B5 and B6).
pub fn usable_anywhere(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|e| e.ready || leaving(e))
}

/// B2: terminating without serving is never used.
fn leaving(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// B9, B10: hints are followed when every ready endpoint of the service port has one and at least one of them names us,
/// those of nodes before those of zones (KEP-2433, KEP-3015). Else everybody is near.
fn near(ready: Vec<&Endpoint>) -> Vec<&Endpoint> {
    let follows = |has: fn(&Endpoint) -> bool, names_us: fn(&Endpoint) -> bool| {
        ready.iter().all(|e| has(e)) && ready.iter().any(|e| names_us(e))
    };
    let keep = |names_us: fn(&Endpoint) -> bool| {
        let ready = ready.iter().copied();
        ready.filter(|e| names_us(e)).collect::<Vec<_>>()
    };
    if follows(|e| e.has_node_hint, |e| e.for_this_node) {
        keep(|e| e.for_this_node)
    } else if follows(|e| e.has_zone_hint, |e| e.for_this_zone) {
        keep(|e| e.for_this_zone)
    } else {
        ready
    }
}
