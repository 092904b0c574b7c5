//! What the maps should say: the output of `compile`, the input of `plan`. Family-neutral, host byte order, no ids.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use svc_common::table::{self, Scope};

use crate::config::Cidr;

/// A transport protocol that a Service port can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As `Display` writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => table::TCP,
            Protocol::Udp => table::UDP,
            Protocol::Sctp => table::SCTP,
        }
    }

    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            table::TCP => Some(Protocol::Tcp),
            table::UDP => Some(Protocol::Udp),
            table::SCTP => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `namespace/name` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service: `namespace/name:port` (`namespace/name` when the port has no name).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    pub service: ServiceName,
    pub port: Arc<str>,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.port.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// What a client asks for: one entry of FRONTENDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendAddr {
    pub ip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub scope: Scope,
}

/// Which field of the Service a frontend comes from, the harder to forge first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

impl FrontendKind {
    /// Whether the address is whatever the Service says: not given out by the API server, nor the node's own.
    pub const fn is_external(self) -> bool {
        matches!(self, Self::LoadBalancer | Self::ExternalIp)
    }

    /// The field that it comes from.
    pub const fn field(self) -> &'static str {
        match self {
            Self::ClusterIp => "clusterIP",
            Self::NodePort => "the node's address",
            Self::LoadBalancer => "status.loadBalancer.ingress",
            Self::ExternalIp => "externalIP",
        }
    }

    /// What it is to whoever else asks for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "the clusterIP",
            Self::NodePort => "a nodePort",
            Self::LoadBalancer => "the load balancer's address",
            Self::ExternalIp => "the externalIP",
        }
    }
}

/// One usable endpoint: Pod address and target port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    /// It runs on this node.
    pub local: bool,
    /// Share of new connections (B13), at least 1.
    pub weight: u16,
}

/// What is known of an endpoint that is listed for a service port, usable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listed {
    /// It answers, be it ready or on its way out.
    pub serving: bool,
    /// Policy Cluster sends new connections to it.
    pub in_cluster_set: bool,
    /// Policy Local does.
    pub in_local_set: bool,
    /// It runs on this node.
    pub local: bool,
    /// It runs on another node of the cluster; with neither, its slice does not say where.
    pub remote: bool,
    pub weight: u16,
}

/// How a run of slots is made from endpoints, and how one of them is picked (B12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Slots by weight; the packet path picks by a random number.
    Random,
    /// A Maglev table; the packet path picks by the hash of the 5-tuple.
    Maglev,
    /// Slots by weight; the packet path takes one after the other.
    RoundRobin,
    /// Slots by weight; the packet path takes the less busy one of two random ones.
    LeastConnections,
}

/// A set of endpoints of one family, sorted, without duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub algorithm: Algorithm,
    pub endpoints: Vec<Endpoint>,
}

/// One frontend of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub kind: FrontendKind,
    /// Index into [`Port::runs`]; the run has the family of the frontend's address.
    pub run: usize,
    /// With no endpoints in the run: drop (policy Local with endpoints elsewhere) instead of refusing.
    pub drop_when_empty: bool,
    /// The run is of the local set (policy Local).
    pub local_set: bool,
    /// Only clients in [`Port::ranges`] may ask (C11).
    pub restricted: bool,
}

/// One service port: all that it needs in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: ServicePortName,
    /// Session affinity window in seconds, 0 for none.
    pub affinity: u32,
    pub runs: Vec<Run>,
    pub frontends: BTreeMap<FrontendAddr, Frontend>,
    /// Every endpoint that is listed for the port, by address and port.
    pub listed: BTreeMap<(IpAddr, u16), Listed>,
    /// Who may ask at restricted frontends.
    pub ranges: BTreeSet<Cidr>,
}

/// One Service: its ports in the order of the object.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Service {
    pub ports: Vec<Port>,
}

/// What a load balancer is told of a Service on this node (C14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: u16,
    /// By the address that it asks at, how many endpoints are Ready here.
    pub ready: BTreeMap<IpAddr, usize>,
}

/// What sort of trouble a refusal is; its name is the reason of the Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A field, an object or a file makes no sense here.
    InvalidField,
    /// Another Service has the frontend (A13).
    FrontendConflict,
    /// An external address that is somebody else's, or that this node is not to serve (CVE-2020-8554).
    AddressNotAllowed,
    /// The dataplane has no room (E14).
    TableFull,
    /// kube-proxy's name for a health check node port that cannot be had (C14).
    FailedToStartServiceHealthcheck,
    /// A program is not where it should be: the node's trouble, no object's.
    NotAttached,
}

impl Fault {
    pub const ALL: [Fault; 6] = [
        Fault::InvalidField,
        Fault::FrontendConflict,
        Fault::AddressNotAllowed,
        Fault::TableFull,
        Fault::FailedToStartServiceHealthcheck,
        Fault::NotAttached,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Fault::InvalidField => "InvalidField",
            Fault::FrontendConflict => "FrontendConflict",
            Fault::AddressNotAllowed => "AddressNotAllowed",
            Fault::TableFull => "TableFull",
            Fault::FailedToStartServiceHealthcheck => "FailedToStartServiceHealthcheck",
            Fault::NotAttached => "NotAttached",
        }
    }
}

/// Something about an object that cannot be served. The rest of the object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    pub fault: Fault,
    /// `Service default/web`, `EndpointSlice default/web-abc`, `file web.yaml document 2`.
    pub object: String,
    /// What is wrong and what to do, in one line.
    pub why: String,
}

impl Refusal {
    pub fn new(fault: Fault, object: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            fault,
            object: object.into(),
            why: why.into(),
        }
    }

    /// A field, an object or a file that makes no sense.
    pub fn invalid(object: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Fault::InvalidField, object, why)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.why)
    }
}
