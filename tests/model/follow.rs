//! What becomes of a connection when the cluster changes under it. Rows B16, D6, D7 and 1h.4.

use std::net::SocketAddr;

use super::endpoints::{Endpoint, listed};
use super::frontends;
use super::objects::{Cluster, From, Node, Packet, Protocol, Service, ServicePort};

/// What the next packet of a connection meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The endpoint that the first one was given, in the same way.
    Same,
    /// What a new connection would meet.
    Anew,
    /// Nothing of ours.
    NotOurs,
}

/// A connection as it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub packet: Packet,
    pub endpoint: SocketAddr,
    /// Name of the Service and of its port, as long as they are there.
    pub service_port: Option<(String, String)>,
}

impl Begun {
    pub fn new(cluster: &Cluster, node: &Node, packet: &Packet, endpoint: SocketAddr) -> Self {
        let frontend = frontends::find(cluster, node, packet.to, packet.protocol);
        Self {
            packet: *packet,
            endpoint,
            service_port: frontend.map(|f| (f.service.name.clone(), f.port.name.clone())),
        }
    }

    /// A service port that comes back is not the one that went.
    pub fn see(&mut self, cluster: &Cluster) {
        if self.in_cluster(cluster).is_none() {
            self.service_port = None;
        }
    }

    fn in_cluster<'a>(&self, cluster: &'a Cluster) -> Option<(&'a Service, &'a ServicePort)> {
        let (service, port) = self.service_port.as_ref()?;
        let service = frontends::proxied(cluster).find(|s| s.name == *service)?;
        let mut ports = service.ports.iter();
        let port = ports.find(|p| p.name == *port && p.protocol == self.packet.protocol)?;
        Some((service, port))
    }
}

/// What its next packet meets.
pub fn next(cluster: &Cluster, node: &Node, begun: &Begun) -> Next {
    if is_orphaned(cluster, node, &begun.packet) {
        return Next::NotOurs;
    }
    match begun.packet.protocol {
        // B16, D6, 1h.4: neither the end of an affinity nor other source ranges nor the loss of the endpoint cut it.
        Protocol::Tcp | Protocol::Sctp => Next::Same,
        Protocol::Udp if is_stale(cluster, node, begun) => Next::Anew,
        Protocol::Udp => Next::Same,
    }
}

/// svcplane: connections of pods and from outside end with the last Service at their address. (kube-proxy's, and those
/// of the node itself, go on until their peers end them.)
fn is_orphaned(cluster: &Cluster, node: &Node, packet: &Packet) -> bool {
    let ip = packet.to.ip();
    packet.from != From::Node
        && !node.addresses.contains(&ip)
        && !frontends::is_virtual(cluster, ip)
}

/// D7: a UDP flow to an endpoint that no longer serves, when the service port has others that do. Neither policies nor
/// topology are asked (1h.8), nor weights. svcplane: asked of the Service that it began with; kube-proxy asks the one
/// that has the frontend now.
fn is_stale(cluster: &Cluster, node: &Node, begun: &Begun) -> bool {
    let Some((service, port)) = begun.in_cluster(cluster) else {
        return false;
    };
    let v6 = begun.packet.to.is_ipv6();
    if !frontends::has_family(service, begun.packet.to.ip()) {
        return false;
    }
    let all = listed(cluster, node, service, port, v6);
    all.iter().any(serves) && !all.iter().any(|e| e.at == begun.endpoint && serves(e))
}

fn serves(endpoint: &Endpoint) -> bool {
    endpoint.ready || endpoint.serving
}
