//! What is asked: Services in every state of their endpoints, and who asks them where.

use xtask::traffic::Protocol;

/// A Service: its endpoints by their place and state, and what its spec says besides.
pub struct Variant {
    pub name: &'static str,
    pub endpoints: &'static [(&'static str, State)],
    pub spec: &'static str,
    pub ip_mode: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Unready,
    Terminating,
}
use State::{Ready, Terminating, Unready};

const fn variant(
    name: &'static str,
    endpoints: &'static [(&'static str, State)],
    spec: &'static str,
) -> Variant {
    Variant {
        name,
        endpoints,
        spec,
        ip_mode: "VIP",
    }
}

const LOCAL: &str = r#"{"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}"#;
const BOTH: &[(&str, State)] = &[("own-1", Ready), ("other-1", Ready)];
const OWN: &[(&str, State)] = &[("own-1", Ready)];

pub const VARIANTS: &[Variant] = &[
    variant("an endpoint here and one there", BOTH, "{}"),
    variant("an endpoint here", OWN, "{}"),
    variant("an endpoint there", &[("other-1", Ready)], "{}"),
    variant(
        "an endpoint in this node's network",
        &[("this node", Ready)],
        "{}",
    ),
    variant("no endpoints", &[], "{}"),
    variant("an unready endpoint", &[("own-1", Unready)], "{}"),
    variant(
        "terminating endpoints only",
        &[("own-1", Terminating), ("other-1", Terminating)],
        "{}",
    ),
    variant(
        "a ready endpoint there, a terminating one here",
        &[("own-1", Terminating), ("other-1", Ready)],
        "{}",
    ),
    variant(
        "policies Local, an endpoint here and one there",
        BOTH,
        LOCAL,
    ),
    variant(
        "policies Local, an endpoint there",
        &[("other-1", Ready)],
        LOCAL,
    ),
    variant("policies Local, no endpoints", &[], LOCAL),
    variant(
        "policies Local, a ready endpoint there, a terminating one here",
        &[("own-1", Terminating), ("other-1", Ready)],
        LOCAL,
    ),
    variant(
        "session affinity",
        BOTH,
        r#"{"sessionAffinity": "ClientIP"}"#,
    ),
    variant(
        "prefer same zone",
        BOTH,
        r#"{"trafficDistribution": "PreferSameZone"}"#,
    ),
    variant(
        "source ranges with the client",
        OWN,
        r#"{"loadBalancerSourceRanges": ["172.18.0.100/32", "fd00:18::100/128"]}"#,
    ),
    variant(
        "source ranges without anybody",
        OWN,
        r#"{"loadBalancerSourceRanges": ["203.0.113.0/24", "2001:db8:ffff::/48"]}"#,
    ),
    variant(
        "source ranges with the nodes",
        OWN,
        r#"{"loadBalancerSourceRanges": ["172.18.0.11/32", "172.18.0.12/32", "fd00:18::10/124"]}"#,
    ),
    variant(
        "source ranges of IPv6 only",
        OWN,
        r#"{"loadBalancerSourceRanges": ["fd00:18::100/128"]}"#,
    ),
    Variant {
        ip_mode: "Proxy",
        ..variant("ipMode Proxy", OWN, "{}")
    },
];

/// The Service that is made last: who is served by it has all others.
pub const LAST: Variant = variant("last", OWN, "{}");

/// All who ask.
pub const CLIENTS: [&str; 6] = [
    "own-1",
    "own-2",
    "this node",
    "other-2",
    "that node",
    "client",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frontend {
    ClusterIp,
    UndefinedPort,
    NodePort,
    Loopback,
    OtherNodeAddress,
    LoadBalancer,
    LoadBalancerUndefinedPort,
    ExternalIp,
}

impl Frontend {
    const ALL: [Self; 8] = [
        Self::ClusterIp,
        Self::UndefinedPort,
        Self::NodePort,
        Self::Loopback,
        Self::OtherNodeAddress,
        Self::LoadBalancer,
        Self::LoadBalancerUndefinedPort,
        Self::ExternalIp,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::UndefinedPort => "ClusterIP, undefined port",
            Self::NodePort => "NodePort",
            Self::Loopback => "NodePort at loopback",
            Self::OtherNodeAddress => "NodePort at the pods' gateway address",
            Self::LoadBalancer => "load balancer IP",
            Self::LoadBalancerUndefinedPort => "load balancer IP, undefined port",
            Self::ExternalIp => "external IP",
        }
    }

    /// Whose packets this side's proxy is the first to see.
    fn clients(self) -> &'static [&'static str] {
        match self {
            Self::NodePort => &CLIENTS,
            Self::Loopback => &["this node"],
            Self::OtherNodeAddress => &["own-2", "this node"],
            _ => &["own-1", "own-2", "this node", "client"],
        }
    }
}

/// None: an ICMP echo.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub variant: usize,
    pub frontend: Frontend,
    pub client: &'static str,
    pub protocol: Option<Protocol>,
    pub v6: bool,
}

impl Question {
    /// One of two that is never chosen in 24 tries is no accident.
    pub fn count(&self) -> usize {
        let endpoints = VARIANTS[self.variant].endpoints.len();
        match self.protocol {
            None => 1,
            Some(_) if endpoints > 1 => 24,
            Some(_) => 2,
        }
    }

    pub fn keeps_one(&self) -> bool {
        VARIANTS[self.variant].name == "session affinity"
    }
}

/// All that is asked; the same on both sides.
pub fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for (variant, _) in VARIANTS.iter().enumerate() {
        for frontend in Frontend::ALL {
            for client in frontend.clients() {
                for protocol in protocols(variant, frontend) {
                    for v6 in [false, true] {
                        // Pods' gateway here is a link-local address.
                        if frontend == Frontend::OtherNodeAddress && v6 {
                            continue;
                        }
                        questions.push(Question {
                            variant,
                            frontend,
                            client,
                            protocol,
                            v6,
                        });
                    }
                }
            }
        }
    }
    questions
}

fn protocols(variant: usize, frontend: Frontend) -> Vec<Option<Protocol>> {
    let both = vec![Some(Protocol::Tcp), Some(Protocol::Udp)];
    let first = variant == 0 || VARIANTS[variant].name == "no endpoints";
    match frontend {
        // What a port has to do with its Service's endpoints is asked twice.
        Frontend::UndefinedPort | Frontend::LoadBalancerUndefinedPort if !first => vec![],
        Frontend::OtherNodeAddress if variant != 0 => vec![],
        Frontend::ClusterIp | Frontend::LoadBalancer if first => [both, vec![None]].concat(),
        _ => both,
    }
}
