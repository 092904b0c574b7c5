//! What the endpoint controller does in a cluster: a Service's selector and the folder's Pods → EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use crate::cluster::{Endpoint, Service, ServicePort, ServiceType, Slice, SliceName, TargetPort};
use crate::desired::{Protocol, Refusal, ServiceName};
use crate::shared;
use crate::source::convert::{Notes, name};

/// Name, protocol and number, of each port that a Pod has.
type Ports = Vec<(Arc<str>, Protocol, u16)>;

/// A Pod as far as endpoints need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    labels: BTreeMap<String, String>,
    ips: Vec<IpAddr>,
    ready: bool,
    terminating: bool,
    node: Option<String>,
    /// Named ports of its containers.
    ports: Ports,
    weight: u16,
}

/// None for a Pod that has run to its end: it answers nobody.
pub(super) fn pod(object: &core::Pod) -> (Option<Pod>, Vec<Refusal>) {
    let (namespace, name) = name(&object.metadata);
    let mut notes = Notes::new(format!("Pod {namespace}/{name}"));
    let spec = object.spec.as_ref();
    let status = object.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return (None, Vec::new());
    }
    let mut ips: Vec<&str> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|p| p.ip.as_str())
        .collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.as_deref().filter(|ip| !ip.is_empty()));
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let containers = spec.into_iter().flat_map(|s| &s.containers);
    let ports = containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            let name = port.name.as_deref()?;
            Some((
                shared::name(name),
                notes.protocol(port.protocol.as_deref())?,
                notes.number("containerPort", port.container_port)?,
            ))
        });
    let ports = ports.collect();
    let pod = Pod {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        ips: ips
            .into_iter()
            .filter_map(|ip| notes.ip("podIP", ip))
            .collect(),
        ready: conditions.is_empty()
            || conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
        terminating: object.metadata.deletion_timestamp.is_some(),
        node: spec.and_then(|s| s.node_name.clone()),
        ports,
        weight: notes.weight(&object.metadata),
        namespace,
        name,
    };
    (Some(pod), notes.refusals)
}

/// Whether a Service's endpoints come from Pods.
pub(super) fn selects(service: &Service) -> bool {
    !service.selector.is_empty() && !service.headless && service.r#type != ServiceType::ExternalName
}

/// One slice per family and set of port numbers, for a named targetPort may be another number in another Pod.
pub(super) fn slices(
    service_name: &ServiceName,
    service: &Service,
    pods: &[Pod],
) -> (BTreeMap<SliceName, Slice>, Vec<Refusal>) {
    let mut notes = Notes::new(format!("Service {service_name}"));
    let selected = |pod: &&Pod| {
        *pod.namespace == *service_name.namespace
            && service
                .selector
                .iter()
                .all(|(k, v)| pod.labels.get(k) == Some(v))
    };
    let mut groups: BTreeMap<(bool, Ports), Vec<Endpoint>> = BTreeMap::new();
    let mut any = false;
    for pod in pods.iter().filter(selected) {
        any = true;
        let ports = ports(service, pod, &mut notes);
        let families: BTreeSet<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv4).collect();
        for v4 in families {
            // The first address of a family is the Pod's.
            if let Some(&ip) = pod
                .ips
                .iter()
                .find(|ip| ip.is_ipv4() == v4)
                .filter(|_| !ports.is_empty())
            {
                groups
                    .entry((v4, ports.clone()))
                    .or_default()
                    .push(endpoint(ip, pod, service.publish_not_ready));
            }
        }
    }
    if !any {
        let selector: Vec<String> = service
            .selector
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        notes.refuse(format!(
            "its selector {} matches no Pod: its clients are refused",
            selector.join(",")
        ));
    }
    let named = (1..).zip(groups).map(|(i, ((_, ports), endpoints))| {
        let name = SliceName {
            namespace: service_name.namespace.clone(),
            name: format!("{}-pods-{i}", service_name.name).into(),
        };
        (
            name,
            Slice {
                service: service_name.clone(),
                endpoints,
                ports,
            },
        )
    });
    (named.collect(), notes.refusals)
}

fn endpoint(ip: IpAddr, pod: &Pod, publish_not_ready: bool) -> Endpoint {
    let serving = pod.ready || publish_not_ready;
    Endpoint {
        ip,
        // Published although not ready means even while terminating (A10).
        ready: publish_not_ready || (pod.ready && !pod.terminating),
        serving,
        terminating: pod.terminating,
        node: pod.node.as_deref().map(shared::name),
        hints: None,
        weight: pod.weight,
    }
}

/// The numbers that a Service's ports are on this Pod. A port that the Pod does not have is left out.
fn ports(service: &Service, pod: &Pod, notes: &mut Notes) -> Ports {
    let mut number = |port: &ServicePort| match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let found = pod
                .ports
                .iter()
                .find(|(n, protocol, _)| **n == **name && *protocol == port.protocol);
            if found.is_none() {
                notes.refuse(format!(
                    "targetPort {name:?}: Pod {}/{} has no {} port of that name; it gets nothing from port {}",
                    pod.namespace, pod.name, port.protocol, port.port
                ));
            }
            found.map(|(_, _, number)| *number)
        }
    };
    service
        .ports
        .iter()
        .filter_map(|port| Some((port.name.clone(), port.protocol, number(port)?)))
        .collect()
}
