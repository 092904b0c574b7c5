//! `Cluster` → `Desired`, one Service at a time: what its frontends are (`frontends`) and who answers them
//! (`endpoints`). Pure. What makes no sense is refused by name and the rest is served.

mod annotations;
mod endpoints;
mod frontends;
mod health;
mod ranges;
#[cfg(test)]
mod tests;

pub use annotations::ALGORITHM;
pub(crate) use endpoints::standing;
pub use frontends::node_port_addresses;
pub use health::health_check;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::cluster::{self, Cluster, ServicePort, ServiceType, TrafficPolicy};
use crate::config::Allowed;
use crate::desired::{
    self, Algorithm, Fault, FrontendAddr, FrontendKind, Protocol, Refusal, Run, ServiceName,
    ServicePortName,
};
use endpoints::Choice;
use ranges::Restriction;

/// What `compile` must know of the node it compiles for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// The name that endpoints call this node by.
    pub node_name: String,
    /// `topology.kubernetes.io/zone` of the node (B9).
    pub zone: Option<String>,
    /// Addresses of this node that NodePorts are served on (C4); see [`node_port_addresses`].
    pub node_port_addresses: Vec<IpAddr>,
    /// What the node is known by, in order of preference (C11).
    pub node_addresses: Vec<IpAddr>,
    /// A ClusterIP is answered from outside too (C1).
    pub external_cluster_ip: bool,
    /// Which external addresses may be served: of spec.externalIPs, and of load balancers.
    pub external_ips: Allowed,
    pub load_balancer_ips: Allowed,
    /// Where the API server is asked by this agent, if that is known as an address.
    pub api_server: Option<SocketAddr>,
}

/// What the maps should say about one Service: nothing, when it is gone or not for a proxy (A1–A3).
pub fn compile(
    cluster: &Cluster,
    name: &ServiceName,
    facts: &Facts,
) -> (desired::Service, Vec<Refusal>) {
    let Some(service) = cluster.service(name) else {
        return Default::default();
    };
    if service.headless || service.r#type == ServiceType::ExternalName {
        return Default::default();
    }
    let mut refused = Refused {
        object: format!("Service {name}"),
        refusals: Vec::new(),
    };
    if service.cluster_ips.is_empty() {
        refused.because("has no clusterIP; none is invented here: write spec.clusterIP, or None for a headless Service");
        return (desired::Service::default(), refused.refusals);
    }
    if let Some(why) = health::unasked(service) {
        refused.because(why);
    }
    let mut taken = BTreeSet::new();
    let compiler = Compiler {
        cluster,
        name,
        service,
        facts,
        algorithm: annotations::algorithm(service, &mut refused),
        restriction: Restriction::new(service, facts, &mut refused),
    };
    let ports = service
        .ports
        .iter()
        .map(|port| compiler.port(port, &mut taken, &mut refused))
        .collect();
    (desired::Service { ports }, refused.refusals)
}

struct Compiler<'a> {
    cluster: &'a Cluster,
    name: &'a ServiceName,
    service: &'a cluster::Service,
    facts: &'a Facts,
    /// What the Service asks for.
    algorithm: Option<Algorithm>,
    restriction: Restriction,
}

impl Compiler<'_> {
    fn port(
        &self,
        port: &ServicePort,
        taken: &mut BTreeSet<FrontendAddr>,
        refused: &mut Refused,
    ) -> desired::Port {
        let mut compiled = desired::Port {
            name: ServicePortName {
                service: self.name.clone(),
                port: port.name.clone(),
            },
            affinity: self.service.affinity,
            runs: Vec::new(),
            frontends: BTreeMap::new(),
            listed: BTreeMap::new(),
            ranges: self.restriction.ranges().clone(),
        };
        let addresses = frontends::addresses(self.service, port, self.facts, refused);
        for &cluster_ip in &self.service.cluster_ips {
            // Each family stands for itself: without a ClusterIP of it, the Service is not there in it (A12).
            let choice = Choice::new(
                self.cluster.slices_of(self.name),
                port,
                cluster_ip,
                self.facts,
            );
            compiled.listed.extend(choice.listed.clone());
            let family = Family {
                choice,
                first_run: compiled.runs.len(),
            };
            for &(kind, ip, number) in addresses
                .iter()
                .filter(|(_, ip, _)| ip.is_ipv4() == cluster_ip.is_ipv4())
            {
                self.frontends(
                    &mut compiled,
                    &family,
                    (kind, ip, number),
                    port.protocol,
                    taken,
                    refused,
                );
            }
        }
        compiled
    }

    fn frontends(
        &self,
        compiled: &mut desired::Port,
        family: &Family,
        (kind, ip, port): (FrontendKind, IpAddr, u16),
        protocol: Protocol,
        taken: &mut BTreeSet<FrontendAddr>,
        refused: &mut Refused,
    ) {
        for ask in frontends::asks(kind, self.service, self.facts) {
            let addr = FrontendAddr {
                ip,
                port,
                protocol,
                scope: ask.scope,
            };
            if compiled.frontends.contains_key(&addr) {
                continue;
            }
            if !taken.insert(addr) {
                refused.because(format!(
                    "two of its ports ask for {ip} port {port}/{protocol}; the first one keeps it"
                ));
                continue;
            }
            let algorithm = self.algorithm.unwrap_or(ask.algorithm);
            let run = family.run(&mut compiled.runs, ask.policy, algorithm);
            let drop_when_empty = family.choice.drops_when_empty(ask.policy);
            compiled.frontends.insert(
                addr,
                desired::Frontend {
                    kind,
                    run,
                    drop_when_empty,
                    local_set: ask.policy == TrafficPolicy::Local,
                    restricted: kind == FrontendKind::LoadBalancer
                        && self.restriction.restricts(ip),
                },
            );
        }
    }
}

/// What the frontends of one service port have in common within a family.
struct Family {
    choice: Choice,
    /// Its runs start here.
    first_run: usize,
}

impl Family {
    /// The index of the run that answers; frontends with the same answer share one.
    fn run(&self, runs: &mut Vec<Run>, policy: TrafficPolicy, algorithm: Algorithm) -> usize {
        let endpoints = self.choice.answering(policy);
        let same = |run: &Run| run.algorithm == algorithm && run.endpoints == endpoints;
        if let Some(i) = runs[self.first_run..].iter().position(same) {
            return self.first_run + i;
        }
        runs.push(Run {
            algorithm,
            endpoints: endpoints.to_vec(),
        });
        runs.len() - 1
    }
}

/// The refusals of one object, each once.
struct Refused {
    object: String,
    refusals: Vec<Refusal>,
}

impl Refused {
    fn because(&mut self, why: impl Into<String>) {
        self.add(Fault::InvalidField, why);
    }

    fn add(&mut self, fault: Fault, why: impl Into<String>) {
        let refusal = Refusal::new(fault, self.object.clone(), why);
        if !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }
}
