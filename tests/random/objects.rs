//! The model's objects as Kubernetes objects, which go the agent's own way from there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use crate::model::objects::{Algorithm, Endpoint, Node, Policy, Protocol, Service, Slice, Type};

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("default".into()),
        name: Some(name.into()),
        ..ObjectMeta::default()
    }
}

fn text(items: &[impl ToString]) -> Option<Vec<String>> {
    (!items.is_empty()).then(|| items.iter().map(ToString::to_string).collect())
}

fn protocol(protocol: Protocol) -> Option<String> {
    match protocol {
        // The API's default, which a slice or Service that was not defaulted leaves out.
        Protocol::Tcp => None,
        Protocol::Udp => Some("UDP".into()),
        Protocol::Sctp => Some("SCTP".into()),
    }
}

fn policy(policy: Policy) -> Option<String> {
    match policy {
        Policy::Cluster => None,
        Policy::Local => Some("Local".into()),
    }
}

pub fn service(service: &Service) -> core::Service {
    let mut meta = meta(&service.name);
    let created = Timestamp::from_second(1_700_000_000 + i64::from(service.created));
    meta.creation_timestamp = Some(Time(created.expect("of this century")));
    if service.other_proxy {
        let label = "service.kubernetes.io/service-proxy-name".to_owned();
        meta.labels = Some(BTreeMap::from([(label, "another".to_owned())]));
    }
    if let Some(algorithm) = service.algorithm {
        let name = match algorithm {
            Algorithm::Random => "random",
            Algorithm::RoundRobin => "round-robin",
            Algorithm::Maglev => "maglev",
            Algorithm::LeastConnections => "least-connections",
        };
        let key = "svcplane.io/algorithm".to_owned();
        meta.annotations = Some(BTreeMap::from([(key, name.to_owned())]));
    }
    let r#type = match service.r#type {
        Type::ClusterIp => "ClusterIP",
        Type::NodePort => "NodePort",
        Type::LoadBalancer => "LoadBalancer",
        Type::ExternalName => "ExternalName",
    };
    let cluster_ips = if service.headless {
        Some(vec!["None".to_owned()])
    } else {
        text(&service.cluster_ips)
    };
    let spec = core::ServiceSpec {
        type_: Some(r#type.into()),
        cluster_ip: cluster_ips.as_ref().map(|ips| ips[0].clone()),
        cluster_ips,
        external_ips: text(&service.external_ips),
        load_balancer_source_ranges: text(&service.source_ranges),
        ports: Some(service.ports.iter().map(service_port).collect()),
        internal_traffic_policy: policy(service.internal),
        external_traffic_policy: policy(service.external),
        session_affinity: service.affinity.map(|_| "ClientIP".to_owned()),
        session_affinity_config: service.affinity.map(|seconds| core::SessionAffinityConfig {
            client_ip: Some(core::ClientIPConfig {
                timeout_seconds: Some(seconds.cast_signed()),
            }),
        }),
        ..core::ServiceSpec::default()
    };
    core::Service {
        metadata: meta,
        spec: Some(spec),
        status: Some(status(service)),
    }
}

fn service_port(port: &crate::model::objects::ServicePort) -> core::ServicePort {
    core::ServicePort {
        name: (!port.name.is_empty()).then(|| port.name.clone()),
        protocol: protocol(port.protocol),
        port: port.port.into(),
        node_port: port.node_port.map(i32::from),
        ..core::ServicePort::default()
    }
}

fn status(service: &Service) -> core::ServiceStatus {
    let ingress = service.ingress.iter().map(|i| core::LoadBalancerIngress {
        ip: Some(i.ip.to_string()),
        ip_mode: i.ip_mode.clone(),
        ..core::LoadBalancerIngress::default()
    });
    core::ServiceStatus {
        load_balancer: Some(core::LoadBalancerStatus {
            ingress: Some(ingress.collect()),
        }),
        ..core::ServiceStatus::default()
    }
}

pub fn slice(slice: &Slice) -> discovery::EndpointSlice {
    let mut meta = meta(&slice.name);
    let mut labels = BTreeMap::new();
    if let Some(service) = &slice.service {
        labels.insert("kubernetes.io/service-name".to_owned(), service.clone());
    }
    if slice.headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    meta.labels = Some(labels);
    if let Some(weight) = slice.weight {
        let key = "svcplane.io/weight".to_owned();
        meta.annotations = Some(BTreeMap::from([(key, weight.to_string())]));
    }
    let ports = slice.ports.iter().map(|port| discovery::EndpointPort {
        name: Some(port.name.clone()),
        protocol: protocol(port.protocol),
        port: port.port.map(i32::from),
        ..discovery::EndpointPort::default()
    });
    discovery::EndpointSlice {
        metadata: meta,
        address_type: slice.address_type.clone(),
        endpoints: slice.endpoints.iter().map(endpoint).collect(),
        ports: Some(ports.collect()),
    }
}

fn endpoint(endpoint: &Endpoint) -> discovery::Endpoint {
    let zones = endpoint.for_zones.iter();
    let nodes = endpoint.for_nodes.iter();
    let zones: Vec<_> = zones
        .map(|name| discovery::ForZone { name: name.clone() })
        .collect();
    let nodes: Vec<_> = nodes
        .map(|name| discovery::ForNode { name: name.clone() })
        .collect();
    discovery::Endpoint {
        addresses: endpoint.addresses.clone(),
        conditions: Some(discovery::EndpointConditions {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        }),
        node_name: endpoint.node_name.clone(),
        hints: Some(discovery::EndpointHints {
            for_nodes: (!nodes.is_empty()).then_some(nodes),
            for_zones: (!zones.is_empty()).then_some(zones),
        }),
        ..discovery::Endpoint::default()
    }
}

pub fn node(node: &Node) -> core::Node {
    let zone = node.zone.as_ref().map(|zone| {
        let label = "topology.kubernetes.io/zone".to_owned();
        BTreeMap::from([(label, zone.clone())])
    });
    let addresses = node.ips.iter().map(|ip| core::NodeAddress {
        address: ip.to_string(),
        type_: "InternalIP".into(),
    });
    core::Node {
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            labels: zone,
            ..ObjectMeta::default()
        },
        status: Some(core::NodeStatus {
            addresses: Some(addresses.collect()),
            ..core::NodeStatus::default()
        }),
        ..core::Node::default()
    }
}
