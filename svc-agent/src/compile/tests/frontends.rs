//! A1–A3, A12, C1–C12.

use super::*;
use crate::config::NodePortAddresses;
use crate::desired::{Algorithm, Fault};

#[test]
fn every_kind_of_frontend_is_served_in_its_scopes_families_and_algorithms() {
    let (compiled, refusals) = compiled(service(), vec![endpoint(1, "here", State::Ready)]);
    assert!(refusals.is_empty(), "{refusals:?}");
    let frontends = &compiled.ports[0].frontends;
    let kinds: BTreeSet<_> = frontends
        .iter()
        .map(|(a, f)| (f.kind, a.scope, a.ip.is_ipv4()))
        .collect();
    let expected: BTreeSet<_> = EACH
        .iter()
        .flat_map(|&(k, s)| [(k, s, true), (k, s, false)])
        .collect();
    assert_eq!(kinds, expected);
    for (addr, frontend) in frontends {
        let run = &compiled.ports[0].runs[frontend.run];
        assert_eq!(
            run.algorithm,
            if addr.scope == Scope::Internal {
                Algorithm::Random
            } else {
                Algorithm::Maglev
            }
        );
        assert_eq!(
            run.endpoints.len(),
            usize::from(addr.ip.is_ipv4()),
            "the IPv6 frontends have no endpoints"
        );
        assert_eq!(
            addr.port,
            if frontend.kind == FrontendKind::NodePort {
                30080
            } else {
                80
            }
        );
    }
    assert_eq!(
        compiled.ports[0].runs.len(),
        4,
        "frontends with the same answer share a run within a family"
    );
}

#[test]
fn a_cluster_ip_is_answered_from_outside_only_when_asked_for() {
    let facts = Facts {
        external_cluster_ip: true,
        ..facts()
    };
    let (compiled, _) = compile(
        &cluster(
            service(),
            vec![slice(vec![endpoint(1, "there", State::Ready)])],
        ),
        &name(),
        &facts,
    );
    assert_eq!(
        answer(&compiled, FrontendKind::ClusterIp, Scope::External),
        Some((vec![1], false))
    );
}

#[test]
fn a_service_without_a_cluster_ip_of_a_family_is_not_there_in_that_family() {
    let single = cluster::Service {
        cluster_ips: vec![ip("10.96.0.1")],
        ..service()
    };
    let (compiled, _) = compiled(single, vec![]);
    assert!(compiled.ports[0].frontends.keys().all(|a| a.ip.is_ipv4()));
    assert_eq!(compiled.ports[0].frontends.len(), EACH.len());
}

#[test]
fn headless_external_name_and_unknown_services_want_nothing() {
    for service in [
        cluster::Service {
            headless: true,
            cluster_ips: vec![],
            ..service()
        },
        cluster::Service {
            r#type: ServiceType::ExternalName,
            ..service()
        },
    ] {
        assert_eq!(
            compiled(service, vec![]),
            (desired::Service::default(), vec![])
        );
    }
    assert_eq!(
        compile(&Cluster::new("here"), &name(), &facts()).0,
        desired::Service::default()
    );
}

/// What makes no sense is said, and the ClusterIP is served all the same.
#[test]
fn a_frontend_that_makes_no_sense_is_refused_by_name_and_the_others_are_served() {
    let with = |change: &dyn Fn(&mut cluster::Service)| {
        let mut service = service();
        change(&mut service);
        service
    };
    for (service, why) in [
        (
            with(&|s| s.external_ips = vec![ip("127.0.0.1")]),
            "externalIP 127.0.0.1 is a loopback address: no traffic can come to it; write another address",
        ),
        (
            with(&|s| s.external_ips = vec![ip("169.254.169.254")]),
            "externalIP 169.254.169.254 is a link-local address: no traffic can come to it; write another address",
        ),
        (
            with(&|s| s.external_ips = vec![ip("::ffff:192.0.2.1")]),
            "externalIP ::ffff:192.0.2.1 is an IPv4-mapped address: no traffic can come to it; write another address",
        ),
        (
            with(&|s| s.load_balancer_ips = vec![ip("224.0.0.1")]),
            "status.loadBalancer.ingress 224.0.0.1 is a multicast address: no traffic can come to it; write another address",
        ),
        (
            with(&|s| {
                s.r#type = ServiceType::NodePort;
                s.ports[0].node_port = 0;
            }),
            "port 80 has no nodePort; none is invented here: write spec.ports[].nodePort",
        ),
        (
            with(&|s| s.r#type = ServiceType::ClusterIp),
            "nodePort 30080 needs type NodePort or LoadBalancer",
        ),
        (
            with(&|s| s.ports.push(port("other", 80, 0))),
            "two of its ports ask for 10.96.0.1 port 80/TCP; the first one keeps it",
        ),
        (
            with(&|s| s.source_ranges = vec!["192.0.2.0/33".into()]),
            "loadBalancerSourceRanges: \"192.0.2.0/33\" is not an address range, such as 192.0.2.0/24 or fd00::/8; nobody is let in by it",
        ),
        (
            with(&|s| s.annotations = [("svcplane.io/algorithm".into(), "fastest".into())].into()),
            "annotation svcplane.io/algorithm \"fastest\" is none of random, round-robin, maglev, least-connections; the default is used",
        ),
    ] {
        let (compiled, refusals) = compiled(service, vec![endpoint(1, "here", State::Ready)]);
        assert!(
            refusals.contains(&format!("Service default/web: {why}")),
            "{refusals:?}"
        );
        assert_eq!(
            answer(&compiled, FrontendKind::ClusterIp, Scope::Internal),
            Some((vec![1], false))
        );
    }
    let (compiled, refusals) = compiled(with(&|s| s.cluster_ips.clear()), vec![]);
    assert!(
        compiled.ports.is_empty()
            && refusals[0].contains("has no clusterIP; none is invented here"),
        "{refusals:?}"
    );
}

#[test]
fn a_load_balancer_without_node_ports_is_just_that() {
    let (compiled, refusals) = compiled(
        cluster::Service {
            ports: vec![port("", 80, 0)],
            ..service()
        },
        vec![],
    );
    assert!(refusals.is_empty());
    assert!(
        compiled.ports[0]
            .frontends
            .values()
            .all(|f| f.kind != FrontendKind::NodePort)
    );
}

#[test]
fn node_ports_are_served_on_the_primary_addresses_or_on_those_in_the_ranges() {
    let node = [ip("fd00::1"), ip("10.0.0.1"), ip("10.0.0.2")];
    let local = [
        "10.0.0.1",
        "10.0.0.2",
        "192.0.2.1",
        "127.0.0.1",
        "::1",
        "fd00::1",
        "fd00::2",
        "fe80::1",
    ]
    .map(ip);
    let on = |setting: &str| {
        node_port_addresses(
            &setting.parse::<NodePortAddresses>().unwrap(),
            &node,
            &local,
        )
    };
    assert_eq!(on("primary"), [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!(
        on("10.0.0.0/8,fd00::2/128"),
        [ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::2")]
    );
    assert_eq!(
        on("192.0.2.0/24"),
        [ip("192.0.2.1"), ip("fd00::1"), ip("fd00::2")],
        "a family without a range has all"
    );
}

#[test]
fn external_addresses_that_the_node_is_not_to_serve_are_refused_and_the_others_are_served() {
    let facts = Facts {
        external_ips: "none".parse().unwrap(),
        load_balancer_ips: "192.0.2.0/24".parse().unwrap(),
        ..facts()
    };
    let cluster = cluster(service(), vec![]);
    let (compiled, refusals) = compile(&cluster, &name(), &facts);
    let said: Vec<(Fault, String)> = refusals.into_iter().map(|r| (r.fault, r.why)).collect();
    let not = |what: &str, flag: &str| {
        let why = format!("{what} is not in {flag}: write another address, or have it added there");
        (Fault::AddressNotAllowed, why)
    };
    let (external, balancer) = ("--service-external-ip-range", "--loadbalancer-ip-range");
    assert_eq!(
        said,
        [
            not("status.loadBalancer.ingress 2001:db8::127", balancer),
            not("externalIP 198.51.100.32", external),
            not("externalIP 2001:db8::32", external),
        ]
    );
    let served: BTreeSet<_> = compiled.ports[0]
        .frontends
        .iter()
        .filter(|(_, frontend)| frontend.kind.is_external())
        .map(|(addr, _)| addr.ip)
        .collect();
    assert_eq!(served, [ip("192.0.2.127")].into());
}
