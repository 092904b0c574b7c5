//! Endpoint choice (semantics B1–B11): which endpoints of a service port answer on this node, in one family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Facts;
use crate::cluster::{self, ServicePort, Slice, TrafficPolicy};
use crate::desired;

/// One address and port that slices offer, with what they say about it.
struct Candidate<'a> {
    ip: IpAddr,
    port: u16,
    says: &'a cluster::Endpoint,
}

impl Candidate<'_> {
    fn is_ready(&self) -> bool {
        self.says.ready
    }

    /// The last resort: on its way out, but still answering. One that is terminating and not serving is never used (B2).
    fn is_leaving(&self) -> bool {
        !self.says.ready && self.says.serving && self.says.terminating
    }

    /// One that is published although not ready counts too: it is given connections, so they are not taken from it.
    fn is_serving(&self) -> bool {
        self.says.ready || self.says.serving
    }

    fn is_local(&self, facts: &Facts) -> bool {
        self.says.node.as_deref() == Some(&*facts.node_name)
    }
}

/// The two sets that frontends are answered from.
pub(super) struct Choice {
    cluster: Vec<desired::Endpoint>,
    local: Vec<desired::Endpoint>,
    /// What BACKENDS should know of every endpoint that the slices list.
    pub(super) listed: BTreeMap<(IpAddr, u16), desired::Listed>,
    /// There is a usable endpoint on some node.
    any: bool,
}

impl Choice {
    pub(super) fn new<'a>(
        slices: impl Iterator<Item = &'a Slice>,
        port: &ServicePort,
        like: IpAddr,
        facts: &Facts,
    ) -> Self {
        let candidates = candidates(slices, port, like);
        // For new connections, an endpoint of weight 0 is not there (B13).
        let open: Vec<&Candidate> = candidates.iter().filter(|c| c.says.weight > 0).collect();
        let local = open.iter().filter(|c| c.is_local(facts));
        let cluster = cluster_set(&open, facts);
        // Hints say nothing about a Local policy (B11).
        let local = ready_or_leaving(local.copied().collect(), facts);
        Self {
            any: open.iter().any(|c| c.is_ready() || c.is_leaving()),
            listed: listed(&candidates, &cluster, &local, facts),
            cluster,
            local,
        }
    }

    pub(super) fn answering(&self, policy: TrafficPolicy) -> &[desired::Endpoint] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// With endpoints elsewhere only, Local drops, for a load balancer may be about to ask another node (B5, B6);
    /// with none at all everything is refused (B4).
    pub(super) fn drops_when_empty(&self, policy: TrafficPolicy) -> bool {
        policy == TrafficPolicy::Local && self.any
    }
}

fn listed(
    candidates: &[Candidate],
    cluster: &[desired::Endpoint],
    local: &[desired::Endpoint],
    facts: &Facts,
) -> BTreeMap<(IpAddr, u16), desired::Listed> {
    let set = |endpoints: &[desired::Endpoint]| -> BTreeSet<(IpAddr, u16)> {
        endpoints.iter().map(|e| (e.ip, e.port)).collect()
    };
    let (cluster, local) = (set(cluster), set(local));
    let entry = |c: &Candidate| {
        let at = (c.ip, c.port);
        let listed = desired::Listed {
            serving: c.is_serving(),
            in_cluster_set: cluster.contains(&at),
            in_local_set: local.contains(&at),
            local: c.is_local(facts),
            remote: c.says.node.is_some() && !c.is_local(facts),
            weight: c.says.weight,
        };
        (at, listed)
    };
    candidates.iter().map(entry).collect()
}

/// All slices together (A5), by port name (A8), in the family of `like` (A7), sorted.
fn candidates<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &ServicePort,
    like: IpAddr,
) -> Vec<Candidate<'a>> {
    let mut found: BTreeMap<(IpAddr, u16), &cluster::Endpoint> = BTreeMap::new();
    for slice in slices {
        let numbers = slice
            .ports
            .iter()
            .filter(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
        for &(_, _, number) in numbers {
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|e| e.ip.is_ipv4() == like.is_ipv4())
            {
                let known = found.entry((endpoint.ip, number)).or_insert(endpoint);
                if standing(endpoint) > standing(known) {
                    *known = endpoint;
                }
            }
        }
    }
    found
        .into_iter()
        .map(|((ip, port), says)| Candidate { ip, port, says })
        .collect()
}

/// Of two copies of an endpoint (a move between slices is in progress) the better one wins, first of all one that is
/// not terminating (A5).
pub(crate) fn standing(endpoint: &cluster::Endpoint) -> (bool, bool, bool) {
    (!endpoint.terminating, endpoint.ready, endpoint.serving)
}

/// The ready ones, near ones if the hints say so; if none is ready anywhere, the leaving ones, wherever they are (B1).
fn cluster_set(candidates: &[&Candidate], facts: &Facts) -> Vec<desired::Endpoint> {
    let ready: Vec<&Candidate> = candidates
        .iter()
        .copied()
        .filter(|c| c.is_ready())
        .collect();
    match near(&ready, facts) {
        Some(near) => chosen(near, facts),
        None => ready_or_leaving(candidates.to_vec(), facts),
    }
}

/// The ready ones; if there is none, the leaving ones (B1, B3).
fn ready_or_leaving(candidates: Vec<&Candidate>, facts: &Facts) -> Vec<desired::Endpoint> {
    let (ready, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.is_ready());
    if !ready.is_empty() {
        return chosen(ready, facts);
    }
    chosen(
        others.into_iter().filter(|c| c.is_leaving()).collect(),
        facts,
    )
}

/// What topology hints leave of the ready endpoints: those for this node (B10), else those for its zone (B9). A hint is
/// followed only if every ready endpoint has one of its sort and at least one of them names us.
fn near<'a, 'b>(ready: &[&'a Candidate<'b>], facts: &Facts) -> Option<Vec<&'a Candidate<'b>>> {
    let followed = |has_hint: &dyn Fn(&Candidate) -> bool,
                    is_for_us: &dyn Fn(&Candidate) -> bool| {
        let for_us: Vec<_> = ready.iter().copied().filter(|c| is_for_us(c)).collect();
        (ready.iter().all(|c| has_hint(c)) && !for_us.is_empty()).then_some(for_us)
    };
    let zone = facts.zone.as_ref();
    let nodes = |c: &Candidate, is: &dyn Fn(&BTreeSet<String>) -> bool| {
        c.says.hints.as_ref().is_some_and(|hints| is(&hints.nodes))
    };
    let zones = |c: &Candidate, is: &dyn Fn(&BTreeSet<String>) -> bool| {
        c.says.hints.as_ref().is_some_and(|hints| is(&hints.zones))
    };
    followed(&|c| nodes(c, &|nodes| !nodes.is_empty()), &|c| {
        nodes(c, &|nodes| nodes.contains(&facts.node_name))
    })
    .or_else(|| {
        followed(&|c| zones(c, &|zones| !zones.is_empty()), &|c| {
            zones(c, &|zones| zone.is_some_and(|zone| zones.contains(zone)))
        })
    })
}

fn chosen(candidates: Vec<&Candidate>, facts: &Facts) -> Vec<desired::Endpoint> {
    candidates
        .into_iter()
        .map(|c| desired::Endpoint {
            ip: c.ip,
            port: c.port,
            local: c.is_local(facts),
            weight: c.says.weight,
        })
        .collect()
}
