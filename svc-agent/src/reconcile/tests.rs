//! External addresses that are somebody else's (CVE-2020-8554), as the whole line takes them.

use std::net::SocketAddr;
use std::sync::Mutex;

use super::*;
use crate::cluster::{self, Change, ServicePort, SliceName, TargetPort};
use crate::plan::Capacities;

const NODE: [u8; 4] = [172, 18, 0, 11];

/// What processes listen on. Tests that touch it hold the lock.
static LISTENERS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn listening() -> Vec<Listener> {
    LISTENERS.lock().unwrap().clone()
}

fn listen(at: &[&str]) {
    let listener = |at: &&str| Listener {
        at: at.parse().unwrap(),
        protocol: Protocol::Tcp,
        v6_only: false,
    };
    *LISTENERS.lock().unwrap() = at.iter().map(listener).collect();
}

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: name.into(),
    }
}

/// A Service with these external addresses.
fn service(cluster_ip: u8, external_ips: &[[u8; 4]], port: u16) -> cluster::Service {
    cluster::Service {
        cluster_ips: vec![[10, 96, 0, cluster_ip].into()],
        external_ips: external_ips.iter().map(|ip| (*ip).into()).collect(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port,
            target: TargetPort::Number(port),
            node_port: 0,
        }],
        ..cluster::Service::default()
    }
}

fn applied(reconciler: &mut Reconciler, of: &str, service: cluster::Service) {
    reconciler.apply(Event::Service(Change::Applied(name(of), service)));
}

fn api_server(reconciler: &mut Reconciler, ip: [u8; 4], port: u16) {
    let slice = SliceName {
        namespace: "default".into(),
        name: "kubernetes".into(),
    };
    let endpoint = cluster::Endpoint {
        ip: ip.into(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hints: None,
        weight: 1,
    };
    let value = cluster::Slice {
        service: guard::kubernetes(),
        endpoints: vec![endpoint],
        ports: vec![("https".into(), Protocol::Tcp, port)],
    };
    reconciler.apply(Event::Slice(Change::Applied(slice, value)));
}

fn reconciler() -> Reconciler {
    let planner = Planner::empty(Capacities::default());
    let mut reconciler = Reconciler::new(Cluster::new("node1"), planner).with_listening(listening);
    for event in [
        Event::Service(Change::All(BTreeMap::new())),
        Event::Slice(Change::All(BTreeMap::new())),
        Event::Node(Change::All(BTreeMap::new())),
    ] {
        reconciler.apply(event);
    }
    let facts = Facts {
        node_name: "node1".into(),
        node_addresses: vec![NODE.into()],
        ..Facts::default()
    };
    reconciler.set_facts(facts, [NODE.into(), [192, 0, 2, 9].into()].into());
    reconciler
}

/// What is refused of a Service after all rounds, if it was looked at.
fn refused(reconciler: &mut Reconciler, of: &str) -> Option<Vec<String>> {
    let mut said = None;
    loop {
        let round = reconciler.round();
        let done = round.changes.is_empty() && !round.more;
        if let Some(refusals) = round.refusals.get(&name(of)) {
            said = Some(refusals.iter().map(|r| r.why.clone()).collect());
        }
        if done {
            return said;
        }
    }
}

/// Where the maps answer inside.
fn served(reconciler: &Reconciler) -> BTreeSet<SocketAddr> {
    let frontends = &reconciler.planner.v4().frontends;
    let at = |key: &svc_common::table::FrontendKey<svc_common::family::V4>| {
        let [high, low] = key.addr.0.map(u16::to_ne_bytes);
        SocketAddr::from(([high[0], high[1], low[0], low[1]], key.port.get()))
    };
    frontends.keys().map(at).collect()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_process_of_the_node_keeps_its_port_also_while_it_starts_again() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    listen(&["0.0.0.0:22"]);
    let mut reconciler = reconciler();
    let web = |port| service(1, &[NODE, [192, 0, 2, 9]], port);
    applied(&mut reconciler, "web", web(22));
    let said = refused(&mut reconciler, "web").unwrap();
    assert_eq!(
        said,
        [
            "externalIP 172.18.0.11 port 22/TCP is what a process of node node1 listens on; write another address or port"
        ]
    );
    // An address that the node is not known by may be a load balancer's.
    assert_eq!(
        served(&reconciler),
        [at("10.96.0.1:22"), at("192.0.2.9:22")].into()
    );
    assert!(reconciler.asks_of_node());

    listen(&[]);
    reconciler.look_at_listeners();
    assert_eq!(refused(&mut reconciler, "web"), None, "it may come back");
    reconciler.look_at_listeners();
    assert_eq!(refused(&mut reconciler, "web"), Some(vec![]));
    assert!(served(&reconciler).contains(&at("172.18.0.11:22")));

    listen(&["172.18.0.11:22"]);
    reconciler.look_at_listeners();
    assert_eq!(refused(&mut reconciler, "web").unwrap().len(), 1);
    assert!(!served(&reconciler).contains(&at("172.18.0.11:22")));

    applied(&mut reconciler, "web", web(80));
    assert_eq!(refused(&mut reconciler, "web"), Some(vec![]));
    assert!(served(&reconciler).contains(&at("172.18.0.11:80")));
    reconciler.apply(Event::Service(Change::Deleted(name("web"))));
    refused(&mut reconciler, "web");
    assert!(!reconciler.asks_of_node(), "nobody need look any more");
}

#[test]
fn the_api_servers_address_is_followed_and_never_anybody_elses() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    listen(&[]);
    let mut reconciler = reconciler();
    applied(
        &mut reconciler,
        "forger",
        service(2, &[[10, 0, 0, 1]], 6443),
    );
    assert_eq!(refused(&mut reconciler, "forger"), Some(vec![]));
    applied(&mut reconciler, "kubernetes", service(1, &[], 443));
    api_server(&mut reconciler, [10, 0, 0, 1], 6443);
    assert_eq!(
        refused(&mut reconciler, "forger").unwrap(),
        [
            "externalIP 10.0.0.1 port 6443/TCP is the API server's own; write another address or port"
        ]
    );
    assert!(!served(&reconciler).contains(&at("10.0.0.1:6443")));
    // It moves; its other ports were never its own.
    api_server(&mut reconciler, [10, 0, 0, 1], 443);
    assert_eq!(refused(&mut reconciler, "forger"), Some(vec![]));
    assert!(served(&reconciler).contains(&at("10.0.0.1:6443")));
    // Where this agent asks it counts too.
    let facts = Facts {
        node_name: "node1".into(),
        api_server: Some(at("10.0.0.1:6443")),
        ..Facts::default()
    };
    reconciler.set_facts(facts, [NODE.into()].into());
    assert_eq!(refused(&mut reconciler, "forger").unwrap().len(), 1);
}
