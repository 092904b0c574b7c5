//! Plain objects, after the API documentation of Service (core/v1), EndpointSlice (discovery/v1) and Node: only the
//! fields that say where a packet may go, with what may be left out in the API left out here too.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// All Services and EndpointSlices there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub services: Vec<Service>,
    pub slices: Vec<Slice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    Cluster,
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    Random,
    RoundRobin,
    Maglev,
    LeastConnections,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    /// Seconds of `metadata.creationTimestamp`.
    pub created: u32,
    /// It has the label `service.kubernetes.io/service-proxy-name`.
    pub other_proxy: bool,
    pub r#type: Type,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`, as they were written.
    pub source_ranges: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub internal: Policy,
    pub external: Policy,
    /// Seconds of `sessionAffinity: ClientIP`.
    pub affinity: Option<u32>,
    /// Annotation `svcplane.io/algorithm`.
    pub algorithm: Option<Algorithm>,
}

/// `status.loadBalancer.ingress[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    pub ip: IpAddr,
    /// `VIP`, `Proxy` or nothing.
    pub ip_mode: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty where the Service has only one port.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    pub name: String,
    /// Label `kubernetes.io/service-name`.
    pub service: Option<String>,
    /// It has the label `service.kubernetes.io/headless`.
    pub headless: bool,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
    /// Annotation `svcplane.io/weight`.
    pub weight: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub node_name: Option<String>,
    pub for_zones: Vec<String>,
    pub for_nodes: Vec<String>,
}

/// The node that svcplane runs on, and how it was told to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// InternalIPs of the Node object.
    pub ips: Vec<IpAddr>,
    /// All that its devices have but loopback, those in `ips` too.
    pub addresses: Vec<IpAddr>,
    /// `--nodeport-addresses`; nothing: `primary`.
    pub nodeport_addresses: Option<Vec<String>>,
    /// `--external-cluster-ip`.
    pub external_cluster_ip: bool,
    /// `--cluster-cidr`.
    pub cluster_cidr: Vec<String>,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum From {
    /// A pod of this node.
    Pod,
    /// A pod of another node: its packets come in by the same devices as those from outside.
    OtherPod,
    /// A process of the node itself.
    Node,
    Outside,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    pub from: From,
    pub client: IpAddr,
    pub to: SocketAddr,
    pub protocol: Protocol,
}

/// The endpoint that a client's last connection to the same service port was given (B15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub endpoint: SocketAddr,
    pub seconds_ago: u32,
}
