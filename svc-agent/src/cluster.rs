//! The cluster as far as a service proxy cares: plain structs, fed by either source, read by `compile`.
//! `k8s_openapi` types end before here, in [`crate::source::convert`].

mod state;
#[cfg(test)]
mod tests;

pub use state::{Change, Cluster, Event, Trigger};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::desired::{Protocol, ServiceName};

/// The label of a Node that says which zone it is in.
pub const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// `spec.type`. Headless is not a type: it is a Service whose `cluster_ips` is empty and `headless` true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// `spec.ports[].targetPort`; only the manifests source needs it (slices carry numbers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when the port has no name.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub target: TargetPort,
    /// 0: none.
    pub node_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Service {
    pub r#type: ServiceType,
    pub headless: bool,
    /// `metadata.uid`, which Events name it by; empty with manifests.
    pub uid: Box<str>,
    /// RFC 3339 `metadata.creationTimestamp`; orders claims to the same frontend (A13).
    pub created: Option<Arc<str>>,
    pub annotations: BTreeMap<String, String>,
    /// Only the manifests source tells; nobody else needs it.
    pub selector: BTreeMap<String, String>,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose ipMode is VIP or unset (C8, C9).
    pub load_balancer_ips: Vec<IpAddr>,
    pub source_ranges: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` window in seconds, 0 for none.
    pub affinity: u32,
    /// 0: none.
    pub health_check_node_port: u16,
    pub publish_not_ready: bool,
}

/// `hints.forZones` and `hints.forNodes` of an endpoint (B9, B10).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Hints {
    pub zones: BTreeSet<String>,
    pub nodes: BTreeSet<String>,
}

/// As small as it can be: it is what there is most of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]` (A7).
    pub ip: IpAddr,
    /// nil is true (A6).
    pub ready: bool,
    /// nil is true (A6).
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    pub hints: Option<Arc<Hints>>,
    /// Share of new connections (B13); 1 unless an annotation says otherwise.
    pub weight: u16,
}

/// One EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub service: ServiceName,
    pub endpoints: Vec<Endpoint>,
    /// Port name (empty: unnamed), protocol, number.
    pub ports: Vec<(Arc<str>, Protocol, u16)>,
}

/// `namespace/name` of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A Node object.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Node {
    /// InternalIPs, then ExternalIPs, in the order of the object.
    pub addresses: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    /// It is being deleted, or the autoscaler is about to: no new load-balancer traffic, please (E1).
    pub doomed: bool,
}

impl Node {
    /// The first address of each family: what NodePorts are served on by default (C4).
    pub fn primary_addresses(&self) -> Vec<IpAddr> {
        let v4 = self.addresses.iter().find(|a| a.is_ipv4());
        let v6 = self.addresses.iter().find(|a| a.is_ipv6());
        v4.into_iter().chain(v6).copied().collect()
    }

    /// [`ZONE`] (B9).
    pub fn zone(&self) -> Option<&str> {
        self.labels.get(ZONE).map(String::as_str)
    }
}
