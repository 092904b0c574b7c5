//! Health check node ports (C14): where a load balancer asks, and how many endpoints it is told of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Facts;
use super::endpoints::standing;
use crate::cluster::{self, Cluster, ServiceType, Slice, TrafficPolicy};
use crate::desired::{HealthCheck, Protocol, ServiceName};

/// None for a Service that no load balancer asks about. It is asked at every NodePort address, there about the endpoints
/// of the address's family. Where the Service has no ClusterIP of that family, about those that it has: a balancer need
/// not ask by the family that it serves, and upstream's own e2e suite asks at all addresses of a node.
pub fn health_check(cluster: &Cluster, name: &ServiceName, facts: &Facts) -> Option<HealthCheck> {
    let service = cluster.service(name)?;
    if !is_asked(service) {
        return None;
    }
    let families: Vec<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv4).collect();
    let first = *families.first()?;
    let ready = facts.node_port_addresses.iter().map(|ip| {
        let v4 = if families.contains(&ip.is_ipv4()) {
            ip.is_ipv4()
        } else {
            first
        };
        (*ip, ready_here(cluster.slices_of(name), v4, facts))
    });
    let ready = ready.collect();
    Some(HealthCheck {
        port: service.health_check_node_port,
        ready,
    })
}

/// Why nobody will ask at a port that the Service names.
pub(super) fn unasked(service: &cluster::Service) -> Option<String> {
    let port = service.health_check_node_port;
    (port != 0 && !is_asked(service)).then(|| {
        format!("healthCheckNodePort {port} needs type LoadBalancer and externalTrafficPolicy Local; it is not served")
    })
}

fn is_asked(service: &cluster::Service) -> bool {
    service.r#type == ServiceType::LoadBalancer
        && service.external_policy == TrafficPolicy::Local
        && service.health_check_node_port != 0
        && !service.headless
}

/// Distinct addresses of Ready endpoints on this node, whatever their ports. Of two copies of one address and port the
/// better counts, as for traffic (A5); one that is only leaving never does (corner case 6).
fn ready_here<'a>(slices: impl Iterator<Item = &'a Slice>, v4: bool, facts: &Facts) -> usize {
    type Place<'a> = (IpAddr, &'a str, Protocol, u16);
    let mut found: BTreeMap<Place, &cluster::Endpoint> = BTreeMap::new();
    for slice in slices {
        for (port_name, protocol, port) in &slice.ports {
            for endpoint in slice.endpoints.iter().filter(|e| e.ip.is_ipv4() == v4) {
                let place = (endpoint.ip, &**port_name, *protocol, *port);
                let known = found.entry(place).or_insert(endpoint);
                if standing(endpoint) > standing(known) {
                    *known = endpoint;
                }
            }
        }
    }
    let here = found
        .values()
        .filter(|e| e.ready && e.node.as_deref() == Some(&*facts.node_name));
    here.map(|e| e.ip).collect::<BTreeSet<_>>().len()
}
