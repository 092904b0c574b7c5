use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use svc_common::family::{Family, Port as NetPort, V4};
use svc_common::table::{
    Affinity, Flow, FlowKey, FrontendKey, Scope, Source, TCP, flow_flags, flow_state,
    frontend_flags,
};

use super::*;
use crate::desired::{
    Algorithm, Endpoint, Frontend, FrontendAddr, FrontendKind, Listed, Port, Protocol, Run,
    Service, ServiceName, ServicePortName,
};
use crate::plan::{Capacities, Planner};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn snapshot() -> Snapshot {
    let service = ServiceName {
        namespace: "default".into(),
        name: "web".into(),
    };
    let endpoint = |text, local| Endpoint {
        ip: ip(text),
        port: 8080,
        local,
        weight: 1,
    };
    let listed = |text, serving, in_cluster_set, weight| {
        let listed = Listed {
            serving,
            in_cluster_set,
            in_local_set: false,
            local: false,
            remote: false,
            weight,
        };
        ((ip(text), 8080), listed)
    };
    let endpoints = vec![endpoint("10.244.0.5", true), endpoint("10.244.1.5", false)];
    let at = |text, port, scope| FrontendAddr {
        ip: ip(text),
        port,
        protocol: Protocol::Tcp,
        scope,
    };
    let of = |kind, run| Frontend {
        kind,
        run,
        drop_when_empty: false,
        local_set: false,
        restricted: false,
    };
    let port = Port {
        name: ServicePortName {
            service: service.clone(),
            port: "http".into(),
        },
        affinity: 0,
        runs: vec![
            Run {
                algorithm: Algorithm::Random,
                endpoints: endpoints.clone(),
            },
            Run {
                algorithm: Algorithm::Maglev,
                endpoints,
            },
            Run {
                algorithm: Algorithm::Random,
                endpoints: Vec::new(),
            },
        ],
        frontends: BTreeMap::from([
            (
                at("10.96.0.10", 80, Scope::Internal),
                of(FrontendKind::ClusterIp, 0),
            ),
            (
                at("172.18.0.2", 30080, Scope::External),
                of(FrontendKind::NodePort, 1),
            ),
            (
                at("fd00:96::a", 80, Scope::Internal),
                of(FrontendKind::ClusterIp, 2),
            ),
        ]),
        listed: BTreeMap::from([
            listed("10.244.0.5", true, true, 1),
            listed("10.244.1.5", true, true, 3),
            listed("10.244.2.5", true, false, 0),
            listed("10.244.2.6", true, false, 1),
            listed("10.244.2.7", false, false, 1),
        ]),
        ranges: BTreeSet::new(),
    };
    let mut planner = Planner::empty(Capacities::default());
    planner.plan(&service, Some(&Service { ports: vec![port] }));
    Snapshot {
        v4: planner.v4().clone(),
        v6: planner.v6().clone(),
        services: planner.labels().clone(),
    }
}

fn flow_table() -> Flows {
    let a = |text| V4::addr_from_std(ip(text)).unwrap();
    let p = NetPort::new;
    let forward = FlowKey {
        src: a("172.18.0.9"),
        dst: a("172.18.0.2"),
        sport: p(40000),
        dport: p(30080),
        proto: u16::from(TCP),
        _pad: 0,
    };
    let reply = FlowKey {
        src: a("10.244.1.5"),
        dst: a("172.18.0.2"),
        sport: p(8080),
        dport: p(50000),
        ..forward
    };
    let flow = Flow {
        forward,
        reply,
        seen: 98,
        service: 1,
        epoch: 0,
        flags: 0,
        client_state: 0,
        backend_state: flow_state::ESTABLISHED,
        _pad: [0; 3],
    };
    let late = Flow {
        flags: flow_flags::LATE,
        ..flow
    };
    Flows {
        v4: vec![flow, late],
        v6: Vec::new(),
        now: 100,
    }
}

#[test]
fn services_are_shown_as_kubectl_would() {
    let text = services(&snapshot(), Filter::default(), Output::Table);
    assert_eq!(
        text,
        "\
NAMESPACE   NAME       KIND        FRONTEND               SCOPE      BACKENDS
default     web:http   ClusterIP   10.96.0.10:80/TCP      internal   2
default     web:http   ClusterIP   [fd00:96::a]:80/TCP    internal   0
default     web:http   NodePort    172.18.0.2:30080/TCP   external   2
"
    );
    let wide = services(&snapshot(), Filter::default(), Output::Wide);
    assert!(
        wide.contains("external   2          1       maglev      cluster   refuse   -          any       2+251   1\n"),
        "{wide}"
    );
}

#[test]
fn backends_show_their_part_of_the_connections() {
    assert_eq!(
        backends(&snapshot(), Filter::default(), Output::Table),
        "\
NAMESPACE   NAME       BACKEND               NODE     STATE      WEIGHT   INTERNAL   EXTERNAL
default     web:http   10.244.0.5:8080/TCP   local    active     1        50.0%      50.2%
default     web:http   10.244.1.5:8080/TCP   remote   active     3        50.0%      49.8%
default     web:http   10.244.2.5:8080/TCP   -        draining   0        -          -
default     web:http   10.244.2.6:8080/TCP   -        unused     1        -          -
default     web:http   10.244.2.7:8080/TCP   -        down       1        -          -
"
    );
}

#[test]
fn the_two_halves_of_a_flow_are_one_line() {
    let services = BTreeMap::from([(1, "default/web:http/TCP".to_owned())]);
    assert_eq!(
        flows(&flow_table(), &services, Filter::default(), Output::Wide),
        "\
PROTOCOL   CLIENT             FRONTEND           BACKEND           STATE         IDLE   NAT                NAMESPACE   NAME
TCP        172.18.0.9:40000   172.18.0.2:30080   10.244.1.5:8080   established   2s     172.18.0.2:50000   default     web:http
"
    );
}

#[test]
fn nat_shows_who_is_seen_as_somebody_else_and_whoever_still_has_a_port() {
    let services = BTreeMap::from([(1, "default/web:http/TCP".to_owned())]);
    let mut flows = flow_table();
    let mut direct = flows.v4[0];
    direct.reply.dst = direct.forward.src;
    direct.reply.dport = direct.forward.sport;
    flows.v4[1].reply.dport = NetPort::new(50001);
    flows.v4.push(direct);
    assert_eq!(
        nat(&flows, &services, Filter::default(), Output::Wide),
        "\
PROTOCOL   NAT                CLIENT             BACKEND           STATE         IDLE   FRONTEND           NAMESPACE   NAME
TCP        172.18.0.2:50000   172.18.0.9:40000   10.244.1.5:8080   established   2s     172.18.0.2:30080   default     web:http
TCP        172.18.0.2:50001   172.18.0.9:40000   10.244.1.5:8080   established   2s     172.18.0.2:30080   default     web:http
"
    );
}

#[test]
fn a_flow_of_a_service_that_is_gone_is_still_shown() {
    let text = flows(
        &flow_table(),
        &BTreeMap::new(),
        Filter::default(),
        Output::Wide,
    );
    assert!(text.contains("?           id 1"), "{text}");
}

#[test]
fn filters_choose_by_namespace_name_and_port() {
    let count = |namespace, name| services::items(&snapshot(), Filter { namespace, name }).len();
    assert_eq!(count(Some("default"), Some("web")), 3);
    assert_eq!(count(None, Some("web:http")), 3);
    assert_eq!(count(None, Some("web:https")), 0);
    assert_eq!(count(Some("kube-system"), None), 0);
    let text = services(
        &snapshot(),
        Filter {
            namespace: Some("other"),
            name: None,
        },
        Output::Table,
    );
    assert_eq!(text, "nothing found\n");
}

#[test]
fn json_and_yaml_say_the_same() {
    let json = services(&snapshot(), Filter::default(), Output::Json);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["items"][0]["address"], "10.96.0.10");
    assert_eq!(json["items"][2]["kind"], "NodePort");
    assert_eq!(json["items"].as_array().unwrap().len(), 3);
    let yaml = services(&snapshot(), Filter::default(), Output::Yaml);
    let yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml, json);
    let empty = services(&Snapshot::default(), Filter::default(), Output::Json);
    assert_eq!(empty, "{\n  \"items\": []\n}\n");
}

#[test]
fn affinities_show_who_is_bound_for_how_long() {
    let mut snapshot = snapshot();
    for frontend in snapshot.v4.frontends.values_mut() {
        frontend.affinity = 60;
    }
    let a = |text| V4::addr_from_std(ip(text)).unwrap();
    let entry = |service, client, seen| {
        let last = Affinity {
            seen,
            addr: a("10.244.0.5"),
            port: NetPort::new(8080),
            _pad: 0,
        };
        let addr = a(client);
        (Source { service, addr }, last)
    };
    let affinities = Affinities {
        v4: vec![
            entry(1, "192.0.2.7", 990),
            entry(1, "192.0.2.8", 100),
            entry(9, "192.0.2.9", 1000),
        ],
        v6: Vec::new(),
        now: 1000,
    };
    let text = affinity(&affinities, &snapshot, Filter::default(), Output::Table);
    assert_eq!(
        text,
        "\
NAMESPACE   NAME       CLIENT      BACKEND           AGE    REMAINING
?           id 9       192.0.2.9   10.244.0.5:8080   0s     -
default     web:http   192.0.2.7   10.244.0.5:8080   10s    50s
default     web:http   192.0.2.8   10.244.0.5:8080   900s   0s
"
    );
}

#[test]
fn a_restricted_frontend_says_who_may_ask() {
    let mut snapshot = snapshot();
    let restricted: Vec<FrontendKey<V4>> = snapshot.v4.frontends.keys().copied().collect();
    for key in restricted {
        let frontend = snapshot.v4.frontends.get_mut(&key).unwrap();
        frontend.flags = frontend_flags::SOURCE_RANGES | frontend_flags::LOAD_BALANCER;
    }
    let addr = V4::addr_from_std(ip("192.0.2.0")).unwrap();
    snapshot.v4.ranges.insert((Source { service: 1, addr }, 24));
    let items = services::items(&snapshot, Filter::default());
    let told = |v4: bool| {
        let item = items.iter().find(|item| item.address.is_ipv4() == v4);
        item.map(|item| (item.kind.clone(), item.source_ranges.clone()))
    };
    let ranges = Some(vec!["192.0.2.0/24".to_owned()]);
    assert_eq!(told(true), Some(("LoadBalancer".into(), ranges)));
    assert_eq!(
        told(false),
        Some(("ClusterIP".into(), None)),
        "IPv6 is open"
    );
}
