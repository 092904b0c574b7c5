//! Verdicts in the words of Kubernetes: why, and what to do about it.

use std::collections::BTreeMap;

use svc_common::reason::Reason;
use svc_common::steer::Client;
use svc_common::table::{
    Tables, address_flags, flow_flags, flow_state, frontend_flags, node_flags,
};

use super::judge::Case;
use super::report::{Explanation, WayItem};
use super::tables::Side;
use super::trace::{Fate, Steps};
use crate::cluster::Service;
use crate::desired::ServiceName;
use crate::inspect::{self, Filter, ServiceItem};
use crate::source::once::Objects;

/// Of a packet that goes to one of several backends.
pub(super) fn one_of<F: Side>(case: &Case<'_, F>, chances: usize, failed: usize) -> String {
    let how = match () {
        () if case.has(frontend_flags::MAGLEV) => {
            "by the hash of its addresses and ports; give --from a port to see which".to_owned()
        }
        () if case.has(frontend_flags::ROUND_ROBIN) => "in turn".into(),
        () if case.has(frontend_flags::LEAST_CONNECTIONS) => {
            "the one with fewer connections of two random ones".into()
        }
        () => "at random".into(),
    };
    match failed {
        0 => format!("to one of {chances} backends, {how}"),
        _ => format!("to one of {chances} backends, {how}; {failed} of them cannot be reached"),
    }
}

pub(super) fn forwarded<F: Side>(
    case: &Case<'_, F>,
    steps: &Steps<F>,
    explanation: &Explanation,
) -> String {
    if let Some((_, Fate::Sent { reply: true, .. })) = steps.last() {
        return "an answer of a known flow, on its way back to the client".into();
    }
    if let Some((flow, _)) = case.flow {
        let left = if flow.flags & flow_flags::FOREIGN != 0 {
            "of another proxy's connection"
        } else if flow.state() & (flow_state::CLOSING | flow_state::BOTH_FIN) != 0 {
            "the flow is known and ends; a new connection from that port may go elsewhere"
        } else {
            "the flow is known and keeps its backend"
        };
        return left.into();
    }
    let chosen: Vec<_> = explanation
        .endpoints
        .iter()
        .filter(|e| e.percent.is_some())
        .collect();
    match &explanation.affinity {
        Some(affinity)
            if chosen.len() > 1
                && explanation
                    .way
                    .as_ref()
                    .is_some_and(|way| way.backend == affinity.backend) =>
        {
            "the client keeps the backend that it had last (session affinity)".into()
        }
        _ if chosen.len() == 1 => "to the only backend that gets new connections".into(),
        _ => "the backend follows from addresses and ports".into(),
    }
}

/// How a packet gets to its backend.
pub(super) fn way<F: Side>(case: &Case<'_, F>, way: &WayItem, own_port: bool) -> String {
    let by = match (&way.device, way.next_hop) {
        (Some(device), Some(hop)) => format!("by {device} via {hop}"),
        (Some(device), None) => format!("by {device}"),
        (None, _) => "on this node".into(),
    };
    let how = match way.route {
        "socket" => format!("straight from the socket, {by}"),
        "stack" => format!("routed by the host's stack, {by}"),
        "forward" => format!("sent on past the stack, {by}"),
        "inject" => "handed back to this node, where both ends are".into(),
        "tunnel" => format!("in a tunnel to its node, which answers the client itself (DSR), {by}"),
        _ => format!("handed to the pod past the stack, {by}"),
    };
    let seen = if !way.masqueraded {
        format!("sees the client ({})", way.seen_as)
    } else {
        let port = if own_port { "" } else { ", from another port" };
        format!("sees {}{port}: {}", way.seen_as, masquerade(case, way))
    };
    format!("{} {how}; it {seen}", way.backend)
}

/// Why the backend is not shown the client.
fn masquerade<F: Side>(case: &Case<'_, F>, way: &WayItem) -> String {
    let itself = way.backend.starts_with(&format!("{}:", case.asked.from))
        || way.backend.starts_with(&format!("[{}]:", case.asked.from));
    match case.asked.client {
        _ if way.route == "inject" => "client and backend are this node".into(),
        Client::Pod if itself => "a pod that reaches itself must not see its own address".into(),
        Client::Outside if !is_masquerade_all(case) => {
            "its backend is on another node, and answers must come back here".into()
        }
        Client::Pod | Client::Node | Client::Outside => "--masquerade-all".into(),
    }
}

fn is_masquerade_all<F: Side>(case: &Case<'_, F>) -> bool {
    let cluster_ip = case.tables.address(&case.packet.dst) & address_flags::CLUSTER_IP != 0;
    let flags = case.tables.config.map_or(0, |config| config.flags);
    cluster_ip && flags & node_flags::MASQUERADE_ALL != 0
}

/// A packet that none of the hooks takes.
pub(super) fn passed<F: Side>(case: &Case<'_, F>) -> (String, Option<String>) {
    let to = case.asked.to.ip();
    let address = case.tables.address(&case.packet.dst) & !address_flags::PEER;
    if case.frontend.is_some() && case.asked.client == Client::Node {
        let why = "the node's own packets to itself go by loopback, where only the socket hook is";
        let fix = "start the agent with --socket-lb tcp or all";
        return (why.into(), Some(fix.into()));
    }
    if address == 0 {
        return (
            format!("no Service has the address {to}: packets to it are none of our business"),
            None,
        );
    }
    if case
        .tables
        .config
        .is_some_and(|c| c.flags & node_flags::TAKEOVER != 0)
        && case.frontend.is_some()
    {
        return (
            "it may be another proxy's connection (--takeover)".into(),
            None,
        );
    }
    let whose = if address & address_flags::NODE != 0 {
        "an address of this node"
    } else {
        "an address of Services"
    };
    let ports = at_address(case).map_or_else(String::new, |ports| format!(" (there is {ports})"));
    let why = format!(
        "{to} is {whose}, and no Service has port {}/{} there{ports}: the node's own stack answers",
        case.asked.to.port(),
        case.asked.protocol
    );
    (why, None)
}

/// A packet that goes no further.
pub(super) fn stopped<F: Side>(
    case: &Case<'_, F>,
    reason: Reason,
    explanation: &Explanation,
) -> (String, Option<String>) {
    let service = explanation.frontend.as_ref();
    let name = service.map_or_else(
        || "the Service".to_owned(),
        |s| format!("Service {}/{}", s.namespace, s.name),
    );
    let listed = explanation.endpoints.len();
    match reason {
        Reason::NoEndpoints => {
            let why = match listed {
                0 => format!("{name} has no endpoints"),
                1 => format!("{name} has one endpoint, and it is not usable"),
                _ => format!("{name} has {listed} endpoints, and none is usable"),
            };
            (why, no_endpoints(case, listed))
        }
        Reason::NoLocalEndpoints => {
            let (field, fix) = if service.is_some_and(|s| s.scope == "internal") {
                ("internalTrafficPolicy", "run an endpoint on every node")
            } else {
                (
                    "externalTrafficPolicy",
                    "ask a node that has one (load balancers learn it from the health check node port)",
                )
            };
            (
                format!("{name} has {field}: Local, and no usable endpoint on this node"),
                Some(format!("{fix}, or set {field}: Cluster")),
            )
        }
        Reason::UndefinedPort => (
            format!(
                "{} is a ClusterIP{}, and has no port {}/{}",
                case.asked.to.ip(),
                owners(case),
                case.asked.to.port(),
                case.asked.protocol
            ),
            at_address(case).map(|ports| format!("ask for one that it has: {ports}")),
        ),
        Reason::ClusterIpFromOutside => (
            format!(
                "{} is a ClusterIP{}, and those are not answered from outside of the cluster",
                case.asked.to.ip(),
                owners(case)
            ),
            Some(
                "use a NodePort or LoadBalancer address; --cluster-cidr, if the client is a pod of another node; or --external-cluster-ip"
                    .into(),
            ),
        ),
        Reason::SourceRange => (
            format!("{} is in none of the loadBalancerSourceRanges of {name}", case.asked.from),
            Some(format!("add {} to spec.loadBalancerSourceRanges if it may ask", case.asked.from)),
        ),
        Reason::NoRoute => (
            "there is no route to the backend, or no address of this node to send from".into(),
            Some("look at `ip route get` for the backend's address".into()),
        ),
        Reason::SnatPortsExhausted => (
            "no port is free to masquerade as towards this backend".into(),
            Some("see `svc-agent get nat`; more backends, or a narrower net.ipv4.ip_local_port_range, make room".into()),
        ),
        Reason::BackendGone => ("the connection's backend is gone (--reset-gone-backends)".into(), None),
        other => (format!("counted as {}", other.name()), None),
    }
}

/// What the cluster says about a Service without usable endpoints.
fn no_endpoints<F: Side>(case: &Case<'_, F>, listed: usize) -> Option<String> {
    let label = case.label()?;
    let name = &label.port.service;
    let look = || {
        format!(
            "kubectl -n {} get endpointslices -l kubernetes.io/service-name={}",
            name.namespace, name.name
        )
    };
    let Some(objects) = case.evidence.objects else {
        return Some(match listed {
            0 => format!(
                "see whether its selector matches Pods: {}; --kubeconfig or --manifests lets explain look",
                look()
            ),
            _ => format!("see why they are not ready: {}", look()),
        });
    };
    let Some(service) = objects.cluster.service(name) else {
        return Some("the Service is not there any more: see svc-agent diff".into());
    };
    if listed > 0 {
        return Some(format!(
            "see why they are not ready: kubectl -n {} get pods{}",
            name.namespace,
            selector(service)
        ));
    }
    if service.selector.is_empty() {
        return Some(format!(
            "it has no selector: whoever writes its EndpointSlices has to ({})",
            look()
        ));
    }
    mismatch(name, service, objects).or_else(|| Some(look()))
}

fn selector(service: &Service) -> String {
    match pairs(&service.selector) {
        text if text.is_empty() => text,
        text => format!(" -l {text}"),
    }
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

/// Which Pods there are instead of those that the selector asks for.
pub(crate) fn mismatch(name: &ServiceName, service: &Service, objects: &Objects) -> Option<String> {
    let pods = objects.pods.as_ref()?;
    let here: Vec<_> = pods
        .iter()
        .filter(|pod| pod.namespace == *name.namespace)
        .collect();
    let wanted = pairs(&service.selector);
    let has = |pod: &&&crate::source::once::Pod, k: &str, v: &str| {
        pod.labels.get(k).is_some_and(|value| value == v)
    };
    let matching = here
        .iter()
        .filter(|pod| service.selector.iter().all(|(k, v)| has(pod, k, v)))
        .count();
    if matching > 0 {
        return Some(format!(
            "its selector {wanted} matches {matching} Pods, none of which has an address and the port: look at their state and the targetPort"
        ));
    }
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    for (key, value) in &service.selector {
        if here.iter().any(|pod| has(&pod, key, value)) {
            continue;
        }
        for found in here.iter().filter_map(|pod| pod.labels.get(key)) {
            *others.entry(format!("{key}={found}")).or_default() += 1;
        }
    }
    let exist = match others.len() {
        0 if here.is_empty() => format!("namespace {} has no Pods", name.namespace),
        0 => "no Pod has such labels".to_owned(),
        _ => {
            let mut near: Vec<(usize, &String)> = others
                .keys()
                .map(|pair| {
                    let distances = service
                        .selector
                        .iter()
                        .map(|(k, v)| distance(pair, &format!("{k}={v}")));
                    (distances.min().unwrap_or(usize::MAX), pair)
                })
                .collect();
            near.sort();
            let few: Vec<&str> = near.iter().take(3).map(|(_, pair)| pair.as_str()).collect();
            let verb = if few.len() == 1 { "exists" } else { "exist" };
            format!("{} {verb}", few.join(", "))
        }
    };
    Some(format!("its selector {wanted} matches no Pod; {exist}"))
}

/// Levenshtein's, for labels of a line's length.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// Every frontend at the address that is asked for.
fn frontends_there<F: Side>(case: &Case<'_, F>) -> Vec<ServiceItem> {
    let ip = case.asked.to.ip();
    let mut items = inspect::service_items(&case.evidence.maps.snapshot, Filter::default());
    items.retain(|item| item.address == ip);
    items
}

/// Of whom the address is.
fn owners<F: Side>(case: &Case<'_, F>) -> String {
    let mut names: Vec<String> = frontends_there(case)
        .into_iter()
        .map(|item| format!("{}/{}", item.namespace, item.name))
        .collect();
    names.dedup();
    match names.as_slice() {
        [] => String::new(),
        names => format!(" of {}", names.join(", ")),
    }
}

/// Which ports Services have at the address; None: none.
fn at_address<F: Side>(case: &Case<'_, F>) -> Option<String> {
    const FEW: usize = 6;
    let mut ports: Vec<String> = frontends_there(case)
        .into_iter()
        .map(|item| format!("{}/{}", item.port, item.protocol))
        .collect();
    ports.sort();
    ports.dedup();
    let more = ports.len().saturating_sub(FEW);
    ports.truncate(FEW);
    let text = ports.join(", ");
    match (text.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(text),
        (false, more) => Some(format!("{text} and {more} more")),
    }
}

/// What is odd, or not known.
pub(super) fn notes<F: Side>(case: &Case<'_, F>, explanation: &mut Explanation) {
    let mut note = |text: String| explanation.notes.push(text);
    if case.evidence.objects.is_none() {
        note("from the maps alone: with --kubeconfig or --manifests there are names of Pods, and exact reasons".into());
    }
    if case.asked.client == Client::Outside && case.asked.device.is_none() {
        note(format!(
            "this node has no route to {}: taken for a client outside",
            case.asked.from
        ));
    }
    let wanted = case.evidence.maps.config.socket_lb;
    if wanted != 0
        && case.asked.client != Client::Outside
        && !case.evidence.maps.attached.has_socket_hook(F::VERSION == 6)
    {
        note("--socket-lb is on, and no socket hook is attached: see svc-agent check".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::once::Pod;

    #[test]
    fn a_selector_that_is_nearly_right_is_told_what_there_is() {
        let name = ServiceName {
            namespace: "shop".into(),
            name: "web".into(),
        };
        let labels = |text: &str| -> BTreeMap<String, String> {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        let pod = |namespace: &str, text: &str| Pod {
            namespace: namespace.into(),
            name: "p".into(),
            labels: labels(text),
            ips: Vec::new(),
            host_network: false,
        };
        let objects = Objects {
            pods: Some(vec![
                pod("shop", "app=web,tier=front"),
                pod("shop", "app=web,tier=front"),
                pod("shop", "app=database"),
                pod("other", "app=wbe"),
            ]),
            ..Objects::default()
        };
        let told = |selector: &str| {
            let service = Service {
                selector: labels(selector),
                ..Service::default()
            };
            mismatch(&name, &service, &objects).unwrap()
        };
        assert_eq!(
            told("app=wbe"),
            "its selector app=wbe matches no Pod; app=web, app=database exist"
        );
        assert_eq!(
            told("app=web,tier=back"),
            "its selector app=web,tier=back matches no Pod; tier=front exists"
        );
        assert_eq!(
            told("x=y"),
            "its selector x=y matches no Pod; no Pod has such labels"
        );
        assert!(told("app=web").contains("matches 2 Pods"));
    }
}
