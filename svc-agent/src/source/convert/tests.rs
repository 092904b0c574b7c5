//! What is wrong with an object: `tests/bad_input`.

use serde::de::DeserializeOwned;

use super::*;
use crate::cluster::{ServicePort, ServiceType, TargetPort, TrafficPolicy};

fn object<T: DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap()
}

fn spec(spec: &str) -> Converted<crate::desired::ServiceName, crate::cluster::Service> {
    service(&object(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}"
    )))
}

fn sliced(rest: &str) -> Converted<crate::cluster::SliceName, crate::cluster::Slice> {
    let meta = "{name: s, namespace: ns, labels: {kubernetes.io/service-name: web}}";
    slice(&object(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {meta}\n{rest}"
    )))
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[test]
fn a_service_is_read_in_full() {
    let read = service(&object(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, creationTimestamp: '2026-01-02T03:04:05Z', labels: {a: b}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  externalIPs: [198.51.100.32, 198.51.100.32]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  selector: {app: web}
  loadBalancerSourceRanges: [192.0.2.0/24]
  healthCheckNodePort: 32000
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP}
  - {name: s, port: 7, protocol: SCTP, targetPort: 8}
status:
  loadBalancer: {ingress: [{ip: 192.0.2.127}, {ip: 192.0.2.128, ipMode: VIP}, {ip: 192.0.2.129, ipMode: Proxy}, {hostname: lb}]}
",
    ));
    assert_eq!(
        (read.key.to_string().as_str(), &read.refusals),
        ("shop/web", &vec![])
    );
    let web = read.value.unwrap();
    assert_eq!(
        (web.r#type, web.external_policy, web.internal_policy),
        (
            ServiceType::LoadBalancer,
            TrafficPolicy::Local,
            TrafficPolicy::Cluster
        )
    );
    assert_eq!(web.created.as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!(web.cluster_ips, ips(&["10.96.0.1", "fd00:96::1"]));
    assert_eq!(web.external_ips, ips(&["198.51.100.32"]));
    assert_eq!(
        web.load_balancer_ips,
        ips(&["192.0.2.127", "192.0.2.128"]),
        "not the one in mode Proxy (C9)"
    );
    assert_eq!((web.affinity, web.health_check_node_port), (10_800, 32_000));
    let port = |name: &str, protocol, port, target, node_port| ServicePort {
        name: name.into(),
        protocol,
        port,
        target,
        node_port,
    };
    assert_eq!(
        web.ports,
        [
            port(
                "http",
                Protocol::Tcp,
                80,
                TargetPort::Name("web".into()),
                30080
            ),
            port("dns", Protocol::Udp, 53, TargetPort::Number(53), 0),
            port("s", Protocol::Sctp, 7, TargetPort::Number(8), 0),
        ]
    );
}

#[test]
fn headless_and_external_name_are_told_apart_and_other_proxies_services_are_theirs() {
    let headless = spec("{clusterIP: None, ports: [{port: 80}]}")
        .value
        .unwrap();
    assert!(headless.headless && headless.cluster_ips.is_empty());
    assert_eq!(
        spec("{type: ExternalName, externalName: x.example.com}")
            .value
            .unwrap()
            .r#type,
        ServiceType::ExternalName
    );
    let labelled = "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: other}}";
    assert_eq!(service(&object(labelled)).value, None);
}

#[test]
fn missing_conditions_are_ready_serving_and_not_terminating() {
    let endpoints = "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1, 10.0.0.2]}, {addresses: [10.0.0.3], conditions: {ready: false, terminating: true}}]";
    let read = sliced(endpoints).value.unwrap();
    assert_eq!(read.service.to_string(), "ns/web");
    let state: Vec<_> = read
        .endpoints
        .iter()
        .map(|e| (e.ip.to_string(), e.ready, e.serving, e.terminating))
        .collect();
    // And only the first address counts (A7).
    assert_eq!(
        state,
        [
            ("10.0.0.1".to_owned(), true, true, false),
            ("10.0.0.3".to_owned(), false, true, true)
        ]
    );
}

#[test]
fn hints_and_places_of_endpoints_are_read() {
    let read = sliced(
        "addressType: IPv6\nendpoints: [{addresses: ['fd00::1'], nodeName: n, zone: z, hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n}]}}]",
    );
    let endpoint = &read.value.unwrap().endpoints[0];
    assert_eq!(endpoint.node.as_deref(), Some("n"));
    let hints = endpoint.hints.as_ref().unwrap();
    assert_eq!((hints.zones.len(), hints.nodes.len()), (2, 1));
}

#[test]
fn slices_that_are_for_others_or_for_nobody_are_left_out() {
    let with = |labels: &str, kind: &str| {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{{labels}}}}}\naddressType: {kind}\nendpoints: []"
        );
        let read = slice(&object(&text));
        (read.value.is_some(), read.refusals.len())
    };
    let ours = "kubernetes.io/service-name: web";
    assert_eq!(with(ours, "IPv4"), (true, 0));
    assert_eq!(with(ours, "FQDN"), (false, 0));
    assert_eq!(with(ours, "IPX"), (false, 1));
    assert_eq!(with("a: b", "IPv4"), (false, 1), "no Service named (A4)");
    assert_eq!(
        with(
            &format!("{ours}, service.kubernetes.io/headless: ''"),
            "IPv4"
        ),
        (false, 0)
    );
    assert_eq!(
        with(
            &format!("{ours}, service.kubernetes.io/service-proxy-name: x"),
            "IPv4"
        ),
        (false, 0)
    );
}

#[test]
fn a_node_has_its_internal_addresses_first() {
    let addresses = "[{type: Hostname, address: n}, {type: ExternalIP, address: 192.0.2.1}, {type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 'fd00::1'}, {type: InternalIP, address: bad}]";
    let of = |meta: &str, spec: &str| {
        node(&object(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n{meta}}}\nspec: {spec}\nstatus: {{addresses: {addresses}}}"
        )))
    };
    let read = of(", labels: {topology.kubernetes.io/zone: a}", "{}");
    assert_eq!(read.refusals.len(), 1);
    let node = read.value.unwrap();
    assert_eq!(node.addresses, ips(&["10.0.0.1", "fd00::1", "192.0.2.1"]));
    assert_eq!((node.zone(), node.doomed), (Some("a"), false));
    assert!(
        of(
            "",
            "{taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}"
        )
        .value
        .unwrap()
        .doomed
    );
    assert!(
        of(", deletionTimestamp: '2026-01-01T00:00:00Z'", "{}")
            .value
            .unwrap()
            .doomed
    );
}
