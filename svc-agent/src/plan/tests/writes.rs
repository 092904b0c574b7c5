//! What a change writes, and in which order.

use super::*;

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
