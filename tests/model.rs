//! Which endpoints may this packet reach, or why none? The naive answer, read off the API documentation, the KEPs and
//! the reference's rows (A1–D4), one rule to a function. It knows nothing of maps, slots or programs.
//!
//! Where svcplane goes its own way by decision, the rule says so.

pub mod endpoints;
pub mod follow;
pub mod frontends;
pub mod objects;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use svc_common::reason::Reason;

use endpoints::{Endpoint, cluster_set, local_set, usable_anywhere};
use frontends::{Frontend, Kind, admits, contains, is_cluster_ip, primary};
use objects::{Cluster, From, Node, Packet, Policy, Remembered};

/// What becomes of the first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it would have gone without us.
    NotOurs,
    /// The client is told at once.
    Refused(Reason),
    /// The client is left to wait.
    Dropped(Reason),
    /// It reaches one of these, which sees it come from there.
    OneOf(BTreeMap<SocketAddr, Source>),
}

/// Whom the endpoint believes to be spoken to by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client itself.
    Client,
    /// An address of this node: masqueraded.
    Node,
    /// The frontend's address (D4, svcplane): both ends are this node, whose own address would not come back to us.
    Frontend,
}

/// The answer. `last`: what the client's last connection to the same service port was given.
pub fn judge(cluster: &Cluster, node: &Node, packet: &Packet, last: Option<Remembered>) -> Verdict {
    let packet = &on_the_node(node, packet);
    if is_cluster_ip_from_outside(cluster, node, packet) {
        return Verdict::Dropped(Reason::ClusterIpFromOutside);
    }
    let Some(frontend) = frontends::find(cluster, node, packet.to, packet.protocol) else {
        return undefined_port(cluster, packet);
    };
    if is_outside_of_source_ranges(&frontend, node, packet) {
        return Verdict::Dropped(Reason::SourceRange);
    }
    let all = all_endpoints(cluster, node, &frontend, packet);
    let set = match policy(&frontend, node, packet) {
        Policy::Cluster => cluster_set(&all),
        Policy::Local => local_set(&all),
    };
    if set.is_empty() {
        return nobody_there(&all);
    }
    let set = sticky(&frontend, set, last);
    let seen = |e: &Endpoint| (e.at, source(&frontend, node, packet, e));
    Verdict::OneOf(set.into_iter().map(seen).collect())
}

/// C5 (KEP-6032): a NodePort on loopback is that of the node's primary address, for the node's own processes.
fn on_the_node(node: &Node, packet: &Packet) -> Packet {
    let mut packet = *packet;
    if packet.from == From::Node
        && packet.to.ip().is_loopback()
        && let Some(primary) = primary(node, packet.to.is_ipv6())
    {
        packet.to.set_ip(primary);
    }
    packet
}

/// C1, as svcplane has it: ClusterIPs are the cluster's own, unless `--external-cluster-ip` opens them.
fn is_cluster_ip_from_outside(cluster: &Cluster, node: &Node, packet: &Packet) -> bool {
    is_outside(node, packet) && !node.external_cluster_ip && is_cluster_ip(cluster, packet.to.ip())
}

/// C2: a ClusterIP refuses the ports that it does not have. C8: other addresses are not ours but for our frontends.
fn undefined_port(cluster: &Cluster, packet: &Packet) -> Verdict {
    if is_cluster_ip(cluster, packet.to.ip()) {
        Verdict::Refused(Reason::UndefinedPort)
    } else {
        Verdict::NotOurs
    }
}

/// C11: source ranges are asked at LoadBalancer addresses only, of pods and of the node too, before anything else.
fn is_outside_of_source_ranges(frontend: &Frontend, node: &Node, packet: &Packet) -> bool {
    frontend.kind == Kind::External { firewalled: true }
        && !admits(frontend.service, node, packet.client, packet.to.ip())
}

/// A12: each family has its own endpoints.
pub fn all_endpoints(
    cluster: &Cluster,
    node: &Node,
    frontend: &Frontend,
    packet: &Packet,
) -> Vec<Endpoint> {
    let v6 = packet.to.is_ipv6();
    endpoints::endpoints(cluster, node, frontend.service, frontend.port, v6)
}

/// B6 (KEP-2086), B5, B7: the internal policy is that of the ClusterIP, the external policy that of everything else; but
/// pods and the node itself are not outside, wherever they knock.
fn policy(frontend: &Frontend, node: &Node, packet: &Packet) -> Policy {
    match frontend.kind {
        Kind::ClusterIp => frontend.service.internal,
        _ if is_outside(node, packet) => frontend.service.external,
        _ => Policy::Cluster,
    }
}

/// B7, D2: who is outside. Pods of other nodes are known by `--cluster-cidr` only.
fn is_outside(node: &Node, packet: &Packet) -> bool {
    match packet.from {
        From::Pod | From::Node => false,
        From::OtherPod | From::Outside => !node
            .cluster_cidr
            .iter()
            .any(|range| contains(range, packet.client)),
    }
}

/// B4: refused when there is nobody in the whole cluster. B5, B6: dropped when they are elsewhere only, because whoever
/// sent the packet here may not know that yet.
fn nobody_there(all: &[Endpoint]) -> Verdict {
    if usable_anywhere(all) {
        Verdict::Dropped(Reason::NoLocalEndpoints)
    } else {
        Verdict::Refused(Reason::NoEndpoints)
    }
}

/// B15: within the Service's window since its last connection a client keeps its endpoint, as long as the way it comes
/// may use it.
fn sticky<'a>(
    frontend: &Frontend,
    set: Vec<&'a Endpoint>,
    last: Option<Remembered>,
) -> Vec<&'a Endpoint> {
    let (Some(window), Some(last)) = (frontend.service.affinity, last) else {
        return set;
    };
    let kept = set.iter().find(|e| e.at == last.endpoint).copied();
    match kept {
        Some(endpoint) if last.seconds_ago < window => vec![endpoint],
        _ => set,
    }
}

/// B8, D1, D2, D4: whom the endpoint sees.
fn source(frontend: &Frontend, node: &Node, packet: &Packet, endpoint: &Endpoint) -> Source {
    let is_this_node = node.addresses.contains(&endpoint.at.ip());
    match packet.from {
        From::Node if is_this_node => Source::Frontend,
        From::Node => Source::Node,
        // svcplane: what the node itself serves never leaves it, so its answers always come by us.
        _ if is_this_node => Source::Client,
        _ if is_masqueraded(frontend, node) => Source::Node,
        From::Pod if is_hairpin(packet, endpoint) => Source::Node,
        From::Pod => Source::Client,
        // svcplane: a client from outside, once it is here, needs no other address to be answered through us.
        From::OtherPod | From::Outside if endpoint.local => Source::Client,
        From::OtherPod | From::Outside => Source::Node,
    }
}

/// D2: `--masquerade-all` is about ClusterIPs.
fn is_masqueraded(frontend: &Frontend, node: &Node) -> bool {
    node.masquerade_all && frontend.kind == Kind::ClusterIp
}

/// D1: a pod that reaches itself would answer itself without us.
fn is_hairpin(packet: &Packet, endpoint: &Endpoint) -> bool {
    packet.client == endpoint.at.ip()
}

/// B15: what affinity goes by: the service port, whichever of its frontends was used, and the client's address.
pub fn affinity_key(
    cluster: &Cluster,
    node: &Node,
    packet: &Packet,
) -> Option<(String, String, IpAddr)> {
    let packet = &on_the_node(node, packet);
    let frontend = frontends::find(cluster, node, packet.to, packet.protocol)?;
    frontend.service.affinity?;
    let port = format!("{}/{:?}", frontend.port.name, frontend.port.protocol);
    Some((frontend.service.name.clone(), port, packet.client))
}
