//! The objects that are there, as controllers write them: with owners, managed fields and the names of Pods.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use xtask::topology::Place;

pub(super) const NAMESPACE: &str = "bench";
/// The API server's path of the slice that is changed and probed.
pub(super) const PROBE_SLICE: &str =
    "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices/zz-probe-1";
pub(super) const PROBE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 200);
pub(super) const PROBE_PORT: u16 = 7000;
const TIME: &str = "2026-11-21T09:00:00Z";

/// A key of etcd with its value.
pub(super) type Entry = (String, Value);

fn uid(kind: u32, number: u32) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

fn address(base: [u8; 4], number: u32) -> String {
    Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + number).to_string()
}

/// A Service with one port, and a slice of ready endpoints on a thousand nodes.
pub(super) fn service(number: u32, endpoints: u32) -> Vec<Entry> {
    let name = format!("svc-{number}");
    let endpoints: Vec<Value> = (0..endpoints)
        .map(|i| endpoint(&name, number * endpoints + i))
        .collect();
    let port = json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080});
    let slice_port = json!({"name": "http", "protocol": "TCP", "port": 8080});
    entries(
        &name,
        number,
        &address([10, 96, 0, 16], number),
        &port,
        &slice_port,
        &endpoints,
    )
}

/// The Service that is watched by packets.
pub(super) fn probe(backend: Ipv4Addr) -> Vec<Entry> {
    let port =
        json!({"name": "probe", "protocol": "UDP", "port": PROBE_PORT, "targetPort": PROBE_PORT});
    let slice_port = json!({"name": "probe", "protocol": "UDP", "port": PROBE_PORT});
    let endpoint = json!({"addresses": [backend], "conditions": {"ready": true}});
    entries(
        "zz-probe",
        u32::from(u16::MAX),
        &PROBE_ADDRESS.to_string(),
        &port,
        &slice_port,
        &[endpoint],
    )
}

fn entries(
    name: &str,
    number: u32,
    ip: &str,
    port: &Value,
    slice_port: &Value,
    endpoints: &[Value],
) -> Vec<Entry> {
    let labels = json!({"app": name, "team": NAMESPACE});
    let service = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": uid(1, number), "creationTimestamp": TIME, "labels": labels,
            "managedFields": managed("kubectl-create", "v1", &json!({
                "f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:team": {}}},
                "f:spec": {"f:internalTrafficPolicy": {}, "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
                    "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}}},
            })),
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [port], "selector": {"app": name},
            "sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    });
    // Without it, the API server would find the address to be nobody's, and repair that.
    let allocated = json!({
        "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": ip, "uid": uid(2, number), "creationTimestamp": TIME, "labels": {
            "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": NAMESPACE, "name": name}},
    });
    let slice = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": format!("{name}-1"), "generateName": format!("{name}-"), "namespace": NAMESPACE,
            "uid": uid(3, number), "generation": 1, "creationTimestamp": TIME,
            "labels": {
                "app": name, "team": NAMESPACE, "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": TIME},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "uid": uid(1, number),
                "controller": true, "blockOwnerDeletion": true}],
            "managedFields": managed("kube-controller-manager", "discovery.k8s.io/v1", &json!({
                "f:addressType": {}, "f:endpoints": {}, "f:ports": {},
                "f:metadata": {"f:generateName": {}, "f:annotations": {
                    ".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}}, "f:labels": {
                    ".": {}, "f:app": {}, "f:team": {}, "f:kubernetes.io/service-name": {},
                    "f:endpointslice.kubernetes.io/managed-by": {}}},
            })),
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [slice_port],
    });
    vec![
        (
            format!("/registry/services/specs/{NAMESPACE}/{name}"),
            service,
        ),
        (format!("/registry/ipaddresses/{ip}"), allocated),
        (
            format!("/registry/endpointslices/{NAMESPACE}/{name}-1"),
            slice,
        ),
    ]
}

fn managed(manager: &str, version: &str, fields: &Value) -> Value {
    json!([{"manager": manager, "operation": "Update", "apiVersion": version, "time": TIME,
        "fieldsType": "FieldsV1", "fieldsV1": fields}])
}

fn endpoint(service: &str, number: u32) -> Value {
    json!({
        "addresses": [address([10, 128, 0, 0], number)],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": format!("node-{}", number % 1000),
        "zone": format!("zone-{}", number % 3),
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("{service}-5d9c7b6f4-{number:05}"),
            "uid": uid(4, number)},
    })
}

pub(super) fn node(place: &Place) -> Value {
    json!({"metadata": {"name": place.name}, "status": {"addresses": [{"type": "InternalIP", "address": place.v4}]}})
}

/// Another backend for the probed Service.
pub(super) fn probe_change(backend: Ipv4Addr, port: u16) -> Value {
    json!({
        "endpoints": [{"addresses": [backend], "conditions": {"ready": true}}],
        "ports": [{"name": "probe", "protocol": "UDP", "port": port}],
    })
}

/// One of a Service's endpoints goes, another comes; the others stay.
pub(super) fn churn(service: u32, change: u32) -> (String, Value) {
    let name = format!("svc-{service}");
    let mut endpoints: Vec<Value> = (1..super::ENDPOINTS)
        .map(|i| endpoint(&name, service * super::ENDPOINTS + i))
        .collect();
    endpoints.push(endpoint(&name, 4_000_000 + change % 1_000_000));
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{name}-1");
    (path, json!({"endpoints": endpoints}))
}
