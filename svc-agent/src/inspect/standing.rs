//! Why an endpoint gets new connections, or gets none: what the maps know, in the words of what the cluster says of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use svc_common::table::{BackendState, backend_state};

use crate::cluster::{Cluster, Endpoint};
use crate::desired::{Protocol, ServicePortName};

/// From where an endpoint is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// The frontend's policy is Local.
    pub local_set: bool,
    pub node: &'a str,
    pub zone: Option<&'a str>,
}

/// Whether new connections go to it.
pub fn is_in(state: BackendState, view: View<'_>) -> bool {
    let set = if view.local_set {
        backend_state::IN_LOCAL_SET
    } else {
        backend_state::IN_CLUSTER_SET
    };
    state.flags & set != 0 && state.weight > 0
}

/// Why that is so. `said`: what its slice says; None where nobody has asked.
pub fn why(state: BackendState, said: Option<&Endpoint>, view: View<'_>) -> String {
    let local = state.flags & backend_state::LOCAL != 0;
    if is_in(state, view) {
        return match said {
            Some(said) if !said.ready => "terminating, and nothing better is left".into(),
            Some(_) => "ready".into(),
            None => "serves".into(),
        };
    }
    if state.flags & backend_state::SERVING == 0 {
        return match said {
            Some(said) if said.terminating => "terminating, and no longer serving".into(),
            Some(_) | None => "not ready".into(),
        };
    }
    if state.weight == 0 {
        return "has weight 0: keeps what it has, gets nothing new".into();
    }
    if view.local_set && !local {
        let node = said.and_then(|said| said.node.as_deref());
        return match node {
            Some(node) => format!("not on this node (it is on {node}), and the policy is Local"),
            None => "not on this node, and the policy is Local".into(),
        };
    }
    match said {
        Some(said) if said.terminating => "terminating, and ready ones are left".into(),
        Some(said) if !said.ready => "not ready".into(),
        Some(said) => hinted(said, view),
        None if view.local_set => "terminating, and ready ones are left on this node".into(),
        None => "others are preferred: it is terminating, or topology hints are for others".into(),
    }
}

/// What its hints say, of an endpoint that is ready and left out all the same.
fn hinted(said: &Endpoint, view: View<'_>) -> String {
    let list = |names: &std::collections::BTreeSet<String>| {
        names.iter().cloned().collect::<Vec<_>>().join(", ")
    };
    match said.hints.as_deref() {
        Some(hints) if !hints.nodes.is_empty() && !hints.nodes.contains(view.node) => {
            format!("its topology hints are for node {}", list(&hints.nodes))
        }
        Some(hints) if !hints.zones.is_empty() => match view.zone {
            Some(zone) => format!(
                "its topology hints are for {}, and this node is in {zone}",
                list(&hints.zones)
            ),
            None => format!("its topology hints are for {}", list(&hints.zones)),
        },
        _ => "ready, but not yet in the maps as such: see svc-agent diff".into(),
    }
}

/// What the slices say about the endpoints of a service port.
pub fn said<'a>(
    cluster: &'a Cluster,
    port: &ServicePortName,
    protocol: Protocol,
) -> BTreeMap<(IpAddr, u16), &'a Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in cluster.slices_of(&port.service) {
        let numbers = slice
            .ports
            .iter()
            .filter(|(name, of, _)| *name == port.port && *of == protocol)
            .map(|(_, _, number)| *number);
        for number in numbers {
            for endpoint in &slice.endpoints {
                let known = found.entry((endpoint.ip, number)).or_insert(endpoint);
                if crate::compile::standing(endpoint) > crate::compile::standing(known) {
                    *known = endpoint;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Hints;
    use std::sync::Arc;

    const SERVING: u16 = backend_state::SERVING;

    fn state(flags: u16) -> BackendState {
        BackendState {
            flags,
            weight: 1,
            ..BackendState::default()
        }
    }

    fn endpoint(ready: bool, serving: bool, terminating: bool) -> Endpoint {
        Endpoint {
            ip: "10.0.0.1".parse().unwrap(),
            ready,
            serving,
            terminating,
            node: Some("node2".into()),
            hints: None,
            weight: 1,
        }
    }

    #[test]
    fn every_endpoint_has_its_reason() {
        let cluster = View {
            local_set: false,
            node: "node1",
            zone: Some("a"),
        };
        let local = View {
            local_set: true,
            ..cluster
        };
        let in_cluster = SERVING | backend_state::IN_CLUSTER_SET | backend_state::REMOTE;
        let mut hinted = endpoint(true, true, false);
        hinted.hints = Some(Arc::new(Hints {
            zones: ["b".to_owned()].into(),
            ..Hints::default()
        }));
        let draining = BackendState {
            weight: 0,
            ..state(SERVING)
        };
        for (state, said, view, expected) in [
            (
                state(in_cluster),
                Some(endpoint(true, true, false)),
                cluster,
                "ready",
            ),
            (state(in_cluster), None, cluster, "serves"),
            (
                state(in_cluster),
                Some(endpoint(false, true, true)),
                cluster,
                "nothing better",
            ),
            (
                state(in_cluster),
                Some(endpoint(true, true, false)),
                local,
                "it is on node2",
            ),
            (state(in_cluster), None, local, "not on this node"),
            (
                state(0),
                Some(endpoint(false, false, false)),
                cluster,
                "not ready",
            ),
            (
                state(0),
                Some(endpoint(false, false, true)),
                cluster,
                "no longer serving",
            ),
            (state(0), None, cluster, "not ready"),
            (
                state(SERVING),
                Some(endpoint(false, true, true)),
                cluster,
                "ready ones are left",
            ),
            (
                state(SERVING),
                Some(hinted),
                cluster,
                "for b, and this node is in a",
            ),
            (state(SERVING), None, cluster, "others are preferred"),
            (
                state(SERVING),
                Some(endpoint(false, true, false)),
                cluster,
                "not ready",
            ),
            (draining, None, cluster, "weight 0"),
        ] {
            let told = why(state, said.as_ref(), view);
            assert!(told.contains(expected), "{told:?} for {expected:?}");
        }
    }
}
