mod property;
mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;

use svc_common::table::{Scope, address_flags, frontend_flags};

use self::world::World;
use super::{Capacities, Changes, Planner, Write};
use crate::desired::{
    Algorithm, Endpoint, Frontend, FrontendAddr, FrontendKind, Listed, Port, Protocol, Run,
    Service, ServiceName, ServicePortName,
};

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn port_name(service: &str, port: &str) -> ServicePortName {
    ServicePortName {
        service: name(service),
        port: port.into(),
    }
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint {
        ip: text.parse().unwrap(),
        port: 8080,
        local: false,
        weight: 1,
    }
}

/// What BACKENDS should know of an endpoint that is in all sets.
fn listed(endpoint: &Endpoint) -> ((IpAddr, u16), Listed) {
    let listed = Listed {
        serving: true,
        in_cluster_set: true,
        in_local_set: true,
        local: false,
        remote: false,
        weight: endpoint.weight,
    };
    ((endpoint.ip, endpoint.port), listed)
}

fn at(ip: &str, port: u16, scope: Scope) -> FrontendAddr {
    FrontendAddr {
        ip: ip.parse().unwrap(),
        port,
        protocol: Protocol::Tcp,
        scope,
    }
}

/// A Service of one port: frontends (address, kind, scope) on one random run.
fn service(
    service: &str,
    frontends: &[(&str, FrontendKind, Scope)],
    endpoints: &[&str],
) -> Service {
    let run = |algorithm| Run {
        algorithm,
        endpoints: endpoints.iter().map(|e| endpoint(e)).collect(),
    };
    let frontend = |&(ip, kind, scope): &(&str, FrontendKind, Scope)| {
        let run = usize::from(scope == Scope::External);
        (
            at(ip, 80, scope),
            Frontend {
                kind,
                run,
                drop_when_empty: false,
                local_set: false,
                restricted: false,
            },
        )
    };
    Service {
        ports: vec![Port {
            name: port_name(service, "http"),
            affinity: 0,
            runs: vec![run(Algorithm::Random), run(Algorithm::Maglev)],
            frontends: frontends.iter().map(frontend).collect(),
            listed: endpoints.iter().map(|e| listed(&endpoint(e))).collect(),
            ranges: BTreeSet::new(),
        }],
    }
}

const CLUSTER: (FrontendKind, Scope) = (FrontendKind::ClusterIp, Scope::Internal);

fn cluster_ip(name: &str, ip: &str, endpoints: &[&str]) -> Service {
    service(name, &[(ip, CLUSTER.0, CLUSTER.1)], endpoints)
}

fn settle(planner: &mut Planner) {
    let closed = planner.close_generation();
    planner.release(closed);
}

#[test]
fn a_new_endpoint_writes_a_new_run_and_swings_one_frontend() {
    let mut planner = Planner::empty(Capacities::default());
    planner.plan(
        &name("web"),
        Some(&cluster_ip("web", "10.96.0.1", &["10.0.0.1"])),
    );
    let (changes, _) = planner.plan(
        &name("web"),
        Some(&cluster_ip("web", "10.96.0.1", &["10.0.0.1", "10.0.0.2"])),
    );
    assert_eq!(changes.v4.slots_in.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(changes.v4.frontends_in.len(), 1);
    assert_eq!(changes.v4.backends_in.len(), 1);
    assert_eq!(changes.len(), 4);
}

#[test]
fn an_unchanged_run_is_not_written_again() {
    let mut planner = Planner::empty(Capacities::default());
    let before = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    planner.plan(&name("web"), Some(&before));
    let after = service(
        "web",
        &[
            ("10.96.0.1", CLUSTER.0, CLUSTER.1),
            ("192.0.2.1", FrontendKind::ExternalIp, Scope::Internal),
        ],
        &["10.0.0.1"],
    );
    let (changes, _) = planner.plan(&name("web"), Some(&after));
    assert!(changes.v4.slots_in.is_empty());
    assert_eq!(
        (
            changes.v4.addresses_in.len(),
            changes.v4.frontends_in.len(),
            changes.len()
        ),
        (1, 1, 2)
    );
}

#[test]
fn frontends_of_one_port_share_a_run() {
    let mut planner = Planner::empty(Capacities::default());
    let lb = FrontendKind::LoadBalancer;
    let frontends = [
        ("10.96.0.1", CLUSTER.0, CLUSTER.1),
        ("192.0.2.1", lb, Scope::Internal),
        ("192.0.2.1", lb, Scope::External),
    ];
    planner.plan(
        &name("web"),
        Some(&service("web", &frontends, &["10.0.0.1", "10.0.0.2"])),
    );
    let values: Vec<_> = planner.v4().frontends.values().collect();
    assert_eq!(
        planner.v4().slots.len(),
        2,
        "one random run and one Maglev run"
    );
    assert_eq!(
        values
            .iter()
            .filter(|f| f.flags & frontend_flags::MAGLEV != 0)
            .count(),
        1
    );
    let random: BTreeSet<_> = values
        .iter()
        .filter(|f| f.flags == 0)
        .map(|f| (f.first, f.count))
        .collect();
    assert_eq!(random.len(), 1);
}

#[test]
fn an_address_is_what_all_its_frontends_and_the_node_make_of_it() {
    let mut planner = Planner::empty(Capacities::default());
    let flags = |planner: &Planner| planner.v4().addresses.values().copied().collect::<Vec<_>>();
    planner.plan(&name("a"), Some(&cluster_ip("a", "10.96.0.1", &[])));
    assert_eq!(flags(&planner), [address_flags::CLUSTER_IP]);
    planner.set_node_addresses(&BTreeSet::from(["10.96.0.1".parse().unwrap()]));
    assert_eq!(
        flags(&planner),
        [address_flags::CLUSTER_IP | address_flags::NODE]
    );
    let (changes, _) = planner.plan(&name("a"), None);
    assert_eq!(
        changes.v4.addresses_out.values().collect::<Vec<_>>(),
        [&address_flags::NODE]
    );
    assert_eq!(flags(&planner), [address_flags::NODE]);
    planner.set_node_addresses(&BTreeSet::new());
    assert!(flags(&planner).is_empty());
}

#[test]
fn a_service_that_does_not_fit_keeps_its_old_state_and_comes_in_when_there_is_room() {
    let mut planner = Planner::empty(Capacities {
        slots: 3,
        ..Capacities::default()
    });
    let small = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    let large = cluster_ip("web", "10.96.0.1", &["10.0.0.1", "10.0.0.2"]);
    planner.plan(&name("web"), Some(&small));
    planner.plan(
        &name("db"),
        Some(&cluster_ip("db", "10.96.0.2", &["10.0.0.9"])),
    );
    let before = planner.v4().clone();
    let (changes, refusals) = planner.plan(&name("web"), Some(&large));
    assert!(changes.is_empty());
    assert_eq!(*planner.v4(), before);
    assert_eq!(
        refusals[0].to_string(),
        "Service default/web: table SLOTS_V4 is full: 2 more entries needed, room for 1 of 3; what the Service had \
         before stays, the rest is tried again when there is room"
    );
    assert!(planner.take_retries().is_empty());
    planner.plan(&name("db"), None);
    settle(&mut planner);
    assert_eq!(planner.take_retries(), [name("web")]);
    let (changes, refusals) = planner.plan(&name("web"), Some(&large));
    assert!(!changes.is_empty() && refusals.is_empty());
    assert!(planner.refused().is_empty());
}

#[test]
fn entries_on_their_way_out_still_take_room() {
    let mut planner = Planner::empty(Capacities {
        frontends: 1,
        ..Capacities::default()
    });
    planner.plan(&name("a"), Some(&cluster_ip("a", "10.96.0.1", &[])));
    planner.plan(&name("a"), None);
    assert!(
        !planner
            .plan(&name("b"), Some(&cluster_ip("b", "10.96.0.2", &[])))
            .1
            .is_empty()
    );
    settle(&mut planner);
    assert!(
        planner
            .plan(&name("b"), Some(&cluster_ip("b", "10.96.0.2", &[])))
            .1
            .is_empty()
    );
}

#[test]
fn a_frontend_of_another_service_is_not_taken() {
    let mut planner = Planner::empty(Capacities::default());
    planner.plan(
        &name("a"),
        Some(&cluster_ip("a", "10.96.0.1", &["10.0.0.1"])),
    );
    let before = planner.clone();
    let (changes, refusals) = planner.plan(
        &name("b"),
        Some(&cluster_ip("b", "10.96.0.1", &["10.0.0.2"])),
    );
    assert!(changes.is_empty());
    assert_eq!(refusals.len(), 1);
    assert_eq!(planner.v4(), before.v4());
    planner.plan(&name("a"), None);
    assert_eq!(
        planner.take_retries(),
        [name("b")],
        "at once: the key is free"
    );
}

#[test]
fn a_key_that_changes_hands_in_one_batch_ends_with_its_new_owner() {
    let mut world = World::default();
    let mut planner = Planner::empty(Capacities::default());
    world.apply(
        &planner
            .plan(
                &name("a"),
                Some(&cluster_ip("a", "10.96.0.1", &["10.0.0.1"])),
            )
            .0,
    );
    let mut batch = Changes::default();
    batch.merge(planner.plan(&name("a"), None).0);
    batch.merge(
        planner
            .plan(
                &name("b"),
                Some(&cluster_ip("b", "10.96.0.1", &["10.0.0.2"])),
            )
            .0,
    );
    world.apply(&batch);
    world.assert_mirrored_by(&planner);
    assert_eq!(
        world.services.values().collect::<Vec<_>>(),
        ["default/b:http/TCP"]
    );
}

#[test]
fn what_nobody_claims_after_the_first_sync_is_removed() {
    let mut world = World::default();
    let mut planner = Planner::empty(Capacities::default());
    for (service, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
        world.apply(
            &planner
                .plan(
                    &name(service),
                    Some(&cluster_ip(service, ip, &["10.0.0.1"])),
                )
                .0,
        );
    }
    world.services.insert(77, "not a label".into());
    let stray = *world.v4.addresses.keys().next().unwrap();
    world.v4.addresses.insert(
        svc_common::family::Ip([stray.0[0], 0]),
        address_flags::EXTERNAL,
    );
    let mut planner = world.restart(Capacities::default());
    world.apply(&planner.retain(&BTreeSet::from([name("b")])));
    world.assert_mirrored_by(&planner);
    assert_eq!(
        world.services.values().collect::<Vec<_>>(),
        ["default/b:http/TCP"]
    );
    assert_eq!((world.v4.frontends.len(), world.v4.addresses.len()), (1, 1));
}

#[test]
fn damaged_maps_are_mended() {
    let mut world = World::default();
    let desired = cluster_ip("web", "10.96.0.1", &["10.0.0.1", "10.0.0.2"]);
    let other = cluster_ip("db", "10.96.0.2", &["10.0.0.3"]);
    let mut planner = Planner::empty(Capacities::default());
    world.apply(&planner.plan(&name("web"), Some(&desired)).0);
    world.apply(&planner.plan(&name("db"), Some(&other)).0);
    let whole = world.clone();

    let key = *world.v4.frontends.keys().next().unwrap();
    for (first, count) in [(0, 1), (1, 2), (u32::MAX, 3), (0, u32::MAX)] {
        world.v4.frontends.get_mut(&key).unwrap().first = first;
        world.v4.frontends.get_mut(&key).unwrap().count = count;
        let mut planner = world.restart(Capacities::default());
        for (service, desired) in [("web", &desired), ("db", &other)] {
            let (changes, refusals) = planner.plan(&name(service), Some(desired));
            assert!(refusals.is_empty());
            let others = world.v4.slots.clone();
            changes.v4.writes().for_each(|write| world.v4.write(&write));
            if (first, count) == (1, 2) {
                let kept = |slot: &u32| world.v4.slots[slot] == others[slot];
                assert!([1, 2].iter().all(kept), "slots that somebody may read stay");
            }
        }
        assert_eq!(world.v4.reachable(), whole.v4.reachable());
        let free = planner.free_slots();
        assert!(planner.plan(&name("web"), Some(&desired)).0.is_empty());
        assert_eq!(planner.free_slots(), free);
        world = whole.clone();
    }
}

#[test]
fn two_ports_with_one_name_and_protocol_are_refused() {
    let mut planner = Planner::empty(Capacities::default());
    let mut twice = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    twice
        .ports
        .extend(cluster_ip("web", "10.96.0.2", &["10.0.0.2"]).ports);
    let (_, refusals) = planner.plan(&name("web"), Some(&twice));
    assert_eq!(refusals.len(), 1);
    assert_eq!(planner.v4().frontends.len(), 1);
}

#[test]
fn a_run_can_change_hands_between_two_frontends_of_a_port() {
    let mut planner = Planner::empty(Capacities::default());
    let mut world = World::default();
    let external = ("192.0.2.1", FrontendKind::ExternalIp, Scope::Internal);
    for frontends in [[("10.96.0.1", CLUSTER.0, CLUSTER.1)], [external]] {
        let desired = service("web", &frontends, &["10.0.0.1"]);
        world.apply(&planner.plan(&name("web"), Some(&desired)).0);
        world.assert_mirrored_by(&planner);
        assert_eq!(planner.v4().slots.keys().collect::<Vec<_>>(), [&0]);
    }
}

#[test]
fn a_frontend_of_no_service_goes_to_the_one_that_asks_for_it() {
    let mut world = World::default();
    let desired = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    let mut planner = Planner::empty(Capacities::default());
    world.apply(&planner.plan(&name("web"), Some(&desired)).0);
    world.services.clear();
    let mut planner = world.restart(Capacities::default());
    world.apply(&planner.plan(&name("web"), Some(&desired)).0);
    let removed = planner.retain(&BTreeSet::from([name("web")]));
    assert!(removed.is_empty(), "{removed:?}");
}

/// `web` with one endpoint that BACKENDS is told this of.
fn listing(serving: bool, weight: u16) -> Service {
    let mut service = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    let port = &mut service.ports[0];
    for run in &mut port.runs {
        run.endpoints.clear();
    }
    for listed in port.listed.values_mut() {
        *listed = Listed {
            serving,
            weight,
            in_cluster_set: false,
            in_local_set: false,
            local: false,
            remote: false,
        };
    }
    service
}

#[test]
fn an_endpoint_that_stops_serving_takes_the_sentinel_along_and_ends_the_epoch() {
    let mut planner = Planner::empty(Capacities::default());
    let (changes, _) = planner.plan(&name("web"), Some(&listing(true, 1)));
    assert_eq!((changes.v4.backends_in.len(), changes.v4.stale), (2, false));
    let (changes, _) = planner.plan(&name("web"), Some(&listing(false, 1)));
    let out = &changes.v4.backends_out;
    let gone = out.values().filter(|state| state.is_none()).count();
    assert_eq!((out.len(), gone, changes.v4.stale), (2, 1, true));
    let last = changes.v4.writes().last();
    assert!(matches!(last, Some(Write::Epoch)), "{last:?}");
    let (changes, _) = planner.plan(&name("web"), None);
    assert_eq!(changes.v4.backends_out.len(), 1);
    assert!(planner.v4().backends.is_empty());
}

#[test]
fn another_weight_is_one_write_and_no_end_of_an_epoch() {
    let mut planner = Planner::empty(Capacities::default());
    planner.plan(&name("web"), Some(&listing(true, 1)));
    let (changes, _) = planner.plan(&name("web"), Some(&listing(true, 0)));
    assert_eq!((changes.len(), changes.v4.backends_in.len()), (1, 1));
    assert!(!changes.v4.stale);
}

#[test]
fn counted_connections_are_no_difference() {
    let mut world = World::default();
    let mut planner = Planner::empty(Capacities::default());
    let desired = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    world.apply(&planner.plan(&name("web"), Some(&desired)).0);
    for state in world.v4.backends.values_mut() {
        state.connections = 7;
    }
    let mut planner = world.restart(Capacities::default());
    assert!(planner.plan(&name("web"), Some(&desired)).0.is_empty());
}

#[test]
fn ranges_go_in_before_the_frontend_that_they_restrict_and_out_after_it() {
    let open = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    let mut restricted = open.clone();
    let port = &mut restricted.ports[0];
    port.ranges.insert("192.0.2.0/24".parse().unwrap());
    for frontend in port.frontends.values_mut() {
        frontend.restricted = true;
    }
    let mut planner = Planner::empty(Capacities::default());
    planner.plan(&name("web"), Some(&open));
    let kinds = |changes: &Changes| -> Vec<&'static str> {
        let kind = |write| match write {
            Write::Range(_) => "range",
            Write::Frontend { .. } => "frontend",
            Write::RemoveRange(_) => "no range",
            _ => "other",
        };
        changes.v4.writes().map(kind).collect()
    };
    let (changes, _) = planner.plan(&name("web"), Some(&restricted));
    assert_eq!(kinds(&changes), ["range", "frontend"]);
    let (changes, _) = planner.plan(&name("web"), Some(&open));
    assert_eq!(kinds(&changes), ["frontend", "no range"]);
}

#[test]
fn the_clusters_own_ranges_are_kept_apart_from_those_of_services() {
    let mut world = World::default();
    let mut planner = Planner::empty(Capacities::default());
    let of = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    world.apply(&planner.set_cluster_ranges(&of(&["10.244.0.0/16", "fd00:244::/32"])));
    let mut planner = world.restart(Capacities::default());
    assert!(planner.retain(&BTreeSet::new()).is_empty());
    let changes = planner.set_cluster_ranges(&of(&["10.244.0.0/16"]));
    assert_eq!((changes.len(), changes.v6.ranges_out.len()), (1, 1));
}
