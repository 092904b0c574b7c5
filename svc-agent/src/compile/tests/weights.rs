//! B12, B13, and what BACKENDS is told.

use super::*;

fn weighing(n: u8, node: &str, state: State, weight: u16) -> cluster::Endpoint {
    cluster::Endpoint {
        weight,
        ..endpoint(n, node, state)
    }
}

fn listed(service: &desired::Service, n: u8) -> desired::Listed {
    service.ports[0].listed[&(IpAddr::from([10, 0, 0, n]), 8080)]
}

#[test]
fn the_annotation_sets_the_algorithm_inside_and_outside() {
    let chosen = |text: Option<&str>| {
        let annotations = text.map(|text| ("svcplane.io/algorithm".to_owned(), text.to_owned()));
        let service = cluster::Service {
            annotations: annotations.into_iter().collect(),
            ..service()
        };
        let (service, _) = compiled(service, vec![endpoint(1, "here", State::Ready)]);
        let port = &service.ports[0];
        [Scope::Internal, Scope::External].map(|scope| {
            let of: BTreeSet<_> = port
                .frontends
                .iter()
                .filter(|(at, _)| at.scope == scope)
                .map(|(_, f)| port.runs[f.run].algorithm)
                .collect();
            assert_eq!(of.len(), 1);
            of.into_iter().next().unwrap()
        })
    };
    use Algorithm::*;
    assert_eq!(chosen(None), [Random, Maglev]);
    assert_eq!(chosen(Some("random")), [Random, Random]);
    assert_eq!(chosen(Some("round-robin")), [RoundRobin, RoundRobin]);
    assert_eq!(chosen(Some("maglev")), [Maglev, Maglev]);
    assert_eq!(chosen(Some("least-connections")), [LeastConnections; 2]);
    assert_eq!(chosen(Some("fastest")), [Random, Maglev]);
}

#[test]
fn an_endpoint_of_weight_0_gets_no_new_connections_but_still_serves() {
    use State::Ready;
    let (service, _) = compiled(
        service(),
        vec![weighing(1, "here", Ready, 0), weighing(2, "here", Ready, 3)],
    );
    assert_eq!(
        answer(&service, FrontendKind::ClusterIp, Scope::Internal),
        Some((vec![2], false))
    );
    let [drained, other] = [1, 2].map(|n| listed(&service, n));
    assert!(drained.serving && !drained.in_cluster_set && !drained.in_local_set);
    assert!(other.serving && other.in_cluster_set && other.in_local_set);
    assert_eq!((drained.weight, other.weight), (0, 3));
}

#[test]
fn with_no_weight_at_all_clients_are_refused_as_without_endpoints() {
    let local = cluster::Service {
        external_policy: TrafficPolicy::Local,
        ..service()
    };
    let (service, _) = compiled(local, vec![weighing(1, "there", State::Ready, 0)]);
    for (kind, scope) in EACH {
        assert_eq!(answer(&service, kind, scope), Some((vec![], false)));
    }
}

#[test]
fn endpoints_of_weight_0_do_not_keep_others_from_standing_in() {
    let (service, _) = compiled(
        service(),
        vec![
            weighing(1, "here", State::Ready, 0),
            weighing(2, "there", State::Leaving, 1),
        ],
    );
    assert_eq!(
        answer(&service, FrontendKind::ClusterIp, Scope::Internal),
        Some((vec![2], false))
    );
}

fn for_zone(zone: &str) -> Option<Arc<Hints>> {
    let zones = BTreeSet::from([zone.to_owned()]);
    Some(Arc::new(Hints {
        zones,
        ..Hints::default()
    }))
}

#[test]
fn every_listed_endpoint_is_told_with_its_state() {
    use State::*;
    let mut near = endpoint(1, "here", Ready);
    near.hints = for_zone("a");
    let mut far = endpoint(2, "there", Ready);
    far.hints = for_zone("b");
    let states = vec![
        near,
        far,
        endpoint(3, "here", Leaving),
        endpoint(4, "here", Gone),
        endpoint(5, "here", Unready),
    ];
    let (service, _) = compiled(service(), states);
    let flags = [1, 2, 3, 4, 5].map(|n| {
        let l = listed(&service, n);
        (l.serving, l.in_cluster_set, l.in_local_set)
    });
    assert_eq!(
        flags,
        [
            (true, true, true),
            (true, false, false),
            (true, false, false),
            (false, false, false),
            (false, false, false)
        ]
    );
}

#[test]
fn of_every_listed_endpoint_it_is_told_whether_a_node_runs_it() {
    let nowhere = cluster::Endpoint {
        node: None,
        ..endpoint(3, "", State::Ready)
    };
    let states = vec![
        endpoint(1, "here", State::Ready),
        endpoint(2, "there", State::Gone),
        nowhere,
    ];
    let (service, _) = compiled(service(), states);
    let places = [1, 2, 3].map(|n| {
        let l = listed(&service, n);
        (l.local, l.remote)
    });
    assert_eq!(places, [(true, false), (false, true), (false, false)]);
}

#[test]
fn one_that_is_published_although_not_ready_serves() {
    let published = cluster::Endpoint {
        serving: false,
        ..endpoint(1, "here", State::Ready)
    };
    assert!(listed(&compiled(service(), vec![published]).0, 1).serving);
}
