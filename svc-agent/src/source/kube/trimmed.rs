//! Objects as they come from the API server, without what is of no use here: of an EndpointSlice of ten endpoints more
//! than half is managed fields, Pods' names and owners. What is left has the types of k8s_openapi.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::source::convert::READ_KEYS;

/// An object of which only what `convert` reads was decoded.
#[derive(Clone, Debug)]
pub(super) struct Trimmed<O>(pub(super) O);

impl<O: Resource> Resource for Trimmed<O> {
    type DynamicType = O::DynamicType;
    type Scope = O::Scope;

    fn kind(dt: &O::DynamicType) -> Cow<'_, str> {
        O::kind(dt)
    }

    fn group(dt: &O::DynamicType) -> Cow<'_, str> {
        O::group(dt)
    }

    fn version(dt: &O::DynamicType) -> Cow<'_, str> {
        O::version(dt)
    }

    fn plural(dt: &O::DynamicType) -> Cow<'_, str> {
        O::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<Few>,
    annotations: Option<Few>,
}

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> Self {
        Self {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            labels: meta.labels.map(|few| few.0),
            annotations: meta.annotations.map(|few| few.0),
            ..Self::default()
        }
    }
}

/// The labels or annotations that somebody here reads.
struct Few(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Few {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Few;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Few, A::Error> {
                let mut few = BTreeMap::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    if READ_KEYS.contains(&key.as_ref()) {
                        few.insert(key.into_owned(), map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Few(few))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[derive(Deserialize)]
struct Service {
    #[serde(default)]
    metadata: Meta,
    spec: Option<core::ServiceSpec>,
    status: Option<core::ServiceStatus>,
}

impl<'de> Deserialize<'de> for Trimmed<core::Service> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Service::deserialize(deserializer)?;
        Ok(Self(core::Service {
            metadata: object.metadata.into(),
            // Pods are the endpoint controller's business.
            spec: object.spec.map(|spec| core::ServiceSpec {
                selector: None,
                ..spec
            }),
            status: object.status,
        }))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointSlice {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<discovery::EndpointPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default)]
    addresses: Option<Vec<String>>,
    conditions: Option<discovery::EndpointConditions>,
    hints: Option<discovery::EndpointHints>,
    node_name: Option<String>,
}

impl<'de> Deserialize<'de> for Trimmed<discovery::EndpointSlice> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = EndpointSlice::deserialize(deserializer)?;
        let endpoint = |endpoint: Endpoint| discovery::Endpoint {
            addresses: endpoint.addresses.unwrap_or_default(),
            conditions: endpoint.conditions,
            hints: endpoint.hints,
            node_name: endpoint.node_name,
            ..discovery::Endpoint::default()
        };
        let endpoints = object.endpoints.unwrap_or_default();
        Ok(Self(discovery::EndpointSlice {
            metadata: object.metadata.into(),
            address_type: object.address_type,
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            ports: object.ports,
        }))
    }
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    metadata: Meta,
    spec: Option<NodeSpec>,
    status: Option<NodeStatus>,
}

#[derive(Deserialize)]
struct NodeSpec {
    taints: Option<Vec<core::Taint>>,
}

#[derive(Deserialize)]
struct NodeStatus {
    addresses: Option<Vec<core::NodeAddress>>,
}

impl<'de> Deserialize<'de> for Trimmed<core::Node> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Node::deserialize(deserializer)?;
        Ok(Self(core::Node {
            metadata: object.metadata.into(),
            spec: object.spec.map(|spec| core::NodeSpec {
                taints: spec.taints,
                ..core::NodeSpec::default()
            }),
            status: object.status.map(|status| core::NodeStatus {
                addresses: status.addresses,
                ..core::NodeStatus::default()
            }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::convert;

    #[test]
    fn what_is_trimmed_converts_as_the_whole_object_does() {
        let meta = json!({
            "name": "web", "namespace": "shop", "uid": "1234", "resourceVersion": "7",
            "creationTimestamp": "2026-11-21T09:00:00Z",
            "labels": {"kubernetes.io/service-name": "web", "app": "web"},
            "annotations": {"svcplane.io/weight": "7", "svcplane.io/algorithm": "maglev", "note": "x"},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        });
        let service = json!({
            "metadata": meta,
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.1", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}],
                "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                "loadBalancerSourceRanges": ["192.0.2.0/24"],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
        });
        let whole: core::Service = serde_json::from_value(service.clone()).unwrap();
        let Trimmed(few) = serde_json::from_value(service).unwrap();
        let (mut whole, few) = (convert::service(&whole), convert::service(&few));
        let kept = whole.value.as_mut().unwrap();
        kept.selector.clear();
        kept.annotations.remove("note");
        assert_eq!(whole, few);

        let slice = json!({
            "metadata": meta, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "a", "targetRef": {"kind": "Pod", "name": "p"},
                 "conditions": {"ready": false, "serving": true, "terminating": true},
                 "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]}},
                {"addresses": ["10.0.0.2"], "hostname": "h"},
            ],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        let whole: discovery::EndpointSlice = serde_json::from_value(slice.clone()).unwrap();
        let Trimmed(few) = serde_json::from_value(slice).unwrap();
        assert_eq!(convert::slice(&whole), convert::slice(&few));

        let node = json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a", "arch": "x"}},
            "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}], "images": []},
        });
        let whole: core::Node = serde_json::from_value(node.clone()).unwrap();
        let Trimmed(few) = serde_json::from_value(node).unwrap();
        let (mut whole, few) = (convert::node(&whole), convert::node(&few));
        whole.value.as_mut().unwrap().labels.remove("arch");
        assert_eq!(whole, few);
    }

    #[test]
    fn a_list_without_items_of_a_slice_is_an_empty_one() {
        let slice = json!({"metadata": {"name": "web"}, "addressType": "IPv4", "endpoints": null});
        let Trimmed(slice): Trimmed<discovery::EndpointSlice> =
            serde_json::from_value(slice).unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports.is_none());
    }
}
