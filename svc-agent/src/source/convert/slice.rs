//! discovery.k8s.io/v1 EndpointSlice.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::discovery::v1 as discovery;

use super::{Converted, HEADLESS, Notes, PROXY_NAME, has_label, name, tight};
use crate::cluster::{Endpoint, Hints, Slice, SliceName, Trigger};
use crate::desired::{Protocol, ServiceName};
use crate::shared::{self, Pool};

/// Which Service a slice belongs to (A4).
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// When its endpoints last changed, by the clock of the controller that wrote it (E5).
pub(super) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub fn slice(object: &discovery::EndpointSlice) -> Converted<SliceName, Slice> {
    let (namespace, name) = name(&object.metadata);
    let key = SliceName {
        namespace: shared::name(&namespace),
        name: name.into(),
    };
    let mut notes = Notes::new(format!("EndpointSlice {}/{}", key.namespace, key.name));
    let ours = !has_label(&object.metadata, PROXY_NAME) && !has_label(&object.metadata, HEADLESS);
    let value = if ours {
        converted(object, &key, &mut notes)
    } else {
        None
    };
    Converted {
        key,
        value,
        refusals: notes.refusals,
        trigger: trigger(object),
    }
}

/// A stamp that makes no sense is not measured.
fn trigger(object: &discovery::EndpointSlice) -> Option<Trigger> {
    let stamp = object.metadata.annotations.as_ref()?.get(LAST_CHANGE)?;
    let at: jiff::Timestamp = stamp.parse().ok()?;
    Some(Trigger {
        at: SystemTime::from(at),
        v6: object.address_type == "IPv6",
    })
}

fn converted(
    object: &discovery::EndpointSlice,
    key: &SliceName,
    notes: &mut Notes,
) -> Option<Slice> {
    let labels = object.metadata.labels.as_ref();
    let Some(service) = labels
        .and_then(|l| l.get(SERVICE_NAME))
        .filter(|name| !name.is_empty())
    else {
        notes.refuse(format!(
            "has no label {SERVICE_NAME}, so it belongs to no Service; it is skipped"
        ));
        return None;
    };
    let v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        // Names are for whoever resolves them (A7).
        "FQDN" => return None,
        other => {
            notes.refuse(format!(
                "addressType {other:?} is none of IPv4, IPv6, FQDN; it is skipped"
            ));
            return None;
        }
    };
    let weight = notes.weight(&object.metadata);
    Some(Slice {
        service: ServiceName {
            namespace: key.namespace.clone(),
            name: shared::name(service),
        },
        endpoints: tight(
            object
                .endpoints
                .iter()
                .filter_map(|e| endpoint(e, v4, weight, notes)),
        ),
        ports: tight(object.ports.iter().flatten().filter_map(|p| port(p, notes))),
    })
}

fn endpoint(
    endpoint: &discovery::Endpoint,
    v4: bool,
    weight: u16,
    notes: &mut Notes,
) -> Option<Endpoint> {
    let ip = notes.ip("address", endpoint.addresses.first()?)?;
    if ip.is_ipv4() != v4 {
        notes.refuse(format!(
            "address {ip} is not of the slice's addressType; it is skipped"
        ));
        return None;
    }
    if let Some(what) = unreachable(ip) {
        notes.refuse(format!(
            "address {ip} is {what}, which no endpoint can have; it is skipped"
        ));
        return None;
    }
    let conditions = endpoint.conditions.as_ref();
    Some(Endpoint {
        ip,
        // nil: true, true, false (A6).
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: endpoint.node_name.as_deref().map(shared::name),
        hints: endpoint.hints.as_ref().and_then(hints),
        weight,
    })
}

thread_local! {
    static HINTS: RefCell<Pool<Hints>> = const { RefCell::new(Pool::new()) };
}

fn hints(hints: &discovery::EndpointHints) -> Option<Arc<Hints>> {
    let zones = hints.for_zones.iter().flatten();
    let nodes = hints.for_nodes.iter().flatten();
    let hints = Hints {
        zones: zones.map(|zone| zone.name.clone()).collect(),
        nodes: nodes.map(|node| node.name.clone()).collect(),
    };
    let said = hints != Hints::default();
    said.then(|| HINTS.with_borrow_mut(|known| known.get(&hints, || hints.clone().into())))
}

/// The addresses that the API server refuses for endpoints, which other writers of slices may not know.
fn unreachable(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match ip {
        _ if ip.is_unspecified() => Some("unspecified"),
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        _ if link_local => Some("a link-local address"),
        _ => None,
    }
}

/// No number means any port of the endpoint, which is for others than proxies (A8). No name is the empty name, as the
/// API server would have written it.
fn port(port: &discovery::EndpointPort, notes: &mut Notes) -> Option<(Arc<str>, Protocol, u16)> {
    let number = port.port.filter(|number| *number != 0)?;
    let protocol = notes.protocol(port.protocol.as_deref())?;
    Some((
        shared::name(port.name.as_deref().unwrap_or_default()),
        protocol,
        notes.number("port", number)?,
    ))
}
