//! Whatever a folder of manifests can hold: each row is put beside a good Service, and says which messages it makes and
//! what of it is served. The good Service is served in every row.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use svc_agent::cluster::Cluster;
use svc_agent::compile::Facts;
use svc_agent::desired::Protocol;
use svc_agent::plan::{Actual, Capacities, Planner};
use svc_agent::reconcile::Reconciler;
use svc_agent::source::manifests;
use svc_common::family::{Family, V4};
use svc_common::table::Scope;

/// A folder that goes with the row.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("svc-agent-bad-{}-{count}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("good.yaml"), GOOD).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const GOOD: &str = "
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: good, labels: {kubernetes.io/service-name: good}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.9]}]
ports: [{port: 8080}]
";
const GOOD_SERVED: &str = "good 10.96.0.9:80/TCP→10.0.0.9:8080";

/// What a folder leads to: messages, and each address that a client inside is answered at, with who answers.
fn outcome(dir: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let (events, refusals) = manifests::read(dir).unwrap();
    let mut said: BTreeSet<String> = refusals.iter().map(ToString::to_string).collect();
    let planner = Planner::from_actual(
        Actual::default(),
        Actual::default(),
        Default::default(),
        Capacities::default(),
    );
    let mut reconciler = Reconciler::new(Cluster::new("here"), planner);
    let facts = Facts {
        node_name: "here".into(),
        node_port_addresses: vec!["172.18.0.11".parse().unwrap()],
        ..Facts::default()
    };
    reconciler.set_facts(facts, BTreeSet::new());
    for event in events {
        reconciler.apply(event);
    }
    let round = reconciler.round();
    said.extend(round.refusals.values().flatten().map(ToString::to_string));
    let (maps, labels) = (reconciler.planner.v4(), reconciler.planner.labels());
    let inside = maps
        .frontends
        .iter()
        .filter(|(key, _)| key.scope == Scope::Internal as u8);
    let served = inside.map(|(key, frontend)| {
        let label = &labels[&frontend.service];
        let name = label
            .trim_start_matches("default/")
            .split([':', '/'])
            .next();
        let run = maps.run(frontend).unwrap_or_default().iter();
        let by: Vec<String> = run
            .map(|b| format!("{}:{}", V4::addr_to_std(b.addr), b.port.get()))
            .collect();
        format!(
            "{} {}:{}/{}→{}",
            name.unwrap(),
            V4::addr_to_std(key.addr),
            key.port.get(),
            Protocol::from_number(key.proto).unwrap(),
            by.join(",")
        )
    });
    let served = served.collect();
    (said, served)
}

/// What was made, what is expected to be said (in parts, one after the other) and to be served.
struct Row {
    input: String,
    says: Vec<String>,
    serves: Vec<String>,
    make: Box<dyn Fn(&Path)>,
}

fn row(input: &str, says: &[&str], serves: &[&str], make: impl Fn(&Path) + 'static) -> Row {
    Row {
        input: input.into(),
        says: says.iter().map(ToString::to_string).collect(),
        serves: serves.iter().map(ToString::to_string).collect(),
        make: Box::new(make),
    }
}

fn file(
    name: &'static str,
    bytes: impl AsRef<[u8]> + 'static,
    says: &[&str],
    serves: &[&str],
) -> Row {
    let text = String::from_utf8_lossy(bytes.as_ref()).into_owned();
    let input: String = format!("{name}: {text}").chars().take(200).collect();
    row(&input, says, serves, move |dir| {
        fs::write(dir.join(name), bytes.as_ref()).unwrap();
    })
}

/// A Service `bad` with these fields in its spec, and one endpoint.
fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n---\n{SLICE}"
    )
}

const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {name: bad, labels: {kubernetes.io/service-name: bad}}\naddressType: IPv4\n\
                     endpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 8080}, {name: good, port: 8080}]\n";
/// What is served of `bad` at its ClusterIP.
const BAD: &str = "bad 10.96.0.1:80/TCP→10.0.0.1:8080";
const ALONE: &str = "bad 10.96.0.1:80/TCP→";
const AT: &str = "clusterIP: 10.96.0.1";

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
fn fields() -> Vec<Row> {
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

const STAYS: &str = "what the file said last stays";

#[rustfmt::skip]
fn files() -> Vec<Row> {
    let good = service(&format!("{AT}, ports: [{{port: 80}}]"));
    let whole = |start: &str, what: &str| format!("file {start}…{what}");
    let broken = |name: &'static str, text: &str, start: &str, what: &str| {
        let says = whole(&format!("{name} {start}"), what);
        file(name, text.to_owned().into_bytes(), &[&format!("{says}…{STAYS}")], &[])
    };
    let laughs: String = std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned())
        .chain((1..12).map(|i| {
            let last = format!("*a{}", i - 1);
            format!("a{i}: &a{i} [{}]\n", [last.as_str(); 10].join(", "))
        }))
        .collect();
    let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"bad"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
    vec![
        // What is no manifest at all.
        broken("bad.yaml", &format!("{good}---\napiVersion: v1\nkind: Service\nspec: [\n"), "document 3 line", ""),
        broken("bad.yaml", "apiVersion: v1\nkind: Service\n\tmetadata: {}\n", "document 1 line", ""),
        broken("bad.yaml", "just words\n", "document 1 line 1", ""),
        broken("bad.yaml", "- a\n- b\n", "document 1 line 1", ""),
        broken("bad.yaml", "kind: Service\n", "document 1 line 1", "no apiVersion and kind"),
        broken("bad.yaml", "apiVersion: v1\nkind: List\nitems: [{kind: Pod}]", "document 1 line 1", "item 1: no apiVersion"),
        broken("bad.yaml", &good.replace("port: 80}", "port: eighty}"), "document 1 line 4", "i32"),
        broken("bad.yaml", &good.replace("port: 80}", "port: 99999999999}"), "document 1 line 4", ""),
        broken("bad.yaml", &good.replace("port: 80}", "port: 80.5}"), "document 1 line 4", ""),
        broken("bad.yaml", &good.replace("metadata: {name: bad}", "metadata: {name: bad, name: worse}"), "document 1 line 3", "duplicate"),
        broken("bad.yaml", &good.replace("ready: true", "").replace("10.0.0.1]", "10.0.0.1], conditions: {ready: perhaps}"), "document 2 line", ""),
        broken("bad.yaml", &format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {}{}\n", "[".repeat(100_000), "]".repeat(100_000)), "document 1 line", ""),
        broken("bad.yaml", &format!("apiVersion: v1\nkind: Service\n{laughs}"), "document 1 line", ""),
        broken("bad.yaml", &format!("{}\n", "x".repeat(10 << 20)), "document 1 line", ""),
        broken("bad.json", "{\"apiVersion\": \"v1\",\n \"kind\": }", "document 1 line 2", "expected value"),
        broken("bad.json", "{}\n\n{}", "document 1 line 1", "no apiVersion"),
        broken("bad.json", &json.replace("80", "1e99"), "document 1 line 1", "invalid"),
        broken("bad.json", &format!("{json}\n\n{}", json.replace("[{\"port\":80}]", "1")), "document 2 line 3", "invalid type"),
        broken("bad.json", &"[".repeat(100_000), "document 1 line 1", ""),
        file("bad.yaml", b"\x7fELF\x02\x01\x01\x00\xff\xfe\xfd", &["file bad.yaml document 1 line 1: is not UTF-8 text; what the file said last stays"], &[]),
        file("bad.yaml", b"a: b\n\xff\xfeb\x00a\x00", &["file bad.yaml document 1 line 2: is not UTF-8 text"], &[]),
        // What is read all the same.
        file("bad.yaml", "", &[], &[]),
        file("bad.yaml", "\n \n# nothing\n---\n---\n", &[], &[]),
        file("bad.json", "", &[], &[]),
        file("bad.yaml", good.replace('\n', "\r\n"), &[], &[BAD]),
        file("bad.yaml", format!("\u{feff}{good}"), &[], &[BAD]),
        file("bad.json", format!("\u{feff}{json}"), &[], &[ALONE]),
        file("bad.yaml", format!("%YAML 1.2\n---\n{good}...\n"), &[], &[BAD]),
        file("bad.yaml", good.replace("[{addresses: [10.0.0.1]}]", "&e [{addresses: [10.0.0.1]}]").replace("ports: [{port: 8080}", "unknown: *e\nports: [{port: 8080}"), &[], &[BAD]),
        file("bad.yaml", format!("# {}\n{good}", "x".repeat(10 << 20)), &[], &[BAD]),
        file("bad.yaml", format!("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items: [{json}]\n"), &[], &[ALONE]),
        file("bad.txt", "{", &[], &[]),
        file(".bad.yaml", "{", &[], &[]),
        // Objects of no use.
        file("bad.yaml", good.replace("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"), &["discovery.k8s.io/v1beta1 EndpointSlice: is of no use here; all such objects are skipped"], &[ALONE]),
        file("bad.yaml", "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: apps/v1\nkind: Deployment\n", &["apps/v1 Deployment: is of no use here; all such objects are skipped"], &[]),
        file("bad.yaml", "apiVersion: v1\nkind: service\n", &["v1 service: is of no use here; all such objects are skipped"], &[]),
        file("bad.yaml", good.replace("metadata: {name: bad}\n", ""), &["Service: has no metadata.name; it is skipped"], &[]),
        file("bad.yaml", format!("{good}---\n{}", good.replace("80", "81")), &["EndpointSlice default/bad: is there twice; the first one is used", "Service default/bad: is there twice; the first one is used"], &[BAD]),
        file("later.yaml", GOOD.replace("10.96.0.9", "10.96.0.1"), &["EndpointSlice default/good: is there twice; the first one is used", "Service default/good: is there twice; the first one is used"], &[]),
        // Two Services that want one address: the one that comes first by name has it.
        file("bad.yaml", GOOD.replace("good", "worse"), &["Service default/worse: 10.96.0.9 port 80/TCP belongs to the older Service default/good; give one of them another address or port"], &[]),
        // What is no file.
        row("a folder", &["file bad.yaml: is a folder: only the files beside it are read; what it said last stays"], &[], |dir| {
            fs::create_dir(dir.join("bad.yaml")).unwrap();
        }),
        row("a link to nothing", &["file bad.yaml: is a link to a file that is not there; what it said last stays"], &[], |dir| {
            symlink("nowhere", dir.join("bad.yaml")).unwrap();
        }),
        row("a link to itself", &["file bad.yaml: cannot be read: …; what it said last stays"], &[], |dir| {
            symlink("bad.yaml", dir.join("bad.yaml")).unwrap();
        }),
        row("a pipe", &["file bad.yaml: is no regular file; what it said last stays"], &[], |dir| {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&dir.join("bad.yaml"), mode).unwrap();
        }),
        row("a device without end", &["file bad.yaml: is no regular file; what it said last stays"], &[], |dir| {
            symlink("/dev/zero", dir.join("bad.yaml")).unwrap();
        }),
        row("a file that is too large", &["file bad.yaml: is larger than 256 MiB: split it; what it said last stays"], &[], |dir| {
            let file = fs::File::create(dir.join("bad.yaml")).unwrap();
            file.set_len((256 << 20) + 1).unwrap();
        }),
        row("a good link", &[], &[BAD], move |dir| {
            fs::write(dir.join("target"), &good).unwrap();
            symlink("target", dir.join("bad.yaml")).unwrap();
        }),
    ]
}

/// Whether the parts are there one after the other, the first one at the start.
fn fits(text: &str, pattern: &str) -> bool {
    let mut rest = text;
    for (i, part) in pattern.split('…').enumerate() {
        match rest.find(part) {
            Some(at) if i > 0 || at == 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    true
}

#[test]
fn whatever_is_wrong_is_said_and_the_rest_is_served() {
    let mut wrong = Vec::new();
    for Row {
        input,
        says,
        serves,
        make,
    } in fields().into_iter().chain(files())
    {
        let dir = Dir::new();
        make(&dir.0);
        let (said, served) = outcome(&dir.0);
        let as_told = said.len() == says.len()
            && says.iter().all(|s| said.iter().any(|text| fits(text, s)))
            && said.iter().all(|text| !text.contains('\n'));
        let mut expected: BTreeSet<String> = serves.into_iter().collect();
        expected.insert(GOOD_SERVED.into());
        if !as_told || served != expected {
            let short = |texts: &BTreeSet<String>| {
                let cut = |t: &String| t.chars().take(300).collect::<String>();
                texts.iter().map(cut).collect::<Vec<_>>()
            };
            wrong.push(format!(
                "{input}\n  said     {:?}\n  expected {says:?}\n  served   {:?}\n  expected {:?}\n",
                short(&said),
                short(&served),
                short(&expected)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_row_of_a_pattern_fits_its_text() {
    assert!(fits("file a: line 1 is bad", "file a…bad") && !fits("a file", "file"));
}
