//! The ways to the Services of examples/ that the demo takes, and who should answer.

use xtask::topology::PODS;
use xtask::traffic::Protocol;

/// A way to a Service: what it shows, from where, by what, to where, and who should answer.
pub type Way = (
    &'static str,
    &'static str,
    Protocol,
    &'static str,
    &'static [&'static str],
);

pub const WAYS: [Way; 17] = [
    (
        "web-app: ClusterIP, 80 → 3000",
        "pod-b",
        Protocol::Tcp,
        "10.96.0.10:80",
        &["pod-a", "pod-c"],
    ),
    (
        "web-app",
        "pod-d",
        Protocol::Tcp,
        "[fd00:96::a]:80",
        &["pod-a", "pod-c"],
    ),
    (
        "web-app, from a pod to itself too",
        "pod-a",
        Protocol::Tcp,
        "10.96.0.10:80",
        &["pod-a", "pod-c"],
    ),
    (
        "cache: ClusterIP, no targetPort",
        "node1",
        Protocol::Tcp,
        "10.96.0.12:6379",
        &["pod-b", "pod-d"],
    ),
    (
        "cache",
        "node2",
        Protocol::Tcp,
        "[fd00:96::c]:6379",
        &["pod-b", "pod-d"],
    ),
    (
        "dns: UDP",
        "pod-d",
        Protocol::Udp,
        "10.96.0.18:53",
        &["pod-a", "pod-b", "pod-c"],
    ),
    (
        "dns: UDP",
        "node1",
        Protocol::Udp,
        "[fd00:96::12]:53",
        &["pod-a", "pod-b", "pod-c"],
    ),
    (
        "my-nginx: NodePort, port http",
        "client",
        Protocol::Tcp,
        "172.18.0.11:31080",
        &PODS,
    ),
    (
        "my-nginx: port https",
        "client",
        Protocol::Tcp,
        "172.18.0.12:31443",
        &PODS,
    ),
    (
        "my-nginx: port http",
        "client",
        Protocol::Tcp,
        "[fd00:18::11]:31080",
        &PODS,
    ),
    (
        "nginx-service: NodePort",
        "client",
        Protocol::Tcp,
        "[fd00:18::12]:30007",
        &PODS,
    ),
    (
        "frontend-svc: NodePort, named port",
        "client",
        Protocol::Tcp,
        "172.18.0.11:32233",
        &["pod-a", "pod-d"],
    ),
    (
        "frontend-svc",
        "client",
        Protocol::Tcp,
        "172.18.0.12:32233",
        &["pod-a", "pod-d"],
    ),
    (
        "my-service-lb: LoadBalancer",
        "client",
        Protocol::Tcp,
        "192.0.2.127:80",
        &["pod-b", "pod-d"],
    ),
    (
        "my-service-lb",
        "client",
        Protocol::Tcp,
        "[2001:db8:2::127]:80",
        &["pod-b", "pod-d"],
    ),
    (
        "my-service: externalIPs",
        "client",
        Protocol::Tcp,
        "198.51.100.32:80",
        &["pod-b", "pod-d"],
    ),
    (
        "my-service",
        "client",
        Protocol::Tcp,
        "[2001:db8:100::32]:80",
        &["pod-b", "pod-d"],
    ),
];

pub const REFUSED: [(&str, Protocol, &str); 4] = [
    ("pod-a", Protocol::Tcp, "10.96.0.19:80"),
    ("node2", Protocol::Tcp, "[fd00:96::13]:80"),
    ("pod-c", Protocol::Udp, "10.96.0.19:80"),
    ("pod-b", Protocol::Tcp, "10.96.0.10:81"),
];
