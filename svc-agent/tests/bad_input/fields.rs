//! Every field of Service, EndpointSlice, Node and Pod that makes no sense.

use super::row::{ALONE, AT, BAD, Row, SLICE, file, service};

/// Fields of `bad` beside a good ClusterIP and port, and the message.
#[rustfmt::skip]
const SPECS: &[(&str, &str)] = &[
    ("type: Magic", r#"type "Magic" is unknown; it is served as ClusterIP"#),
    ("sessionAffinity: Cookie", r#"sessionAffinity "Cookie" is neither None nor ClientIP; None is used"#),
    (
        "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
        "sessionAffinity timeoutSeconds 0 is not in 1–86400; 10800 is used",
    ),
    (
        "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
        "sessionAffinity timeoutSeconds 86401 is not in 1–86400; 10800 is used",
    ),
    ("sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}", ""),
    ("externalTrafficPolicy: Near", r#"externalTrafficPolicy "Near" is neither Cluster nor Local; Cluster is used"#),
    ("internalTrafficPolicy: Near", r#"internalTrafficPolicy "Near" is neither Cluster nor Local; Cluster is used"#),
    ("externalIPs: [10.0.0.256]", r#"externalIP "10.0.0.256" is no IP address; it is skipped"#),
    ("externalIPs: ['10.0.0.1/24']", r#"externalIP "10.0.0.1/24" is no IP address; it is skipped"#),
    ("externalIPs: ['010.0.0.1']", r#"externalIP "010.0.0.1" is no IP address; it is skipped"#),
    ("externalIPs: ['fe80::1%eth0']", r#"externalIP "fe80::1%eth0" is no IP address; it is skipped"#),
    ("externalIPs: ['']", r#"externalIP "" is no IP address; it is skipped"#),
    ("externalIPs: [0.0.0.0]", "externalIP 0.0.0.0 is unspecified: no traffic can come to it; write another address"),
    ("externalIPs: [127.0.0.1]", "externalIP 127.0.0.1 is a loopback address: no traffic can come to it; write another address"),
    ("externalIPs: [224.0.0.1]", "externalIP 224.0.0.1 is a multicast address: no traffic can come to it; write another address"),
    ("externalIPs: [255.255.255.255]", "externalIP 255.255.255.255 is the broadcast address: no traffic can come to it; write another address"),
    ("healthCheckNodePort: 70000", "healthCheckNodePort 70000 is not in 1–65535; it is not served"),
    ("healthCheckNodePort: -1", "healthCheckNodePort -1 is not in 1–65535; it is not served"),
    ("healthCheckNodePort: 32000", "healthCheckNodePort 32000 needs type LoadBalancer and externalTrafficPolicy Local; it is not served"),
    ("type: LoadBalancer, healthCheckNodePort: 32000", "healthCheckNodePort 32000 needs type LoadBalancer and externalTrafficPolicy Local; it is not served"),
    ("type: NodePort", "port 80 has no nodePort; none is invented here: write spec.ports[].nodePort"),
    ("type: LoadBalancer, allocateLoadBalancerNodePorts: false", ""),
    ("type: LoadBalancer, loadBalancerIP: nonsense, loadBalancerClass: example.com/x", ""),
    ("ipFamilies: [IPv6], ipFamilyPolicy: RequireDualStack", ""),
    ("trafficDistribution: Nowhere", ""),
    ("externalName: ignored.example.com", ""),
    ("noSuchField: {a: [1, 2]}", ""),
];

/// A second port of `bad`, and the message.
#[rustfmt::skip]
const PORTS: &[(&str, &str)] = &[
    ("port: 0", "port 0 is not in 1–65535; the port is skipped"),
    ("port: 65536", "port 65536 is not in 1–65535; the port is skipped"),
    ("port: -80", "port -80 is not in 1–65535; the port is skipped"),
    ("name: x", "port 0 is not in 1–65535; the port is skipped"),
    ("port: 1, nodePort: -1", "nodePort -1 is not in 1–65535; the port is skipped"),
    ("port: 1, targetPort: 70000", "targetPort 70000 is not in 1–65535; the port is skipped"),
    ("port: 1, protocol: ICMP", r#"protocol "ICMP" is none of TCP, UDP, SCTP; the port is skipped"#),
    ("port: 1, protocol: tcp", r#"protocol "tcp" is none of TCP, UDP, SCTP; the port is skipped"#),
    ("port: 1, name: good", r#"two ports have the name "good"; the second one, 1, is skipped"#),
    ("port: 80, name: again", "two of its ports ask for 10.96.0.1 port 80/TCP; the first one keeps it"),
];

/// An endpoint beside a good one, and the message.
#[rustfmt::skip]
const ENDPOINTS: &[(&str, &str)] = &[
    ("addresses: [nonsense]", r#"address "nonsense" is no IP address; it is skipped"#),
    ("addresses: ['fd00::1']", "address fd00::1 is not of the slice's addressType; it is skipped"),
    ("addresses: [127.0.0.1]", "address 127.0.0.1 is a loopback address, which no endpoint can have; it is skipped"),
    ("addresses: [0.0.0.0]", "address 0.0.0.0 is unspecified, which no endpoint can have; it is skipped"),
    ("addresses: [224.0.0.1]", "address 224.0.0.1 is a multicast address, which no endpoint can have; it is skipped"),
    ("addresses: [169.254.1.1]", "address 169.254.1.1 is a link-local address, which no endpoint can have; it is skipped"),
    ("addresses: []", ""),
    ("addresses: [10.0.0.1, 10.0.0.2]", ""),
    ("addresses: ['::ffff:10.0.0.1']", ""),
    ("addresses: [10.0.0.1], hints: {forZones: []}, nodeName: '', zone: ''", ""),
    ("addresses: [10.0.0.7], conditions: {ready: false}", ""),
];

/// Ports of the slice beside a good one, and the message.
#[rustfmt::skip]
const SLICE_PORTS: &[(&str, &str)] = &[
    ("name: a, port: 70000", "port 70000 is not in 1–65535; the port is skipped"),
    ("name: a, port: -1", "port -1 is not in 1–65535; the port is skipped"),
    ("name: a, port: 1, protocol: X", r#"protocol "X" is none of TCP, UDP, SCTP; the port is skipped"#),
    ("name: a", ""),
    ("name: a, port: 0", ""),
    ("name: a, port: 1, appProtocol: example.com/x", ""),
];

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let said = |object: &str, why: &str| match why {
        "" => vec![],
        why => vec![format!("{object}: {why}")],
    };
    fn refs(said: &[String]) -> Vec<&str> {
        said.iter().map(String::as_str).collect()
    }
    for (spec, why) in SPECS {
        let text = service(&format!("{AT}, {spec}, ports: [{{port: 80}}]"));
        rows.push(file("bad.yaml", text, &refs(&said("Service default/bad", why)), &[BAD]));
    }
    for (port, why) in PORTS {
        let text = service(&format!("{AT}, ports: [{{name: good, port: 80}}, {{{port}}}]"));
        rows.push(file("bad.yaml", text, &refs(&said("Service default/bad", why)), &[BAD]));
    }
    let good = service(&format!("{AT}, ports: [{{port: 80}}]"));
    for (endpoint, why) in ENDPOINTS {
        let text = good.replace("[{addresses", &format!("[{{{endpoint}}}, {{addresses"));
        rows.push(file("bad.yaml", text, &refs(&said("EndpointSlice default/bad", why)), &[BAD]));
    }
    for (port, why) in SLICE_PORTS {
        let text = good.replace("[{port: 8080}", &format!("[{{{port}}}, {{port: 8080}}"));
        rows.push(file("bad.yaml", text, &refs(&said("EndpointSlice default/bad", why)), &[BAD]));
    }
    rows.extend([
        file("bad.yaml", service("ports: [{port: 80}]"), &["Service default/bad: has no clusterIP; none is invented here: write spec.clusterIP, or None for a headless Service"], &[]),
        file("bad.yaml", service("clusterIP: nonsense, ports: [{port: 80}]"), &[r#"Service default/bad: clusterIP "nonsense" is no IP address; it is skipped"#, "Service default/bad: has no clusterIP"], &[]),
        file("bad.yaml", service("clusterIPs: [10.96.0.1, 10.96.0.2], ports: [{port: 80}]"), &["Service default/bad: clusterIP 10.96.0.2 is the second one of its family; it is skipped"], &[BAD]),
        file("bad.yaml", service("clusterIPs: [10.96.0.1, nonsense], ports: [{port: 80}]"), &[r#"Service default/bad: clusterIP "nonsense" is no IP address; it is skipped"#], &[BAD]),
        file("bad.yaml", service("clusterIP: '::ffff:10.96.0.1', ports: [{port: 80}]"), &[], &[BAD]),
        file("bad.yaml", service("clusterIP: None, ports: [{port: 80}]"), &[], &[]),
        file("bad.yaml", service("type: ExternalName, clusterIP: 10.96.0.1, externalName: '', ports: [{port: 80}]"), &[], &[]),
        file("bad.yaml", service(&format!("{AT}, ports: [{{port: 80, nodePort: 30080}}]")), &["Service default/bad: nodePort 30080 needs type NodePort or LoadBalancer"], &[BAD]),
        file("bad.yaml", service(&format!("{AT}, ports: []")), &[], &[]),
        file("bad.yaml", service(AT), &[], &[]),
        file("bad.yaml", good.replace("addressType: IPv4", "addressType: IPX"), &[r#"EndpointSlice default/bad: addressType "IPX" is none of IPv4, IPv6, FQDN; it is skipped"#], &[ALONE]),
        file("bad.yaml", good.replace("addressType: IPv4", "addressType: FQDN").replace("10.0.0.1", "a.example.com"), &[], &[ALONE]),
        file("bad.yaml", good.replace("{kubernetes.io/service-name: bad}", "{}"), &["EndpointSlice default/bad: has no label kubernetes.io/service-name, so it belongs to no Service; it is skipped"], &[ALONE]),
        file("bad.yaml", good.replace("service-name: bad", "service-name: ''"), &["EndpointSlice default/bad: has no label kubernetes.io/service-name"], &[ALONE]),
        file("bad.yaml", good.replace("service-name: bad", "service-name: not-there"), &[], &[ALONE]),
        file("bad.yaml", format!("{good}status: {{loadBalancer: 1}}\n"), &[], &[BAD]),
        file("bad.yaml", service(&format!("type: LoadBalancer, {AT}, ports: [{{port: 80}}]")).replace("\n---\n", "\nstatus: {loadBalancer: {ingress: [{hostname: lb}, {ip: ''}, {ip: bad}, {ip: 192.0.2.1, ipMode: Magic}]}}\n---\n"), &[r#"Service default/bad: ipMode "Magic" is neither VIP nor Proxy; load balancer ingress 192.0.2.1 is skipped"#, r#"Service default/bad: load balancer ingress "bad" is no IP address; it is skipped"#], &[BAD]),
        file("bad.yaml", good.replacen("{name: bad}", "{name: bad, annotations: {svcplane.io/algorithm: fastest}}", 1), &[r#"Service default/bad: annotation svcplane.io/algorithm "fastest" is none of random, round-robin, maglev, least-connections; the default is used"#], &[BAD]),
        file("bad.yaml", good.replace("{name: bad, labels", "{name: bad, annotations: {svcplane.io/weight: heavy}, labels"), &[r#"EndpointSlice default/bad: annotation svcplane.io/weight "heavy" is not a number from 0 to 1000; 1 is used"#], &[BAD]),
        file("bad.yaml", service(&format!("type: LoadBalancer, {AT}, loadBalancerSourceRanges: [nonsense], ports: [{{port: 80}}]")), &[], &[BAD]),
        file("bad.yaml", service(&format!("type: LoadBalancer, {AT}, loadBalancerSourceRanges: [nonsense], ports: [{{port: 80}}]")).replace("\n---\n", "\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n---\n"), &[r#"Service default/bad: loadBalancerSourceRanges: "nonsense" is not an address range, such as 192.0.2.0/24 or fd00::/8; nobody is let in by it"#], &[BAD, "bad 192.0.2.1:80/TCP→10.0.0.1:8080"]),
        file("bad.yaml", good.replace("name: bad}", &format!("name: {}}}", "n".repeat(300))), &["Service default/nnn"], &[]),
        file("bad.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: here}\nstatus: {addresses: [{type: InternalIP, address: bad}, {type: InternalIP, address: 10.0.0.1}, {type: Magic, address: x}]}", &[r#"Node here: InternalIP "bad" is no IP address; it is skipped"#], &[]),
        file("bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, ports: [{name: a, containerPort: 70000}]}]}\nstatus: {podIPs: [{ip: bad}]}", &["Pod default/p: containerPort 70000 is not in 1–65535; the port is skipped", r#"Pod default/p: podIP "bad" is no IP address; it is skipped"#], &[]),
        file("bad.yaml", service(&format!("{AT}, selector: {{app: none}}, ports: [{{port: 80}}]")).replace(SLICE, ""), &["Service default/bad: its selector app=none matches no Pod: its clients are refused"], &[ALONE]),
    ]);
    rows
}
