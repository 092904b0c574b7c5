//! v1 Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Converted, Notes, PROXY_NAME, has_label, name};
use crate::cluster::{Service, ServicePort, ServiceType, TargetPort, TrafficPolicy};
use crate::desired::ServiceName;
use crate::shared;

/// The API server's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

pub fn service(object: &core::Service) -> Converted<ServiceName, Service> {
    let (namespace, name) = name(&object.metadata);
    let key = ServiceName {
        namespace: shared::name(&namespace),
        name: shared::name(&name),
    };
    let mut notes = Notes::new(format!("Service {key}"));
    let value = (!has_label(&object.metadata, PROXY_NAME)).then(|| converted(object, &mut notes));
    Converted {
        key,
        value,
        refusals: notes.refusals,
        trigger: None,
    }
}

fn converted(object: &core::Service, notes: &mut Notes) -> Service {
    let spec = object.spec.clone().unwrap_or_default();
    let meta = &object.metadata;
    let headless = spec.cluster_ip.as_deref() == Some("None");
    Service {
        r#type: service_type(spec.type_.as_deref(), notes),
        headless,
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        created: meta
            .creation_timestamp
            .as_ref()
            .map(|time| format!("{:.0}", time.0).into()),
        annotations: meta.annotations.clone().unwrap_or_default(),
        cluster_ips: if headless {
            Vec::new()
        } else {
            cluster_ips(&spec, notes)
        },
        external_ips: distinct(
            spec.external_ips
                .iter()
                .flatten()
                .filter_map(|ip| notes.ip("externalIP", ip)),
        ),
        load_balancer_ips: load_balancer_ips(object, notes),
        source_ranges: spec.load_balancer_source_ranges.clone().unwrap_or_default(),
        ports: ports(&spec, notes),
        internal_policy: policy(
            "internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
            notes,
        ),
        external_policy: policy(
            "externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
            notes,
        ),
        affinity: affinity(&spec, notes),
        health_check_node_port: health_check_node_port(&spec, notes),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        selector: spec.selector.unwrap_or_default(),
    }
}

fn service_type(text: Option<&str>, notes: &mut Notes) -> ServiceType {
    match text {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            notes.refuse(format!(
                "type {other:?} is unknown; it is served as ClusterIP"
            ));
            ServiceType::ClusterIp
        }
    }
}

/// At most one of each family.
fn cluster_ips(spec: &core::ServiceSpec, notes: &mut Notes) -> Vec<IpAddr> {
    let all = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
    let all = all.unwrap_or(spec.cluster_ip.as_slice());
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in all
        .iter()
        .filter(|ip| !ip.is_empty())
        .filter_map(|ip| notes.ip("clusterIP", ip))
        .collect::<Vec<_>>()
    {
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            notes.refuse(format!(
                "clusterIP {ip} is the second one of its family; it is skipped"
            ));
        } else {
            ips.push(ip);
        }
    }
    ips.shrink_to_fit();
    ips
}

/// Those that packets arrive for (C8); an ingress in mode Proxy rewrites the address itself (C9).
fn load_balancer_ips(object: &core::Service, notes: &mut Notes) -> Vec<IpAddr> {
    let status = object
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = status
        .and_then(|lb| lb.ingress.as_ref())
        .into_iter()
        .flatten();
    distinct(ingress.filter_map(|i| {
        let ip = i.ip.as_deref().filter(|ip| !ip.is_empty())?;
        match i.ip_mode.as_deref() {
            None | Some("VIP") => notes.ip("load balancer ingress", ip),
            Some("Proxy") => None,
            Some(other) => {
                notes.refuse(format!(
                    "ipMode {other:?} is neither VIP nor Proxy; load balancer ingress {ip} is skipped"
                ));
                None
            }
        }
    }))
}

fn distinct(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    ips.filter(|ip| seen.insert(*ip)).collect()
}

fn ports(spec: &core::ServiceSpec, notes: &mut Notes) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(port) = self::port(port, notes) else {
            continue;
        };
        if ports.iter().any(|other| other.name == port.name) {
            notes.refuse(format!(
                "two ports have the name {:?}; the second one, {}, is skipped",
                port.name, port.port
            ));
        } else {
            ports.push(port);
        }
    }
    ports.shrink_to_fit();
    ports
}

fn port(port: &core::ServicePort, notes: &mut Notes) -> Option<ServicePort> {
    let protocol = notes.protocol(port.protocol.as_deref())?;
    let number = notes.number("port", port.port)?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(notes.number("targetPort", *target)?),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
    };
    let node_port = match port.node_port {
        None | Some(0) => 0,
        Some(node_port) => notes.number("nodePort", node_port)?,
    };
    Some(ServicePort {
        name: shared::name(port.name.as_deref().unwrap_or_default()),
        protocol,
        port: number,
        target,
        node_port,
    })
}

fn health_check_node_port(spec: &core::ServiceSpec, notes: &mut Notes) -> u16 {
    let number = spec.health_check_node_port.unwrap_or(0);
    u16::try_from(number).unwrap_or_else(|_| {
        notes.refuse(format!(
            "healthCheckNodePort {number} is not in 1–65535; it is not served"
        ));
        0
    })
}

fn policy(field: &str, text: Option<&str>, notes: &mut Notes) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            notes.refuse(format!(
                "{field} {other:?} is neither Cluster nor Local; Cluster is used"
            ));
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &core::ServiceSpec, notes: &mut Notes) -> u32 {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => 0,
        Some("ClientIP") => {
            let config = spec
                .session_affinity_config
                .as_ref()
                .and_then(|c| c.client_ip.as_ref());
            let seconds = config
                .and_then(|c| c.timeout_seconds)
                .unwrap_or(AFFINITY_SECONDS);
            if !(1..=86_400).contains(&seconds) {
                notes.refuse(format!("sessionAffinity timeoutSeconds {seconds} is not in 1–86400; {AFFINITY_SECONDS} is used"));
                return AFFINITY_SECONDS.unsigned_abs();
            }
            seconds.unsigned_abs()
        }
        Some(other) => {
            notes.refuse(format!(
                "sessionAffinity {other:?} is neither None nor ClientIP; None is used"
            ));
            0
        }
    }
}
