//! v1 Node.

use k8s_openapi::api::core::v1 as core;

use super::{Converted, Notes};
use crate::cluster::Node;

/// The cluster autoscaler's mark on a node that it is about to delete (E1).
const DOOMED: &str = "ToBeDeletedByClusterAutoscaler";

pub fn node(object: &core::Node) -> Converted<String, Node> {
    let key = object.metadata.name.clone().unwrap_or_default();
    let mut notes = Notes::new(format!("Node {key}"));
    let all: Vec<_> = object
        .status
        .iter()
        .flat_map(|s| &s.addresses)
        .flatten()
        .collect();
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        let of_kind = all.iter().filter(|address| address.type_ == kind);
        addresses.extend(of_kind.filter_map(|address| notes.ip(kind, &address.address)));
    }
    let taints = object.spec.iter().flat_map(|s| &s.taints).flatten();
    let node = Node {
        addresses,
        labels: object.metadata.labels.clone().unwrap_or_default(),
        doomed: object.metadata.deletion_timestamp.is_some()
            || taints.into_iter().any(|t| t.key == DOOMED),
    };
    Converted {
        key,
        value: Some(node),
        refusals: notes.refusals,
        trigger: None,
    }
}
