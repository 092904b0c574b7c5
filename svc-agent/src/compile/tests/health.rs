use super::*;
use crate::cluster::TrafficPolicy;
use crate::desired::HealthCheck;

fn asked() -> cluster::Service {
    cluster::Service {
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 32_000,
        ..service()
    }
}

fn check(service: cluster::Service, slices: Vec<Slice>) -> Option<HealthCheck> {
    health_check(&cluster(service, slices), &name(), &facts())
}

/// What is told at the IPv4 address.
fn count(slices: Vec<Slice>) -> usize {
    check(asked(), slices).unwrap().ready[&ip("172.18.0.11")]
}

#[test]
fn only_a_load_balancer_with_policy_local_and_a_port_is_asked() {
    assert_eq!(check(asked(), vec![]).unwrap().port, 32_000);
    for other in [
        cluster::Service {
            r#type: ServiceType::NodePort,
            ..asked()
        },
        cluster::Service {
            external_policy: TrafficPolicy::Cluster,
            ..asked()
        },
        cluster::Service {
            health_check_node_port: 0,
            ..asked()
        },
        cluster::Service {
            headless: true,
            ..asked()
        },
    ] {
        let needless = other.health_check_node_port != 0 && !other.headless;
        assert_eq!(check(other.clone(), vec![]), None);
        let (_, refusals) = compiled(other, vec![]);
        assert_eq!(
            refusals
                .iter()
                .any(|r| r.contains("healthCheckNodePort 32000 needs")),
            needless
        );
    }
}

#[test]
fn every_node_port_address_is_asked_about_the_endpoints_of_its_family_or_of_the_only_one() {
    let v6 = cluster::Endpoint {
        ip: ip("fd00::1"),
        ..endpoint(1, "here", State::Ready)
    };
    let v4 = [1, 2].map(|n| endpoint(n, "here", State::Ready));
    let slices = vec![slice(v4.to_vec()), slice(vec![v6])];
    let ready = check(asked(), slices.clone()).unwrap().ready;
    assert_eq!(
        ready,
        BTreeMap::from([(ip("172.18.0.11"), 2), (ip("fd00:18::11"), 1)])
    );
    let single = cluster::Service {
        cluster_ips: vec![ip("10.96.0.1")],
        ..asked()
    };
    let ready = check(single, slices).unwrap().ready;
    assert_eq!(
        ready,
        BTreeMap::from([(ip("172.18.0.11"), 2), (ip("fd00:18::11"), 2)])
    );
}

#[test]
fn distinct_local_ready_addresses_are_counted_and_leaving_ones_never() {
    use State::{Gone, Leaving, Ready, Unready};
    let here = |n, state| endpoint(n, "here", state);
    assert_eq!(count(vec![]), 0);
    assert_eq!(
        count(vec![slice(vec![here(1, Leaving)])]),
        0,
        "corner case 6"
    );
    let mixed = vec![
        here(1, Ready),
        here(2, Unready),
        here(3, Gone),
        here(4, Leaving),
        endpoint(5, "there", Ready),
    ];
    assert_eq!(count(vec![slice(mixed)]), 1);
    let other_port = Slice {
        ports: vec![("metrics".into(), Protocol::Tcp, 9090)],
        ..slice(vec![here(1, Ready)])
    };
    assert_eq!(
        count(vec![slice(vec![here(1, Ready)]), other_port]),
        1,
        "one address with two ports"
    );
    assert_eq!(
        count(vec![
            slice(vec![here(1, Leaving)]),
            slice(vec![here(1, Ready)])
        ]),
        1,
        "the copy that is not leaving counts (A5)"
    );
}
