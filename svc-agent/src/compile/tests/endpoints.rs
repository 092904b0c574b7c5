//! B1–B11.

use proptest::prelude::*;

use super::*;
use crate::cluster::TrafficPolicy;

/// States of a local and a remote endpoint → what Cluster and Local policy answer with (B1–B6).
#[test]
fn endpoints_are_chosen_by_policy_and_state() {
    use State::*;
    let all = |states: &[(u8, &str, State)]| {
        states
            .iter()
            .map(|&(n, node, s)| endpoint(n, node, s))
            .collect::<Vec<_>>()
    };
    for (states, in_cluster, local, local_drops) in [
        (
            &[(1, "here", Ready), (2, "there", Ready)][..],
            vec![1, 2],
            vec![1],
            true,
        ),
        (
            &[(1, "here", Unready), (2, "there", Ready)],
            vec![2],
            vec![],
            true,
        ),
        (
            &[(1, "here", Leaving), (2, "there", Ready)],
            vec![2],
            vec![1],
            true,
        ),
        (
            &[(1, "here", Leaving), (2, "there", Leaving)],
            vec![1, 2],
            vec![1],
            true,
        ),
        (
            &[
                (1, "here", Leaving),
                (2, "there", Gone),
                (3, "there", Unready),
            ],
            vec![1],
            vec![1],
            true,
        ),
        (
            &[(1, "here", Gone), (2, "there", Unready)],
            vec![],
            vec![],
            false,
        ),
        (&[], vec![], vec![], false),
    ] {
        let policies = cluster::Service {
            internal_policy: TrafficPolicy::Local,
            external_policy: TrafficPolicy::Local,
            ..service()
        };
        let (by_cluster, _) = compiled(service(), all(states));
        let (by_local, _) = compiled(policies, all(states));
        for (kind, scope) in EACH {
            assert_eq!(
                answer(&by_cluster, kind, scope),
                Some((in_cluster.clone(), false)),
                "{kind:?} {scope:?} {states:?}"
            );
            // Pods and the node go round an external policy Local (B7), not round an internal one.
            let is_local = kind == FrontendKind::ClusterIp || scope == Scope::External;
            let expected = if is_local {
                (local.clone(), local_drops)
            } else {
                (in_cluster.clone(), false)
            };
            assert_eq!(
                answer(&by_local, kind, scope),
                Some(expected),
                "{kind:?} {scope:?} {states:?}"
            );
        }
    }
}

#[test]
fn of_two_copies_of_an_endpoint_the_one_that_is_not_terminating_wins() {
    for order in [
        [State::Leaving, State::Ready],
        [State::Ready, State::Leaving],
        [State::Gone, State::Ready],
    ] {
        let slices = order
            .map(|state| slice(vec![endpoint(1, "here", state)]))
            .to_vec();
        let (compiled, _) = compile(&cluster(service(), slices), &name(), &facts());
        assert_eq!(
            answer(&compiled, FrontendKind::ClusterIp, Scope::Internal),
            Some((vec![1], false))
        );
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol_and_may_be_other_numbers_in_other_slices() {
    let offers = |n, port: &str, protocol, number| Slice {
        ports: vec![(port.into(), protocol, number)],
        ..slice(vec![endpoint(n, "here", State::Ready)])
    };
    let named = cluster::Service {
        ports: vec![port("http", 80, 0)],
        ..service()
    };
    let slices = vec![
        offers(1, "http", Protocol::Tcp, 8080),
        offers(2, "http", Protocol::Tcp, 9090),
        offers(3, "http", Protocol::Udp, 8080),
        offers(4, "", Protocol::Tcp, 8080),
    ];
    let (compiled, _) = compile(&cluster(named, slices), &name(), &facts());
    let frontend = &compiled.ports[0].frontends.first_key_value().unwrap().1;
    let endpoints = &compiled.ports[0].runs[frontend.run].endpoints;
    assert_eq!(
        endpoints.iter().map(|e| e.port).collect::<Vec<_>>(),
        [8080, 9090]
    );
}

#[test]
fn hints_are_followed_only_if_every_ready_endpoint_has_one_and_one_is_for_us() {
    let hinted = |n, zone: &str, node: &str, state| {
        let names = |s: &str| s.split_whitespace().map(str::to_owned).collect();
        cluster::Endpoint {
            hints: Some(Arc::new(Hints {
                zones: names(zone),
                nodes: names(node),
            })),
            ..endpoint(n, "there", state)
        }
    };
    use State::{Leaving, Ready};
    for (endpoints, chosen) in [
        (
            vec![hinted(1, "a", "", Ready), hinted(2, "b", "", Ready)],
            vec![1],
        ),
        (
            vec![
                hinted(1, "a b", "", Ready),
                hinted(2, "a", "", Ready),
                hinted(3, "b", "", Ready),
            ],
            vec![1, 2],
        ),
        (
            vec![hinted(1, "a", "", Ready), hinted(2, "", "", Ready)],
            vec![1, 2],
        ),
        (
            vec![hinted(1, "b", "", Ready), hinted(2, "c", "", Ready)],
            vec![1, 2],
        ),
        (
            vec![hinted(1, "a", "", Ready), hinted(2, "", "", Leaving)],
            vec![1],
        ),
        (
            vec![hinted(1, "a", "", Leaving), hinted(2, "b", "", Leaving)],
            vec![1, 2],
        ),
        (
            vec![
                hinted(1, "a", "there", Ready),
                hinted(2, "a", "here", Ready),
            ],
            vec![2],
        ),
        (
            vec![
                hinted(1, "b", "there", Ready),
                hinted(2, "a", "elsewhere", Ready),
            ],
            vec![2],
        ),
    ] {
        let (with, _) = compiled(service(), endpoints.clone());
        assert_eq!(
            answer(&with, FrontendKind::ClusterIp, Scope::Internal),
            Some((chosen, false)),
            "{endpoints:#?}"
        );
    }
    // A Local policy asks nobody for hints (B11).
    let local = cluster::Service {
        internal_policy: TrafficPolicy::Local,
        ..service()
    };
    let here = |n, zone: &str| cluster::Endpoint {
        node: Some("here".into()),
        ..hinted(n, zone, "", Ready)
    };
    let (compiled, _) = compiled(local, vec![here(1, "a"), here(2, "b")]);
    assert_eq!(
        answer(&compiled, FrontendKind::ClusterIp, Scope::Internal),
        Some((vec![1, 2], true))
    );
}

fn any_endpoint() -> impl Strategy<Value = cluster::Endpoint> {
    (
        1u8..6,
        any::<[bool; 3]>(),
        0usize..3,
        prop::collection::btree_set("[ab]", 0..2),
    )
        .prop_map(
            |(n, [ready, serving, terminating], node, zones)| cluster::Endpoint {
                ready,
                serving,
                terminating,
                hints: Some(Arc::new(Hints {
                    zones,
                    ..Hints::default()
                })),
                ..endpoint(n, ["here", "there", "far"][node], State::Ready)
            },
        )
}

proptest! {
    #[test]
    fn whatever_the_endpoints_the_answers_are_usable_sorted_and_not_empty_without_need(
        slices in prop::collection::vec(prop::collection::vec(any_endpoint(), 0..6), 0..3),
        local in any::<bool>(),
    ) {
        let policy = if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let service = cluster::Service { internal_policy: policy, external_policy: policy, ..service() };
        let all: Vec<_> = slices.iter().flatten().cloned().collect();
        let (compiled, refusals) = compile(&cluster(service, slices.into_iter().map(slice).collect()), &name(), &facts());
        prop_assert!(refusals.is_empty());
        let port = &compiled.ports[0];
        for (addr, frontend) in &port.frontends {
            let endpoints = &port.runs[frontend.run].endpoints;
            prop_assert!(endpoints.is_sorted_by(|a, b| a < b), "sorted, each once");
            for endpoint in endpoints {
                prop_assert_eq!(endpoint.ip.is_ipv4(), addr.ip.is_ipv4());
                prop_assert!(all.iter().any(|e| e.ip == endpoint.ip && (e.ready || (e.serving && e.terminating))));
            }
            let ready = |e: &cluster::Endpoint| e.ready && !e.terminating;
            if addr.ip.is_ipv4() && !local && all.iter().any(ready) {
                prop_assert!(!endpoints.is_empty());
            }
            prop_assert!(!frontend.drop_when_empty || local);
        }
        let used: BTreeSet<usize> = port.frontends.values().map(|f| f.run).collect();
        prop_assert_eq!(used.len(), port.runs.len(), "no run is there for nothing");
    }
}
